r"""Between which noise levels a run of few evaluations is worth its while: a start for fits.

At few evaluations the ends of the schedule are the largest mistake: far above the data the prediction is
almost their mean, and far below their detail it repeats itself. A run may begin lower, taking its x there as pure
noise, scaled, and be told a last level well above the schedule's. With p the power, level i of n is

    κ_i^p = high^p + i/(n − 1)·(low^p − high^p) ,      ln κ instead of κ^p at p = 0 ,

Karras' spacing of ρ = 1/p, with ends that are free. Three numbers, found by a coordinate search.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol, TypeVar

import numpy as np
from torch import Tensor

from ..noise_schedule import NoiseSchedule
from ..path import VP
from ..points import Points
from ..solver.base import Solver
from ..solver.fitted import Table, table_of
from ..spacing import Spacing
from .grid import steps_for
from .problem import Problem, summary

S = TypeVar("S", bound="Span")


class Span(Protocol):
    """Levels that a search may move. ``moves``: the first moves of its numbers; it ends when they are a quarter of these."""

    @property
    def high(self) -> float: ...
    @property
    def moves(self) -> tuple[float, ...]: ...
    def levels(self, n: int) -> list[float]: ...
    def moved(self: S, by: Sequence[float]) -> S: ...


@dataclass(frozen=True)
class Ends:
    """The first and the last level (κ) that the network is told, and the power of the levels between."""

    high: float
    low: float
    power: float = 0.0
    moves: ClassVar[tuple[float, ...]] = (0.5, 0.6, 0.08)  # of ln high, ln low and the power

    def levels(self, n: int) -> list[float]:
        u, p = np.linspace(0, 1, n), self.power
        if abs(p) < 1e-6:
            return list((self.high * (self.low / self.high) ** u).tolist())
        return list(((self.high**p + u * (self.low**p - self.high**p)) ** (1 / p)).tolist())

    def moved(self, by: Sequence[float]) -> Ends:
        return Ends(self.high * math.exp(by[0]), self.low * math.exp(by[1]), self.power + by[2])

    def __str__(self) -> str:
        return f"{self.high:.3g} to {self.low:.3g}, power {self.power:.2g}"


@dataclass(frozen=True)
class Spaced:
    """The levels of a spacing between two κ of a schedule, as Steps makes them with ends of your own."""

    schedule: NoiseSchedule
    spacing: Spacing
    high: float
    low: float
    moves: ClassVar[tuple[float, ...]] = Ends.moves[:2]

    def levels(self, n: int) -> list[float]:
        return list(map(float, self.spacing.between(self.schedule, n, self.high, self.low)))

    def moved(self, by: Sequence[float]) -> Spaced:
        top, bottom = self.schedule.kappa_max, self.schedule.kappa_min
        high, low = self.high * math.exp(by[0]), self.low * math.exp(by[1])
        return replace(self, high=min(high, top), low=max(low, bottom))

    def __str__(self) -> str:
        return f"{self.high:.3g} to {self.low:.3g}"


def table(problem: Problem, solver: Solver, nfe: int, ends: Span) -> Table:
    """The run of as many steps as ``nfe`` evaluations pay for between these ends, from where the problem starts.

    Raises ValueError where the solver cannot run there, or ``high`` is above the start.
    """
    if ends.high > problem.kappa * (1 + 1e-6):
        raise ValueError(f"trajectories start at σ/α = {problem.kappa:.4g}, below {ends.high:.4g}")
    points = Points(problem.path, (*ends.levels(steps_for(solver, nfe)), 0.0))
    return from_noise(table_of(solver.plan(points)), problem.kappa)


def from_noise(table: Table, kappa: float) -> Table:
    """The same table for runs that start at κ (∞ allowed): their x is taken as pure noise and scaled."""
    ratio = VP().at(table.start).sigma / VP().at(kappa).sigma
    return replace(table, start=kappa, x=(table.x[0] * ratio, *table.x[1:]))


def mark(errors: Tensor, weights: Any = None) -> float:
    """Of a start: ∛(RMSE²·median). The RMSE of few trajectories is mostly how many of them end elsewhere, the
    median does not see those; neither alone finds good starts. ``weights`` [B] of the trajectories."""
    seen = summary(errors, weights)
    return float((seen["rmse"] ** 2 * seen["median"]) ** (1 / 3))


def search(
    problem: Problem,
    solver: Solver,
    nfe: int,
    ends: S,
    rows: Tensor,
    most: int = 32,
    by: Callable[[Tensor], float] = mark,
) -> Iterator[tuple[float, S, Table]]:
    """(``by`` of the errors of ``rows``, ends, table), every one better than those before, the first of ``ends``.

    One of the numbers at a time is moved, and again while that helps; when none helps, all moves are
    halved. At most ``most`` runs.
    """

    def tried(ends: S) -> tuple[float, S, Table] | None:
        try:
            run = table(problem, solver, nfe, ends)
        except ValueError:
            return None
        return by(problem.errors(run, rows)), ends, run

    best, left = tried(ends), most - 1
    if best is None:
        return
    yield best
    signs, share = [-1.0, *[1.0] * (len(ends.moves) - 1)], 1.0
    while share >= 0.25:
        helped = False
        for i, size in enumerate(ends.moves):
            for _ in range(2):
                shift = [0.0] * len(signs)
                shift[i] = signs[i] * size * share
                if not left:
                    return
                other, left = tried(best[1].moved(shift)), left - 1
                if other is not None and other[0] < best[0]:
                    best, helped = other, True
                    yield best
                    break
                signs[i] = -signs[i]
        share *= 1.0 if helped else 0.5
