"""γ-sampling beside diffusers' TCDScheduler, and what it is at its ends."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from sampling_kit.schedulers.denoiser import Gaussian
from sampling_kit.schedulers.noise_schedule import ScaledLinearVP
from sampling_kit.schedulers.path import VE, VP, Flow
from sampling_kit.schedulers.points import Points
from sampling_kit.schedulers.solver import DDIM, LCM, TCD, Run
from sampling_kit.schedulers.spacing.named import Named

SD = ScaledLinearVP()
MEAN, STD = torch.tensor([0.3, -1.0, 2.0]).double(), torch.tensor([0.5, 1.5, 0.8]).double()
X = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def draw(position, like=X):
    generator = torch.Generator().manual_seed(position)
    return torch.randn(like.shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("gamma", [0.0, 0.3, 0.5, 1.0])
def test_gamma_sampling_is_diffusers_tcd(gamma, monkeypatch):
    """On the levels of Named LCM, down to timestep 0; both sides in float64 with one table."""
    diffusers = pytest.importorskip("diffusers")
    from diffusers.schedulers import scheduling_tcd

    count = itertools.count(1)
    monkeypatch.setattr(scheduling_tcd, "randn_tensor", lambda *_, **__: draw(next(count)))
    scheduler, oracle = diffusers.TCDScheduler(), Gaussian(VP(), MEAN, STD)
    kappas = torch.from_numpy(SD.kappa(np.arange(1000)))
    scheduler.alphas_cumprod = 1 / (1 + kappas**2)
    scheduler.set_timesteps(6)
    kept = Named("LCM").levels(SD, 6)
    assert SD.time(kept) == pytest.approx(scheduler.timesteps.numpy())
    points = Points(VP(), (*kept, SD.kappa_min))

    x, states = X, []
    for t in scheduler.timesteps:
        p = VP().at(float(kappas[t]))
        eps = (x - p.alpha * oracle(x, p.sigma)) / p.sigma
        states.append(x)
        x = scheduler.step(eps, t, x, eta=gamma).prev_sample
    states.append(x)
    ours = []
    solver = TCD(gamma)
    end = solver.plan(points).solve(Run(lambda y, s: ours.append(y) or oracle(y, s), draw), X)
    for a, b in zip([*ours, end], states, strict=True):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("path", [VP(), VE(), Flow()], ids=lambda p: p.name)
def test_its_ends_are_ddim_and_lcm(path):
    points = Points(path, (10.0, 3.0, 0.7, 0.0))
    same = TCD(0.0).plan(points).stages, DDIM().plan(points).stages
    rows = [(*a.x, *a.d, a.noise, *b.x, *b.d, b.noise) for a, b in zip(*same, strict=True)]
    assert all(row[: len(row) // 2] == pytest.approx(row[len(row) // 2 :]) for row in rows)
    fresh, lcm = TCD(1.0, "sigma").plan(points), LCM().plan(points)
    for a, b in zip(fresh.stages[1:], lcm.stages[1:], strict=True):
        assert (*a.d, a.noise) == pytest.approx((*b.d, b.noise)) and not any(a.x)


def test_on_flow_gamma_takes_a_share_of_sigma():
    stage = TCD(0.4).plan(Points(Flow(), (4.0, 1.0, 0.0))).stages[1]  # to σ = 0.5, past it to 0.3
    assert stage.x[0] * 0.8 == pytest.approx(0.5 * 0.3 / 0.7)
    assert stage.noise == pytest.approx(0.5 * (1 - (0.3 / 0.7) ** 2) ** 0.5)
