"""Adams–Bashforth families: the velocity or the noise extrapolated from earlier steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..points import Points
from ..settings import knob
from .base import Solver, ddim_row
from .build import Builder, Combo, total
from .multistep import COORDINATE_HELP, START_HELP
from .plan import Plan
from .runge_kutta import TABLEAUX, apply, sigma_step
from .weights import integral_weights

#: Adams–Bashforth weights for equal steps, newest first.
CONSTANT = {
    1: (1.0,),
    2: (3 / 2, -1 / 2),
    3: (23 / 12, -16 / 12, 5 / 12),
    4: (55 / 24, -59 / 24, 37 / 24, -9 / 24),
}
STARTERS = {2: "midpoint", 3: "heun3", 4: "rk4"}


@dataclass(frozen=True)
class AdamsBashforth(Solver):
    """iPNDM and its relatives: x' = x + Σ w_j·v_j with earlier velocities v = (x − D)/σ.

    'constant' uses the weights for equal steps whatever the steps are (iPNDM; its order is 2 at most,
    yet it is among the best below ten evaluations); 'variable' integrates the polynomial through the
    velocities exactly (iPNDM-v, linear multistep).
    """

    path_invariant: ClassVar[bool] = False
    starts_at_pure_noise: ClassVar[bool] = False
    title: ClassVar[str] = "Adams-Bashforth (iPNDM)"
    aliases: ClassVar[tuple[str, ...]] = (
        "ipndm", "ipndm_v", "lms", "LMSDiscreteScheduler", "IPNDMScheduler", "linear multistep", "scheduler",
    )  # fmt: skip
    paper: ClassVar[str] = (
        "Liu et al. 2022 (PNDM, arXiv 2202.09778); Zhang & Chen 2023 (DEIS, 2204.13902)"
    )
    equals: ClassVar[str] = (
        "constant: ComfyUI ipndm; variable over sigma: ComfyUI lms and ipndm_v of order 2 (its orders 3 "
        "and 4 are misprinted), diffusers LMSDiscreteScheduler but for its step to 0"
    )
    max_order: int = knob(3, "Velocities that are combined: 1 is Euler.", low=1, high=4)
    weights: str = knob(
        "constant", "For equal steps, or for the real ones.", options=("constant", "variable")
    )
    coordinate: str = knob(
        "sigma",
        COORDINATE_HELP + " Only for 'variable'.",
        options=("sigma", "log_sigma", "lambda", "index"),
    )
    start: str = knob("ramp", START_HELP, options=("ramp", "single_step"))

    @property
    def order(self) -> int:  # type: ignore[override]
        capped = self.start == "ramp" or self.weights == "constant" or self.coordinate == "index"
        return min(self.max_order, 2) if capped else self.max_order

    @classmethod
    def variants(cls) -> tuple[Solver, ...]:
        constant = [cls(n) for n in (3, 1, 2, 4)]
        ramp = [
            cls(n, "variable", c) for c in ("sigma", "log_sigma", "lambda", "index") for n in (2, 3)
        ]
        started = [
            cls(n, "variable", c, "single_step") for c in ("sigma", "lambda") for n in (2, 3, 4)
        ]
        return (*constant, *ramp, cls(4, "variable"), *started)

    def nfe(self, steps: int) -> int:
        if self.start == "ramp" or self.max_order == 1:
            return steps
        stages = len(TABLEAUX[STARTERS[self.max_order]].c)
        return steps + (stages - 1) * min(self.max_order - 1, steps - 1)

    def plan(self, points: Points) -> Plan:
        self._check(points)
        grid = points.host
        build = Builder(self, grid)
        x = build.start
        known: list[tuple[int, Combo]] = []
        for i, (p, q) in enumerate(grid.steps):
            if self.start == "single_step" and len(known) < self.max_order - 1 and q.sigma > 0:
                x, v = sigma_step(build, x, p, q, i, TABLEAUX[STARTERS[self.max_order]])
                known = [(i, v), *known]
                continue
            x, d = build.advance(x, p, i)
            if q.sigma == 0:
                x = d
                continue
            known = [(i, (x - d) / p.sigma), *known][: self.max_order]
            x = x + total(self._weights(grid, i, [k for k, _ in known]), [v for _, v in known])
        return build.finish(x).on(points.path)

    def _weights(self, grid: Points, i: int, levels: list[int]) -> np.ndarray:
        """∫ L_j dσ over the step."""
        if self.weights == "constant":
            return (grid[i + 1].sigma - grid[i].sigma) * np.array(CONSTANT[len(levels)])
        return integral_weights(grid, i, levels, self.coordinate)


@dataclass(frozen=True)
class DEIS(Solver):
    """DEIS and PLMS: the noise ε extrapolated, and the linear part exact, in y = x/α.

    y' = y + Σ ε_j·∫ L_j dκ with the polynomial in VP time (tAB), κ (ρAB), or λ (log-ρ AB); 'steps'
    uses equal-step weights (PLMS, the multistep part of PNDM).
    """

    title: ClassVar[str] = "DEIS"
    aliases: ClassVar[tuple[str, ...]] = (
        "deis", "tAB", "rhoAB", "DEISMultistepScheduler", "plms", "PNDM", "PNDMScheduler", "scheduler",
    )  # fmt: skip
    paper: ClassVar[str] = (
        "Zhang & Chen 2023 (arXiv 2204.13902), eq. 15; Liu et al. 2022 (PNDM), eq. 12"
    )
    equals: ClassVar[str] = (
        "lambda: diffusers DEISMultistep (logrho); time: ComfyUI deis to 1e-4 (its time is fitted to "
        "σ 0.002-80); steps: PNDM's PLMS with low-order start"
    )
    max_order: int = knob(3, "Noise predictions that are combined: 1 is DDIM.", low=1, high=4)
    space: str = knob(
        "time", "Variable of the polynomial.", options=("time", "kappa", "lambda", "steps")
    )

    @property
    def order(self) -> int:  # type: ignore[override]
        return min(self.max_order, 2)

    @classmethod
    def variants(cls) -> tuple[Solver, ...]:
        spaces = ("time", "kappa", "lambda", "steps")
        return (*(cls(n, space) for space in spaces for n in (3, 1, 2)), cls(4, "steps"))

    def plan(self, points: Points) -> Plan:
        self._check(points)
        build = Builder(self, points)
        x = build.start
        known: list[tuple[int, Combo]] = []
        for i, (p, q) in enumerate(points.steps):
            x, d = build.advance(x, p, i)
            known = [(i, (x - p.alpha * d) / p.sigma), *known][: self.max_order]
            if len(known) == 1 or q.sigma == 0:
                x = apply(ddim_row(p, q, 0.0), x, d)
                continue
            weights = q.alpha * self._weights(points, i, [k for k, _ in known])
            x = q.alpha / p.alpha * x + total(weights, [e for _, e in known])
        return build.finish(x)

    def _weights(self, points: Points, i: int, levels: list[int]) -> np.ndarray:
        """∫ L_j dκ over the step."""
        if self.space == "steps":
            width = points[i + 1].kappa - points[i].kappa
            return width * np.array(CONSTANT[len(levels)])
        return integral_weights(points, i, levels, self.space, "kappa")


@dataclass(frozen=True)
class GradientEstimation(Solver):
    """Gradient estimation: the velocity is overshot, v̄ = γ·v + (1 − γ)·v₋; γ = 1 is Euler."""

    path_invariant: ClassVar[bool] = False
    starts_at_pure_noise: ClassVar[bool] = False
    title: ClassVar[str] = "Gradient Estimation"
    aliases: ClassVar[tuple[str, ...]] = ("gradient_estimation", "GE")
    paper: ClassVar[str] = "Permenter & Yuan 2024 (arXiv 2306.04848), sec. 4"
    equals: ClassVar[str] = "ComfyUI gradient_estimation"
    gamma: float = knob(2.0, "γ: 1 is Euler, 1.5 Adams–Bashforth 2.", low=1.0, high=5.0, step=0.01)

    @classmethod
    def variants(cls) -> tuple[Solver, ...]:
        return (cls(), cls(1.0))

    def plan(self, points: Points) -> Plan:
        self._check(points)
        grid = points.host
        build = Builder(self, grid)
        x, last = build.start, Combo()
        for i, (p, q) in enumerate(grid.steps):
            x, d = build.advance(x, p, i)
            if q.sigma == 0:
                x = d
                continue
            v = (x - d) / p.sigma
            x = x + (q.sigma - p.sigma) * (
                v if i == 0 else self.gamma * v + (1 - self.gamma) * last
            )
            last = v
        return build.finish(x).on(points.path)
