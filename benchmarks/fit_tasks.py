"""What fits and their rivals are measured on: the embedded network, and two networks from elsewhere.

Trajectories to fit and to choose by start from seeds FIRST on, those that judge from 0 on. A galaxy's end is that of
Gaussian Adams with JUDGE_STEPS evaluations, an embedded picture's that of ``benchmarks.reference``; a twin's is by the first
for both. All ends are kept in a folder outside of the repository.
"""

from __future__ import annotations

import hashlib
import math
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path as File
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from sampling_kit.embedded import fits, trained
from sampling_kit.schedulers import spacing as spacings
from sampling_kit.schedulers.denoiser.network import Network, load
from sampling_kit.schedulers.fit.problem import Field, Problem
from sampling_kit.schedulers.measure.metrics import random_features
from sampling_kit.schedulers.noise import PerImageNoise
from sampling_kit.schedulers.noise_schedule import EDM, NoiseSchedule
from sampling_kit.schedulers.path import VE
from sampling_kit.schedulers.solver import GaussianAdams, Run
from sampling_kit.schedulers.store import Format

from . import galaxies
from . import reference as end_points

EMBEDDED = tuple(fits.GUIDANCE)
NAMES = (*EMBEDDED, *galaxies.FILES)
#: Of trajectories to fit to and to choose by; the first TRAIN of SEEN are fitted.
FIRST, TRAIN, SEEN = fits.FIRST_SEED, 40, 72
JUDGES, JUDGE_STEPS, BATCH = 128, 48, 32
#: Where seeds of the noise that twins turn to begin.
TWINS = 2_000_000
ENDS = Format("sampling_kit_benchmark_ends", "set of a benchmark's ends")


def work_folder() -> File:
    """Where what can be made again is kept: SAMPLING_KIT_BENCH, or the temporary folder."""
    place = os.environ.get("SAMPLING_KIT_BENCH")
    folder = File(place or tempfile.gettempdir()) / ("" if place else "sampling-kit-benchmarks")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@dataclass(frozen=True)
class Task:
    """One of NAMES. Raises galaxies.Missing where a network is not to be had."""

    name: str

    @property
    def schedule(self) -> NoiseSchedule:
        return EDM()

    @cached_property
    def weights(self) -> str:
        """A digest of the network's file."""
        if self.name in galaxies.FILES:
            return hashlib.sha256(galaxies.content(self.name)).hexdigest()
        return end_points.digest(trained.file("network"))

    def starts(self, seeds: Tensor) -> Tensor:
        if self.name not in galaxies.FILES:
            return fits.starts(seeds)
        like = torch.empty(len(seeds), 1, galaxies.SIDE, galaxies.SIDE)
        return PerImageNoise(0, tuple(seeds.tolist()))(0, like) * fits.START

    def field(self, seeds: Tensor) -> Field:
        if self.name not in galaxies.FILES:
            net = load(trained.file("network"), VE(), Network)
            return fits.field(net, seeds, fits.GUIDANCE[self.name])
        denoise = galaxies.denoiser(self.name)
        return lambda x, sigma, rows: denoise(x, float(sigma))

    @cached_property
    def seen(self) -> Problem:
        """Those to fit, and those that a fit is chosen by."""
        return self.many(SEEN, TRAIN)

    def many(self, count: int, train: int = 0) -> Problem:
        """``count`` trajectories from FIRST on, by the teacher; with ``train`` 0 all are held out."""
        seeds = torch.arange(count) + FIRST
        make = lambda: fits.teacher(self.field(seeds), self.starts(seeds))  # noqa: E731
        spent = fits.TEACHER_STEPS * count
        return self._problem(seeds, self._kept(f"seen-{count}", make), train, spent)

    def judges(self, count: int = JUDGES) -> Problem:
        """Seeds that chose nothing; all are held out."""
        seeds = torch.arange(count)
        if self.name in EMBEDDED:
            return self._problem(seeds, end_points.read()[1][self.name][:count].float(), 0, 0)
        make = lambda: self._exact(seeds, self.starts(seeds))  # noqa: E731
        return self._problem(seeds, self._kept(f"judges-{count}", make).float(), 0, 0)

    def twins(self, count: int, turn: float) -> Problem:
        """Copies of the judges whose starts are turned by the angle ``turn`` towards other noise."""
        seeds = torch.arange(count)
        other = self.starts(seeds + TWINS)
        start = math.cos(turn) * self.starts(seeds) + math.sin(turn) * other
        end = self._kept(f"twins-{count}-{turn:g}", lambda: self._exact(seeds, start)).float()
        return replace(self._problem(seeds, end, 0, 0), start=start)

    def _exact(self, seeds: Tensor, start: Tensor) -> Tensor:
        """Where the ODE ends from ``start`` [B, …], float64."""
        points = spacings.space(self.schedule, JUDGE_STEPS, spacings.Karras())
        field, batches = self.field(seeds), torch.arange(len(seeds)).split(BATCH)
        run = Run(lambda x, s: torch.cat([field(x[rows], s, rows) for rows in batches]))
        return GaussianAdams().solve(points, run, start.double())

    def _problem(self, seeds: Tensor, ends: Tensor, train: int, spent: int) -> Problem:
        rows = torch.arange(len(seeds))
        parts = (rows[:train], rows[train:]) if train else (rows, rows)
        at = VE(), self.field(seeds), fits.START, self.starts(seeds), ends
        return Problem(*at, *parts, batch=BATCH, evaluations=spent)

    def _kept(self, what: str, make: Callable[[], Tensor]) -> Tensor:
        file = work_folder() / f"{self.name}-{self.weights[:12]}-{what}.safetensors"
        if not file.exists():
            with torch.no_grad():
                ENDS.write(file, {"end": make()}, {})
        return load_file(file)["end"]

    @cached_property
    def data_std(self) -> float:
        """Of the seen ends, as the rule for ends asks for it."""
        return float(self.seen.end.std())

    def features(self, ends: Tensor) -> Tensor:
        """[B, F] for Fréchet distances: the classifier's of the embedded pictures, else of random convolutions."""
        if self.name in EMBEDDED:
            return classifier_features(ends)
        unit = ends / (3 * self.data_std)
        return random_features(unit.expand(-1, 3, -1, -1))


@torch.no_grad()
def classifier_features(images: Tensor) -> Tensor:
    """What the shipped classifier's last layer sees, at its lowest noise [B, F]."""
    net: Any = trained.classifier(VE())
    seen: list[Tensor] = []
    hook = net.leave.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        for part in images.float().split(32):
            net(part, 0.002)
    finally:
        hook.remove()
    return torch.cat(seen)
