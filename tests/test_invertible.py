"""Exactly invertible sampling: up and back again, on exact Gaussians and mixtures, on VP, VE and flow."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from node_calls import node, one
from state_cases import Graph, folders

from sampling_kit.schedulers.denoiser import Gaussian, Mixture
from sampling_kit.schedulers.noise_schedule import EDM, RectifiedFlowSchedule, ScaledLinearVP
from sampling_kit.schedulers.points import Points
from sampling_kit.schedulers.solver import Invertible, State
from sampling_kit.schedulers.solver.run import Run
from sampling_kit.schedulers.spacing import Exponential, Trailing, space
from sampling_kit.schedulers.split import Stopped
from sampling_kit.schedulers.turn_back import turned_back

__all__ = ["folders"]  # a fixture
SCHEDULES = {"VE": EDM(), "flow": RectifiedFlowSchedule(), "VP": ScaledLinearVP()}
METHODS = (Invertible(), Invertible("bdia"), Invertible("bdia", 0.9))
LIMIT = {torch.float64: 1e-12, torch.float32: 1e-5}


def denoiser(path, dtype, shift=0.0):
    """A mixture of two Gaussians in 12 dimensions, exact on the host path."""
    generator = torch.Generator().manual_seed(1)
    means = torch.randn(2, 12, generator=generator, dtype=torch.float64) + shift
    return Mixture(path, means.to(dtype), torch.full((2,), 0.5, dtype=dtype), None, None)


def up(schedule, solver, steps, spacing, x, denoise):
    sigmas = space(schedule, steps, spacing, final="sigma_min").sigmas()[::-1]
    points = Points.from_sigmas(schedule.path, sigmas)
    state = solver.advance(points, Run(denoise), State((x,)))
    made = repr(solver), repr(schedule.path), tuple(points.sigmas()), len(sigmas) - 1, 0
    return Stopped(*made, state)


def back(schedule, solver, stopped, denoise):
    start = turned_back(stopped, solver)
    points = Points.from_sigmas(schedule.path, start.sigmas)
    return solver.advance(points, Run(denoise), start.state).x


@pytest.mark.some(8)
@pytest.mark.parametrize("dtype", LIMIT)
@pytest.mark.parametrize("solver", METHODS, ids=str)
@pytest.mark.parametrize("name", SCHEDULES)
def test_there_and_back_is_the_same_picture(name, solver, dtype):
    schedule = SCHEDULES[name]
    host = schedule.path.host
    denoise = denoiser(host, dtype)
    x = torch.randn(3, 12, generator=torch.Generator().manual_seed(2), dtype=torch.float64).to(
        dtype
    )
    for steps, spacing in ((10, Exponential()), (25, Trailing())):
        calls = []

        def counted(y, sigma, calls=calls):
            calls.append(sigma)
            return denoise(y, sigma)

        stopped = up(schedule, solver, steps, spacing, x, counted)
        assert len(calls) == steps
        assert (stopped.state.x - x).abs().max() > 0.5
        end = back(schedule, solver, stopped, counted)
        assert len(calls) == 2 * steps - 1
        gap = float((end - x).abs().max() / x.abs().max())
        assert gap < LIMIT[dtype], (steps, gap)


@pytest.mark.parametrize("name", SCHEDULES)
def test_order_on_the_way_down(name):
    """O-BELM, and BDIA at γ = 1 on steps that change evenly, have order 2; BDIA with less has order 1."""
    schedule = SCHEDULES[name]
    host = schedule.path.host
    exact = Gaussian(host, torch.zeros(4).double(), torch.full((4,), 0.7).double())
    high, low = (4.0, 0.05) if name != "flow" else (0.8, 0.05)

    def error(solver, steps):
        sigmas = [high * (low / high) ** (i / steps) for i in range(steps + 1)]
        points = Points.from_sigmas(schedule.path, sigmas)
        p, q = (host.on(s) for s in (high, low))
        x = torch.ones(1, 4).double()
        scale = ((q.alpha * 0.7) ** 2 + q.sigma**2) ** 0.5 / (
            (p.alpha * 0.7) ** 2 + p.sigma**2
        ) ** 0.5
        return float((solver.solve(points, Run(exact), x) - scale * x).abs().max())

    for solver in METHODS:
        steps = 80 if solver.gamma == 1 else 640  # until 2(1 − γ)/(1 + γ) > h/σ, it grows
        slope = torch.tensor(error(solver, steps) / error(solver, 2 * steps)).log2().item()
        assert solver.order - 0.3 < slope < solver.order + 0.5, (solver, slope)


def test_what_cannot_be_turned_back_is_said():
    schedule, solver = SCHEDULES["VE"], Invertible()
    x = torch.randn(1, 12)
    stopped = up(schedule, solver, 4, Exponential(), x, denoiser(schedule.path.host, x.dtype))
    with pytest.raises(
        ValueError, match=r"the state is one of Invertible.*o_belm.*not of Invertible.*bdia"
    ):
        turned_back(stopped, Invertible("bdia"))
    with pytest.raises(ValueError, match="stopped at level 2 of 4: keep the state of a whole run"):
        turned_back(replace(stopped, level=2), solver)
    with pytest.raises(ValueError, match=r"ended at σ = 0.*final = sigma_min"):
        turned_back(replace(stopped, sigmas=(*stopped.sigmas[:-1], 0.0)), solver)


@pytest.mark.parametrize("kind", ["vp_linear", "rectified_flow", "ve_edm"])
def test_the_nodes_bring_a_picture_back_exactly_and_change_it_with_the_condition(kind):
    graph = Graph(kind)
    schedule = one("NoiseSchedule", kind={"kind": kind})
    picture = graph.run(one("DDIM"), graph.sigmas)
    down = one("Steps", noise_schedule=schedule, steps=8, spacing={"spacing": "trailing"}, denoise=0.8, final="sigma_min")  # fmt: skip
    rising, solver = one("FlipSigmas", sigmas=down), one("Invertible")
    sampler, state = node("KeepState", sampler=solver, sigmas=rising)
    noise = graph.run(sampler, rising, picture)
    assert (noise["samples"] - picture["samples"]).abs().max() > 0.3
    sampler, sigmas, _ = node("TurnBack", sampler=solver, state=state, sigmas=rising)
    again = graph.run(sampler, sigmas, noise)["samples"]
    gap = (again - picture["samples"]).abs().max() / picture["samples"].abs().max()
    assert gap < 1e-6
    other = Graph(kind)
    other.guider = one(
        "Guider", model=other.guider.model, positive=one("ClassCondition", name="snow")
    )
    sampler, sigmas, _ = node("TurnBack", sampler=solver, state=state, sigmas=rising)
    edited = other.run(sampler, sigmas, noise)["samples"]
    assert (edited - picture["samples"]).abs().max() > 0.05


def test_turn_back_takes_an_invertible_solver_and_rising_levels():
    graph = Graph("ve_edm")
    rising = one("FlipSigmas", sigmas=graph.sigmas)
    _, state = node("KeepState", sampler=one("Invertible"), sigmas=rising)
    with pytest.raises(ValueError, match="sampler: DDIM cannot be turned back; use Invertible"):
        node("TurnBack", sampler=one("DDIM"), state=state, sigmas=rising)
    with pytest.raises(
        ValueError, match=r"sigmas: 7 levels from σ = 80 to 0; .*rising \(Flip Sigmas\)"
    ):
        node("TurnBack", sampler=one("Invertible"), state=state, sigmas=graph.sigmas)
