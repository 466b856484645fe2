r"""Fitted solvers: a table of numbers found for one model, and the solver that runs it.

A table has one row per evaluation and one form for every method, on the variance-preserving path
(which is finite at pure noise):

    y_0 = x_0·x_start ,    y_i = x_i·y_{i−1} + Σ_j d_{ij}·D_{i−1−j} + bands ,    D_i = D(y_i, κ_i) .

The last row gives the end. κ_i is the level the network is told and y_i is written for it: a clock
that differs from the state's own level is a factor in x_i and nothing else, so the same table means the
same on every path. DDIM's exact step has x_i = σ_i/σ_{i−1} and d_{i0} = α_i − α_{i−1}·x_i.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar

from ..path import VP, Path, rescale
from ..points import LARGEST_KAPPA, Points
from ..settings import wire
from .band_mix import Mix
from .base import Solver
from .plan import Plan, Stage


@dataclass(frozen=True, eq=False, repr=False)
class Table:
    """The numbers of a fitted solver with K evaluations; two with the same numbers are equal.

    ``start`` and ``end``: κ of the run's ends. ``levels`` [K]: κ told to the network. ``x`` [K + 1].
    ``d`` [K rows]: row i has the weights, newest first, of at most i + 1 predictions in y_{i+1}, and
    ``mix`` [K] (None: none) its bands. ``steps`` [K]: which step an evaluation belongs to; the
    run's noise levels are those of each step's first evaluation. Raises ValueError for numbers that
    are not finite and for rows that do not fit.
    """

    start: float
    levels: tuple[float, ...]
    x: tuple[float, ...]
    d: tuple[tuple[float, ...], ...]
    steps: tuple[int, ...] = ()
    mix: tuple[Mix | None, ...] = ()
    end: float = 0.0

    def __post_init__(self) -> None:
        count = len(self.levels)
        floats = lambda values: tuple(float(v) for v in values)  # noqa: E731
        tidy = dict(
            start=float(self.start),
            levels=floats(self.levels),
            x=floats(self.x),
            d=tuple(
                floats(row[: 1 + max((j for j, w in enumerate(row) if w), default=-1)])
                for row in self.d
            ),
            steps=tuple(int(s) for s in self.steps) or tuple(range(count)),
            mix=tuple(self.mix) or (None,) * count,
            end=float(self.end),
        )
        for name, value in tidy.items():
            object.__setattr__(self, name, value)
        lengths = dict(x=len(self.x) - 1, d=len(self.d), steps=len(self.steps), mix=len(self.mix))
        for name, length in lengths.items():
            if length != count or not count:
                raise ValueError(f"{name}: {length} rows for {count} evaluations")
        for i, (row, mix) in enumerate(zip(self.d, self.mix, strict=True)):
            if max(len(row), len(mix.d) if mix else 0) > i + 1 or (mix and len(mix.x) > 1):
                raise ValueError(f"row {i} uses more than the {i + 1} predictions there are")
        if not all(math.isfinite(v) for v in (*self.x, *(w for row in self.d for w in row))):
            raise ValueError("a weight is NaN or infinite")
        if not all(k > 0 for k in self.levels):
            raise ValueError(f"levels told to the network must be above 0, got {self.levels}")
        if self.steps[0] != 0 or any(
            b - a not in (0, 1) for a, b in zip(self.steps, self.steps[1:], strict=False)
        ):
            raise ValueError(f"steps must count up from 0, got {self.steps}")
        if self.points(VP()).rising:
            raise ValueError("noise levels must fall")

    @property
    def nfe(self) -> int:
        return len(self.levels)

    @property
    def window(self) -> int:
        """The most predictions a row uses."""
        used = [[j for j, w in enumerate(row) if w] for row in self.d]
        bands = [len(mix.d) for mix in self.mix if mix]
        return max([row[-1] + 1 for row in used if row] + bands, default=0)

    def points(self, path: Path) -> Points:
        """The noise levels of its run. Raises ValueError if they do not fall."""
        first = [self.steps.index(s) for s in range(1, self.steps[-1] + 1)]
        return Points(path, (self.start, *(self.levels[i] for i in first), self.end))

    def stages(self) -> tuple[Stage, ...]:
        """On VP."""
        at = [VP().at(k) for k in (*self.levels, self.end)]
        rows = zip((*self.steps, self.steps[-1]), at, self.x, ((), *self.d), strict=True)
        return tuple(
            Stage(step, point, (w,), d, evaluate=i < self.nfe, mix=self.mix[i - 1] if i else None)
            for i, (step, point, w, d) in enumerate(rows)
        )

    def plan(self, name: str = "Table") -> Plan:
        """As a plan on VP."""
        return Plan(name, VP(), VP().at(self.start), self.stages(), order=0)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all numbers, in hex."""
        sha = hashlib.sha256()
        for values in ((self.start, self.end), self.levels, self.x, *self.d, self.steps):
            sha.update(struct.pack(f"<q{len(values)}d", len(values), *values))
        for mix in self.mix:
            numbers = (mix.knots, mix.x.shape, mix.d.shape) if mix else ()
            sha.update(repr(numbers).encode())
            if mix:
                sha.update(mix.x.tobytes() + mix.d.tobytes())
        return sha.hexdigest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Table) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        return f"Table({self.nfe} evaluations, {self.digest[:12]})"


def ddim(p: float, q: float) -> tuple[float, float]:
    """(weight of x, weight of D) of DDIM's step from κ = p to q on VP."""
    a, b = VP().at(p), VP().at(q)
    x = b.sigma / a.sigma
    return x, b.alpha - a.alpha * x


def table_of(plan: Plan) -> Table:
    """The table of any deterministic plan, which runs as the plan does (to rounding).

    All states of a plan lie in the span of the newest one and the D's, so every stage can be written with
    the state evaluated before it, whatever anchors it was written with. Raises ValueError for a plan that
    draws noise, limits D, or drops x before its end.
    """
    if plan.stochastic or plan.clip_x0:
        raise ValueError(f"{plan.solver} draws noise or limits D: a fit can start from neither")
    levels: list[float] = []
    steps: list[int] = []
    rows: list[Span] = []
    last, scale = rescale(plan.start, VP())
    anchors, scales = [Span(1.0)], [scale]  # over the newest row; x on VP / x on the plan's path
    for stage in plan.stages:
        last, scale = rescale(
            (stage.noise_label and plan.path.at(stage.noise_label.kappa)) or stage.at, VP()
        )
        weights = [w * scale / s for w, s in zip(stage.x, scales, strict=False)]
        d = (*[0.0] * (len(levels) - len(stage.d)), *(w * scale for w in reversed(stage.d)))
        y = total(weights, anchors, Span(0.0, d))
        if stage.evaluate:
            levels.append(last.kappa)
            steps.append(stage.step)
            rows.append(y)
            anchors, y = [a.over(y) for a in anchors], Span(1.0)
        if stage.commit:
            anchors, scales = [y, *anchors], [scale, *scales]
    if not rows:
        raise ValueError(f"{plan.solver}: a run without evaluations has nothing to fit")
    rows.append(anchors[0])
    if not all(math.isfinite(row.x) for row in rows):
        raise ValueError(f"{plan.solver} uses a state from before it dropped x: not a table")
    return Table(
        start=plan.start.kappa,
        levels=tuple(levels),
        x=tuple(row.x for row in rows),
        d=tuple(row.d[::-1] for row in rows[1:]),
        steps=tuple(sorted(set(steps)).index(s) for s in steps),
        end=plan.stages[-1].at.kappa,
    )


@dataclass(frozen=True)
class Span:
    """x·(the newest row's state) + Σ d[j]·D_j, oldest first."""

    x: float
    d: tuple[float, ...] = ()

    def over(self, new: Span) -> Span:
        """Written with the state ``new`` in place of the newest row's; NaN if that has lost it."""
        if self.x == 0:
            return self
        factor = self.x / new.x if new.x else math.nan
        return total([1.0, -factor], [Span(factor, self.d), Span(0.0, new.d)])


def total(weights: Sequence[float], states: Sequence[Span], first: Span | None = None) -> Span:
    """Σ weight·state, and ``first``."""
    terms = [(1.0, first)] if first else []
    terms += [(w, s) for w, s in zip(weights, states, strict=False) if w]
    d = [0.0] * max((len(s.d) for _, s in terms), default=0)
    for w, s in terms:
        for j, v in enumerate(s.d):
            d[j] += w * v
    return Span(sum(w * s.x for w, s in terms), tuple(d))


@dataclass(frozen=True)
class FittedSolver(Solver):
    """A solver whose noise levels and weights were fitted to one model; it runs its own levels only."""

    title: ClassVar[str] = "Fitted"
    table: Table = wire("SAMPLING_KIT_FIT", "A fit, from Fit Solver or Load Fitted Solver.")
    card: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def order(self) -> int:
        return 0

    def nfe(self, steps: int) -> int:
        return self.table.nfe

    def points(self, path: Path) -> Points:
        """The noise levels it was fitted with, as a run of a model on ``path``."""
        return self.table.points(path)

    def plan(self, points: Points) -> Plan:
        """On ``points.path``. Raises ValueError for other noise levels than its own (to float32 of SIGMAS)."""
        levels = self.points(points.path).kappas
        if len(levels) != len(points) or not all(map(same_level, levels, points.kappas)):
            raise ValueError(
                f"this solver was fitted with {self.table.nfe} evaluations at noise levels of its own "
                f"(σ/α = {show(levels)}) and runs only those, got {show(points.kappas)}: connect the SIGMAS "
                f"that come with it{self._others()}"
            )
        # SIGMAS writes pure noise on VP as a large finite number: the run starts where they say
        start, table = points.kappas[0], self.table
        begun = tuple(min(k, start) if math.isinf(k) else k for k in table.levels)
        plan = replace(table, start=start, levels=begun).plan(repr(self))
        return plan.on(points.path)

    def _others(self) -> str:
        family = [n for n in self.card.get("family", ()) if n != self.table.nfe]
        if not family:
            return ""
        return (
            f", or load the fit for another number of evaluations ({', '.join(map(str, family))})"
        )


def same_level(a: float, b: float) -> bool:
    """Whether two κ are one level, as far as SIGMAS in float32 can tell."""
    if min(a, b) > 0.999 * LARGEST_KAPPA:
        return True
    p, q = VP().at(a), VP().at(b)
    return abs(p.alpha - q.alpha) <= 1e-4 * p.alpha + 1e-6 and math.isclose(
        p.sigma, q.sigma, rel_tol=1e-4, abs_tol=1e-9
    )


def show(kappas: Sequence[float]) -> str:
    return ", ".join(f"{k:.4g}" for k in kappas)
