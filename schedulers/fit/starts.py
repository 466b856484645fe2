"""Where a fit begins: the best training-free pair that few trajectories tell, between ends of its own."""

from __future__ import annotations

from ..noise_schedule import NoiseSchedule
from ..solver.fitted import Table
from . import compare, ends
from .grid import FIXED
from .problem import Problem

#: Most runs of a search for ends.
RUNS = 10


def usual_pairs(
    problem: Problem, schedule: NoiseSchedule, nfe: int, count: int = 1
) -> list[compare.Pair]:
    """Training-free pairs that are worth beginning with, the best first."""
    return compare.training_free(
        problem, schedule, nfe, problem.held[:16], compare.STARTS, compare.START_SPACINGS,
        keep=max(5, count), first=2, share=8, by=ends.mark,
    )  # fmt: skip


def best_starts(
    problem: Problem, schedule: NoiseSchedule, nfe: int, count: int = 1
) -> dict[str, Table]:
    """{name: table}, the best first."""
    pairs = usual_pairs(problem, schedule, nfe, count)
    others = {pair.name: pair.table for pair in pairs[1:count]}
    return dict([own_ends(problem, schedule, pairs[0], nfe)]) | others


def own_ends(
    problem: Problem, schedule: NoiseSchedule, pair: compare.Pair, nfe: int
) -> tuple[str, Table]:
    """(name, table) of the pair, or of its solver between ends of its own where that comes nearer."""
    rows, at = problem.train[:12], pair.points.kappas
    name, best = pair.name, pair.table
    least = ends.mark(problem.errors(best, rows))
    begin = ends.Spaced(schedule, FIXED[pair.spacing], min(at[0], 80.0), at[-2])
    for found, between, table in ends.search(problem, pair.solver, nfe, begin, rows, RUNS):
        if found < least:
            levels = f"{pair.spacing}, σ/α {between}"
            name, best, least = f"{pair.solver.call}, {levels}", table, found
    return name, best
