"""Spacings by the time of the schedule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..noise_schedule import Array, NoiseSchedule
from ..settings import knob
from .levels import Spacing, time_levels


@dataclass(frozen=True)
class Trailing(Spacing):
    """Evenly spaced in time, counted back from the last timestep: t_i = T(1 − i/n).

    Timesteps of a table are round(T(1 − i/n)) − 1, halves to even (Lin et al. 2023, table 2). Starts at
    the noisiest level; right for few steps, zero terminal SNR and rectified flow.
    """

    title: ClassVar[str] = "trailing (uniform in time)"
    aliases: ClassVar[tuple[str, ...]] = ("trailing", "uniform", "simple", "sgm_uniform")

    def levels(self, schedule: NoiseSchedule, n: int) -> Array:
        left = np.arange(n, 0, -1)
        if schedule.discrete:  # rounded on the grid 1 … T: on 0 … T − 1 the halves go the other way
            return time_levels(schedule, np.round((schedule.t_max + 1) * left / n) - 1)
        return schedule.kappa(schedule.t_max * (left / n))


@dataclass(frozen=True)
class Leading(Spacing):
    """Evenly spaced in time, counted up from the first timestep (the original DDIM and SD choice).

    Never reaches the noisiest level (t = 981 of 999 at 50 steps), which greys pictures; kept for
    comparison with published results.
    """

    title: ClassVar[str] = "leading (uniform in time)"
    aliases: ClassVar[tuple[str, ...]] = ("leading", "ddim_uniform")
    offset: int = knob(
        0,
        "Added to every timestep (Stable Diffusion uses 1). Training tables only.",
        low=0,
        high=100,
    )

    def levels(self, schedule: NoiseSchedule, n: int) -> Array:
        down = np.arange(n - 1, -1, -1.0)
        if not schedule.discrete:
            return schedule.kappa(schedule.t_min + (schedule.t_max - schedule.t_min) * down / n)
        count = int(schedule.t_max) + 1
        if n > count:
            raise ValueError(f"{n} steps do not fit: the schedule has {count} timesteps")
        return time_levels(schedule, np.minimum(down * (count // n) + self.offset, schedule.t_max))


@dataclass(frozen=True)
class Linspace(Spacing):
    """Evenly spaced in time from the last to the first timestep, both included."""

    title: ClassVar[str] = "linspace (uniform in time)"
    aliases: ClassVar[tuple[str, ...]] = ("linspace", "normal")

    def levels(self, schedule: NoiseSchedule, n: int) -> Array:
        return time_levels(schedule, np.linspace(schedule.t_max, schedule.t_min, n))


@dataclass(frozen=True)
class Quadratic(Spacing):
    """Evenly spaced in √t, so that steps get shorter towards the data (DDIM, DPM-Solver)."""

    title: ClassVar[str] = "quadratic in time"
    aliases: ClassVar[tuple[str, ...]] = ("quadratic", "time_quadratic")

    def levels(self, schedule: NoiseSchedule, n: int) -> Array:
        return schedule.kappa(np.linspace(schedule.t_max**0.5, schedule.t_min**0.5, n) ** 2)

    def between(self, schedule: NoiseSchedule, n: int, first: float, last: float) -> Array:
        start, end = schedule.time(np.array([first, last])) ** 0.5
        return schedule.kappa(np.linspace(start, end, n) ** 2)


@dataclass(frozen=True)
class Beta(Spacing):
    """Quantiles of a Beta(a, b) law over time: many steps at both ends (Lee et al. 2024)."""

    title: ClassVar[str] = "beta quantiles"
    aliases: ClassVar[tuple[str, ...]] = ("beta",)
    a: float = knob(
        0.6,
        "First shape parameter; smaller puts more steps at the data end.",
        low=0.05,
        high=50.0,
        step=0.05,
    )
    b: float = knob(
        0.6,
        "Second shape parameter; smaller puts more steps at the noise end.",
        low=0.05,
        high=50.0,
        step=0.05,
    )

    def levels(self, schedule: NoiseSchedule, n: int) -> Array:
        share = beta_quantile(np.arange(n, 0, -1) / n, self.a, self.b)
        return schedule.kappa(schedule.t_min + (schedule.t_max - schedule.t_min) * share)


def beta_mass(x: Array, a: float, b: float) -> Array:
    """∫₀ˣ t^{a−1}(1−t)^{b−1} dt for x ∈ [0, ½], to about 1e-15.

    = x^a Σ_k (1−b)_k/k! · x^k/(a+k), which converges by at least a half per term.
    """
    k = np.arange(1, 60)
    terms = np.cumprod((k - b) / k) / (a + k)
    return x**a * (1 / a + x[:, None] ** k @ terms)


def beta_share(x: Array, a: float, b: float) -> Array:
    """The regularised incomplete beta function I_x(a, b) for x ∈ [0, 1]."""
    half = np.array([0.5])
    whole = beta_mass(half, a, b) + beta_mass(half, b, a)
    lower = beta_mass(np.minimum(x, 0.5), a, b)
    upper = beta_mass(np.minimum(1 - x, 0.5), b, a)
    return np.where(x <= 0.5, lower, whole - upper) / whole


def beta_quantile(p: Array, a: float, b: float) -> Array:
    """Inverse of :func:`beta_share` for p ∈ [0, 1], to about 1e-14: by bisection, the upper half with a and b swapped."""
    target = np.asarray(p, np.float64)
    half = np.array([0.5])
    low, high = beta_mass(half, a, b), beta_mass(half, b, a)
    lower = target * (low + high) < low
    aim = np.where(lower, target, 1 - target) * (low + high)
    left, right = np.zeros_like(target), np.full_like(target, 0.5)
    for _ in range(60):
        middle = (left + right) / 2
        short = np.where(lower, beta_mass(middle, a, b), beta_mass(middle, b, a)) < aim
        left, right = np.where(short, middle, left), np.where(short, right, middle)
    return np.where(lower, right, 1 - right)


@dataclass(frozen=True)
class FlowShift(Spacing):
    """Trailing steps with every κ multiplied by a shift s, on top of the schedule's own.

    On rectified flow this is σ = s·t/(1 + (s − 1)t); on any path it moves λ by −log s.
    """

    title: ClassVar[str] = "flow shift"
    aliases: ClassVar[tuple[str, ...]] = ("shift", "SD3", "Flux", "Wan", "ModelSamplingSD3")
    shift: float = knob(
        3.0, "s > 1 spends more steps at high noise.", low=0.01, high=100.0, step=0.01
    )

    def levels(self, schedule: NoiseSchedule, n: int) -> Array:
        return self.shift * Trailing().levels(schedule, n)
