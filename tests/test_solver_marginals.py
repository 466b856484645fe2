"""Marginals of stochastic solvers, from the exact propagation of a deviation: no Monte Carlo."""

import itertools
import math

import pytest
import torch
from contracts import starts_at_pure_noise
from product import each
from solver_cases import MEAN, NOISY, PATHS, STD, geometric, ids, start

from sampling_kit.schedulers.denoiser import Gaussian
from sampling_kit.schedulers.noise import PerImageNoise
from sampling_kit.schedulers.path import VE, VP, Flow
from sampling_kit.schedulers.points import Points
from sampling_kit.schedulers.solver import (
    DDIM,
    DDPM,
    Euler,
    EulerMaruyama,
    HeunEDM,
)
from sampling_kit.schedulers.solver.run import Run

#: Whose variance must converge to the marginal's (LCM's does not, by design: order 0).
SDE = [s for s in NOISY if s.order and getattr(s, "noise", 1.0) == 1.0]
on_every_path = pytest.mark.parametrize("path", PATHS, ids=lambda p: p.name)


# ------------------------------------------------------------------- marginals, without Monte Carlo


def spread(solver, points, deviation, every_step=False):
    """Variance of the state for x0 ~ N(0, deviation²), exactly.

    The run is linear in x_T and in each noise draw, so it is run once on the vector of their
    coefficients: coordinate 0 is x_T in units of its deviation, coordinate k the k-th draw.
    """
    p = points[0]
    oracle = Gaussian(points.path, torch.zeros(1, dtype=torch.float64), deviation)
    plan = solver.plan(points)
    draws = sum(stage.noise != 0 for stage in plan.stages)
    x = torch.zeros(draws + 1, 1, dtype=torch.float64)
    x[0] = math.sqrt(p.alpha**2 * deviation**2 + p.sigma**2)

    def noise(position, like):
        return torch.eye(draws + 1, dtype=torch.float64)[:, position : position + 1]

    seen = []
    end = plan.solve(
        Run(oracle, noise, lambda s: seen.append((s.sigma, s.x.square().sum().item()))), x
    )
    return seen if every_step else end.square().sum().item()


EXACT_FOR_A_POINT = [
    s
    for s in NOISY
    if not isinstance(s, EulerMaruyama)
    and getattr(s, "variance", "small") == "small"
    and getattr(s, "noise", 1.0) == 1.0
]


@each(by=type, solver=EXACT_FOR_A_POINT)
def test_a_point_mass_keeps_its_exact_deviation_at_every_step(solver):
    """For data at one point the noise of the state must be exactly σ' after each step, at any N, on every path."""
    for path, n in itertools.product(PATHS, (1, 3, 10)):
        for sigma, variance in spread(solver, geometric(path, 50.0, 0.02, n), 0.0, every_step=True):
            assert variance == pytest.approx(sigma**2, rel=1e-9)


@pytest.mark.some(12)
@each(solver=[s for s in EXACT_FOR_A_POINT if starts_at_pure_noise(s)], path=[VP(), Flow()])
def test_a_point_mass_keeps_its_deviation_from_pure_noise_too(solver, path):
    points = Points(path, (math.inf, 5.0, 1.0, 0.2, 0.05))
    for sigma, variance in spread(solver, points, 0.0, every_step=True):
        assert variance == pytest.approx(sigma**2, rel=1e-9)


@on_every_path
def test_analytic_variance_is_exact_for_gaussian_data_at_every_step(path):
    solver, points = DDPM(variance="analytic", data_std=0.6), geometric(path, 50.0, 0.02, 6)
    exact = [p.alpha**2 * 0.36 + p.sigma**2 for p, _ in points.steps]
    for (_, variance), expected in zip(spread(solver, points, 0.6, True), exact, strict=True):
        assert variance == pytest.approx(expected, rel=1e-9)


def test_large_variance_is_exact_for_white_noise_on_vp():
    for sigma, variance in spread(
        DDPM(variance="large"), geometric(VP(), 50.0, 0.02, 7), 1.0, every_step=True
    ):
        assert sigma > 0
        assert variance == pytest.approx(1.0, rel=1e-9)


@pytest.mark.some(15)
@each(solver=SDE, path=PATHS)
def test_stochastic_marginals_converge(solver, path):
    """For Gaussian data the variance tends to α²c² + σ² like 1/N; small and large err on either side."""
    points = [geometric(path, 80.0, 0.05, n) for n in (100, 200)]
    q = points[0][-1]
    exact = q.alpha**2 * 0.6**2 + q.sigma**2
    coarse, fine = (abs(spread(solver, p, 0.6) - exact) / exact for p in points)
    assert fine < 0.12
    assert fine < max(0.65 * coarse, 1e-3)


@pytest.mark.some(4)
@on_every_path
@pytest.mark.parametrize("solver", [Euler(churn=30.0), HeunEDM(churn=30.0)], **ids)
def test_churn_keeps_the_marginals(solver, path):
    points = geometric(path, 80.0, 0.05, 400)
    q = points[-1]
    exact = q.alpha**2 * 0.6**2 + q.sigma**2
    assert spread(solver, points, 0.6) == pytest.approx(
        exact, rel=0.06 if solver.order == 1 else 0.002
    )


@pytest.mark.parametrize("path", [VP(), Flow()], ids=lambda p: p.name)
def test_mean_of_a_stochastic_run(path):
    points = geometric(path, 200.0, 0.01, 300)
    oracle, p = Gaussian(path, MEAN, STD), points[0]
    x = (p.alpha * MEAN + p.sigma * 0)[None]
    end = DDPM().plan(points).solve(Run(oracle, lambda position, like: torch.zeros_like(like)), x)
    assert torch.allclose(end[0], points[-1].alpha * MEAN, atol=1e-9)


def test_eta_to_zero_is_continuous():
    points = geometric(VE(), 80.0, 0.05, 20)
    oracle, x = Gaussian(VE(), MEAN, STD), start(points, 4)
    still = DDIM().plan(points).solve(Run(oracle), x)
    for eta in (1e-2, 1e-4):
        moved = DDIM(eta=eta).plan(points).solve(Run(oracle, PerImageNoise(0)), x)
        assert (moved - still).abs().max() < 30 * eta
