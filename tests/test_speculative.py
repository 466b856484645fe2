"""Speculative sampling: the solver's own distribution, in fewer rounds, each image by itself."""

import math

import pytest
import torch
from node_calls import node, one
from solver_cases import geometric

from sampling_kit.nodes import host
from sampling_kit.schedulers.denoiser import Gaussian
from sampling_kit.schedulers.noise import Louder, NoiseRecipe, PerImageNoise, draws_of
from sampling_kit.schedulers.noise.generators import Brownian
from sampling_kit.schedulers.noise.streams import BatchSeed
from sampling_kit.schedulers.path import VE, VP, Flow
from sampling_kit.schedulers.solver import (
    DDIM,
    DDPM,
    ERSDE,
    Adaptive,
    DPMSolver,
    DPMSolverMultistep,
    EulerAncestral,
    Parallel,
    PicardSweeps,
    Restart,
    Run,
    SASolver,
    Speculation,
    Speculative,
    UniPC,
    drive,
)
from sampling_kit.schedulers.solver.base import host_plan, spans_of
from sampling_kit.schedulers.solver.speculative import _Step
from sampling_kit.schedulers.solver.state import State

from .host.guidance_cases import SIZE, embedded, sigmas
from .product import each
from .test_parallel import SHAPE, mixture, normal

NOISE = PerImageNoise(7)


def drafted(solver, window=4):
    return Speculative(solver, Speculation(window))


def ran(solver, points, x, denoise, noise=NOISE, **run):
    """(state at the end, count) of a run from x."""
    state, count = drive(solver.sweeps(points, State((x,)), noise), Run(denoise, noise, **run))
    return state.x, count


# ------------------------------------------------------------------------------------ distribution


@each(path=[VE(), Flow(), VP()], off=[0.3, 1.0, 3.0])
def test_a_coupled_step_is_the_solver_s_gaussian_and_as_often_the_draft_as_can_be(path, off):
    """x' ~ N(m, s²) whatever the draft's mean, accepted with 2Φ(−|Δ|/2)."""
    count, size = 40_000, path.on(0.4).sigma
    mean, shift = 0.7, size * off * normal(1, 3) / normal(1, 3).norm()
    z, uniform = normal(count, 3, seed=2), normal(count, seed=3)
    theirs = mean + size * z
    step = _Step(State((theirs,), y=theirs), shift.expand(count, 3), z, size)
    accepted = step.margin(torch.special.log_ndtr(uniform)) >= 0
    x = torch.where(accepted[:, None], theirs + shift, step.reflected().y)
    u = (x - mean) / size
    assert u.mean(0).abs().max() < 4 / math.sqrt(count)
    assert (u.T @ u / count - torch.eye(3)).abs().max() < 4 * math.sqrt(2 / count)
    most = 2 * float(torch.special.ndtr(torch.tensor(-off / 2)))
    assert float(accepted.double().mean()) == pytest.approx(most, abs=2 / math.sqrt(count))


def variance(solver, points, std):
    """Of the end of a run in sequence from x ~ N(0, std²) on data N(0, 1), exactly: the run is linear in its draws."""
    plan = host_plan(solver, points)
    count = 1 + sum(stage.noise != 0 for stage in plan.stages)
    x = torch.zeros(count, 1, dtype=torch.float64)
    x[0] = std
    oracle = Gaussian(points.path.host, torch.zeros(1, dtype=torch.float64), 1.0)
    unit = torch.eye(count, dtype=torch.float64)
    run = Run(oracle, lambda position, like: unit[:, position : position + 1])
    return float(plan.solve(run, x).square().sum())


@pytest.mark.some(3)
@each(
    solver=[DDPM(), DDIM(eta=0.5), DPMSolverMultistep(eta=1.0), UniPC(eta=1.0), DPMSolver(eta=1.0)],
    path=[VE(), Flow(), VP()],
)
def test_the_end_is_distributed_as_that_of_the_run_in_sequence(solver, path):
    """On Gaussian data the run in sequence ends in a known Gaussian. Large steps: half of the drafts are refused."""
    points, images, values = geometric(path, 10.0, 0.1, 6), 200, 4
    at = points.host[0]
    std = math.hypot(at.alpha, at.sigma)
    x = std * normal(images, values, seed=5)
    oracle = Gaussian(path.host, torch.zeros(values, dtype=torch.float64), 1.0)
    end, count = ran(drafted(solver), points, x, oracle, PerImageNoise(0))
    u = (end / math.sqrt(variance(solver, points, std))).flatten().sort().values
    assert float(u.square().mean()) == pytest.approx(1, abs=3.5 * math.sqrt(2 / len(u)))
    gap = torch.special.ndtr(u) - (torch.arange(len(u)) + 0.5) / len(u)
    assert float(gap.abs().max()) < 1.63 / math.sqrt(len(u))  # Kolmogorov–Smirnov, 1 %
    assert 0.2 < count.accepted / count.judged < 0.8


@each(path=[VE(), VP(), Flow()], solver=[DDPM(), EulerAncestral(eta=0.5), ERSDE(), SASolver()])
def test_where_the_prediction_is_constant_every_draft_is_accepted(path, solver):
    point = Gaussian(path.host, normal(*SHAPE), torch.full(SHAPE, 1e-9, dtype=torch.float64))
    points, x = geometric(path, 10.0, 0.02, 20), 10.0 * normal(2, *SHAPE)
    end, count = ran(drafted(solver, 8), points, x, point)
    assert torch.allclose(end, solver.solve(points, Run(point, NOISE), x))
    assert (count.rounds, count.evaluations) == (1 + math.ceil(19 / 8), 20)
    assert count.accepted == count.judged == 2 * (7 + 7 + 2)


# ------------------------------------------------------------------------------- counts and images


@each(path=[VE(), VP(), Flow()], solver=[DDPM(), DDIM(eta=0.3), DPMSolverMultistep(eta=1.0)])
def test_rounds_fall_and_both_counts_are_those_of_the_network(path, solver):
    points, d, calls = geometric(path, 10.0, 0.1, 60), mixture(path), []

    def several(y, levels):
        calls.append(len(y))
        sigma = y.new_tensor(levels).repeat_interleave(len(y) // len(levels))
        return d(y, sigma)

    def plain(y, sigma):
        return several(y, (sigma,))

    x = points.host[0].sigma * normal(1, *SHAPE, seed=2)
    _, count = ran(drafted(solver, 8), points, x, plain, several=several)
    assert (count.rounds, count.evaluations) == (len(calls), sum(calls)) and max(calls) <= 8
    assert count.sequential == 60 and count.rounds < 45 and count.evaluations > 60
    assert count.accepted + count.rounds == 60  # a round ends in one step that was no draft


@pytest.mark.parametrize("together", [False, True])
def test_each_image_stands_at_its_own_level_and_is_alone_what_it_is_in_a_batch(together):
    points, d, seen = geometric(VE(), 10.0, 0.1, 30), mixture(VE()), []

    def several(y, levels):
        seen.append(levels)
        return d(y, y.new_tensor(levels).repeat_interleave(len(y) // len(levels)))

    x = 10.0 * normal(3, *SHAPE, seed=2)
    run = dict(several=several) if together else {}
    ends, count = ran(drafted(DDPM(), 6), points, x, d, **run)
    for i in range(3):
        alone, own = ran(drafted(DDPM(), 6), points, x[i : i + 1], d, PerImageNoise(7 + i), **run)
        assert torch.allclose(ends[i], alone[0], atol=1e-9) and own.rounds <= count.rounds
    assert any(len(set(levels[:3])) > 1 for levels in seen) or not together


def test_every_step_is_reported_once_for_the_whole_batch_with_the_states_that_stand():
    points, d = geometric(VE(), 10.0, 0.1, 20), mixture(VE())
    x, steps, checks = 10.0 * normal(2, *SHAPE), [], []
    ran(drafted(DDPM()), points, x, d, callback=steps.append, check=lambda: checks.append(1))
    assert [(p.step, p.steps, p.sigma) for p in steps] == [
        (i, 20, points[i].sigma) for i in range(20)
    ]
    for p in steps:
        assert torch.allclose(p.denoised, d(p.x, p.sigma), atol=1e-9)
    assert len(checks) < 20


def test_noise_of_another_deviation_is_judged_in_its_own_units():
    """A network trained with noise four times as loud, D₄(x, σ) = 4·D(x/4, σ), makes four times the run."""
    points, d = geometric(Flow(), 10.0, 0.1, 20), mixture(Flow())
    x = points.host[0].sigma * normal(1, *SHAPE)
    ours, count = ran(drafted(DDPM()), points, x, d)
    loud, same = ran(
        drafted(DDPM()), points, 4 * x, lambda y, sigma: 4 * d(y / 4, sigma), Louder(NOISE, 4.0)
    )
    assert torch.allclose(loud, 4 * ours, atol=1e-9) and count == same


# ------------------------------------------------------------------------------------------- edges


@pytest.mark.parametrize(
    ("solver", "message"),
    [
        (DDIM(), r"DDIM draws no noise.*raise its eta"),
        (Restart(), r"Restart moves from σ = .* without fresh noise.*or Parallel Steps"),
        (SASolver(noise_to=1.0), r"SA-Solver .* moves from σ = .* without fresh noise"),
        (Adaptive(), r"chooses its moves .*; take a solver that is a table, such as DDPM"),
    ],
)
def test_steps_with_nothing_to_accept_are_refused_by_name(solver, message):
    points = geometric(VE(), 10.0, 0.1, 6)
    with pytest.raises(ValueError, match=message):
        ran(drafted(solver), points, 10.0 * normal(1, *SHAPE), mixture(VE()))


def test_rounds_have_the_brownian_noise_of_the_run_in_sequence():
    points, d, x = geometric(VE(), 10.0, 0.1, 8), mixture(VE()), 10.0 * normal(1, *SHAPE)
    levels, recipe = points.sigmas(), NoiseRecipe(generator=Brownian())
    spans = spans_of(DDPM(), VE(), levels)
    assert (
        spans == spans_of(Parallel(DDPM()), VE(), levels) == spans_of(drafted(DDPM()), VE(), levels)
    )
    noise = draws_of(BatchSeed(3, None, recipe), spans)
    theirs = DDPM().solve(points, Run(d, noise), x)
    assert torch.equal(ran(Parallel(DDPM(), PicardSweeps(4, 0.0)), points, x, d, noise)[0], theirs)


def test_the_node_in_a_graph_is_reproducible_traced_and_alone_what_it_is_in_a_batch():
    world = embedded(one, "FLOW")
    sampler = one("SpeculativeSteps", sampler=one("DDPM"), window=4)

    def run(sampler, images=2, seed=3, rules="CFG"):
        latent = {"samples": torch.zeros(images, 3, SIZE, SIZE)}
        guider = world.guider(one(rules, scale=2.0))
        noise = one("PerImageNoise", seed=seed)
        out = host.runs.run_sampler(noise, guider, sampler, sigmas(world, 12), latent)
        return out["samples"], guider.run.report()

    both, report = run(sampler)
    assert torch.equal(run(sampler)[0], both) and torch.isfinite(both).all()
    traced, watch = node("Trace", sampler=sampler, memory=16)
    assert torch.equal(run(traced)[0], both)
    for image in range(2):
        traced, own = node("Trace", sampler=sampler, memory=16)
        alone, single = run(traced, 1, 3 + image)
        assert torch.allclose(both[image], alone[0], atol=1e-4)
        for i in range(12):
            (delta,) = own.trace.per_image("delta", i)
            assert watch.trace.per_image("delta", i)[image] == pytest.approx(delta, rel=1e-3)
    assert report["images"] > single["images"] and single["evaluations"] > 12
    with pytest.raises(ValueError, match="cannot run inside"):
        one("ParallelSteps", sampler=sampler)
    with pytest.raises(ValueError, match="APG remembers its evaluations"):
        run(sampler, rules="APG")
