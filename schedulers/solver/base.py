"""What every solver is: a frozen value that turns points into a plan."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import ClassVar

from torch import Tensor, nn

from ..noise import DrawNoise, Span
from ..path import Path, Point
from ..points import Points
from ..settings import Settings
from .plan import Plan, Stage
from .run import Program, Run, drive
from .state import State


@dataclass(frozen=True)
class Solver(Settings):
    """Base class. A subclass writes ``plan``, and says its ``order`` and whether it is ``stochastic``. ``paper``
    and ``equals`` (what it is called elsewhere) go to the help text."""

    paper: ClassVar[str] = ""
    equals: ClassVar[str] = ""

    @property
    def order(self) -> int:
        """Of accuracy; the weak order where it draws noise. 0: it is not made to converge."""
        return 1

    @property
    def stochastic(self) -> bool:
        """Whether it draws noise."""
        return False

    def plan(self, points: Points) -> Plan:
        """The table for these points, in their path's coordinates.

        Raises ValueError for a run the solver cannot make (rising levels with noise, a start at 0).
        """
        raise NotImplementedError

    #: Whether the solver is its ``plan``; else it has none, and ``solve`` chooses as it goes.
    planned: ClassVar[bool] = True

    @property
    def drawing(self) -> Solver:
        """Whose draws a run makes: another's where that one's run is made in another way."""
        return self

    def solve(self, points: Points, run: Run, x: Tensor) -> Tensor:
        """The state at points[-1] of a run from x [B, …] at points[0], in the coordinates of
        ``points.path.host``. x is not modified."""
        return self.advance(points, run, State((x,))).x

    def advance(self, points: Points, run: Run, state: State, level: int | None = None) -> State:
        """From ``state`` on to noise level number ``level`` of the run (default: to its end).

        A run over ``points`` that is taken in parts so equals the run in one go, bit for bit.
        """
        return drive(self.steps(points, state, run.noise, level), run)

    def steps(
        self, points: Points, state: State, noise: DrawNoise | None = None, level: int | None = None
    ) -> Program[State]:
        """The questions of :meth:`advance`. A solver is its plan, unless its next step depends on the data."""
        plan = host_plan(self, points)
        if level is None or level >= len(points) - 1:
            return plan.walk(state, noise)
        return self._to_level(plan, plan.path.at(points.kappas[level]), level, state, noise)

    @staticmethod
    def _to_level(
        plan: Plan, at: Point, level: int, state: State, noise: DrawNoise | None
    ) -> Program[State]:
        until = next(i for i, s in enumerate(plan.stages) if s.step >= level or not s.evaluate)
        state = yield from plan.walk(state, noise, until)
        return plan.arrive(state, at, noise)

    def watching(self, net: nn.Module) -> AbstractContextManager[Solver]:
        """The solver for a run on this network. Few look into it."""
        return nullcontext(self)

    def nfe(self, steps: int) -> int:
        """Denoiser evaluations of a run of ``steps`` steps that ends at 0."""
        return steps

    def _check(self, points: Points) -> None:
        name = self.title or type(self).__name__
        if points.rising and self.stochastic:
            raise ValueError(
                f"{name} draws noise, so its noise levels must fall; got {points.kappas[0]:g} → "
                f"{points.kappas[1]:g}. To invert, use a deterministic solver (eta, churn = 0)"
            )
        if len(points) > 1 and points.kappas[0] == 0:
            raise ValueError(
                f"{name}: a run cannot start at noise level exactly 0, where x says nothing about ε; "
                "start at a small positive level"
            )


@dataclass(frozen=True)
class Around(Solver):
    """Base class of solvers that run another one, ``solver``, in a way of their own. None stands in another."""

    planned: ClassVar[bool] = False
    solver: Solver

    @contextmanager
    def watching(self, net: nn.Module) -> Iterator[Solver]:
        with self.solver.watching(net) as ready:
            yield replace(self, solver=ready)


@lru_cache(maxsize=32)
def host_plan(solver: Solver, points: Points) -> Plan:
    """The solver's plan in host coordinates; kept, since a queue repeats the same run."""
    return solver.plan(points).on(points.path.host)


def spans_of(solver: Solver, path: Path, sigmas: Sequence[float]) -> tuple[Span, ...]:
    """Between which levels each noise draw of a run over SIGMAS is made; () for a solver without a plan."""
    solver = solver.drawing
    if not solver.planned or not solver.stochastic or len(sigmas) < 2:
        return ()
    return host_plan(solver, Points.from_sigmas(path, sigmas)).spans


def make_plan(
    solver: Solver, path: Path, start: Point, stages: tuple[Stage, ...], clip_x0: float = 0.0
) -> Plan:
    return Plan(repr(solver), path, start, stages, solver.order, clip_x0)


def decay(p: Point, q: Point) -> float:
    """e^{−h} = κ'/κ from p to q; 0 from pure noise."""
    return q.sigma * p.alpha / (p.sigma * q.alpha)


def regular(p: Point, q: Point) -> bool:
    """Whether the step has a finite h = λ' − λ. From pure noise or to 0 it has not, and every solver
    takes DDIM's step, which is finite there: the limit of all of them."""
    return p.alpha > 0 and q.sigma > 0
