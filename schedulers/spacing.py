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

    Timesteps of a table are round(T(1 − i/n)) − 1, halves to even (Lin et al. 2023, table 2). Starts at
    the noisiest level; right for few steps, zero terminal SNR and rectified flow.
    """

    title: ClassVar[str] = "trailing (uniform in time)"
    aliases: ClassVar[tuple[str, ...]] = ("trailing", "uniform", "simple", "sgm_uniform")

    def levels(self, schedule: NoiseSchedule, n: int) -> Array:
        left = np.arange(n, 0, -1)
        if schedule.discrete:  # rounded on the grid 1 … T: on 0 … T − 1 the halves go the other way
            return _time_levels(schedule, np.round((schedule.t_max + 1) * left / n) - 1)
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


def monotone_cubic(x: Array, y: Array, at: Array) -> Array:
    """Piecewise cubic through (x, y), x rising, with no extremum that the points do not have.

    Slopes are the weighted harmonic mean of the two secants, 0 where those differ in sign (Fritsch &
    Butland 1984), and at the ends a parabola's through three points, cut back where it would overshoot.
    """
    h = np.diff(x)
    secant = np.diff(y) / h
    slope = np.full_like(x, secant[0])
    if len(x) > 2:
        left, right = 2 * h[1:] + h[:-1], h[1:] + 2 * h[:-1]
        with np.errstate(divide="ignore", invalid="ignore"):
            mean = (left + right) / (left / secant[:-1] + right / secant[1:])
        slope[1:-1] = np.where(secant[:-1] * secant[1:] > 0, mean, 0)
        slope[0] = _end_slope(h[0], h[1], secant[0], secant[1])
        slope[-1] = _end_slope(h[-1], h[-2], secant[-1], secant[-2])
    i = np.clip(np.searchsorted(x, at, side="right") - 1, 0, len(h) - 1)
    t = (at - x[i]) / h[i]
    rise = secant[i] * t * t * (3 - 2 * t)
    return y[i] + h[i] * (rise + slope[i] * t * (1 - t) ** 2 - slope[i + 1] * t * t * (1 - t))


def _end_slope(h: float, next_h: float, secant: float, next_secant: float) -> float:
    slope = ((2 * h + next_h) * secant - h * next_secant) / (h + next_h)
    if slope * secant <= 0:
        return 0.0
    turns = secant * next_secant < 0
    return 3 * secant if turns and abs(slope) > 3 * abs(secant) else slope


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
