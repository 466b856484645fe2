"""How a rule's weight changes with the noise level: one small family, used by every rule with a scale.

A curve gives a share f ≥ 0, and a rule's weight is neutral + f·(scale − neutral): f = 1 is the scale,
f = 0 is off, and a branch that is off is not evaluated. Shapes are functions of
t = σ/(α + σ) = κ/(1 + κ), which is SIGMAS on flow models and means the same on every path; ranges are
in SIGMAS units, as the user sees them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from ..number_list import number, words
from ..settings import Settings, knob
from .level import Level

#: Above every noise level: no upper limit.
NO_LIMIT = 1e6


@dataclass(frozen=True)
class Curve(Settings):
    """Base class."""

    def __call__(self, at: Level) -> float:
        """The share of the scale at a level."""
        raise NotImplementedError


@dataclass(frozen=True)
class Constant(Curve):
    """The full scale everywhere."""

    title: ClassVar[str] = "constant"

    def __call__(self, at: Level) -> float:
        return 1.0


@dataclass(frozen=True, kw_only=True)
class Ranged(Curve):
    """A shape inside sigma_low < σ ≤ sigma_high (Kynkäänniemi et al. 2024), 0 outside.

    Limits are met to 1 part in 10⁵: a host's SIGMAS are float32, and 0.3 there is more than 0.3.
    """

    sigma_low: float = knob(
        0.0, "Off at and below this σ (as in SIGMAS).", low=0.0, high=NO_LIMIT, step=0.001
    )
    sigma_high: float = knob(
        NO_LIMIT, "Off above this σ (as in SIGMAS).", low=0.0, high=NO_LIMIT, step=0.001
    )

    def __call__(self, at: Level) -> float:
        sigma = at.sigma / (1 + 1e-5)
        return self.shape(at.time) if self.sigma_low < sigma <= self.sigma_high else 0.0

    def shape(self, t: float) -> float:
        """The share at t ∈ [0, 1]."""
        raise NotImplementedError


def share(default: float, where: str) -> float:
    value: float = knob(default, f"Share of the scale at {where}.", low=0.0, high=10.0, step=0.01)
    return value


@dataclass(frozen=True)
class Interval(Ranged):
    """The full scale inside a range of noise levels, off (and not evaluated) outside.

    Kynkäänniemi et al. 2024 (arXiv 2404.07724).
    """

    title: ClassVar[str] = "interval"

    def shape(self, t: float) -> float:
        return 1.0


@dataclass(frozen=True)
class Linear(Ranged):
    """Straight in t = σ/(α + σ) from ``start`` at pure noise to ``end`` at the data.

    0 to 2 is the increasing weight of Wang et al. 2024 (arXiv 2404.13040).
    """

    title: ClassVar[str] = "linear"
    start: float = share(0.0, "pure noise")
    end: float = share(2.0, "the data")

    def shape(self, t: float) -> float:
        return self.end + (self.start - self.end) * t


@dataclass(frozen=True)
class Cosine(Ranged):
    """From ``start`` to ``end`` along half a cosine, flat at both ends: t replaced by (1 − cos πt)/2."""

    title: ClassVar[str] = "cosine"
    start: float = share(0.0, "pure noise")
    end: float = share(2.0, "the data")

    def shape(self, t: float) -> float:
        return self.end + (self.start - self.end) * (1 - math.cos(math.pi * t)) / 2


@dataclass(frozen=True)
class Power(Ranged):
    """From ``start`` to ``end`` with t^power: above 1 most of the change is near pure noise."""

    title: ClassVar[str] = "power"
    start: float = share(0.0, "pure noise")
    end: float = share(2.0, "the data")
    power: float = knob(2.0, "Exponent of t.", low=0.01, high=20.0, step=0.01)

    def shape(self, t: float) -> float:
        return float(self.end + (self.start - self.end) * t**self.power)


@dataclass(frozen=True)
class Table(Ranged):
    """Your own: pairs t:share, joined by straight lines and flat beyond the first and last t."""

    title: ClassVar[str] = "table"
    points: str = knob("1:0, 0.5:1, 0:1", "Pairs t:share with t = σ/(α + σ), 1 pure noise, 0 data.")

    def __post_init__(self) -> None:
        super().__post_init__()
        pairs = self.pairs()
        if len({t for t, _ in pairs}) < len(pairs) or not all(
            0 <= t <= 1 and 0 <= f <= 1000 for t, f in pairs
        ):
            raise ValueError(
                f"{self.where('points')}: each t once, between 0 and 1, and shares from 0 to 1000"
            )

    def pairs(self) -> list[tuple[float, float]]:
        """(t, share), t rising."""
        try:
            parts = [part.split(":") for part in self.points.replace(";", ",").split(",")]
            return sorted((float(t), float(f)) for t, f in parts)
        except ValueError:
            raise ValueError(
                f"{self.where('points')}: write pairs t:share, such as 1:0, 0.5:1, 0:1"
            ) from None

    def shape(self, t: float) -> float:
        pairs = self.pairs()
        for (t0, f0), (t1, f1) in pairwise(pairs):
            if t0 <= t <= t1:
                return f0 + (f1 - f0) * (t - t0) / (t1 - t0)
        return pairs[0][1] if t < pairs[0][0] else pairs[-1][1]


def step_of(at: Level, who: str) -> int:
    """The step of a run, from 1. Raises ValueError outside a run."""
    if at.step is None:
        raise ValueError(f"{who} follows the steps: use it in a run, with SIGMAS")
    return at.step + 1


@dataclass(frozen=True)
class Steps(Curve):
    """The full scale from one step of the run to another, off (and not evaluated) outside."""

    title: ClassVar[str] = "steps"
    first: int = knob(1, "The first step with guidance, from 1.", low=1, high=10000)
    last: int = knob(0, "The last one; 0: the run's last.", low=0, high=10000)

    def __call__(self, at: Level) -> float:
        step = step_of(at, "Steps")
        return float(self.first <= step and (not self.last or step <= self.last))


@dataclass(frozen=True)
class PerStep(Curve):
    """A scale for every step of the run, in place of the rule's ``scale``; further steps have the last one."""

    title: ClassVar[str] = "per step"
    scales: str = knob(
        "6, 5, 4, 1, 1",
        "Scales, one for each step, in place of scale; the last one goes on to the end. A scale that is off "
        "(1, for PAG, SEG and their kin 0) costs no call.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.values or not all(0 <= v <= 100 for v in self.values):
            raise ValueError(
                f"{self.where('scales')}: write scales from 0 to 100, such as 6, 5, 4, 1, 1"
            )

    @property
    def values(self) -> tuple[float, ...]:
        """The scales; empty for text that is no list of numbers."""
        try:
            return tuple(number(word) for word in words(self.scales))
        except ValueError:
            return ()

    def __call__(self, at: Level) -> float:
        return 1.0

    def scale(self, at: Level) -> float:
        """The scale of a level's step."""
        return self.values[min(step_of(at, "Per step"), len(self.values)) - 1]


CURVES: dict[str, type[Curve]] = {
    c.title: c for c in (Constant, Interval, Linear, Cosine, Power, Table, Steps, PerStep)
}
