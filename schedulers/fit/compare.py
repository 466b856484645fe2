"""How much a fit gains: against every training-free pair of solver and spacing, on held-out trajectories."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import Tensor

from ..noise_schedule import NoiseSchedule
from ..points import Points
from ..solver import (
    ALL,
    DDIM,
    DEIS,
    AdamsBashforth,
    DPMSolver,
    DPMSolverMultistep,
    GaussianAdams,
    GradientEstimation,
    HeunEDM,
    Solver,
    UniPC,
)
from ..solver.fitted import FittedSolver, Table, table_of
from ..solver.selection import variants
from ..spacing import ByRule, Ends, SkipLast, WholeRange, side_of
from ..text_table import text_table
from .ends import from_noise
from .grid import fixed_points, steps_for
from .problem import Problem, summary
from .shared_runs import errors_of

#: Those that win somewhere; ``every_solver`` has the others too.
USUAL: tuple[Solver, ...] = (
    DDIM(),
    DPMSolverMultistep(),
    DPMSolverMultistep(3),
    DPMSolverMultistep(2, "exact"),
    DPMSolverMultistep(3, "exact"),
    UniPC(),
    UniPC(3),
    AdamsBashforth(2),
    AdamsBashforth(3),
    AdamsBashforth(4),
    DEIS(3),
    GaussianAdams(),
    GaussianAdams(0.5),
    DPMSolver(2),
    HeunEDM(),
)


#: Good places to start a fit from, one evaluation a step.
STARTS: tuple[Solver, ...] = (
    GradientEstimation(),
    DPMSolverMultistep(),
    AdamsBashforth(2),
    AdamsBashforth(3),
    UniPC(),
    GaussianAdams(),
    GaussianAdams(0.5),
)

START_SPACINGS = (
    "karras 7", "karras 14", "uniform λ", "noise share", "KL optimal", "flow shift 3", "beta 0.6",
    "polyexponential 0.7",
)  # fmt: skip


def narrower(problem: Problem) -> dict[str, Ends]:
    """Ends besides the schedule's, by their names in Steps; the data's size is that of the teacher's ends."""
    rule = ByRule(float(problem.end.double().std()), side_of(problem.start.shape[1:]))
    return {"skip": SkipLast(), "rule": rule}


def every_solver() -> tuple[Solver, ...]:
    """All deterministic planned settings that are worth comparing."""
    return tuple(v for kind in ALL for v in variants(kind) if v.planned and not v.stochastic)


@dataclass(frozen=True)
class Pair:
    """A training-free solver on a fixed spacing, and its errors. ``table``: its run from where the problem starts."""

    solver: Solver
    spacing: str
    points: Points
    rmse: float
    median: float
    ends: str = "schedule"
    table: Table = field(kw_only=True, repr=False, compare=False)

    @property
    def name(self) -> str:
        ends = "" if self.ends == "schedule" else f", ends {self.ends}"
        return f"{self.solver.call}, {self.spacing}{ends}"


def training_free(
    problem: Problem,
    schedule: NoiseSchedule,
    nfe: int,
    rows: Tensor,
    solvers: Iterable[Solver] | None = None,
    spacings: Iterable[str] | None = None,
    keep: int = 12,
    first: int = 4,
    report: Callable[[int, int], None] | None = None,
    share: int = 4,
    by: Callable[[Tensor], float] = lambda errors: summary(errors)["rmse"],
) -> list[Pair]:
    """The best pairs of ``solvers`` (default: the usual ones) and fixed ``spacings`` (default: all), with the schedule's ends,
    the smallest level skipped and ends by rule, at ``nfe`` evaluations; the best of ``rows`` first, ``by`` a mark of their
    errors, where less is better.

    All pairs run on the first ``first`` rows, the better quarter (one of ``share``, at least ``keep``) on four times as many,
    and so on; what is returned ran on all rows. Two pairs with one table count once.
    """
    tables = _pairs(problem, schedule, nfe, solvers or USUAL, spacings)
    left, count = list(tables), min(first, len(rows))
    while True:
        errors = dict(zip(left, errors_of(problem, left, rows[:count], report), strict=True))
        left = sorted(errors, key=lambda t: by(errors[t]))
        if count == len(rows):
            pairs = ((t, *tables[t]) for t in left)
            return [
                Pair(solver, name, points, **summary(errors[t]), ends=ends, table=t)
                for t, solver, name, points, ends in pairs
            ]
        left, count = left[: max(keep, len(left) // share)], min(4 * count, len(rows))


def _pairs(
    problem: Problem,
    schedule: NoiseSchedule,
    nfe: int,
    solvers: Iterable[Solver],
    spacings: Iterable[str] | None,
) -> dict[Table, tuple[Solver, str, Points, str]]:
    """The first pair of every table."""
    tables: dict[Table, tuple[Solver, str, Points, str]] = {}
    everywhere = {"schedule": WholeRange(), **narrower(problem)}
    for solver in solvers:
        try:
            steps = steps_for(solver, nfe)
        except ValueError:  # needs more evaluations for one step
            continue
        for name, ends in everywhere.items():
            for spacing, points in fixed_points(problem, schedule, steps, ends).items():
                if spacings is not None and spacing not in spacings:
                    continue
                try:
                    table = from_noise(table_of(solver.plan(points)), problem.kappa)
                    tables.setdefault(table, (solver, spacing, points, name))
                except ValueError:  # cannot run on these levels
                    continue
    return tables


@dataclass(frozen=True)
class Gain:
    """One number of evaluations: the best training-free pair, and a fit."""

    pair: Pair
    fit: FittedSolver
    rmse: float
    median: float

    @property
    def ratio(self) -> float:
        return self.rmse / self.pair.rmse

    @property
    def median_ratio(self) -> float:
        return self.median / self.pair.median


@dataclass(frozen=True)
class Comparison:
    """Fits beside the best training-free pairs, on ``held`` trajectories that neither was fitted to."""

    gains: tuple[Gain, ...]
    held: int
    about: Mapping[str, Any]

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        return [
            dict(
                nfe=g.fit.table.nfe, fitted=g.rmse, training_free=g.pair.rmse, ratio=g.ratio,
                fitted_median=g.median, training_free_median=g.pair.median,
                median_ratio=g.median_ratio, method=g.fit.card.get("method"), pair=g.pair.name,
            )
            for g in self.gains
        ]  # fmt: skip

    def text(self) -> str:
        """A table for people."""
        header = (
            "NFE",
            "fitted",
            "training-free",
            "ratio",
            "medians",
            "",
            "ratio",
            "best training-free pair",
        )
        keys = (
            "nfe", "fitted", "training_free", "ratio", "fitted_median", "training_free_median",
            "median_ratio", "pair",
        )  # fmt: skip
        table = text_table(header, [[row[k] for k in keys] for row in self.rows])
        about = "\n".join(f"{k}: {v}" for k, v in self.about.items() if v)
        return f"RMSE and median over {self.held} held-out trajectories, to the teacher's end\n{table}\n\n{about}"

    def payload(self) -> dict[str, Any]:
        """The same as JSON."""
        ratio = {str(row["nfe"]): row["ratio"] for row in self.rows}
        return dict(ratio=ratio, rows=self.rows, held=self.held, about=dict(self.about))


def compare(
    problem: Problem,
    schedule: NoiseSchedule,
    fits: Sequence[FittedSolver],
    *,
    solvers: Iterable[Solver] | None = None,
    about: Mapping[str, Any] | None = None,
    report: Callable[[int, int], None] | None = None,
) -> Comparison:
    """Each fit against the best training-free pair at its number of evaluations, on the held-out rows."""
    gains, solvers = [], USUAL if solvers is None else tuple(solvers)
    for fit in sorted(fits, key=lambda f: f.table.nfe):
        pairs = training_free(
            problem, schedule, fit.table.nfe, problem.held, solvers, report=report
        )
        errors = problem.errors(started(fit.table, problem.kappa), problem.held)
        gains.append(Gain(pairs[0], fit, **summary(errors)))
    return Comparison(tuple(gains), len(problem.held), dict(about or {}))


def started(table: Table, kappa: float) -> Table:
    """The fit where its start is the problem's, to rounding. Raises ValueError for another start."""
    if not (table.start == kappa or math.isclose(table.start, kappa, rel_tol=1e-3)):
        raise ValueError(
            f"the fit starts at σ/α = {table.start:.4g}, the trajectories at {kappa:.4g}: record them for this fit"
        )
    return table
