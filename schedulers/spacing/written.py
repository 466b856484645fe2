"""Spacings that a person writes or draws."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import numpy as np

from ..noise_schedule import Array, NoiseSchedule
from ..points import Points
from ..settings import knob
from .in_noise import SigmaSpacing
from .levels import Spacing


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
class Drawn(SigmaSpacing):
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
