"""Where a fit begins: the best training-free pair that few trajectories tell, between ends of its own."""

from __future__ import annotations

from ..noise_schedule import NoiseSchedule
from ..solver.fitted import Table, table_of
from . import compare, ends
from .problem import Problem


def best_starts(
    problem: Problem, schedule: NoiseSchedule, nfe: int, count: int = 1
) -> dict[str, Table]:
    """{name: table}, the best first."""
    pairs = compare.training_free(
        problem, schedule, nfe, problem.held[:16], compare.STARTS, compare.START_SPACINGS,
        keep=max(8, count), first=2,
    )  # fmt: skip
    others = {pair.name: table_of(pair.solver.plan(pair.points)) for pair in pairs[1:count]}
    return dict([own_ends(problem, pairs[0], nfe)]) | others


def own_ends(problem: Problem, pair: compare.Pair, nfe: int) -> tuple[str, Table]:
    """(name, table) of the pair, or of its solver between ends of its own where that comes nearer."""
    rows, at = problem.train[:16], pair.points.kappas
    name, best = pair.name, table_of(pair.solver.plan(pair.points))
    least = ends.mark(problem.errors(best, rows))
    begin = ends.Ends(min(at[0], 80.0), at[-2], 0.1)
    for found, between, table in ends.search(problem, pair.solver, nfe, begin, rows, 12):
        if found < least:
            name, best, least = f"{compare.short(pair.solver)}, σ/α {between}", table, found
    return name, best
