"""Planned solvers as closures of the proposed V2 API, behind a stand-in of its broker."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Any

import pytest
import torch
from product import each
from solver_cases import MEAN, PLANNED, STD, geometric, start

from sampling_kit.schedulers.denoiser.analytic import Gaussian
from sampling_kit.schedulers.noise import PerImageNoise
from sampling_kit.schedulers.path import VP, Flow
from sampling_kit.schedulers.points import host_sigmas
from sampling_kit.schedulers.sample import sample
from sampling_kit.schedulers.solver import DDIM, Adaptive, EulerAncestral, Restart, Run
from sampling_kit.v2 import custom_sampler


class Host:
    """The broker of one run: everything is awaited, all that a closure does is noted, nothing else is there."""

    __slots__ = ("_field", "_flow", "_noise", "_scale", "calls", "drawn")

    def __init__(self, field: Any, flow: bool = False, scale: float = 1.0) -> None:
        self._field, self._flow, self._scale = field, flow, scale
        self._noise, self.drawn, self.calls = PerImageNoise(7), 0, []

    async def _turn(self, name: str, **facts: Any) -> None:
        self.calls.append((name, facts))
        await asyncio.sleep(0)

    async def denoise(self, latent, sigma, capture_uncond=False):
        assert sigma.ndim == 0 and not latent.requires_grad
        await self._turn("denoise", sigma=float(sigma))
        return self._field(latent, float(sigma)), None

    async def noise_like(self, latent, *, step, sigma_from, sigma_to, purpose, seeded=False):
        self.drawn += 1
        await self._turn("noise", step=step, span=(float(sigma_from), float(sigma_to)))
        return self._noise(self.drawn, latent)

    async def preview(self, step, latent, sigma, sigma_hat, denoised):
        await self._turn("preview", step=step, x=latent.clone(), d=denoised.clone())

    async def schedule_parameters(self, percent_offset=0.0):
        return {"parameterization": "const" if self._flow else "sigma", "noise_scale": self._scale}


def both(solver, path, scale=1.0):
    """(x of the closure, x of our own run, the host, the steps that our own run reported)."""
    points = geometric(path, 0.9 if isinstance(path, Flow) else 20.0, 0.05, 6)
    sigmas = torch.tensor(host_sigmas(path, points.kappas), dtype=torch.float64)
    field, x, seen = Gaussian(path.host, MEAN, STD), start(points, 3), []
    noise = PerImageNoise(7)
    run = Run(field, lambda i, like: noise(i, like) * scale, seen.append)
    host = Host(field, isinstance(path, Flow), scale)
    before = x.clone()
    closure = custom_sampler(solver)
    done = asyncio.run(closure(host, x, sigmas))
    assert torch.equal(x, before), "the host's latent is its own"
    return done, sample(solver, path, run, x, sigmas.tolist()), host, seen


@pytest.mark.some(10)
@each(by=type, solver=PLANNED, path=[VP(), Flow()])
def test_a_closure_has_the_bits_of_our_own_run(solver, path):
    awaited, plain, host, seen = both(solver, path)
    assert torch.equal(awaited, plain)
    names = [name for name, _ in host.calls]
    assert names.count("preview") == len(seen) >= 1 and names.count("denoise") >= 6
    assert (host.drawn > 0) == solver.stochastic
    shown = [facts for name, facts in host.calls if name == "preview"]
    for step, facts in zip(seen, shown, strict=True):
        assert (step.step, True, True) == (
            facts["step"], torch.equal(step.x, facts["x"]), torch.equal(step.denoised, facts["d"]),
        )  # fmt: skip


def test_noise_is_awaited_once_a_draw_before_its_state_is_asked_for():
    _, _, host, _ = both(Restart(), VP())
    _, _, plain, _ = both(EulerAncestral(), VP())
    spans = [facts["span"] for name, facts in plain.calls if name == "noise"]
    levels = [facts["sigma"] for name, facts in plain.calls if name == "denoise"]
    assert spans[:-1] == list(pairwise(levels)), "the last one comes after the last question"
    assert host.drawn == len([n for n, _ in host.calls if n == "noise"]) > 0
    names = [name for name, _ in plain.calls]
    assert names[:4] == ["denoise", "noise", "preview", "denoise"]


def test_the_noise_of_a_flow_model_has_its_deviation():
    one, plain, *_ = both(EulerAncestral(), Flow(), 1.0)
    two, louder, *_ = both(EulerAncestral(), Flow(), 2.0)
    assert torch.equal(two, louder) and torch.equal(one, plain) and not torch.equal(one, two)


def test_a_solver_without_a_plan_is_refused_by_name():
    with pytest.raises(ValueError, match=r"Adaptive.* has no plan.*UniPC"):
        custom_sampler(Adaptive())


@pytest.mark.parametrize("levels", [[], [3.0]])
def test_a_run_of_no_step_is_the_latent(levels):
    x, host = torch.ones(1, 3), Host(None)
    done = asyncio.run(custom_sampler(DDIM())(host, x, torch.tensor(levels)))
    assert done is x and not host.calls


def test_an_error_of_the_host_ends_the_run():
    def broken(y, sigma):
        raise InterruptedError("stopped")

    sigmas = torch.tensor([3.0, 1.0, 0.0])
    with pytest.raises(InterruptedError, match="stopped"):
        asyncio.run(custom_sampler(DDIM())(Host(broken), torch.ones(1, 3), sigmas))
