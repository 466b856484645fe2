"""Spacings that a person writes or draws."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import ClassVar

import numpy as np

from ..noise_schedule import Array, NoiseSchedule
from ..number_list import number, require_one_way, words
from ..path import Flow
from ..points import Points
from ..settings import knob
from .in_noise import SigmaSpacing
from .levels import Spacing

MOST_POINTS = 64  # of a curve that is drawn or typed


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

    def between(self, schedule: NoiseSchedule, n: int, first: float, last: float) -> Array:
        raise ValueError(
            "an explicit list says itself where it begins and ends: set ends = schedule"
        )

    def part(self, steps: int, n: int, denoise: float) -> int:
        """The list's own steps count, as in ComfyUI's SplitSigmasDenoise."""
        return max(round(steps * denoise), 1)


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
        self.points()

    def points(self) -> tuple[tuple[float, float], ...]:
        """(progress, height), in the order written. Raises ValueError for a text that is no falling curve."""
        return curve_points(f"{self.title}: curve", self.curve, "0:1, 0.5:0.4, 1:0", falling=True)

    def heights(self, progress: Array) -> Array:
        """The curve at ``progress`` ∈ [0, 1]."""
        x, y = np.array(self.points()).T
        return monotone_cubic(x, y, progress)

    def sampled(self, count: int = 129) -> list[float]:
        """The curve at evenly spaced progress, to draw it."""
        return [round(float(h), 5) for h in self.heights(np.linspace(0, 1, count))]

    def between(self, schedule: NoiseSchedule, n: int, first: float, last: float) -> Array:
        if self.scale != "timestep":
            return super().between(schedule, n, first, last)
        share = self.heights(np.arange(n) / max(n - 1, 1))
        start, end = schedule.time(np.array([first, last]))
        return schedule.kappa(end + (start - end) * share)

    def sigmas(self, ramp: Array, top: float, bottom: float) -> Array:
        share = self.heights(ramp)
        if self.scale == "sigma":
            return bottom + (top - bottom) * share
        return np.clip(bottom * (top / bottom) ** share, bottom, top)


@lru_cache(maxsize=64)
def curve_points(
    where: str, text: str, example: str, *, falling: bool = False
) -> tuple[tuple[float, float], ...]:
    """(progress, height) of a text of points progress:height over a run, heights in [0, 1].

    Raises ValueError, which says ``where`` the text was typed, for one that is no such curve or, with ``falling``, rises.
    """
    try:
        pairs = [word.split(":") for word in text.replace(";", ",").split(",")]
        points = tuple((float(progress), float(height)) for progress, height in pairs)
    except ValueError:
        raise ValueError(
            f"{where} = {text!r}: write points progress:height, such as {example}"
        ) from None
    ordered = all(a[0] < b[0] and (a[1] > b[1] or not falling) for a, b in pairwise(points))
    if not (
        2 <= len(points) <= MOST_POINTS and points[0][0] == 0 and points[-1][0] == 1 and ordered
    ):
        heights = ", heights falling at every point" if falling else ""
        raise ValueError(
            f"{where} = {text!r}: 2 to {MOST_POINTS} points, progress rising from exactly 0 to exactly 1{heights}"
        )
    if not all(0 <= height <= 1 for _, height in points):
        raise ValueError(f"{where} = {text!r}: heights lie between 0 and 1")
    return points


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
