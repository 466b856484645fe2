"""What the study runs on: networks with and without guidance, their exact ends, and what a sample of each is compared with.

A world is a denoiser, starts and a schedule, with where the ODE ends from each start. Its distribution is held against a target in
a fixed space of features: for pictures the last layer of the embedded classifier before its logits, for mixtures of 192 values
DIRECTIONS fixed random directions. Without guidance the target is true samples; with guidance, which has no exact distribution, the
ODE's ends from other starts. Too few starts (LEAST) have no distribution.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path as File

import numpy as np
import torch
from torch import Tensor

from sampling_kit.schedulers.denoiser import Mixture
from sampling_kit.schedulers.measure.metrics import frechet
from sampling_kit.schedulers.noise_schedule import (
    EDM,
    NoiseSchedule,
    RectifiedFlowSchedule,
    ScaledLinearVP,
)
from sampling_kit.schedulers.path import VE, Flow

from . import drawn, problems, quality_page
from .fit import reference
from .problems import Problem, gaussian_noise, median, rmse

GUIDANCES = {"none": 1.0, "CFG 2": 2.0, "CFG 5": 5.0}
#: Network → the guidances that it has. "network" is the embedded one, whose ends ship.
NETWORKS: dict[str, tuple[str, ...]] = {
    "mixture": ("none", "CFG 2", "CFG 5"),
    "mixture-flow": ("none", "CFG 2", "CFG 5"),
    "postcards": ("none", "CFG 2"),
    "hsc": ("none",),
    "network": ("none", "CFG 2"),
}
NAMES = tuple((name, guidance) for name, some in NETWORKS.items() for guidance in some)
DIRECTIONS, LEAST, TARGET = 32, 32, 256
STEPS, STEPS_OF_PICTURES = 400, 150  # of Runge–Kutta
FIRST = 7  # seed of the starts; the target has the next, the floor the one after

Features = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class World:
    """``end`` [B, …]; ``target`` [M, F], None where there are too few starts; ``uncertainty``: how far the ends of half as many steps
    are from ``end``, median over starts; ``another`` [B, F]: features of a second sample, whose distance is the floor."""

    network: str
    guidance: str
    task: Problem
    end: Tensor
    uncertainty: float
    features: Features | None = None
    target: Tensor | None = None
    another: Tensor | None = None

    @property
    def name(self) -> str:
        return f"{self.network}, {self.guidance}"

    @property
    def side(self) -> int:
        shape = self.task.start.shape
        return shape[-1] if len(shape) == 4 else round(shape[-1] ** 0.5)

    def distance(self, x: Tensor) -> float | None:
        """Fréchet distance of a sample [B, …] to the target."""
        if self.features is None or self.target is None:
            return None
        return frechet(self.features(x), self.target)

    @cached_property
    def of_ends(self) -> float | None:
        """What the exact ends themselves have."""
        return self.distance(self.end)

    @cached_property
    def floor(self) -> float | None:
        """What a second sample of the target's distribution has, as many as there are starts."""
        if self.another is None or self.target is None:
            return None
        return frechet(self.another, self.target)


def world(network: str, guidance: str, seeds: int, kept: File | None = None) -> World:
    """Exact ends are read from the folder ``kept``, or made and written there. Raises galaxies.Missing."""
    if network == "network":
        return _embedded(guidance, seeds)
    if network == "hsc":
        task = problems.problem(network, seeds)
        found = problems.answer(network, seeds)
        return World(network, guidance, task, found.end, found.uncertainty)
    mixture, task = _task(network, guidance, seeds, FIRST)
    name = f"{network}-{guidance}-{seeds}"
    end, half = (_ends(task, n, kept, name) for n in (task.fine, task.fine // 2))
    features = _pictures if network == "postcards" else _directions
    target = another = None
    if seeds >= LEAST:
        if guidance == "none":
            target, another = (_true(mixture, n, k, task) for n, k in ((TARGET, 1), (seeds, 2)))
        else:
            others = [
                _task(network, guidance, n, FIRST + k)[1] for n, k in ((TARGET, 1), (seeds, 2))
            ]
            target, another = (
                _ends(other, task.fine // 2, kept, f"{name}-{k}") for k, other in enumerate(others)
            )
        target, another = features(target), features(another)
    return World(network, guidance, task, end, median(rmse(half, end)), features, target, another)


def _task(network: str, guidance: str, count: int, seed: int) -> tuple[Mixture, Problem]:
    """An exact denoiser. Guided, the condition is a third of the components."""
    path = Flow() if network == "mixture-flow" else VE()
    schedule: NoiseSchedule = (
        RectifiedFlowSchedule(3.0) if network == "mixture-flow" else ScaledLinearVP()
    )
    pictures = network == "postcards"
    mixture = quality_page.of_postcards() if pictures else problems.mixture(path)
    scale = GUIDANCES[guidance]
    some = torch.arange(max(len(mixture.means) // 3, 1))
    denoise = problems.two_products(mixture) if scale == 1 else drawn.guided(mixture, some, scale)
    shape = (3, quality_page.SIDE, quality_page.SIDE) if pictures else (mixture.means.shape[1],)
    top = path.at(schedule.kappa_max).sigma
    start = top * gaussian_noise(count, *shape, seed=seed)
    fine = STEPS_OF_PICTURES if pictures else STEPS
    return mixture, Problem(f"{network}, {guidance}", path, schedule, denoise, start, fine)


def _ends(task: Problem, steps: int, kept: File | None, name: str) -> Tensor:
    file = kept / f"{name}-{steps}.npy".replace(" ", "-") if kept else None
    if file and file.exists():
        return torch.from_numpy(np.load(file, allow_pickle=False))
    end = task.finer_run(steps)
    if file:
        np.save(file, end.numpy())
    return end


def _embedded(guidance: str, seeds: int) -> World:
    """The embedded network; its exact ends ship, and those of other seeds are the target."""
    key = {"none": "cond", "CFG 2": "cfg2"}[guidance]
    task, ends = problems.network_problem(f"network-{key}", seeds), reference()[key].double()
    task = Problem(task.name, task.path, EDM(), task.denoise, task.start)
    rest = ends[seeds:]
    if seeds < LEAST or len(rest) < 2 * seeds:
        return World("network", guidance, task, ends[:seeds], 0.0)
    target, another = _pictures(rest[:-seeds]), _pictures(rest[-seeds:])
    return World("network", guidance, task, ends[:seeds], 0.0, _pictures, target, another)


def _true(mixture: Mixture, count: int, seed: int, task: Problem) -> Tensor:
    return quality_page.samples(mixture, count, seed).view(count, *task.start.shape[1:])


def _pictures(x: Tensor) -> Tensor:
    return quality_page.features(x)


def _directions(x: Tensor) -> Tensor:
    flat = x.flatten(1)
    return flat @ gaussian_noise(flat.shape[1], DIRECTIONS, seed=5) / flat.shape[1] ** 0.5
