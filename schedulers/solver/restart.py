"""Restart sampling: now and then back to a higher noise level, and down again."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from ..points import Points
from ..settings import knob
from .base import Solver
from .formula import Builder, Combo
from .plan import Plan
from .runge_kutta import TABLEAUX, sigma_step


@dataclass(frozen=True)
class Restart(Solver):
    """Heun steps; on reaching σ_low, noise is added up to σ_high and the same levels are run again.

    The fresh noise contracts errors made so far, the deterministic steps add few new ones. Each restart
    repeats the steps between the two levels.
    """

    title: ClassVar[str] = "Restart"
    aliases: ClassVar[tuple[str, ...]] = ("restart sampling", "KSampler With Restarts")
    paper: ClassVar[str] = "Xu et al. 2023 (arXiv 2306.14878), alg. 1"
    equals: ClassVar[str] = "ComfyUI_restart_sampling with heun, for one segment"
    restarts: int = knob(1, "How often to go back (K); 0 is Heun.", low=0, high=50)
    low: float = knob(0.3, "σ at which to go back (as in SIGMAS).", low=0.0, high=1e5, step=0.001)
    high: float = knob(2.0, "σ to go back to.", low=0.0, high=1e5, step=0.001)

    @property
    def order(self) -> int:
        return 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.low >= self.high:
            raise ValueError(f"Restart: low = {self.low} must be below high = {self.high}")

    @property
    def stochastic(self) -> bool:
        return self.restarts > 0

    def nfe(self, steps: int) -> int:
        """Without the restarts, whose number of steps depends on the levels; see ``plan(...).nfe``."""
        return 2 * steps - 1

    def plan(self, points: Points) -> Plan:
        self._check(points)
        grid = points.host
        build = Builder(self, grid)
        x = build.start
        top, bottom = self._segment(grid)
        for i in range(len(grid) - 1):
            x = self._step(build, x, i)
            if i + 1 == bottom and top < bottom:
                for _ in range(self.restarts):
                    x = self._step(build, self._raise(build, x, bottom, top), top, i)
                    for k in range(top + 1, bottom):
                        x = self._step(build, x, k, i)
        return build.finish(x).on(points.path)

    def _segment(self, grid: Points) -> tuple[int, int]:
        """Positions of the first level at or below ``high`` and the last at or above ``low``."""
        inside = [k for k in range(len(grid)) if self.low <= grid[k].sigma <= self.high]
        inside = [k for k in inside if grid[k].alpha > 0 and grid[k].sigma > 0]
        return (inside[0], inside[-1]) if inside else (0, 0)

    def _step(self, build: Builder, x: Combo, k: int, step: int | None = None) -> Combo:
        """Heun from level k to k + 1, Euler to 0; counted as step ``step``."""
        p, q = build.points[k], build.points[k + 1]
        step = k if step is None else step
        if q.sigma == 0:
            return build.advance(x, p, step)[1]
        return sigma_step(build, x, p, q, step, TABLEAUX["heun"])[0]

    def _raise(self, build: Builder, x: Combo, bottom: int, top: int) -> Combo:
        """ŷ = y + √(κ_high² − κ_low²)·z in y = x/α."""
        p, hat = build.points[bottom], build.points[top]
        size = hat.alpha * math.sqrt(hat.kappa**2 - p.kappa**2)
        return hat.alpha / p.alpha * x + size * build.draw()
