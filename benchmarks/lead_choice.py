"""How a side of ``benchmarks.lead`` chooses its pair of solver and levels: the same rounds for every side.

All pairs of a side run on few seeds. The best by RMSE and as many of the best by the median go on to more seeds, and so on (ROUNDS); the
pair with the least RMSE over all of these seeds is the side's, and is judged by JUDGED_BY others. The median goes along because an RMSE
over few seeds is that of the one that ended in another basin, or of none of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

from . import problems
from .drawn import PREFIX
from .drawn import problem as drawn_problem
from .problems import Problem, median

#: Seeds from the first on, and how many pairs go on from there by RMSE, and how many by the median.
ROUNDS = ((8, 24), (32, 8), (128, 1))
CHOSEN_BY, JUDGED_BY = ROUNDS[-1][0], 256


@dataclass(frozen=True)
class Winner:
    """The pair that a side chose, over the seeds that it was not chosen by. ``tried``: pairs that ran."""

    problem: str
    side: str
    nfe: int
    solver: str
    spacing: str
    rmse: float
    median: float
    tried: int


@dataclass(frozen=True)
class Seeds:
    """A problem's seeds and where they end."""

    task: Problem
    end: Tensor

    def part(self, first: int, last: int | None = None) -> Seeds:
        return Seeds(replace(self.task, start=self.task.start[first:last]), self.end[first:last])


def task_of(name: str, count: int) -> Problem:
    return drawn_problem(name, count) if name.startswith(PREFIX) else problems.problem(name, count)


def size(errors: Tensor) -> float:
    """RMSE over seeds, infinite where one is not finite."""
    found = float(errors.square().mean().sqrt())
    return found if math.isfinite(found) else math.inf


@dataclass(frozen=True)
class Pair:
    """A solver on levels, by their names; each side's holds what it takes to run it."""

    solver: str
    spacing: str


E = TypeVar("E")
P = TypeVar("P", bound=Pair)
Play = Callable[[Sequence[E], Seeds], list[Tensor | None]]  # errors per seed; None: it does not run


def best(
    pairs: Sequence[E], play: Play[E], seeds: Seeds, rounds: Sequence[tuple[int, int]] = ROUNDS
) -> tuple[E, int]:
    """The pair that ``rounds`` leave, and how many ran. Raises ValueError if none did."""
    left: list[tuple[E, Tensor]] = [(pair, torch.empty(0).double()) for pair in pairs]
    begun = tried = 0
    for count, kept in rounds:
        found = play([pair for pair, _ in left], seeds.part(begun, count))
        left = [
            (pair, torch.cat([errors, more]))
            for (pair, errors), more in zip(left, found, strict=True)
            if more is not None
        ]
        tried, begun = tried or len(left), count
        left = going_on(left, kept)
    if not left:
        raise ValueError(f"{seeds.task.name}: no pair runs")
    return min(left, key=lambda entry: size(entry[1]))[0], tried


def going_on(left: Sequence[tuple[E, Tensor]], kept: int) -> list[tuple[E, Tensor]]:
    """The ``kept`` best by RMSE, and as many by the median."""
    by_rmse = sorted(range(len(left)), key=lambda i: size(left[i][1]))
    by_median = sorted(range(len(left)), key=lambda i: median(left[i][1]))
    return [left[i] for i in sorted({*by_rmse[:kept], *by_median[:kept]})]


def winner(side: str, nfe: int, pairs: Sequence[P], play: Play[P], seeds: Seeds) -> Winner:
    """The best of ``pairs``, judged by the seeds that it was not chosen by. Raises ValueError if none runs."""
    chosen, tried = best(pairs, play, seeds)
    (errors,) = play([chosen], seeds.part(CHOSEN_BY))
    return judged(side, nfe, chosen, errors, seeds.task.name, tried)


def judged(side: str, nfe: int, pair: Pair, errors: Tensor | None, name: str, tried: int) -> Winner:
    """``errors``: per seed, None where the pair does not run."""
    wide = math.inf if errors is None else size(errors)
    middle = math.inf if errors is None else median(errors)
    return Winner(name, side, nfe, pair.solver, pair.spacing, wide, middle, tried)
