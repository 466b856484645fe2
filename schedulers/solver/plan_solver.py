r"""A plan as a solver: rows of weights that somebody wrote, at noise levels of their own.

What a plan may be held to without running it: for data that are one point every D is x0, so every state is known,

    y = α'·x0 + σ'·e ,    e = Σ over ε and the noise draws, of deviation 1 .

Its data share Σ x_j·α_j + Σ d_j must be α'; or a network whose answer never changes were not believed. Its noise share
|Σ x_j·e_j·σ_j + noise·z| is σ' for steps that are exact for constant D, and near it for others.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field, replace
from typing import ClassVar, NamedTuple

import numpy as np

from ..noise_schedule import Array
from ..path import VP, Path
from ..points import Points
from .base import Solver
from .fitted import same_level, show
from .plan import Plan, Stage


class Shares(NamedTuple):
    """What a row's state holds, and must: of the data and of the noise; ``terms``: Σ|·| of the data's."""

    data: float
    alpha: float
    noise: float
    sigma: float
    terms: float


def shares(plan: Plan) -> list[Shares]:
    """One per row."""
    draws = sum(bool(stage.noise) for stage in plan.stages)
    start = np.zeros(1 + draws)
    start[0] = plan.start.sigma
    anchors: list[tuple[float, Array]] = [(plan.start.alpha, start)]
    rows, drawn = [], 0
    for stage in plan.stages:
        pairs = list(zip(stage.x, anchors, strict=False))
        terms = [w * alpha for w, (alpha, _) in pairs] + list(stage.d)
        noise = sum((w * e for w, (_, e) in pairs), np.zeros(1 + draws))
        if stage.noise:
            drawn += 1
            noise[drawn] += stage.noise
        data, size = math.fsum(terms), math.fsum(map(abs, terms))
        rows.append(
            Shares(data, stage.at.alpha, float(np.linalg.norm(noise)), stage.at.sigma, size)
        )
        if stage.commit:
            anchors.insert(0, (data, noise))
    return rows


@dataclass(frozen=True, repr=False)
class PlanSolver(Solver):
    """A run of fixed noise levels, row by row: ``stages`` in the coordinates of ``path``, from ``levels[0]``.

    ``levels``: κ of the run, as SIGMAS have them; rows may lie beside them (churn, stages within a step).
    """

    title: ClassVar[str] = "Plan"
    path: Path = field(default_factory=VP)
    levels: tuple[float, ...] = ()
    stages: tuple[Stage, ...] = ()
    name: str = ""

    def __repr__(self) -> str:
        digest = hashlib.sha256(repr((self.path, self.levels, self.stages)).encode()).hexdigest()
        return f"PlanSolver({self.name!r}, {len(self.stages)} rows, {digest[:12]})"

    @property
    def order(self) -> int:
        return 0

    @property
    def stochastic(self) -> bool:
        return any(stage.noise for stage in self.stages)

    def nfe(self, steps: int) -> int:
        return sum(stage.evaluate for stage in self.stages)

    def written(self) -> Plan:
        """The plan as it is."""
        return Plan(
            self.name or repr(self), self.path, self.path.at(self.levels[0]), self.stages, order=0
        )

    def points(self, path: Path) -> Points:
        """Its noise levels, as a run of a model on ``path``. Raises ValueError where they turn."""
        return Points(path, self.levels)

    def plan(self, points: Points) -> Plan:
        """On ``points.path``. Raises ValueError for other noise levels than its own (to float32 of SIGMAS)."""
        self._check(points)
        levels = self.points(points.path).kappas
        if len(levels) != len(points) or not all(map(same_level, levels, points.kappas)):
            raise ValueError(
                f"this plan is written for its own noise levels (σ/α = {show(levels)}) and runs only those, got "
                f"{show(points.kappas)}: connect the SIGMAS that come with it"
            )
        # SIGMAS writes pure noise on VP as a large finite number: the run starts where they say
        begun = self.path.at(points.kappas[0])
        stages = tuple(replace(s, at=begun) if not s.at.alpha else s for s in self.stages)
        return Plan(repr(self), self.path, begun, stages, order=0).on(points.path)


def levels_of_rows(stages: tuple[Stage, ...]) -> tuple[float, ...]:
    """κ of a run whose steps begin at the rows that ask for D first."""
    first = {stage.step: stage.at.kappa for stage in reversed(stages) if stage.evaluate}
    return (*(first[step] for step in sorted(first)), stages[-1].at.kappa)
