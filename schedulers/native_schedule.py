"""Noise schedules that exist because some native model was trained with them, and no menu needs them.

Read off a MODEL's ``model_sampling``; see ``noise_schedule.py`` for those a user can choose.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike

from .noise_schedule import Array, NoiseSchedule
from .path import VP, Path
from .settings import knob

#: κ ↔ time of networks trained on any noise level: EDM's c_noise, and the angle of (α, σ) on VP.
CLOCKS = {
    "log": (lambda k: 0.25 * np.log(k), lambda t: np.exp(4 * t)),
    "angle": (lambda k: np.arctan(k) * 2 / math.pi, lambda t: np.tan(t * math.pi / 2)),
}


@dataclass(frozen=True)
class VPRange(NoiseSchedule):
    """VP, any noise level between two; time is ¼·log κ (EDM) or (2/π)·atan κ (v-diffusion)."""

    path: ClassVar[Path] = VP()
    title: ClassVar[str] = "VP, continuous range"
    clock: str = knob("log", "What the network calls time.", options=tuple(CLOCKS))
    sigma_min: float = knob(0.002, "Smallest κ.", low=1e-6, high=1e4)
    sigma_max: float = knob(120.0, "Largest κ.", low=1e-5, high=1e6)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sigma_min >= self.sigma_max:
            raise ValueError(
                f"{self.title}: sigma_min = {self.sigma_min} must be below sigma_max = {self.sigma_max}"
            )

    @property
    def t_min(self) -> float:
        return float(CLOCKS[self.clock][0](self.sigma_min))

    @property
    def t_max(self) -> float:
        return float(CLOCKS[self.clock][0](self.sigma_max))

    def kappa(self, t: ArrayLike) -> Array:
        t = np.clip(np.asarray(t, np.float64), self.t_min, self.t_max)
        return np.clip(CLOCKS[self.clock][1](t), self.sigma_min, self.sigma_max)

    def time(self, kappa: ArrayLike) -> Array:
        kappa = np.clip(np.asarray(kappa, np.float64), self.sigma_min, self.sigma_max)
        return CLOCKS[self.clock][0](kappa)


@dataclass(frozen=True)
class ShiftedCosineVP(NoiseSchedule):
    """Continuous cosine with κ multiplied by a shift, ᾱ kept in [1e-4, 1 − 1e-4] (Stable Cascade).

    ᾱ(t) = cos²((t + s)/(1 + s)·π/2)/cos²(s/(1 + s)·π/2), s = 0.008 (Nichol & Dhariwal 2021).
    """

    path: ClassVar[Path] = VP()
    title: ClassVar[str] = "VP shifted cosine (Stable Cascade)"
    shift: float = knob(1.0, "κ is multiplied by this.", low=1e-3, high=1e3)
    offset: float = knob(0.008, "s.", low=0.0, high=0.5)

    LARGEST: ClassVar[float] = math.sqrt(0.9999 / 0.0001)

    @property
    def t_min(self) -> float:
        return float(self._time(1 / self.LARGEST))

    @property
    def t_max(self) -> float:
        return float(self._time(self.LARGEST))

    @property
    def _start(self) -> float:
        return math.cos(self.offset / (1 + self.offset) * math.pi / 2)

    def kappa(self, t: ArrayLike) -> Array:
        t = np.clip(np.asarray(t, np.float64), self.t_min, self.t_max)
        angle = (t + self.offset) / (1 + self.offset) * math.pi / 2
        alpha_bar = (np.cos(angle) / self._start) ** 2
        return np.clip(self.shift * np.sqrt(1 / alpha_bar - 1), 1 / self.LARGEST, self.LARGEST)

    def time(self, kappa: ArrayLike) -> Array:
        return np.clip(self._time(kappa), self.t_min, self.t_max)

    def _time(self, kappa: ArrayLike) -> Array:
        root = self._start / np.hypot(1, np.asarray(kappa, np.float64) / self.shift)
        return np.arccos(root) * (2 / math.pi) * (1 + self.offset) - self.offset
