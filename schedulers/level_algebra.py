"""Noise levels that exist already, cut and joined: SIGMAS in, SIGMAS out, in float64.

A run's levels are its σ as SIGMAS carries them, falling, the last one 0 or not. Between two of them lies the monotone
cubic (Fritsch & Butland 1984) through log σ over the step's number, as in a named list of ``spacing``; 0 is no point of it,
but the end that a run has or has not. What is kept is kept bit for bit.

A place is written as σ, as a timestep of a noise schedule, or as a share of the run's steps (0: its start, 1: its end).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import numpy as np

from .noise_schedule import NoiseSchedule
from .path import Flow
from .points import host_sigmas, require_run
from .settings import Settings, knob
from .spacing.written import monotone_cubic

SAME = 1e-6  # of a level: what is typed or computed in float64 against SIGMAS, which are float32
UNITS = ("sigma", "timestep", "share")
Sigmas = tuple[float, ...]
_UNIT = "What the numbers are: σ as in SIGMAS, timesteps of noise_schedule, or shares of the steps."


class LevelEdit(Settings):
    """Base class. ``of`` gives new levels for falling ``sigmas``; ``schedule`` tells timesteps."""

    def of(self, sigmas: Sigmas, schedule: NoiseSchedule | None = None) -> Sigmas:
        raise NotImplementedError


@dataclass(frozen=True)
class Resample(LevelEdit):
    """As many steps as asked for, with the first and the last level of the run."""

    title: ClassVar[str] = "resample"
    aliases: ClassVar[tuple[str, ...]] = ("resample sigmas", "interpolate sigmas")
    steps: int = knob(20, "Steps of the new run.", low=1, high=10000)

    def of(self, sigmas: Sigmas, schedule: NoiseSchedule | None = None) -> Sigmas:
        return _Curve.through(sigmas).levels(0.0, self.steps)


@dataclass(frozen=True)
class Start(LevelEdit):
    """The run begins at a level on the way: img2img by noise level in place of denoise."""

    title: ClassVar[str] = "start at a level"
    aliases: ClassVar[tuple[str, ...]] = ("start at sigma", "denoise", "img2img strength")
    start: float = knob(0.6, "Where the run begins.", low=0.0, high=1e6, step=0.001)
    unit: str = knob("sigma", _UNIT, options=UNITS)
    keep_steps: bool = knob(
        True, "As many steps as before, closer together; off: those that lie below the start."
    )

    def of(self, sigmas: Sigmas, schedule: NoiseSchedule | None = None) -> Sigmas:
        curve = _Curve.through(sigmas)
        sigma = level_at("start", self.start, self.unit, sigmas, schedule)
        if sigma < curve.bottom or sigma == sigmas[-1]:
            raise ValueError(
                f"{_typed('start', self.start, self.unit)}: no step is left below it; the run's last level above 0 is "
                f"σ = {curve.bottom:g}"
            )
        if self.keep_steps:
            levels = curve.levels(curve.place(sigma), len(sigmas) - 1)
            return (sigma, *levels[1:])
        return (sigma, *(s for s in sigmas if s < sigma))


@dataclass(frozen=True)
class Clip(LevelEdit):
    """The part of the run between two levels, which become its ends."""

    title: ClassVar[str] = "clip"
    aliases: ClassVar[tuple[str, ...]] = ("clip sigmas", "start and end sigma")
    start: float = knob(1.0, "Where the part begins.", low=0.0, high=1e6, step=0.001)
    end: float = knob(0.0, "Where the part ends.", low=0.0, high=1e6, step=0.001)
    unit: str = knob("sigma", _UNIT, options=UNITS)

    def of(self, sigmas: Sigmas, schedule: NoiseSchedule | None = None) -> Sigmas:
        high = level_at("start", self.start, self.unit, sigmas, schedule)
        low = level_at("end", self.end, self.unit, sigmas, schedule)
        if low >= high:
            raise ValueError(
                f"{_typed('end', self.end, self.unit)}: must lie later in the run than "
                f"{_typed('start', self.start, self.unit)}"
            )
        return (high, *(s for s in sigmas if low < s < high), low)


class Boundary(Settings):
    """Base class. ``where`` is the level of the boundary as it is written: (number, unit)."""

    def boundary(self) -> tuple[float, str]:
        raise NotImplementedError

    def cut(self, sigmas: Sigmas, schedule: NoiseSchedule | None = None) -> int:
        """Steps that start at the boundary's level or above it: those of the network for high noise.

        Raises ValueError where one part would have no step, or the number is none of its unit.
        """
        _require_falling(sigmas)
        value, unit = self.boundary()
        steps = len(sigmas) - 1
        if unit == "share":
            _require_share("boundary", value)
            count = round(value * steps)
        else:
            sigma = _sigma("boundary", value, unit, schedule) * (1 - SAME)
            count = sum(s >= sigma for s in sigmas[:-1])
        if 0 < count < steps:
            return count
        side, part, other = ("below", "high", "low") if count == 0 else ("above", "low", "high")
        raise ValueError(
            f"{_typed('boundary', value, unit)}: all {steps} steps start {side} it, so the {part} part would have none; the "
            f"run goes from {_span(sigmas, unit, schedule)}: move the boundary, or use the {other}-noise model alone"
        )


@dataclass(frozen=True)
class WanText(Boundary):
    """Wan 2.2, text to video: the high-noise model's steps are those from t = 0.875 up."""

    title: ClassVar[str] = "Wan 2.2 text to video"
    aliases: ClassVar[tuple[str, ...]] = ("Wan 2.2", "MoE", "high noise", "low noise")

    def boundary(self) -> tuple[float, str]:
        return 0.875, "sigma"


@dataclass(frozen=True)
class WanImage(Boundary):
    """Wan 2.2, image to video: the high-noise model's steps are those from t = 0.9 up."""

    title: ClassVar[str] = "Wan 2.2 image to video"
    aliases: ClassVar[tuple[str, ...]] = ("Wan 2.2", "two experts")

    def boundary(self) -> tuple[float, str]:
        return 0.9, "sigma"


@dataclass(frozen=True)
class Level(Boundary):
    """A level of your own."""

    title: ClassVar[str] = "level"
    aliases: ClassVar[tuple[str, ...]] = ("split sigmas", "refiner", "switch")
    value: float = knob(
        0.5, "The first step that starts below it is the low part's.", low=0.0, high=1e6, step=0.001
    )
    unit: str = knob("sigma", _UNIT, options=UNITS)

    def boundary(self) -> tuple[float, str]:
        return self.value, self.unit


EDITS: dict[str, type[LevelEdit]] = {"resample": Resample, "start": Start, "clip": Clip}
BOUNDARIES: dict[str, type[Boundary]] = {
    "wan22_text_to_video": WanText,
    "wan22_image_to_video": WanImage,
    "level": Level,
}


def joined(first: Sigmas, second: Sigmas) -> Sigmas:
    """One run of two: ``second`` begins where ``first`` ends, or below.

    Raises ValueError where it begins above, or ``first`` has ended at 0.
    """
    _require_falling(first, "first")
    _require_falling(second, "second")
    if first[-1] == 0:
        raise ValueError(
            "first: ends at σ = 0, after which no level comes; give it the run's high part"
        )
    if second[0] > first[-1]:
        raise ValueError(
            f"second: begins at σ = {second[0]:g}, above σ = {first[-1]:g}, where first ends; a run goes down all the way: "
            "exchange the two, or clip one"
        )
    return (*first, *(second[1:] if second[0] == first[-1] else second))


def level_at(
    name: str, value: float, unit: str, sigmas: Sigmas, schedule: NoiseSchedule | None = None
) -> float:
    """σ at the place ``value`` of a falling run. Raises ValueError, in the unit typed, where it lies outside the run."""
    _require_falling(sigmas)
    if unit == "share":
        _require_share(name, value)
        if value == 1:
            return sigmas[-1]
        curve = _Curve.through(sigmas)
        return curve.at(min(value * (len(sigmas) - 1), len(curve.sigmas) - 1))
    sigma = _sigma(name, value, unit, schedule)
    if abs(sigma - sigmas[0]) <= SAME * sigmas[0]:
        return sigmas[0]
    if not sigmas[-1] <= sigma <= sigmas[0]:
        raise ValueError(
            f"{_typed(name, value, unit)}: lies outside the run, which goes from {_span(sigmas, unit, schedule)}"
        )
    return sigma


@dataclass(frozen=True)
class _Curve:
    """The levels of a run above 0, and whether it ends at 0. Place i is level i; log σ is the monotone cubic between."""

    sigmas: Sigmas
    to_zero: bool

    @classmethod
    def through(cls, sigmas: Sigmas) -> _Curve:
        _require_falling(sigmas)
        to_zero = sigmas[-1] == 0
        return cls(sigmas[:-1] if to_zero else sigmas, to_zero)

    @property
    def bottom(self) -> float:
        return self.sigmas[-1]

    def at(self, place: float) -> float:
        """σ at ``place`` ∈ [0, levels − 1]; the run's own level at a whole one."""
        if place == int(place) or len(self.sigmas) == 1:
            return self.sigmas[int(place)]
        x = np.arange(float(len(self.sigmas)))
        return float(np.exp(monotone_cubic(x, np.log(self.sigmas), np.array([place])))[0])

    def place(self, sigma: float) -> float:
        """Where the curve has ``sigma``: bisection, to the last bits."""
        low, high = 0.0, len(self.sigmas) - 1.0
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if self.at(middle) > sigma else (low, middle)
        return high

    def levels(self, start: float, steps: int) -> Sigmas:
        """Levels of ``steps`` steps at even places from ``start`` to the end, 0 included where the run has it.

        Raises ValueError where one level would have to become several.
        """
        count = steps if self.to_zero else steps + 1
        last = len(self.sigmas) - 1.0
        if count > 1 and start >= last:
            raise ValueError(
                f"σ = {self.bottom:g} is the run's last level above 0 and cannot be drawn out to {steps} steps; begin "
                "higher, or take one step"
            )
        places = np.linspace(start, last, count)
        return (*(self.at(float(p)) for p in places), *((0.0,) if self.to_zero else ()))


def _sigma(name: str, value: float, unit: str, schedule: NoiseSchedule | None) -> float:
    if unit == "sigma":
        return value
    if schedule is None:
        raise ValueError(
            f"{_typed(name, value, unit)}: connect noise_schedule, which says what timesteps are, or choose sigma or share"
        )
    time = value / 1000 if isinstance(schedule.path, Flow) and value > 1 else value
    if not 0 <= time <= schedule.t_max:
        raise ValueError(
            f"{_typed(name, value, unit)}: the noise schedule has timesteps {schedule.t_min:g} to {schedule.t_max:g}"
        )
    if time == 0 and schedule.t_min > 0:
        return 0.0
    return host_sigmas(schedule.path, [float(schedule.kappa(time))])[0]


def _require_share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{_typed(name, value, 'share')}: shares of the steps lie between 0 and 1")


def _require_falling(sigmas: Sequence[float], name: str = "sigmas") -> None:
    require_run(sigmas, name)
    for i, (a, b) in enumerate(pairwise(sigmas)):
        if not (math.isfinite(a) and a > b >= 0):
            raise ValueError(
                f"{name}: levels {i} and {i + 1} are σ = {a:g} and {b:g}; they must fall all the way, to 0 or above"
            )


def _typed(name: str, value: float, unit: str) -> str:
    return f"{name} = {value:g} ({unit})"


def _span(sigmas: Sigmas, unit: str, schedule: NoiseSchedule | None) -> str:
    """The run's ends in the unit of who typed."""
    if unit != "timestep" or schedule is None:
        return "share 0 to 1" if unit == "share" else f"σ = {sigmas[0]:g} to {sigmas[-1]:g}"
    host = schedule.path.host
    times = [float(schedule.time(host.on(s).kappa)) if s else 0.0 for s in (sigmas[0], sigmas[-1])]
    scale = 1000 if isinstance(schedule.path, Flow) else 1
    return f"timestep {scale * times[0]:.4g} to {scale * times[1]:.4g}"
