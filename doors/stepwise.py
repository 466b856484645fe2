"""A run that somebody else's loop drives: it is told D, and says which state it wants D of next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..schedulers.path import Point
from ..schedulers.points import Points
from ..schedulers.solver import Run, Solver
from ..schedulers.solver.data_dependent import DataDependent
from ..schedulers.solver.idempotent import Idempotent
from ..schedulers.solver.langevin import Langevin
from ..schedulers.solver.run import DrawNoise, Exchange, Program
from ..schedulers.solver.state import State

#: Solvers without a plan whose evaluations are known before the run all the same.
STEADY = (Langevin, Idempotent)


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of a run: its ``step``, the level of the state, and the level that the network is told.

    ``lead``: the answer is not used, since the solver moves its state before it first asks.
    """

    step: int
    at: Point
    label: Point
    lead: bool = False


def program(solver: Solver, points: Points, x: Tensor, noise: DrawNoise | None) -> Program[State]:
    """The questions of a run from x [B, …], all in the coordinates of ``points.path``, where κ may be ∞."""
    if isinstance(solver, DataDependent):
        return solver.walk(points, State((x,)), noise)
    return solver.plan(points).walk(State((x,)), noise)


def evaluations(solver: Solver, points: Points) -> tuple[Evaluation, ...]:
    """All that a run evaluates, in order. ValueError for a solver that decides by the data."""
    steady = solver.planned or isinstance(solver, STEADY)
    if not steady or getattr(solver, "tolerance", 0.0) > 0:
        raise ValueError(
            f"{solver.title or type(solver).__name__} decides by the data what it evaluates, and this loop fixes its "
            "timesteps before: choose another solver"
        )
    x = torch.zeros(1, 1, dtype=torch.float64)
    exchange = Exchange(
        program(solver, points, x, lambda _, like: torch.ones_like(like)), Run(_zero)
    )
    made = []
    if not torch.equal(exchange.y, x):
        made.append(Evaluation(0, points[0], points[0], lead=True))
    while exchange.open:
        ask, path = exchange.ask, points.path
        made.append(Evaluation(ask.step, path.on(ask.level), path.on(ask.sigma)))
        exchange.answer(torch.zeros_like(exchange.y))
    return tuple(made)


def _zero(x: Tensor, sigma: float) -> Tensor:
    return torch.zeros_like(x)


def alike(a: Sequence[Evaluation], b: Sequence[Evaluation]) -> bool:
    """Whether two runs evaluate at the same levels."""
    near = lambda p, q: abs(p.sigma - q.sigma) <= 1e-9 * max(p.sigma, q.sigma)  # noqa: E731
    return len(a) == len(b) and all(
        near(p.at, q.at) and near(p.label, q.label) for p, q in zip(a, b, strict=True)
    )


class Stepwise:
    """A run in progress. ``y``: the state that D is wanted of, or the result once it is not ``open``.

    The state is kept in float32 at least. What the loop makes of it in between moves the solver's own state.
    """

    def __init__(self, solver: Solver, points: Points, x: Tensor, noise: DrawNoise | None) -> None:
        state = wide(x)
        self.exchange = Exchange(program(solver, points, state, noise), Run(_zero))
        self.shown = self._show(x.dtype)

    @property
    def open(self) -> bool:
        return self.exchange.open

    @property
    def y(self) -> Tensor:
        return self.exchange.y if self.exchange.open else self.exchange.result.x

    def hear(self, sample: Tensor) -> None:
        """``sample`` is what the loop made of the state that it was shown."""
        untouched = sample is self.shown and _version(sample) == self.version is not None
        if not untouched and not torch.equal(sample, self.y.to(sample.dtype)):
            self.exchange.y.copy_(sample)

    def answer(self, d: Tensor, dtype: torch.dtype) -> Tensor:
        """The next state, in ``dtype``, after D at the state before."""
        self.exchange.answer(d)
        return self._show(dtype)

    def _show(self, dtype: torch.dtype) -> Tensor:
        """A copy of the state, which the loop may write into."""
        self.shown = self.y.to(dtype, copy=True)
        self.version = _version(self.shown)
        return self.shown


def _version(x: Tensor) -> int | None:
    """How often x was written to; None where torch does not count."""
    return None if x.is_inference() else x._version


def wide(x: Tensor) -> Tensor:
    """A copy of x in float32, or in its own float64."""
    return x.to(torch.promote_types(x.dtype, torch.float32), copy=True)
