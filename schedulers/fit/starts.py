"""Where a fit begins: the best training-free pair that few trajectories tell, between ends of its own.

Nothing is fitted here, so that all trajectories may choose. Few of them do, the hardest among them, weighted so that they stand for all.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..noise_schedule import NoiseSchedule
from ..solver.fitted import Table
from . import compare, ends
from .grid import FIXED
from .problem import Problem
from .strata import Sample, hardness, sample

#: Most runs of a search for ends.
RUNS = 10
#: Trajectories that choose a pair, and its ends.
PAIRS, ENDS = 16, 12


@dataclass(frozen=True)
class Starts:
    """``tables``: where fits may begin, by name, the best first. ``pair``: the best training-free pair, None where none runs."""

    tables: dict[str, Table]
    pair: compare.Pair | None


def samples(problem: Problem, schedule: NoiseSchedule, nfe: int) -> tuple[Sample, Sample]:
    """The trajectories that choose a pair, and those that choose its ends, which are among the fitted ones."""
    rows = torch.cat([problem.train, problem.held])
    hard = hardness(problem, schedule, nfe, rows).cpu()
    fitted = len(problem.train)
    return sample(rows, hard, PAIRS), sample(problem.train, hard[:fitted], ENDS)


def usual_pairs(
    problem: Problem, schedule: NoiseSchedule, nfe: int, some: Sample, count: int = 1
) -> list[compare.Pair]:
    """Training-free pairs that are worth beginning with, the best first."""
    return compare.training_free(
        problem, schedule, nfe, some.rows, compare.STARTS, compare.START_SPACINGS,
        keep=max(5, count), first=2, share=8, by=some.mark,
    )  # fmt: skip


def best_pair(problem: Problem, schedule: NoiseSchedule, nfe: int) -> compare.Pair | None:
    """The first of :func:`usual_pairs`, None where none runs."""
    some, _ = samples(problem, schedule, nfe)
    return next(iter(usual_pairs(problem, schedule, nfe, some)), None)


def best_starts(problem: Problem, schedule: NoiseSchedule, nfe: int, count: int = 1) -> Starts:
    """At most ``count`` pairs to begin with; the first may have ends of its own."""
    some, for_ends = samples(problem, schedule, nfe)
    pairs = usual_pairs(problem, schedule, nfe, some, count)
    if not pairs:
        return Starts({}, None)
    others = {pair.name: pair.table for pair in pairs[1:count]}
    return Starts(dict([own_ends(problem, schedule, pairs[0], nfe, for_ends)]) | others, pairs[0])


def own_ends(
    problem: Problem, schedule: NoiseSchedule, pair: compare.Pair, nfe: int, some: Sample
) -> tuple[str, Table]:
    """(name, table) of the pair, or of its solver between ends of its own where that comes nearer."""
    at, name, best = pair.points.kappas, pair.name, pair.table
    least = some.mark(problem.errors(best, some.rows))
    begin = ends.Spaced(schedule, FIXED[pair.spacing], min(at[0], 80.0), at[-2])
    tried = ends.search(problem, pair.solver, nfe, begin, some.rows, RUNS, some.mark)
    for error, between, table in tried:
        if error < least:
            levels = f"{pair.spacing}, σ/α {between}"
            name, best, least = f"{pair.solver.call}, {levels}", table, error
    return name, best
