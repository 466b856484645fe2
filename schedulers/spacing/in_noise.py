"""Spacings by the noise level: σ, its logarithm, or λ."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..noise_schedule import Array, NoiseSchedule
from ..points import Points
from ..settings import knob
from .in_time import beta_quantile, beta_share
from .levels import Spacing


class SigmaSpacing(Spacing):
    """Spacings defined between the largest and the smallest σ."""

    def levels(self, schedule: NoiseSchedule, n: int) -> Array:
        return self.between(schedule, n, schedule.kappa_max, schedule.kappa_min)

    def between(self, schedule: NoiseSchedule, n: int, first: float, last: float) -> Array:
        ends = Points(schedule.path, (first, last))
        sigmas = self.sigmas(np.arange(n) / max(n - 1, 1), *ends.sigmas())
        return np.array(Points.from_sigmas(schedule.path, sigmas).kappas)

    def sigmas(self, ramp: Array, top: float, bottom: float) -> Array:
        """σ at ramp ∈ [0, 1], from top to bottom."""
        raise NotImplementedError


@dataclass(frozen=True)
class Karras(SigmaSpacing):
    """σ^(1/ρ) falls evenly (Karras et al. 2022, eq. 5)."""

    title: ClassVar[str] = "Karras"
    aliases: ClassVar[tuple[str, ...]] = ("karras", "EDM")
    rho: float = knob(
        7.0, "ρ: larger spends more steps at low noise.", low=0.1, high=100.0, step=0.01
    )

    def sigmas(self, ramp: Array, top: float, bottom: float) -> Array:
        start, end = top ** (1 / self.rho), bottom ** (1 / self.rho)
        return _exact_ends((start + ramp * (end - start)) ** self.rho, top, bottom)


@dataclass(frozen=True)
class Polyexponential(SigmaSpacing):
    """log σ falls as the ρ-th power of progress; ρ = 1 is exponential (k-diffusion)."""

    title: ClassVar[str] = "polyexponential"
    aliases: ClassVar[tuple[str, ...]] = ("polyexponential",)
    rho: float = knob(
        1.0, "ρ: larger spends more steps at low noise.", low=0.1, high=100.0, step=0.01
    )

    def sigmas(self, ramp: Array, top: float, bottom: float) -> Array:
        share = (1 - ramp) ** self.rho
        return _exact_ends(bottom * (top / bottom) ** share, top, bottom)


@dataclass(frozen=True)
class Exponential(SigmaSpacing):
    """σ falls by the same factor at every step."""

    title: ClassVar[str] = "exponential"
    aliases: ClassVar[tuple[str, ...]] = ("exponential", "log-linear")

    def sigmas(self, ramp: Array, top: float, bottom: float) -> Array:
        return Polyexponential(1.0).sigmas(ramp, top, bottom)


@dataclass(frozen=True)
class KLOptimal(SigmaSpacing):
    """arctan σ falls evenly (Sabour et al. 2024, KL-optimal for Gaussian data)."""

    title: ClassVar[str] = "KL optimal"
    aliases: ClassVar[tuple[str, ...]] = ("kl_optimal", "Align Your Steps")

    def sigmas(self, ramp: Array, top: float, bottom: float) -> Array:
        angles = math.atan(top) + ramp * (math.atan(bottom) - math.atan(top))
        return _exact_ends(np.tan(angles), top, bottom)


@dataclass(frozen=True)
class NoiseShare(Spacing):
    """The noise's share of the variance, p = κ²/(κ² + s²), takes even quantiles of a Beta(γ/2, γ/2) law between the ends.

    In log κ the levels lie as densely as (κ/s + s/κ)^−γ: around s, where most is decided, and thinly far above and below.
    γ = 1 is even in the angle arctan(κ/s) (KL optimal; the rotation of TrigFlow), γ → 0 uniform in λ. It goes with a
    last level well above the schedule's smallest (ends = rule), and may begin at the largest.
    """

    title: ClassVar[str] = "noise share"
    aliases: ClassVar[tuple[str, ...]] = ("angle", "arctan", "TrigFlow", "cosh")
    scale: float = knob(
        2.0,
        "s, in units of the data: their deviation along the directions that matter.",
        low=1e-6,
        high=1e6,
        step=0.01,
    )
    focus: float = knob(0.5, "γ: larger spends more steps around s.", low=0.05, high=4.0, step=0.01)

    def levels(self, schedule: NoiseSchedule, n: int) -> Array:
        return self.between(schedule, n, schedule.kappa_max, schedule.kappa_min)

    def between(self, schedule: NoiseSchedule, n: int, first: float, last: float) -> Array:
        above, below = self._shares(first, last)
        quantiles = np.linspace(above[0], below[0], n), np.linspace(above[1], below[1], n)
        noise, data = (beta_quantile(q, self.focus / 2, self.focus / 2) for q in quantiles)
        with np.errstate(divide="ignore"):
            kappas = self.scale * np.sqrt(noise / data)
        return _exact_ends(kappas, first, last)

    def _shares(self, *kappas: float) -> list[tuple[float, float]]:
        """P(p) and, to all digits near pure noise too, 1 − P(p) for each κ."""
        ratio = np.square([kappa / self.scale for kappa in kappas])
        data = 1 / (1 + ratio)
        noise = 1 / (1 + np.divide(1, ratio, out=np.full_like(ratio, np.inf), where=ratio > 0))
        a = self.focus / 2
        return list(zip(beta_share(noise, a, a), beta_share(data, a, a), strict=True))


def _exact_ends(sigmas: Array, top: float, bottom: float) -> Array:
    """Powers and logarithms round: the ends are put back exactly."""
    sigmas[-1] = bottom
    sigmas[0] = top
    return sigmas


@dataclass(frozen=True)
class UniformLambda(Spacing):
    """λ = log(α/σ) rises evenly: the DPM-Solver choice, the same κ-grid on every path.

    Where the schedule starts at pure noise (λ = −∞) the first finite level lies at ``start_time``.
    """

    title: ClassVar[str] = "uniform in λ (log-SNR)"
    aliases: ClassVar[tuple[str, ...]] = ("logSNR", "lambda", "lu")
    start_time: float = knob(
        0.999,
        "Share of the time range where the λ-grid begins when the schedule starts at pure noise.",
        low=0.5,
        high=0.999999,
        step=1e-3,
        advanced=True,
    )

    def levels(self, schedule: NoiseSchedule, n: int) -> Array:
        return self.between(schedule, n, schedule.kappa_max, schedule.kappa_min)

    def between(self, schedule: NoiseSchedule, n: int, first: float, last: float) -> Array:
        if math.isfinite(first):
            return np.geomspace(first, last, n)
        near = float(schedule.kappa(schedule.t_max * self.start_time))
        return np.array([first, *np.geomspace(near, last, n - 1)])
