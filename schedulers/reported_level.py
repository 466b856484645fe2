"""Another noise level told to the model than the state's: more or less detail in the middle of a run.

A model takes out the noise that it is told of. Told σ' = σ·(1 − a·c(u)) for a state at σ it takes out too little: the result
keeps some noise that the next steps make into detail; told more it smooths. u is the progress through the run, its steps at
even distances, c a drawn curve. The state, the steps and what guidance rules compute stay those of σ. After Detail Daemon
(Jonseed 2024) and Lying Sigma, which move σ in the same way; for data N(0, 1) on VE, D' = x/(1 + σ'²).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import numpy as np

from .settings import Settings, knob
from .spacing.written import monotone_cubic

MOST_POINTS = 64


@dataclass(frozen=True)
class ReportedLevel(Settings):
    """The model is told σ·(1 − amount·curve) in place of σ, over the steps of a run."""

    title: ClassVar[str] = "Reported Level"
    aliases: ClassVar[tuple[str, ...]] = (
        "Detail Daemon", "Lying Sigma", "detail", "multiply sigmas", "sigma offset",
    )  # fmt: skip
    amount: float = knob(
        0.1, "How much less noise the model is told of, as a share: more detail. Below 0: more noise, smoother.",
        low=-0.9, high=0.9, step=0.01,
    )  # fmt: skip
    curve: str = knob(
        "0:0, 0.2:0, 0.5:1, 0.8:0, 1:0",
        "Points progress:height over the steps, the first at progress 0, the last at 1; heights from 0 to 1. Smooth between.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        points = self.points()
        rising = all(a[0] < b[0] for a, b in pairwise(points))
        if not (
            2 <= len(points) <= MOST_POINTS and points[0][0] == 0 and points[-1][0] == 1 and rising
        ):
            raise ValueError(
                f"ReportedLevel.curve = {self.curve!r}: 2 to {MOST_POINTS} points, progress rising from exactly 0 to exactly 1"
            )
        if not all(0 <= height <= 1 for _, height in points):
            raise ValueError(f"ReportedLevel.curve = {self.curve!r}: heights lie between 0 and 1")

    def points(self) -> list[tuple[float, float]]:
        """(progress, height), in the order written."""
        try:
            pairs = [word.split(":") for word in self.curve.replace(";", ",").split(",")]
            return [(float(progress), float(height)) for progress, height in pairs]
        except ValueError:
            raise ValueError(
                f"ReportedLevel.curve = {self.curve!r}: write points progress:height, such as 0:0, 0.5:1, 1:0"
            ) from None

    def at(self, sigma: float, sigmas: Sequence[float]) -> float:
        """What the model is told at σ in a run over falling ``sigmas``, the whole run's; levels between two steps lie
        between them, those outside are its ends."""
        steps = len(sigmas) - 1
        progress = float(np.interp(-sigma, [-s for s in sigmas], np.arange(steps + 1))) / steps
        x, y = np.array(self.points()).T
        return sigma * (1 - self.amount * float(monotone_cubic(x, y, np.array([progress]))[0]))
