"""Where one evaluation stands in a run: all that a curve, a range or a step-dependent rule may know."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from ..path import Path, Point


@dataclass(frozen=True)
class Level:
    """A noise level: σ as in SIGMAS, (α, σ) in the host's coordinates, and the step it belongs to.

    ``step`` counts from 0; ``begin`` and ``end`` are the levels of SIGMAS that step leads from and to; None outside a run.
    """

    sigma: float
    point: Point
    step: int | None = None
    end: Point | None = None
    begin: Point | None = None

    @property
    def time(self) -> float:
        """t = σ/(α + σ) ∈ [0, 1], the same on every path: 1 pure noise, ½ at κ = 1, 0 data."""
        return flow_time(self.point)

    def ahead(self, who: str) -> Point:
        """Where the step ends. Raises ValueError outside a run."""
        if self.end is None:
            raise ValueError(f"{who} follows the steps: use it in a run, with SIGMAS")
        return self.end

    def share(self, who: str) -> float:
        """1 − κ'/κ of the step, the share of D in the y = x/α a DDIM or Euler step ends at; finite at α = 0.

        κ is the step's own, not that of an evaluation inside of it, which may lie next to κ'.
        """
        p, q = self.begin or self.point, self.ahead(who)
        return 1 - (q.sigma * p.alpha) / (p.sigma * q.alpha)


def flow_time(point: Point) -> float:
    """t = σ/(α + σ)."""
    return point.sigma / (point.alpha + point.sigma)


@dataclass(frozen=True)
class Ladder:
    """The levels of one run in the host's coordinates; finds the step of any σ."""

    path: Path
    levels: tuple[Point, ...] = ()

    @classmethod
    def make(cls, path: Path, sigmas: Sequence[float]) -> Ladder:
        """``path``: any path, SIGMAS and the state are in the coordinates of ``path.host``."""
        host = path.host
        return cls(host, tuple(host.on(float(s)) for s in sigmas))

    def at(self, sigma: float) -> Level:
        """The level at ``sigma``. A σ between two levels (midpoints, churn) belongs to the step around it.

        Levels are met to 1 part in 10⁵, since hosts hand σ on in float32.
        """
        point, steps = self.path.on(sigma), len(self.levels) - 1
        if steps < 1:
            return Level(sigma, point)
        sign, rising = self._rising
        step = max(bisect_right(rising, sign * sigma + 1e-5 * sigma) - 1, 0)
        return Level(sigma, point, step, self.levels[step + 1], self.levels[step])

    @cached_property
    def _rising(self) -> tuple[int, list[float]]:
        """(sign, sign·σ of every step's start), rising whichever way the run goes."""
        sign = -1 if self.levels[0].sigma > self.levels[1].sigma else 1
        return sign, [sign * p.sigma for p in self.levels[:-1]]
