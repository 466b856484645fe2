"""Spacings: which noise levels a run visits. A schedule and a number of steps go in, Points come out.

Each spacing is a frozen value with one method, ``levels(schedule, n)``, that returns n values of κ,
largest first; :func:`space` adds the end point (exactly 0, or the schedule's smallest level), applies
``denoise`` and checks the result. "σ" below is the σ of ComfyUI's SIGMAS: κ for VP, sub-VP and VE,
t for rectified flow. Adding a spacing: one class here and its name in ``ALL``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from .noise_schedule import Array, NoiseSchedule
from .points import Points
from .settings import Settings, knob

FINAL = ("zero", "sigma_min")


class Spacing(Settings):
    """Base class. ``levels`` gives n values of κ, largest first, the final zero not included."""

    def levels(self, schedule: NoiseSchedule, n: int) -> Array:
        raise NotImplementedError


def space(
    schedule: NoiseSchedule, n: int, spacing: Spacing, *, denoise: float = 1.0, final: str = "zero"
) -> Points:
    """Noise levels of a run of ``n`` steps (n + 1 points).

    denoise in (0, 1]: as in ComfyUI, the last n steps of a run of int(n/denoise) steps, so the
    number of steps stays n and the start moves down. final: end at exactly 0, or at the schedule's
    smallest noise level. Raises ValueError when n does not fit the schedule.
    """
    if n < 1:
        raise ValueError(f"steps = {n}: a run needs at least 1 step")
    if not 0 < denoise <= 1:
        raise ValueError(f"denoise = {denoise}: must be above 0 and at most 1")
    if final not in FINAL:
        raise ValueError(f"final = {final!r}: choose one of {', '.join(FINAL)}")
    total = max(int(n / denoise), n)
    kappas = [*spacing.levels(schedule, total), 0.0]
    if final == "sigma_min":
        kappas = [*spacing.levels(schedule, total + 1)]
    return Points(schedule.path, tuple(kappas if denoise == 1 else kappas[-(n + 1) :]))


def _time_levels(schedule: NoiseSchedule, times: Array) -> Array:
    """κ at the given times; rounded to whole timesteps where the network knows no others."""
    if not schedule.discrete:
        return schedule.kappa(times)
    whole = np.round(times)
    if len(np.unique(whole)) < len(whole):
        count = int(schedule.t_max) + 1
        raise ValueError(
            f"{len(times)} noise levels do not fit on whole timesteps here: the schedule has {count}. "
            "Use fewer steps, or a spacing in σ or λ"
        )
    return schedule.kappa(whole)


@dataclass(frozen=True)
class Trailing(Spacing):
    """Evenly spaced in time, counted back from the last timestep: t_i = T(1 − i/n).

    Starts at the noisiest level; right for few steps, zero terminal SNR and rectified flow.
    """

    title: ClassVar[str] = "trailing (uniform in time)"
    aliases: ClassVar[tuple[str, ...]] = ("trailing", "uniform", "simple", "sgm_uniform")

    def levels(self, schedule: NoiseSchedule, n: int) -> Array:
        share = np.arange(n, 0, -1) / n
        if schedule.discrete:
            return _time_levels(schedule, (schedule.t_max + 1) * share - 1)
        return schedule.kappa(schedule.t_max * share)


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
        return _time_levels(schedule, np.minimum(down * (count // n) + self.offset, schedule.t_max))


@dataclass(frozen=True)
class Linspace(Spacing):
    """Evenly spaced in time from the last to the first timestep, both included."""

    title: ClassVar[str] = "linspace (uniform in time)"
    aliases: ClassVar[tuple[str, ...]] = ("linspace", "normal")

    def levels(self, schedule: NoiseSchedule, n: int) -> Array:
        return _time_levels(schedule, np.linspace(schedule.t_max, schedule.t_min, n))


@dataclass(frozen=True)
class Quadratic(Spacing):
    """Evenly spaced in √t, so that steps get shorter towards the data (DDIM, DPM-Solver)."""

    title: ClassVar[str] = "quadratic in time"
    aliases: ClassVar[tuple[str, ...]] = ("quadratic", "time_quadratic")

    def levels(self, schedule: NoiseSchedule, n: int) -> Array:
        return schedule.kappa(np.linspace(schedule.t_max**0.5, schedule.t_min**0.5, n) ** 2)


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


def beta_quantile(p: Array, a: float, b: float) -> Array:
    """Inverse of the regularised incomplete beta function for p ∈ [0, 1], to about 1e-14.

    For x ≤ ½, ∫₀ˣ t^{a−1}(1−t)^{b−1} dt = x^a Σ_k (1−b)_k/k! · x^k/(a+k) converges by at least a half
    per term; the upper half follows from swapping a and b. The quantile is found by bisection.
    """
    k = np.arange(1, 60)
    target = np.asarray(p, np.float64)

    def mass(x: Array, a: float, b: float) -> Array:
        terms = np.cumprod((k - b) / k) / (a + k)
        return x**a * (1 / a + x[:, None] ** k @ terms)

    half = np.array([0.5])
    low, high = mass(half, a, b), mass(half, b, a)
    lower = target * (low + high) < low
    wanted = np.where(lower, target, 1 - target) * (low + high)
    left, right = np.zeros_like(target), np.full_like(target, 0.5)
    for _ in range(60):
        middle = (left + right) / 2
        short = np.where(lower, mass(middle, a, b), mass(middle, b, a)) < wanted
        left, right = np.where(short, middle, left), np.where(short, right, middle)
    return np.where(lower, right, 1 - right)


class _SigmaSpacing(Spacing):
    """Spacings defined between the largest and the smallest σ."""

    def levels(self, schedule: NoiseSchedule, n: int) -> Array:
        ends = Points(schedule.path, (schedule.kappa_max, schedule.kappa_min))
        sigmas = self.sigmas(np.arange(n) / max(n - 1, 1), *ends.sigmas())
        return np.array(Points.from_sigmas(schedule.path, sigmas).kappas)

    def sigmas(self, ramp: Array, top: float, bottom: float) -> Array:
        """σ at ramp ∈ [0, 1], from top to bottom."""
        raise NotImplementedError


@dataclass(frozen=True)
class Karras(_SigmaSpacing):
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
class Polyexponential(_SigmaSpacing):
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
class Exponential(_SigmaSpacing):
    """σ falls by the same factor at every step."""

    title: ClassVar[str] = "exponential"
    aliases: ClassVar[tuple[str, ...]] = ("exponential", "log-linear")

    def sigmas(self, ramp: Array, top: float, bottom: float) -> Array:
        return Polyexponential(1.0).sigmas(ramp, top, bottom)


@dataclass(frozen=True)
class KLOptimal(_SigmaSpacing):
    """arctan σ falls evenly (Sabour et al. 2024, KL-optimal for Gaussian data)."""

    title: ClassVar[str] = "KL optimal"
    aliases: ClassVar[tuple[str, ...]] = ("kl_optimal", "Align Your Steps")

    def sigmas(self, ramp: Array, top: float, bottom: float) -> Array:
        angles = math.atan(top) + ramp * (math.atan(bottom) - math.atan(top))
        return _exact_ends(np.tan(angles), top, bottom)


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
        top = schedule.kappa_max
        if math.isfinite(top):
            return np.geomspace(top, schedule.kappa_min, n)
        near = float(schedule.kappa(schedule.t_max * self.start_time))
        return np.array([top, *np.geomspace(near, schedule.kappa_min, n - 1)])


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


@dataclass(frozen=True)
class Explicit(Spacing):
    """Your own noise levels as text, largest first. The list sets the number of steps.

    Separate with commas or spaces; a final 0 may be left out. ``steps`` is ignored.
    """

    title: ClassVar[str] = "explicit list"
    aliases: ClassVar[tuple[str, ...]] = ("manual", "custom sigmas", "AYS")
    values: str = knob(
        "14.61, 6.47, 3.86, 2.69, 1.88, 1.39, 0.96, 0.65, 0.40, 0.15, 0.03",
        "The levels, largest first.",
    )
    unit: str = knob("sigma", "What the numbers are.", options=("sigma", "timestep", "lambda"))

    def levels(self, schedule: NoiseSchedule, n: int) -> Array:
        numbers = np.array([_number(word) for word in self.values.replace(",", " ").split()])
        if self.unit == "sigma":
            numbers = numbers[: len(numbers) - 1] if len(numbers) and numbers[-1] == 0 else numbers
            kappas = np.array(Points.from_sigmas(schedule.path, numbers).kappas)
        else:
            kappas = schedule.kappa(numbers) if self.unit == "timestep" else np.exp(-numbers)
        if len(kappas) == 0:
            raise ValueError("the list of noise levels is empty")
        return kappas


def _number(word: str) -> float:
    try:
        value = float(word)
    except ValueError:
        value = math.nan
    if math.isfinite(value):
        return value
    raise ValueError(f"{word!r} in the list of noise levels is not a finite number")


ALL: dict[str, type[Spacing]] = {
    "trailing": Trailing,
    "leading": Leading,
    "linspace": Linspace,
    "karras": Karras,
    "uniform_lambda": UniformLambda,
    "exponential": Exponential,
    "polyexponential": Polyexponential,
    "quadratic": Quadratic,
    "beta": Beta,
    "kl_optimal": KLOptimal,
    "flow_shift": FlowShift,
    "explicit": Explicit,
}
