"""Mixtures of Gaussians drawn by a rule: as many problems as there are seeds, and nobody has looked at most of them.

A seed decides everything: path and range (Stable Diffusion's, EDM's, flow with shift 1 to 6), guidance (half of them CFG with 1.5 to
5 between some components and all), dimensions, how many components of which weights, how steeply the variances fall, and how far
means, wide directions and the floor share the data's deviation, which is .4 to .9 on EDM's range (pixels) and .7 to 1.3 elsewhere
(latents). ``drawn-1000`` and above judge, those below CHOSEN are for choosing.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from sampling_kit.schedulers.denoiser import Mixture
from sampling_kit.schedulers.noise_schedule import (
    EDM,
    NoiseSchedule,
    RectifiedFlowSchedule,
    ScaledLinearVP,
)
from sampling_kit.schedulers.path import VE, Flow, Path

from . import problems

PREFIX = "drawn-"
CHOSEN, JUDGED = range(100), range(1000, 2000)
SEEDS = 8


def problem(name: str, starts: int | None = None) -> problems.Problem:
    """``drawn-N`` from N, with ``starts`` starts. Its name says guidance where there is some."""
    seed = int(name.removeprefix(PREFIX))
    rng = np.random.default_rng(seed)
    schedule = _schedule(seed, rng)
    path: Path = Flow() if isinstance(schedule, RectifiedFlowSchedule) else VE()
    scale = float(rng.choice([1.5, 2.0, 3.0, 5.0])) if seed // 3 % 2 else 1.0
    deviation = rng.uniform(0.4, 0.9) if isinstance(schedule, EDM) else rng.uniform(0.7, 1.3)
    mixture = _mixture(path, float(deviation), rng)
    denoise = problems.two_products(mixture)
    if scale != 1:
        count = len(mixture.means)
        some = torch.from_numpy(rng.permutation(count)[: max(count // 3, 1)].copy())
        denoise = guided(mixture, some, scale)
        name = f"{name} cfg {scale:g}"
    start = problems.gaussian_noise(starts or SEEDS, mixture.means.shape[1], seed=seed)
    top = path.at(schedule.kappa_max).sigma
    return problems.Problem(name, path, schedule, denoise, top * start)


def _schedule(seed: int, rng: np.random.Generator) -> NoiseSchedule:
    shift = float(rng.uniform(1.0, 6.0))
    return (ScaledLinearVP(), EDM(), RectifiedFlowSchedule(shift))[seed % 3]


def _mixture(path: Path, deviation: float, rng: np.random.Generator) -> Mixture:
    size = int(rng.choice([64, 144, 256]))
    count, rank = int(rng.integers(2, 20)), int(rng.integers(3, 24))
    fall = np.arange(1, rank + 1.0) ** -rng.uniform(0.5, 2.5)
    of_means, of_floor = rng.uniform(0.1, 0.6), rng.uniform(0.02, 0.3) ** 2
    wide = size * deviation**2 * max(1 - of_means - of_floor, 0.05) * fall / fall.sum()
    basis = np.stack([np.linalg.qr(rng.normal(size=(size, rank)))[0].T for _ in range(count)])
    means = rng.normal(size=(count, size)) * deviation * math.sqrt(of_means)
    floor = np.full(count, deviation * math.sqrt(of_floor))
    variances = np.tile(wide, (count, 1))
    weights = rng.dirichlet(np.ones(count)) + 1e-3
    parts = (_tensor(a) for a in (means, floor, basis, variances, weights))
    return Mixture(path, *parts)


def guided(mixture: Mixture, some: Tensor, scale: float) -> problems.Denoise:
    """CFG: the condition is ``some`` of the components."""
    m = mixture
    parts = (t[some] for t in (m.means, m.floor, m.basis, m.variances, m.weights))
    cond = problems.two_products(Mixture(m.path, *parts))
    every = problems.two_products(mixture)

    def denoise(x: Tensor, sigma: float) -> Tensor:
        plain = every(x, sigma)
        return plain + scale * (cond(x, sigma) - plain)

    return denoise


def _tensor(values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values)).double()
