"""Gaussian Adams: exact for that Gaussian, and known solvers at both ends of the prior."""

import itertools
import math

import numpy as np
import pytest
import torch
from product import each

from sampling_kit.schedulers.denoiser import Gaussian, Mixture
from sampling_kit.schedulers.path import VE, VP, Flow, SubVP
from sampling_kit.schedulers.points import Points
from sampling_kit.schedulers.solver import DEIS, DPMSolverMultistep, GaussianAdams, UniPC
from sampling_kit.schedulers.solver.run import Run

ORDERS = [(1, 0), (1, 2), (2, 0), (3, 4), (4, 0), (2, 4)]
on_every_path = pytest.mark.parametrize("path", [VP(), VE(), Flow(), SubVP()], ids=lambda p: p.name)


def noise(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def geometric(path, top, bottom, n):
    return Points(path, tuple(np.geomspace(top, bottom, n + 1)))


def ends(points, prior, mean):
    """(start, exact end, oracle) of trajectories for data N(mean, prior²)."""
    oracle, deviation = Gaussian(points.path, mean, prior * torch.ones(3).double()), []
    for p in (points[0], points[-1]):
        deviation.append(math.hypot(p.alpha * prior, p.sigma))
    z = noise(4, 3)
    start, end = (
        p.alpha * mean + n * z for p, n in zip((points[0], points[-1]), deviation, strict=True)
    )
    return start, end, oracle


@each(
    case=itertools.product(["lambda", "log_sigma", "sigma", "index"], ["mean", "network"]),
    path=[VP(), VE(), Flow(), SubVP()],
)
def test_exact_for_its_gaussian_in_any_number_of_steps(case, path):
    coordinate, residual = case
    mean = torch.tensor([0.3, -1.0, 2.0]).double() * (residual == "mean")
    for prior in (0.3, 2.0):
        for n in (1, 2, 5):
            points = geometric(path, 30.0, 0.05, n)
            start, end, oracle = ends(points, prior, mean)
            for orders in ORDERS:
                solver = GaussianAdams(prior, *orders, residual, coordinate)
                assert torch.allclose(solver.plan(points).solve(Run(oracle), start), end, atol=1e-9)


@pytest.mark.parametrize("path", [VP(), Flow()], ids=lambda p: p.name)
@pytest.mark.parametrize("residual", ["mean", "network"])
def test_exact_from_pure_noise(path, residual):
    """On rising levels Euler's step stands in where data of another width would suffer: test_rising.py."""
    mean = torch.tensor([0.3, -1.0, 2.0]).double() * (residual == "mean")
    points = Points(path, (math.inf, 5.0, 1.0, 0.2, 0.05))
    start, end, oracle = ends(points, 0.8, mean)
    for orders in ORDERS:
        solver = GaussianAdams(0.8, *orders, residual)
        assert torch.allclose(solver.plan(points).solve(Run(oracle), start), end, atol=1e-9)


@on_every_path
def test_with_a_narrow_prior_it_is_data_prediction(path):
    assert_same(path, GaussianAdams(1e-6, 2, 0), DPMSolverMultistep(2, "exact"))
    assert_same(path, GaussianAdams(1e-6, 3, 0, "network"), DPMSolverMultistep(3, "exact"))
    assert_same(path, GaussianAdams(1e-6, 3, 4), UniPC(3, "exact"))
    assert_same(path, GaussianAdams(1e-6, 2, 3, "network"), UniPC(2, "exact"))


@on_every_path
def test_with_a_wide_prior_the_network_residual_is_noise_prediction(path):
    for n in (1, 2, 3, 4):
        assert_same(path, GaussianAdams(1e6, n, 0, "network"), DEIS(n, "lambda"))


@pytest.mark.parametrize("path", [VP(), VE()], ids=lambda p: p.name)
def test_a_wide_prior_in_sigma_is_rho_ab(path):
    assert_same(path, GaussianAdams(1e6, 3, 0, "network", "sigma"), DEIS(3, "kappa"))


def assert_same(path, ours, theirs):
    """The same end for a curved field on the same levels."""
    points = geometric(path, 10.0, 0.2, 6)
    field = Mixture(path, torch.tensor([[1.0, 0.5], [-1.5, 1.0]]).double(), torch.ones(2).double())
    start = points[0].sigma * noise(5, 2)
    a, b = (s.plan(points).solve(Run(field), start) for s in (ours, theirs))
    assert torch.allclose(a, b, rtol=1e-9, atol=1e-9)


def curved(solver, n):
    """End of n uneven steps from κ = 3 to 0.1 on three Gaussians."""
    means = torch.tensor([[1.0, 0.5], [-1.5, 1.0], [0.2, -1.2]]).double()
    field = Mixture(VE(), means, torch.tensor([0.5, 0.7, 0.6]).double())
    u = np.linspace(0, 1, n + 1)
    u = u + 0.15 * np.sin(np.pi * u) ** 2 * u
    return solver.plan(Points(VE(), tuple(3 * (0.1 / 3) ** u))).solve(Run(field), 3 * noise(16, 2))


@pytest.fixture(scope="module")
def exact_end():
    return curved(UniPC(3, "exact"), 3000)


@pytest.mark.some(1)
@pytest.mark.parametrize("residual", ["mean", "network"])
@pytest.mark.parametrize(
    ("predictor", "corrector", "order"),
    [(1, 0, 1), (1, 2, 2), (1, 4, 2), (2, 0, 2), (2, 3, 3), (4, 0, 2), (3, 4, 3)],
)
def test_order(residual, predictor, corrector, order, exact_end):
    solver = GaussianAdams(1.0, predictor, corrector, residual)
    assert solver.order == order
    n = {1: 96, 2: 192, 3: 256}[order]
    errors = [(curved(solver, k) - exact_end).square().mean().sqrt().item() for k in (n, 2 * n)]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.25)


def test_a_step_to_zero_returns_the_prediction():
    points = Points(VE(), (5.0, 1.0, 0.0))
    seen = []

    def denoise(x, sigma):
        seen.append(0.3 * x + sigma)
        return seen[-1]

    end = GaussianAdams().plan(points).solve(Run(denoise), noise(2, 3))
    assert torch.equal(end, seen[-1])
    assert len(seen) == 2
