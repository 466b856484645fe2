"""Picard sweeps: the run in sequence in fewer rounds, for every table, on every path."""

import math

import pytest
import torch
from node_calls import node, one
from solver_cases import geometric

from sampling_kit.nodes import host
from sampling_kit.schedulers.denoiser import Gaussian, Mixture
from sampling_kit.schedulers.noise import PerImageNoise
from sampling_kit.schedulers.path import VE, VP, Flow
from sampling_kit.schedulers.points import Points
from sampling_kit.schedulers.solver import (
    DDIM,
    DDPM,
    ERSDE,
    Adaptive,
    DPMSolverMultistep,
    HeunEDM,
    Parallel,
    PicardSweeps,
    Restart,
    Run,
    UniPC,
    drive,
    drive_together,
)
from sampling_kit.schedulers.solver.state import State

from .host.guidance_cases import SIZE, embedded, sigmas
from .product import each

SHAPE = (3, 4, 4)
NOISE = PerImageNoise(7)


def normal(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def mixture(path):
    """Ten single points under a little noise: D jumps between them on the way down."""
    std = torch.full((10,), 0.2, dtype=torch.float64)
    return Mixture(path.host, normal(10, *SHAPE), std)


def a_run(solver, path, steps=20, batch=2):
    """(state at the end, count, denoise's batches) of a run from the host's start."""
    points = geometric(path, 40.0, 0.02, steps)
    d, batches = mixture(path), []

    def denoise(x, sigma):
        batches.append(len(x))
        return d(x, sigma)

    x = points.host[0].sigma * normal(batch, *SHAPE, seed=2)
    run = Run(denoise, NOISE)
    if not isinstance(solver, Parallel):
        return solver.solve(points, run, x), None, batches
    state, count = drive(solver.sweeps(points, State((x,)), NOISE), run)
    return state.x, count, batches


def swept(solver, window=8, tolerance=0.0):
    return Parallel(solver, PicardSweeps(window, tolerance))


@each(
    solver=[DDIM(), DPMSolverMultistep(), UniPC(), HeunEDM(), DDPM(), ERSDE(), Restart()],
    path=[VE(), VP(), Flow()],
)
def test_without_tolerance_it_is_the_run_in_sequence(solver, path):
    ours, count, _ = a_run(swept(solver), path)
    theirs, _, batches = a_run(solver, path)
    assert torch.equal(ours, theirs)
    assert count.sequential == len(batches) and count.rounds <= len(batches) < count.evaluations


@each(path=[VE(), VP(), Flow()], solver=[DDIM(), DPMSolverMultistep(), DDPM()])
def test_the_error_follows_the_tolerance_and_rounds_fall(path, solver):
    theirs, _, _ = a_run(solver, path, 60)
    before, last = math.inf, 0
    for tolerance in (0.1, 1e-2, 1e-4):
        ours, count, _ = a_run(swept(solver, 16, tolerance), path, 60)
        error = float((ours - theirs).square().mean().sqrt())
        assert error <= 3 * tolerance
        assert error <= before and count.rounds >= last - 2
        before, last = error, count.rounds
    assert a_run(swept(solver, 16, 0.1), path, 60)[1].rounds < 60 / 2


def test_one_prediction_of_a_gaussian_s_single_point_ends_it():
    """D is the same everywhere: after the first answer every guess is met."""
    path, point = VE(), normal(1, *SHAPE)
    d = Gaussian(path, point[0], torch.full(SHAPE, 1e-9, dtype=torch.float64))
    points = geometric(path, 40.0, 0.02, 20)
    run, solver = Run(d), swept(DDIM(), 8, 1e-6)
    x = 40.0 * normal(2, *SHAPE)
    state, count = drive(solver.sweeps(points, State((x,))), run)
    assert (count.rounds, count.evaluations) == (1 + math.ceil(19 / 8), 20)
    assert torch.allclose(state.x, DDIM().solve(points, run, x))


def test_states_of_several_levels_go_in_one_call_where_the_host_can():
    points, d = geometric(VE(), 40.0, 0.02, 12), mixture(VE())
    x, seen = 40.0 * normal(2, *SHAPE), []

    def several(y, levels):
        seen.append((len(y), levels))
        sigma = torch.tensor(levels, dtype=torch.float64).repeat_interleave(len(y) // len(levels))
        return d(y, sigma)

    run, solver = Run(d, several=several), swept(DPMSolverMultistep(), 4, 0.01)
    assert torch.allclose(solver.solve(points, run, x), solver.solve(points, Run(d), x), atol=1e-12)
    assert seen and all(size == 2 * len(levels) <= 8 for size, levels in seen)
    assert all(levels == tuple(sorted(levels, reverse=True)) for _, levels in seen)


def test_every_step_is_reported_once_and_an_interrupt_comes_between_rounds():
    points, d = geometric(VE(), 40.0, 0.02, 12), mixture(VE())
    x, steps, checks = 40.0 * normal(2, *SHAPE), [], []
    run = Run(
        d,
        callback=lambda p: steps.append((p.step, p.sigma, tuple(p.x.shape))),
        check=lambda: checks.append(1),
    )
    swept(HeunEDM(), 5, 0.02).solve(points, run, x)
    assert steps == [(i, points[i].sigma, (2, *SHAPE)) for i in range(12)]
    assert len(checks) < 2 * 12 - 1


def test_two_runs_together_are_each_alone():
    points, d = geometric(VE(), 40.0, 0.02, 12), mixture(VE())
    solver, states = (
        swept(DDIM(), 4, 0.01),
        [State((40.0 * normal(1, *SHAPE, seed=i),)) for i in (1, 2)],
    )
    both = drive_together([solver.steps(points, s) for s in states], Run(d))
    for state, end in zip(states, both, strict=True):
        assert torch.equal(end.x, solver.solve(points, Run(d), state.x))


def test_what_chooses_as_it_goes_is_refused():
    with pytest.raises(ValueError, match=r"chooses its moves .*; take a solver that is a table"):
        Parallel(Adaptive())


def test_a_bad_answer_is_named():
    points = Points(VE(), (10.0, 5.0, 2.0, 0.0))
    with pytest.raises(FloatingPointError, match="NaN or infinity at step"):
        swept(DDIM()).solve(points, Run(lambda x, sigma: x * math.nan), 10.0 * normal(1, *SHAPE))


@pytest.mark.parametrize("rules", [(), ("CFG",)])
def test_the_node_in_a_graph_ends_where_its_solver_does(rules):
    world, latent = embedded(one, "FLOW"), {"samples": torch.zeros(2, 3, SIZE, SIZE)}
    chain = one("CFG", scale=2.0) if rules else None

    def run(sampler):
        guider = world.guider(chain)
        noise = one("PerImageNoise", seed=3)
        out = host.runs.run_sampler(noise, guider, sampler, sigmas(world, 12), latent)
        return out["samples"], guider.run.report()

    plain = one("DPMSolverMultistep")
    theirs, single = run(plain)
    sweeps = one("ParallelSteps", sampler=plain, window=4, tolerance=0.0)
    ours, report = run(sweeps)
    assert torch.allclose(ours, theirs, atol=1e-4)
    near, fewer = run(one("ParallelSteps", sampler=plain, window=4, tolerance=0.02))
    assert (near - theirs).square().mean().sqrt() < 0.1
    assert fewer["network_calls"] < report["network_calls"]
    traced, watch = node("Trace", sampler=sweeps, memory=16)
    assert torch.equal(run(traced)[0], ours)
    traced, first = node("Trace", sampler=plain, memory=16)
    run(traced)
    for name in ("delta", "cosine", "weight"):  # each level's own, though one call answers several
        numbers, expected = (w.trace.curve(name) for w in (watch, first))
        assert numbers == (pytest.approx(expected, abs=1e-3) if rules else [None] * 12)
    assert report["network_calls"] > single["network_calls"] == 12 * (1 + len(rules))


def test_one_cannot_stand_in_another_nor_a_rule_remember():
    sweeps = one("ParallelSteps", sampler=one("DDIM"))
    titles = {
        "ParallelSteps": r"Parallel Steps \(Picard\);",
        "LangevinInpainting": "Langevin Inpainting;",
    }
    for name, title in titles.items():
        with pytest.raises(
            ValueError, match=rf"Parallel Steps \(Picard\) cannot run inside {title}"
        ):
            one(name, sampler=sweeps)
    world = embedded(one, "FLOW")
    guider = world.guider(one("APG", momentum=-0.5))
    latent, noise = {"samples": torch.zeros(1, 3, SIZE, SIZE)}, one("PerImageNoise", seed=3)
    with pytest.raises(ValueError, match="APG remembers its evaluations"):
        host.runs.run_sampler(noise, guider, sweeps, sigmas(world), latent)
