"""Another noise level told to the model than the state's: more or less detail in the middle of a run.

A model takes out the noise that it is told of. Told σ' = σ·(1 − a·c(u)) for a state at σ it takes out too little: the result
keeps some noise that the next steps make into detail; told more it smooths. u is the progress through the run, its steps at
even distances, c a drawn curve. The state, the steps and what guidance rules compute stay those of σ. After Detail Daemon
(Jonseed 2024) and Lying Sigma, which move σ in the same way; for data N(0, 1) on VE, D' = x/(1 + σ'²).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from .settings import Settings, knob
from .spacing.written import curve_points, monotone_cubic


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
        self.points()

    def points(self) -> tuple[tuple[float, float], ...]:
        """(progress, height), in the order written. Raises ValueError for a text that is no curve."""
        return curve_points(f"{self.name_shown}: curve", self.curve, "0:0, 0.5:1, 1:0")

    def at(self, sigma: float, sigmas: Sequence[float]) -> float:
        """What the model is told at σ in a run over falling ``sigmas``, the whole run's; levels between two steps lie
        between them, those outside are its ends."""
        steps = len(sigmas) - 1
        progress = float(np.interp(-sigma, [-s for s in sigmas], np.arange(steps + 1))) / steps
        x, y = np.array(self.points()).T
        return sigma * (1 - self.amount * float(monotone_cubic(x, y, np.array([progress]))[0]))
