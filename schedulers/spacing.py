"""Spacings: which noise levels a run visits. A schedule and a number of steps go in, Points come out.

Each spacing is a frozen value with one method, ``levels(schedule, n)``, that returns n values of κ,
largest first; :func:`space` adds the end point (exactly 0, or the schedule's smallest level), applies
``denoise`` and checks the result. "σ" below is the σ of ComfyUI's SIGMAS: κ for VP, sub-VP and VE,
t for rectified flow. Adding a spacing: one class here and its name in ``ALL``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import numpy as np

from .monotone import monotone_cubic
from .noise_schedule import Array, NoiseSchedule
from .number_list import number, require_one_way, words
from .path import Flow
from .points import Points
from .settings import Settings, knob

FINAL = ("zero", "sigma_min")


class Spacing(Settings):
    """Base class. ``levels`` gives n values of κ, largest first, the final zero not included."""

    def levels(self, schedule: NoiseSchedule, n: int) -> Array:
        raise NotImplementedError

    def part(self, steps: int, n: int, denoise: float) -> int:
        """How many of a run's ``steps`` are taken below denoise = 1, the last ones, where n were asked for."""
        return n


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
    taken = spacing.part(len(kappas) - 1, n, denoise) if denoise < 1 else len(kappas) - 1
    return Points(schedule.path, tuple(kappas[-(taken + 1) :]))


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

    Separated by commas, semicolons, spaces or lines; [ ] and tensor( ) around them may stay, and a final 0 may be left
    out. ``steps`` is ignored; denoise below 1 keeps that share of the list's steps, the last ones. A timestep on flow
    is the schedule's time 0…1, or, where a number is above 1, 1000·σ as ComfyUI and diffusers print it.
    """

    title: ClassVar[str] = "explicit list"
    aliases: ClassVar[tuple[str, ...]] = ("manual", "custom sigmas", "AYS")
    values: str = knob(
        "14.61, 6.47, 3.86, 2.69, 1.88, 1.39, 0.96, 0.65, 0.40, 0.15, 0.03",
        "The levels, largest first.",
    )
    unit: str = knob("sigma", "What the numbers are.", options=("sigma", "timestep", "lambda"))

    def levels(self, schedule: NoiseSchedule, n: int) -> Array:
        numbers = np.array([number(word) for word in words(self.values)])
        flow = isinstance(schedule.path, Flow)
        thousand = self.unit == "timestep" and flow and numbers.max(initial=0.0) > 1
        if (self.unit == "sigma" or thousand) and len(numbers) and numbers[-1] == 0:
            numbers = numbers[:-1]  # the end that every run gets
        if len(numbers) == 0:
            raise ValueError("the list of noise levels is empty")
        require_one_way(numbers, self.unit)
        if self.unit == "lambda":
            return np.exp(-numbers)
        if self.unit == "timestep" and not thousand:
            return schedule.kappa(numbers)
        if thousand and numbers.max() > 1000:
            raise ValueError(
                f"the list of noise levels holds timestep {numbers.max():g}: on flow they end at 1000 (or at 1)"
            )
        sigmas = numbers / 1000 if thousand else numbers
        return np.array(Points.from_sigmas(schedule.path, sigmas).kappas)

    def part(self, steps: int, n: int, denoise: float) -> int:
        """The list's own steps count, as in ComfyUI's SplitSigmasDenoise."""
        return max(round(steps * denoise), 1)


@dataclass(frozen=True)
class Drawn(_SigmaSpacing):
    """Your own curve: height against progress through the run, smooth and falling all the way.

    Points progress:height; progress 0 is the first level and 1 the last, height 1 is the schedule's
    largest level and 0 its smallest. Between the points runs the monotone cubic of Fritsch & Butland
    (1984). The Schedule Editor node draws it with the mouse or the keyboard.
    """

    title: ClassVar[str] = "drawn curve"
    aliases: ClassVar[tuple[str, ...]] = ("curve", "sigma graph", "draw", "spline")
    curve: str = knob(
        "0:1, 0.5:0.5, 1:0", "Points progress:height; the first at progress 0, the last at 1."
    )
    scale: str = knob(
        "timestep",
        "What the height divides evenly: the schedule's time, σ or log σ.",
        options=("timestep", "sigma", "log_sigma"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        points, most = self.points(), 64
        falling = all(a[0] < b[0] and a[1] > b[1] for a, b in pairwise(points))
        if not (2 <= len(points) <= most and points[0][0] == 0 and points[-1][0] == 1 and falling):
            raise ValueError(
                f"Drawn.curve = {self.curve!r}: 2 to {most} points, progress rising from exactly 0 to exactly 1, "
                "heights falling at every point"
            )
        if not all(0 <= height <= 1 for _, height in points):
            raise ValueError(f"Drawn.curve = {self.curve!r}: heights lie between 0 and 1")

    def points(self) -> list[tuple[float, float]]:
        """(progress, height), in the order written."""
        try:
            pairs = [word.split(":") for word in self.curve.replace(";", ",").split(",")]
            return [(float(progress), float(height)) for progress, height in pairs]
        except ValueError:
            raise ValueError(
                f"Drawn.curve = {self.curve!r}: write points progress:height, such as 0:1, 0.5:0.4, 1:0"
            ) from None

    def heights(self, progress: Array) -> Array:
        """The curve at ``progress`` ∈ [0, 1]."""
        x, y = np.array(self.points()).T
        return monotone_cubic(x, y, progress)

    def sampled(self, count: int = 129) -> list[float]:
        """The curve at evenly spaced progress, to draw it."""
        return [round(float(h), 5) for h in self.heights(np.linspace(0, 1, count))]

    def levels(self, schedule: NoiseSchedule, n: int) -> Array:
        if self.scale != "timestep":
            return super().levels(schedule, n)
        share = self.heights(np.arange(n) / max(n - 1, 1))
        return schedule.kappa(schedule.t_min + (schedule.t_max - schedule.t_min) * share)

    def sigmas(self, ramp: Array, top: float, bottom: float) -> Array:
        share = self.heights(ramp)
        if self.scale == "sigma":
            return bottom + (top - bottom) * share
        return np.clip(bottom * (top / bottom) ** share, bottom, top)


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
    "drawn": Drawn,
}
