"""The driver of every fit: begin or resume, move, keep, judge. What a fit ends in is never worse than its start.

A way to fit is a :class:`Fit`: settings that know how a fit begins, what its moves are and what of it a file
keeps. Every candidate is judged here: on the held-out trajectories only, which no move is made from.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path as File
from typing import Any, ClassVar, Generic, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..settings import Settings
from ..solver.fitted import Table
from .problem import Problem, summary

Array = NDArray[np.float64]


class Standing(Protocol):
    """A fit between two moves: its best table, the errors of that and of the start, and what was spent."""

    @property
    def table(self) -> Table: ...
    @property
    def before(self) -> Mapping[str, float]: ...
    @property
    def after(self) -> Mapping[str, float]: ...
    @property
    def evaluations(self) -> int: ...


S = TypeVar("S", bound=Standing)


class Fit(Settings, Generic[S]):
    """A way to fit. ``gradients``: through the model, which must then be differentiable."""

    gradients: ClassVar[bool] = False

    def begin(self, problem: Problem, table: Table) -> S:
        """The state before the first move, which is exactly the start. Raises ValueError for a start that fails."""
        raise NotImplementedError

    def moves(self, problem: Problem, state: S) -> Iterator[S]:
        """The state after every move that is left."""
        raise NotImplementedError

    def finish(self, problem: Problem, table: Table, state: S) -> S:
        """The end, where that is not the last state."""
        return state

    def share(self, problem: Problem, state: S) -> float:
        """How much of the work is done, 0 to 1."""
        raise NotImplementedError

    def save(self, file: File, state: S) -> None:
        """Everything that :meth:`load` needs to go on."""
        raise NotImplementedError

    def load(self, file: File, problem: Problem, table: Table) -> S:
        """The state that was kept of a fit of ``table``. Raises BadFile if the file is none or of another fit."""
        raise NotImplementedError


def run_fit(
    problem: Problem,
    table: Table,
    way: Fit[S],
    progress: Callable[[S], None] | None = None,
    state: S | None = None,
    file: File | None = None,
) -> S:
    """The best table from ``table`` on; from ``state`` on, or from what ``file`` keeps of an earlier call.

    Every state goes into ``file`` and then to ``progress``, which may raise to stop: the next call goes on from
    there, bit for bit. The end is never worse than the start on the held-out trajectories.
    """

    def reached(state: S) -> S:
        problem.evaluations = max(problem.evaluations, state.evaluations)
        if file is not None:
            way.save(file, state)
        if progress is not None:
            progress(state)
        return state

    if state is None and file is not None and file.exists():
        state = way.load(file, problem, table)
    if state is None:
        state = reached(way.begin(problem, table))
    problem.evaluations = max(problem.evaluations, state.evaluations)
    for state in way.moves(problem, state):  # noqa: B020
        reached(state)
    return way.finish(problem, table, state)


# ------------------------------------------------------------------------------------------- judging


def held_errors(problem: Problem, table: Table) -> Array:
    """RMSE to the teacher's end of every held-out trajectory; ∞ for runs that failed."""
    return problem.errors(table, problem.held).cpu().double().numpy()


def start_errors(problem: Problem, table: Table) -> Array:
    """The same of a start. Raises ValueError if its runs fail."""
    errors = held_errors(problem, table)
    if not np.isfinite(errors).all():
        raise ValueError(
            "the start ends in NaN or infinity on the held-out trajectories: fit from another solver"
        )
    return errors


class Attempt(NamedTuple):
    """A candidate (a table, or whatever else runs), its errors on the held-out trajectories, and its mark; less is
    better."""

    candidate: Any
    errors: Array
    mark: float


def tried(
    problem: Problem, tables: Iterable[Table], mark: Callable[[Array], float]
) -> list[Attempt]:
    """Every candidate with its errors; a mark that is no number is ∞."""
    attempts = []
    for table in tables:
        errors = held_errors(problem, table)
        value = mark(errors)
        attempts.append(Attempt(table, errors, value if math.isfinite(value) else math.inf))
    return attempts


def likeliest(
    problem: Problem, tables: Sequence[Table], mark: Callable[[Array], float]
) -> tuple[int, Array] | None:
    """(which, its errors on all held-out trajectories) of the candidate that is best on the first third of them, at
    least LEAST_JUDGES: the others run on those alone. None if all fail."""
    few = few_judges(problem)
    errors = [problem.errors(t, problem.held[:few]).cpu().double().numpy() for t in tables]
    marks = [mark(each) for each in errors]
    best = min(range(len(marks)), key=marks.__getitem__, default=None)
    if best is None or not math.isfinite(marks[best]):
        return None
    if few < len(problem.held):
        rest = problem.errors(tables[best], problem.held[few:]).cpu().double().numpy()
        return best, np.concatenate([errors[best], rest])
    return best, errors[best]


#: The fewest trajectories that choose among candidates.
LEAST_JUDGES = 8


def few_judges(problem: Problem) -> int:
    """How many of the held-out trajectories all candidates run on."""
    return min(max(len(problem.held) // 3, LEAST_JUDGES), len(problem.held))


def judging(problem: Problem, nfe: int, count: int) -> int:
    """Evaluations that :func:`likeliest` takes for ``count`` candidates of ``nfe`` each."""
    return (len(problem.held) + (count - 1) * few_judges(problem)) * nfe


def best_attempt(attempts: Sequence[Attempt], least: float, limit: float = math.inf) -> int | None:
    """Which attempt has the lowest mark, if that is below ``least``, that of the best so far. An attempt whose RMSE is
    above ``limit`` is ruled out."""
    fair = [
        i
        for i, attempt in enumerate(attempts)
        if attempt.mark < least and summary(attempt.errors)["rmse"] <= limit
    ]
    return min(fair, key=lambda i: attempts[i].mark, default=None)


def relative(errors: Mapping[str, float], start: Mapping[str, float]) -> float:
    """The worse of RMSE and median, each in units of the start's; up to 1 it is worse in neither."""
    return max(errors["rmse"] / start["rmse"], errors["median"] / start["median"])
