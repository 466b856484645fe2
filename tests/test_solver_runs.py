"""Plans as data, and runs of them: callbacks, checks, refusals, any shape."""

import dataclasses
import math

import pytest
import torch
from contracts import shift_invariant
from product import each
from solver_cases import MEAN, PATHS, PLANNED, STD, STEPPING, STILL, geometric, start

from sampling_kit.schedulers.denoiser import Gaussian
from sampling_kit.schedulers.noise import PerImageNoise
from sampling_kit.schedulers.path import VE, VP
from sampling_kit.schedulers.points import Points
from sampling_kit.schedulers.solver import (
    AMED,
    DDPM,
    Adaptive,
    Euler,
    HeunEDM,
)
from sampling_kit.schedulers.solver.run import Run

# -------------------------------------------------------------------------------------- plans as data


@pytest.mark.some(12)
@each(by=type, solver=[s for s in PLANNED if shift_invariant(s)])
def test_weights_reproduce_noise_free_data(solver):
    """If x = α·x0 and D = x0 everywhere, every stage must form α'·x0: Σ w_x·α + Σ w_D = α', on every path."""
    for path in PATHS:
        forms_the_signal(solver.plan(geometric(path, 60.0, 0.05, 4)))


def forms_the_signal(plan):
    anchors, history = [plan.start.alpha], []
    for stage in plan.stages:
        total = sum(w * a for w, a in zip(stage.x, anchors, strict=False)) + sum(
            stage.d[: len(history)]
        )
        assert total == pytest.approx(stage.at.alpha, rel=1e-9)
        anchors = [total, *anchors] if stage.commit else anchors
        history = [1.0, *history] if stage.evaluate else history


@pytest.mark.some(12)
@each(by=type, solver=STEPPING)
def test_callback_once_per_step_and_check_before_every_evaluation(solver):
    points = geometric(VE(), 20.0, 0.05, 6)
    steps, checks, calls = [], [], []
    oracle = Gaussian(VE(), MEAN, STD)

    def denoise(x, sigma):
        calls.append(sigma)
        assert len(checks) == len(calls)
        return oracle(x, sigma)

    solver.solve(
        points,
        Run(denoise, PerImageNoise(0), steps.append, lambda: checks.append(1)),
        start(points),
    )
    assert [s.step for s in steps] == list(range(6))
    assert all(s.steps == 6 for s in steps)
    assert not solver.planned or len(checks) == solver.plan(points).nfe


def test_a_check_that_raises_stops_before_the_next_evaluation():
    calls = []

    def check():
        if len(calls) == 3:
            raise KeyboardInterrupt

    def denoise(x, sigma):
        calls.append(sigma)
        return x

    with pytest.raises(KeyboardInterrupt):
        Euler().plan(geometric(VE(), 20.0, 0.05, 10)).solve(
            Run(denoise, check=check), torch.ones(1, 3)
        )
    assert len(calls) == 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_non_finite_prediction_is_named(dtype):
    def denoise(x, sigma):
        return (x * math.nan if sigma < 1 else x).to(dtype)

    with pytest.raises(
        FloatingPointError,
        match=r"step 2-3 of 6, evaluation 4 \(σ = 0.99.*" + str(dtype)[6:] + ".*float16",
    ):
        Euler().plan(Points(VE(), (20.0, 8.0, 3.0, 0.99, 0.3, 0.1, 0.0))).solve(
            Run(denoise), torch.ones(2, 3)
        )


def test_amed_takes_direction_scale_and_told_level_as_given():
    """One step written out: τ = σ'^r σ^(1−r), D told a·τ, the step scaled by c."""
    seen = []

    def denoise(x, sigma):
        seen.append(sigma)
        return 0.5 * x

    x = torch.tensor([[2.0]], dtype=torch.float64)
    solver = AMED(positions="0.25, 0.5", scales="1.1", levels="0.9")
    end = solver.plan(Points(VE(), (4.0, 1.0))).solve(Run(denoise), x)
    tau = 1.0**0.25 * 4.0**0.75
    middle = x + (tau - 4) * (x - 0.5 * x) / 4
    assert seen == pytest.approx([4.0, 0.9 * tau])
    assert torch.allclose(end, x + 1.1 * (1 - 4) * (0.5 * middle) / tau)


@pytest.mark.parametrize("bad", ["", "a", "1.5", "0.5, nan"])
def test_amed_refuses_what_is_not_a_position(bad):
    with pytest.raises(ValueError, match=r"AMED.*: positions"):
        AMED(positions=bad)


def test_bad_runs_are_refused_with_a_way_out():
    rising = geometric(VE(), 0.05, 20.0, 4)
    with pytest.raises(ValueError, match=r"DDPM draws noise.*must fall.*deterministic"):
        DDPM().plan(rising)
    with pytest.raises(ValueError, match="cannot start at noise level exactly 0"):
        Euler().plan(Points(VE(), (0.0, 1.0)))
    with pytest.raises(ValueError, match="pass a noise source"):
        DDPM().plan(geometric(VE(), 9.0, 1.0, 2)).solve(Run(lambda x, s: x), torch.ones(1, 3))
    with pytest.raises(ValueError, match=r"returned shape \(1, 2\)"):
        Euler().plan(geometric(VE(), 9.0, 1.0, 2)).solve(
            Run(lambda x, s: x[:, :2]), torch.ones(1, 3)
        )
    with pytest.raises(ValueError, match="pure noise"):
        HeunEDM().plan(Points(VP(), (math.inf, 1.0, 0.0)))


@pytest.mark.some(5)
@each(by=type, solver=STILL)
def test_deterministic_solvers_run_upwards_and_back(solver):
    down = geometric(VE(), 20.0, 0.05, 100)
    up = Points(VE(), tuple(reversed(down.kappas)))
    oracle, x = Gaussian(VE(), MEAN, STD), start(down, 4)
    if isinstance(solver, Adaptive):
        solver = dataclasses.replace(solver, rtol=1e-3, atol=1e-4)
    there = solver.solve(down, Run(oracle), x)
    assert torch.allclose(solver.solve(up, Run(oracle), there), x, rtol=0.1, atol=0.1)


def test_clipping_limits_every_prediction():
    points = geometric(VE(), 20.0, 0.05, 6)
    seen = []
    plan = DDPM(clip_x0=0.25).plan(points)
    plan.solve(Run(Gaussian(VE(), MEAN, STD), PerImageNoise(0), seen.append), start(points))
    assert max(s.denoised.abs().max() for s in seen) == 0.25


def test_latents_of_any_number_of_dimensions():
    points = geometric(VE(), 20.0, 0.05, 3)
    for shape in [(1, 7), (2, 3, 5), (2, 3, 4, 4), (1, 4, 3, 4, 4)]:
        x = torch.ones(shape)
        assert (
            DDPM().plan(points).solve(Run(lambda x, s: 0.5 * x, PerImageNoise(0)), x).shape
            == x.shape
        )
