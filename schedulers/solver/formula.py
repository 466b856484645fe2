"""Writing a plan as mathematics: combinations of named quantities, turned into rows.

A solver with several stages or a history is easier to write as formulas than as rows of weights:
``x + h·(D0 − x)/σ`` instead of two floats. A :class:`Combo` is such a formula (a linear combination of
anchors, predictions and noise draws); the :class:`Builder` turns each one that is evaluated or
committed into a stage with weights counted from the newest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from copy import copy
from dataclasses import dataclass, field
from typing import NamedTuple

from ..path import Point
from ..points import Points
from .base import Solver, make_plan
from .plan import Plan, Stage
from .rising import ALLOWED, Trial

Symbol = tuple[str, int]


@dataclass(frozen=True)
class Combo:
    """Σ weight·quantity, with quantities ("x", k), ("d", k), ("z", k) counted from the start of a run."""

    terms: Mapping[Symbol, float] = field(default_factory=dict)

    def __add__(self, other: Combo) -> Combo:
        terms = dict(self.terms)
        for symbol, weight in other.terms.items():
            terms[symbol] = terms.get(symbol, 0.0) + weight
        return Combo(terms)

    def __mul__(self, factor: float) -> Combo:
        return Combo({symbol: weight * factor for symbol, weight in self.terms.items()})

    __rmul__ = __mul__

    def __truediv__(self, divisor: float) -> Combo:
        return self * (1 / divisor)

    def __neg__(self) -> Combo:
        return self * -1.0

    def __sub__(self, other: Combo) -> Combo:
        return self + -other


def total(weights: Iterable[float], combos: Iterable[Combo]) -> Combo:
    """Σ weight·combo; raises ValueError if there are not as many of one as of the other."""
    terms: dict[Symbol, float] = {}
    for weight, combo in zip(weights, combos, strict=True):
        for symbol, w in combo.terms.items():
            terms[symbol] = terms.get(symbol, 0.0) + float(weight) * w
    return Combo(terms)


class LinearStep(NamedTuple):
    """The step x' = x·x + d·D + noise·z."""

    x: float
    d: float
    noise: float = 0.0


class Builder:
    """Collects the stages of one plan, in the coordinates of ``points.path``."""

    def __init__(self, solver: Solver, points: Points) -> None:
        self.solver, self.points = solver, points
        self.stages: list[Stage] = []
        self.counts = {"x": 1, "d": 0, "z": 0}
        self.trial = Trial(points) if points.rising else None

    @property
    def start(self) -> Combo:
        """The state a run starts from."""
        return Combo({("x", 0): 1.0})

    def draw(self) -> Combo:
        """A fresh noise draw. At most one in a stage; keep it for later by committing that stage."""
        return self._new("z")

    def evaluate(self, y: Combo, at: Point, step: int, noise_label: Point | None = None) -> Combo:
        """Evaluate D at y, which is not kept; returns D. ``noise_label``: another level for the network."""
        self._emit(y, at, step, commit=False, evaluate=True, noise_label=noise_label)
        return self._new("d")

    def advance(self, y: Combo, at: Point, step: int) -> tuple[Combo, Combo]:
        """Make y the newest anchor and evaluate D there; returns (anchor, D)."""
        self._emit(y, at, step, commit=True, evaluate=True)
        return self._new("x"), self._new("d")

    def take(self, step: LinearStep, x: Combo, d: Combo) -> Combo:
        """The state after the step from x, where the prediction is d."""
        y = step.x * x + step.d * d
        return y + step.noise * self.draw() if step.noise else y

    def finish(self, y: Combo, clip_x0: float = 0.0) -> Plan:
        """The plan whose result is y at the last level; its predictions are limited to ±``clip_x0`` (0: not)."""
        points = self.points
        if self.stages:
            self._emit(y, points[-1], len(points) - 2, commit=True, evaluate=False)
        return make_plan(self.solver, points.path, points[0], tuple(self.stages), clip_x0)

    def holds(self, y: Combo, level: int, times: float = ALLOWED) -> bool:
        """Whether y may be the state at ``level``; on falling levels always (see ``rising.py``)."""
        return self.trial is None or self.trial.holds(y.terms, level, times)

    def highest(self, most: int, holds: Callable[[Builder, int], bool]) -> int:
        """The largest count, from ``most`` down to 1, for which ``holds(builder, count)``, or 0; on falling levels ``most``.

        The builder it is called with goes on from here, and what it emits is forgotten.
        """
        if self.trial is None:
            return most
        return next((n for n in range(most, 0, -1) if holds(self._fork(), n)), 0)

    def may(self, step: Callable[[Builder, Combo], Combo], x: Combo, i: int) -> bool:
        """Whether step i → i + 1 from x may be ``step(builder, x)``."""
        return self.highest(1, lambda alone, _: alone.holds(step(alone, x), i + 1)) > 0

    def _fork(self) -> Builder:
        other = copy(self)
        other.stages, other.counts = list(self.stages), dict(self.counts)
        other.trial = self.trial and self.trial.fork()
        return other

    def _new(self, kind: str) -> Combo:
        self.counts[kind] += 1
        return Combo({(kind, self.counts[kind] - 1): 1.0})

    def _emit(
        self,
        y: Combo,
        at: Point,
        step: int,
        commit: bool,
        evaluate: bool,
        noise_label: Point | None = None,
    ) -> None:
        rows = {"x": [0.0] * 0, "d": [0.0] * 0, "z": [0.0] * 0}
        for (kind, index), weight in y.terms.items():
            back, row = self.counts[kind] - 1 - index, rows[kind]
            row.extend([0.0] * (back + 1 - len(row)))
            row[back] += weight
        noise = next((w for w in rows["z"] if w), 0.0)
        if self.trial is not None:
            self._follow(self.trial, y, noise_label or at, at, commit, evaluate)
        self.stages.append(
            Stage(
                step, at, tuple(rows["x"]), tuple(rows["d"]), noise, commit, evaluate, noise_label
            )
        )

    def _follow(
        self, trial: Trial, y: Combo, label: Point, at: Point, commit: bool, evaluate: bool
    ) -> None:
        """The trial's values of the symbols that a stage is about to get."""
        x = trial.value(y.terms)
        if commit:
            trial.values["x", self.counts["x"]] = x
        if evaluate:
            trial.values["d", self.counts["d"]] = trial.denoise(x, at, label)


def linear_plan(
    solver: Solver,
    points: Points,
    step: Callable[[Point, Point], LinearStep],
    clip_x0: float = 0.0,
) -> Plan:
    """The plan of a solver that evaluates D once per step, and whose step depends on its two levels alone."""
    build = Builder(solver, points)
    x = build.start
    for i, (p, q) in enumerate(points.steps):
        x, d = build.advance(x, p, i)
        x = build.take(step(p, q), x, d)
    return build.finish(x, clip_x0)
