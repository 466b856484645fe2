"""Ground truth for every solver in ALL: order, end points, invariances.

The oracle is a Gaussian with unequal deviations and a shifted mean, whose denoiser, trajectories and
marginals are known in closed form on every path. Nothing here is specific to one solver: a new class
in ``solver.ALL`` is tested by being there.
"""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from contracts import exact_for_constant, path_invariant, starts_at_pure_noise
from product import each
from scipy.integrate import solve_ivp
from solver_cases import (
    EVERY_VARIANT,
    MEAN,
    PATHS,
    PLANNED,
    STD,
    STEPPING,
    STILL,
    geometric,
    ids,
    start,
)

from sampling_kit.benchmarks.solver_table import curved
from sampling_kit.schedulers import noise_schedule as schedules
from sampling_kit.schedulers import spacing as spacings
from sampling_kit.schedulers.denoiser import Gaussian, Mixture
from sampling_kit.schedulers.noise import PerImageNoise
from sampling_kit.schedulers.path import VE, VP, SubVP, rescale
from sampling_kit.schedulers.points import Points
from sampling_kit.schedulers.prediction import KINDS, Prediction
from sampling_kit.schedulers.solver import (
    DDIM,
    DDPM,
    Euler,
    HeunEDM,
    Restart,
)
from sampling_kit.schedulers.solver.run import Run, drive
from sampling_kit.schedulers.solver.state import State

ODE = [s for s in PLANNED if not s.stochastic]


def go(solver, points, denoise, x, noise=None, callback=None, check=None):
    """A run in the coordinates of ``points.path``, planned or not."""
    if solver.planned:
        return solver.plan(points).solve(Run(denoise, noise, callback, check), x)
    if starts_at_pure_noise(solver):
        return drive(
            solver.walk(points, State((x,)), noise), Run(denoise, callback=callback, check=check)
        ).x
    host = points.path.host  # works in σ there

    def hosted(y, sigma):
        point, c = rescale(host.on(sigma), points.path)
        return denoise(c * y, point.sigma)

    factors = [rescale(points[i], host)[1] for i in (0, -1)]
    return solver.solve(points, Run(hosted, noise, callback, check), factors[0] * x) / factors[1]


def error(solver, points):
    """Largest distance to the exact trajectory at the last level."""
    oracle = Gaussian(points.path, MEAN, STD)
    x = start(points)
    p, q = points[0], points[-1]
    exact = oracle.transport(x, (p.alpha, p.sigma), (q.alpha, q.sigma))
    return (solver.plan(points).solve(Run(oracle), x) - exact).abs().max().item()


#: A curved field in which every start-up error shows: three Gaussians, κ from 3 to 0.1, uneven steps.
CURVED = (
    torch.tensor([[1.0, 0.5], [-1.5, 1.0], [0.2, -1.2]], dtype=torch.float64),
    torch.tensor([0.5, 0.7, 0.6], dtype=torch.float64),
)
FROM = 3 * torch.randn(16, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def uneven(path, n):
    u = np.linspace(0, 1, n + 1)
    u = u + 0.15 * np.sin(np.pi * u) ** 2 * u
    return Points(path, tuple(3 * (0.1 / 3) ** u))


@pytest.fixture(scope="module")
def exact_end():
    """y at κ = 0.1 of the trajectories from FROM, by an adaptive method of order 8."""
    d = Mixture(VE(), *CURVED)

    def slope(lam, y):
        y = torch.tensor(y.reshape(-1, 2))
        return (d(y, math.exp(-lam)) - y).numpy().ravel()

    ends = (-math.log(3), -math.log(0.1))
    end = solve_ivp(slope, ends, FROM.numpy().ravel(), method="DOP853", rtol=1e-13, atol=1e-13)
    return torch.tensor(end.y[:, -1].reshape(-1, 2))


#: Numbers of steps at which each order is past its start and above round-off.
PAIRS = {1: (96, 192), 2: (96, 192), 3: (384, 768), 4: (64, 128), 5: (48, 96), 6: (96, 192)}


@pytest.mark.some(32)
@each(solver=ODE, path=PATHS[:3])
def test_order_of_convergence(solver, path, exact_end):
    def denoise(x, sigma):
        return torch.from_numpy(curved(x.numpy(), sigma, path.on(sigma).alpha))

    errors = []
    for n in PAIRS[solver.order]:
        points = uneven(path, n)
        y = solver.plan(points).solve(Run(denoise), points[0].alpha * FROM) / points[-1].alpha
        errors.append((y - exact_end).square().mean().sqrt().item())
    measured = math.log2(errors[0] / errors[1])
    assert solver.order - 0.25 < measured < order_in_the_middle(solver) + 0.25


def order_in_the_middle(solver):
    """Where the last steps alone are of a lower order, their share of the error is small: more than the order is measured."""
    lowered = [k for k in ("lower_order_final", "lower_order_early") if getattr(solver, k, False)]
    return max(solver.order, replace(solver, **dict.fromkeys(lowered, False)).order)


@pytest.mark.parametrize(
    ("solver", "limit"), [(Euler(), 0.12), (DDIM(), 0.12), (HeunEDM(), 0.012)], **ids
)
def test_low_step_error(solver, limit):
    assert error(solver, geometric(VE(), 80.0, 0.05, 40)) < 2 * limit
    assert error(solver, geometric(VE(), 80.0, 0.05, 80)) < limit


@each(by=type, solver=[s for s in STILL if exact_for_constant(s)])
def test_constant_prediction_is_solved_exactly_in_any_number_of_steps(solver):
    """x = α·x0 + σ·ε with fixed x0 and ε is the trajectory; every plan must stay on it, on every path."""
    x0, eps = MEAN, torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    for path, n in itertools.product(PATHS, (1, 2, 5)):
        points = geometric(path, 30.0, 0.2, n)
        p, q = points[0], points[-1]
        end = go(solver, points, lambda x, s: x0.expand_as(x), (p.alpha * x0 + p.sigma * eps)[None])
        assert torch.allclose(end[0], q.alpha * x0 + q.sigma * eps, rtol=1e-9, atol=1e-9)


# ------------------------------------------------------------------------------- ends and finiteness

SCHEDULES = [
    *(schedules.ALL[n]() for n in ("vp_scaled_linear", "sub_vp", "ve_edm", "rectified_flow")),
    schedules.LinearVP(zero_snr=True),
]


@pytest.mark.some(91)
@each(solver=EVERY_VARIANT, schedule=SCHEDULES)
def test_every_small_run_is_finite_and_ends_at_a_prediction(solver, schedule):
    """As ComfyUI runs it: float32, levels through SIGMAS, in host coordinates."""
    host = schedule.path.host
    oracle = Gaussian(host, MEAN.float(), STD.float())
    for n in (1, 2, 3, 4, 6, 12) if solver in STEPPING else (1, 2, 12):
        sigmas = torch.tensor(spacings.space(schedule, n, spacings.Trailing()).sigmas()).tolist()
        points = Points.from_sigmas(schedule.path, sigmas)
        last = []
        x = sigmas[0] * torch.randn(2, 3, generator=torch.Generator().manual_seed(n))

        def denoise(x, sigma, last=last):
            last.append(oracle(x, sigma))
            return last[-1]

        end = solver.solve(points, Run(denoise, PerImageNoise(1)), x)
        assert torch.isfinite(end).all()
        if not solver.planned:
            assert torch.allclose(end, last[-1], atol=1e-6)  # each image's last D is its own
            assert len(last) == solver.nfe(n) or solver not in STEPPING
            continue
        plan = solver.plan(points).on(host)
        clip = getattr(solver, "clip_x0", 0) or math.inf
        assert torch.equal(end, last[-1].clamp(-clip, clip))
        assert len(last) == plan.nfe
        if plan.start.alpha > 0:  # else fewer: a step from pure noise takes one evaluation only
            assert plan.nfe == solver.nfe(n) or isinstance(solver, Restart)


@pytest.mark.some(9)
@each(by=type, solver=STEPPING)
def test_float32_follows_float64_from_a_very_high_level(solver):
    """σ from 4518 (zero terminal SNR as ComfyUI writes it) in many steps: no blow-up, no cancellation."""
    schedule = schedules.ScaledLinearVP(zero_snr=True)
    sigmas = torch.tensor(spacings.space(schedule, 60, spacings.Karras()).sigmas()).tolist()
    points = Points.from_sigmas(VP(), sigmas)
    x = sigmas[0] * start(Points(VE(), (1.0, 0.5)), 4)
    ends = [
        solver.solve(points, Run(Gaussian(VE(), MEAN.to(t), STD.to(t)), PerImageNoise(0)), x.to(t))
        for t in (torch.float32, torch.float64)
    ]
    assert (ends[0] - ends[1]).abs().max() < 0.02


@pytest.mark.some(11)
@each(by=type, solver=EVERY_VARIANT)
def test_a_run_may_start_at_pure_noise_where_alpha_is_zero(solver):
    points = spacings.space(schedules.LinearVP(zero_snr=True), 5, spacings.Trailing())
    assert points[0].alpha == 0
    if not starts_at_pure_noise(solver):
        with pytest.raises(ValueError, match="pure noise"):
            go(solver, points, Gaussian(VP(), MEAN, STD), start(points))
        return
    end = go(solver, points, Gaussian(VP(), MEAN, STD), start(points), PerImageNoise(0))
    assert torch.isfinite(end).all()


# --------------------------------------------------------------------------------------- invariances


PLAIN = [
    s
    for s in EVERY_VARIANT
    if not getattr(s, "clip_x0", 0)
    and getattr(s, "variance", "small") == "small"
    and (s.planned or path_invariant(s))  # else they run in host coordinates only
]


@pytest.mark.some(11)
@each(by=type, solver=PLAIN)
def test_path_invariance(solver):
    """Same κ, same noise: y = x/α is the same on every path, or on all whose SIGMAS are κ."""
    same = PATHS if path_invariant(solver) else [VE(), VP(), SubVP()]
    ends = []
    for path in same:
        points = geometric(path, 60.0, 0.05, 9)
        p, q = points[0], points[-1]
        x = p.alpha * start(geometric(VE(), 60.0, 0.05, 9), 64 if solver.planned else 4)
        ends.append(go(solver, points, Gaussian(path, MEAN, STD), x, PerImageNoise(3)) / q.alpha)
    limit = 1e-9 if solver.planned else 1e-6  # an estimated error is a small difference
    for other in ends[1:]:
        assert torch.allclose(ends[0], other, rtol=limit, atol=limit / 10)


@pytest.mark.some(11)
@each(by=type, solver=PLANNED, path=PATHS)
def test_a_plan_means_the_same_in_other_coordinates(solver, path):
    points = geometric(path, 60.0, 0.05, 6)
    plan = solver.plan(points)
    x = start(points)
    here = plan.solve(Run(Gaussian(path, MEAN, STD), PerImageNoise(3)), x)
    for target in PATHS:
        p, q = target.at(60.0), target.at(0.05)
        c, c_end = p.sigma / points[0].sigma, q.alpha / points[-1].alpha
        there = plan.on(target).solve(Run(Gaussian(target, MEAN, STD), PerImageNoise(3)), c * x)
        assert torch.allclose(there, c_end * here, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_prediction_invariance(kind):
    """A network of any prediction kind gives the same run."""
    path = VP()
    points = geometric(path, 60.0, 0.05, 9)
    oracle, prediction = Gaussian(path, MEAN, STD), Prediction(kind)

    def network(x, sigma):
        point = path.on(sigma)
        out = prediction.from_x0(oracle(x, sigma), x, point.alpha, sigma)
        return prediction.to_x0(out, x, point.alpha, sigma)

    for solver in (HeunEDM(), DDPM()):
        plan, x = solver.plan(points), start(points)
        a, b = (plan.solve(Run(d, PerImageNoise(0)), x) for d in (oracle, network))
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.some(11)
@each(by=type, solver=EVERY_VARIANT)
def test_an_image_does_not_depend_on_its_batch(solver):
    points = geometric(VE(), 20.0, 0.05, 8)
    oracle, noise = Gaussian(VE(), MEAN.float(), STD.float()), PerImageNoise(7)
    x = 20 * noise(0, torch.empty(3, 3))
    whole = solver.solve(points, Run(oracle, noise), x)
    for i in range(3):
        alone = solver.solve(points, Run(oracle, PerImageNoise(7 + i)), x[i : i + 1])
        assert torch.equal(whole[i : i + 1], alone)
    assert torch.equal(whole, solver.solve(points, Run(oracle, noise), x))
