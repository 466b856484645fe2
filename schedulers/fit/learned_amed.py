"""AMED as tables, as a plug-in of other solvers, and as the solver whose predictor is asked at every step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..noise import DrawNoise
from ..path import VE
from ..points import Points
from ..solver.amed import AMED
from ..solver.base import Solver
from ..solver.data_dependent import DataDependent
from ..solver.fitted import Table, table_of
from ..solver.formula import Builder, total
from ..solver.plan import Plan
from ..solver.run import Program, Progress, Run
from ..solver.state import State
from .amed_predictors import Bottleneck, middle_of


def amed_table(points: Points, numbers: Sequence[Sequence[float]]) -> Table:
    """The table of AMED-Solver with (r, c, a) per step of ``points``."""
    columns = zip(*numbers, strict=True)
    r, c, a = (", ".join(repr(float(v)) for v in column) for column in columns)
    return table_of(AMED(r, c, a).plan(points.on(VE())))


def directions_table(points: Points, positions: Sequence[Sequence[float]]) -> Table:
    """EPD: step i takes one direction at each of ``positions[i]`` (r between 0 and 1), all from the same state,
    and goes along their mean. One position ½ is AMED at its start."""
    solver, grid = AMED(), points.on(VE())
    build = Builder(solver, grid)
    x = build.start
    for i, (p, q) in enumerate(grid.steps):
        x, d = build.advance(x, p, i)
        if q.sigma == 0:
            x = d
            continue
        ways = []
        for r in positions[i]:
            tau = q.sigma**r * p.sigma ** (1 - r)
            middle = x + (tau - p.sigma) / p.sigma * (x - d)
            ways.append((middle - build.evaluate(middle, grid.path.on(tau), i)) / tau)
        mean = total([1 / len(ways)] * len(ways), ways)
        x = x + (q.sigma - p.sigma) * mean
    return table_of(build.finish(x))


def plugin_plan(base: Solver, points: Points, numbers: Sequence[Sequence[float]]) -> Plan:
    """AMED as a plug-in: ``base`` visits τ of every step but the last too (its network gets a·τ), and its step from there is
    scaled by c. For solvers with one evaluation per step; on VE."""
    levels: list[float] = []
    for (p, q), (r, _, _) in zip(points.on(VE()).steps, numbers, strict=False):
        levels += [p.sigma] if q.sigma == 0 else [p.sigma, q.sigma**r * p.sigma ** (1 - r)]
    plan = base.plan(Points(VE(), (*levels, points.kappas[-1])))
    if plan.nfe != len(levels) or not all(s.commit for s in plan.stages):
        raise ValueError(
            f"{base.title}: AMED plugs into solvers with one evaluation per step, "
            f"this one has {plan.nfe} for {len(levels)} levels"
        )
    stages = list(plan.stages)
    for i, (_, c, a) in enumerate(numbers):
        if 2 * i + 2 < len(stages):
            middle, after = stages[2 * i + 1 : 2 * i + 3]
            stages[2 * i + 1] = replace(middle, noise_label=VE().at(middle.at.kappa * a))
            stages[2 * i + 2] = scaled(after, c)
    return replace(plan, stages=tuple(stages))


def scaled(stage: Any, c: float) -> Any:
    """The stage that goes c times as far from the newest state."""
    first, *others = stage.x or (0.0,)
    x = (1 - c + c * first, *(c * w for w in others))
    return replace(stage, x=x, d=tuple(c * w for w in stage.d))


@dataclass(frozen=True, eq=False, repr=False)
class LearnedAMED(DataDependent):
    """AMED whose predictor is asked at every step, per image.

    ``base`` None is AMED-Solver, else AMED plugs into it. ``features``: of the network on which it runs; None takes
    those of its :func:`middle_of`. Images choose their own τ, so each runs by itself; a
    batch of B costs B calls of the whole batch per evaluation.
    """

    title: ClassVar[str] = "Learned AMED"
    predictor: Any = None
    features: Any = None
    base: Any = None

    @property
    def order(self) -> int:
        return 0

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.base!r})" if self.base else f"{type(self).__name__}()"

    def nfe(self, steps: int) -> int:
        return 2 * steps - 1

    @contextmanager
    def watching(self, net: nn.Module) -> Iterator[Solver]:
        middle = middle_of(net) if self.features is None else None
        if middle is None:
            yield self
            return
        with Bottleneck(middle) as features:
            yield replace(self, features=features)

    def plan_of(self, points: Points, numbers: Sequence[Sequence[float]]) -> Plan:
        if self.base is not None:
            return plugin_plan(self.base, points, numbers)
        columns = zip(*numbers, strict=True)
        r, c, a = (", ".join(repr(float(v)) for v in column) for column in columns)
        return AMED(r, c, a).plan(points.on(VE()))

    @torch.no_grad()
    def advance(self, points: Points, run: Run, state: State, level: int | None = None) -> State:
        return super().advance(points, run, state, level)

    def walk(
        self, points: Points, state: State, noise: DrawNoise | None = None, level: int | None = None
    ) -> Program[State]:
        self._check(points)
        last = len(points) - 1 if level is None else level
        if state.stage or last < len(points) - 1:
            raise ValueError(
                f"{self.title} keeps no state between two parts of a run: run it whole"
            )
        ends = []
        for image in range(len(state.x)):
            ends.append((yield from self._image(points, state.x, image)))
        return State((torch.cat(ends),), stage=last)

    def _image(self, points: Points, x: Tensor, image: int) -> Program[Tensor]:
        """One image of x from its start to its end; the first one's steps are reported."""
        rows = slice(image, image + 1)
        kappas, numbers = points.kappas, [(0.5, 1.0, 1.0)] * (len(points) - 1)
        state = State((x[rows],))
        for step in range(len(points) - 1):
            # stages 2·step and 2·step + 1 evaluate at κ and at τ; later ones are not decided yet
            plan = self.plan_of(points, numbers).on(points.path)
            state, seen = yield from self._part(plan, state, len(x), rows, 2 * step + 1)
            p, q = kappas[step : step + 2]
            if q > 0:
                rca = self.predictor(step, p, q, seen, 1)
                numbers[step] = tuple(rca[0].double().tolist())
                plan = self.plan_of(points, numbers).on(points.path)
                state, _ = yield from self._part(plan, state, len(x), rows, 2 * step + 2)
        state, _ = yield from self._part(plan, state, len(x), rows, None)
        return state.x

    def _part(
        self, plan: Plan, state: State, count: int, rows: slice, until: int | None
    ) -> Program[tuple[State, Tensor | None]]:
        """Stages of one image's plan, up to ``until``: each question is for a batch of ``count`` times its state, of
        whose answer these rows count. Ends in the state and the features of the last evaluation."""
        walk, seen = plan.walk(state, None, until), None
        try:
            y, ask = next(walk)
            while True:
                whole = y.expand(count, *y.shape[1:])  # what a host holds per image stays in place
                d = yield whole, replace(ask, begins=False, images=rows)
                features = self.features(count) if self.features is not None else None
                seen = features[rows] if features is not None else None
                if ask.begins and rows.start == 0:
                    yield Progress(ask.step, ask.steps, y, ask.level, d)
                y, ask = walk.send(d)
        except StopIteration as stop:
            return stop.value, seen
