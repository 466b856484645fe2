"""Adams–Bashforth families: the velocity or the noise extrapolated from earlier steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..noise_schedule import Array
from ..path import Point
from ..points import Points
from ..settings import knob
from .base import Solver
from .formula import Builder, Combo, total
from .multistep import (
    Multistep,
    coordinate_knob,
    lower_order_early_knob,
    lower_order_knob,
    start_knob,
)
from .plan import Plan
from .runge_kutta import TABLEAUX, sigma_stages
from .weights import integral_weights

#: Adams–Bashforth weights for equal steps, newest first.
CONSTANT = {
    1: (1.0,),
    2: (3 / 2, -1 / 2),
    3: (23 / 12, -16 / 12, 5 / 12),
    4: (55 / 24, -59 / 24, 37 / 24, -9 / 24),
    5: (1901 / 720, -2774 / 720, 2616 / 720, -1274 / 720, 251 / 720),
    6: (4277 / 1440, -7923 / 1440, 9982 / 1440, -7298 / 1440, 2877 / 1440, -475 / 1440),
}
STARTERS = {2: "midpoint", 3: "heun3", 4: "rk4", 5: "dormand_prince", 6: "dormand_prince"}


@dataclass(frozen=True)
class AdamsBashforth(Multistep):
    """iPNDM and its relatives: x' = x + Σ w_j·v_j with earlier velocities v = (x − D)/σ.

    'constant' uses the weights for equal steps whatever the steps are (iPNDM; its order is 2 at most,
    yet it is among the best below ten evaluations); 'variable' integrates the polynomial through the
    velocities exactly (iPNDM-v, linear multistep). Constant weights of orders 5 and 6 lose in few steps: 0.13 and 0.4 in 10 and
    0.0059 and 0.16 in 20, where order 3 errs 0.008 and 0.0013 (VE of docs/solvers.md). 'variable' of order 6 is as good as 4 there, and errs 0.88 for 0.076 in 10 steps on flow.
    """

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
    max_order: int = knob(3, "Velocities that are combined: 1 is Euler.", low=1, high=6)
    weights: str = knob(
        "constant", "For equal steps, or for the real ones.", options=("constant", "variable")
    )
    coordinate: str = coordinate_knob("sigma", " Only for 'variable'.")
    start: str = start_knob()

    @property
    def second_order(self) -> bool:
        return self.weights == "constant" or super().second_order

    def _grid(self, points: Points) -> Points:
        return points.host

    def _value(self, p: Point, x: Combo, d: Combo) -> Combo:
        return (x - d) / p.sigma

    def _move(
        self, build: Builder, i: int, x: Combo, values: Sequence[Combo], weights: Array
    ) -> Combo:
        return x + total(weights, values)

    def _startable(self, p: Point) -> bool:
        return True

    def _start(self, build: Builder, x: Combo, d: Combo, i: int) -> Combo:
        p, q = build.points[i], build.points[i + 1]
        return sigma_stages(build, x, d, p, q, i, TABLEAUX[STARTERS[self.memory]])

    def _start_stages(self) -> int:
        return len(TABLEAUX[STARTERS[self.memory]].c)

    def _weights(self, points: Points, i: int, levels: list[int]) -> Array:
        """∫ L_j dσ over the step."""
        if self.weights == "constant":
            return (points[i + 1].sigma - points[i].sigma) * np.array(CONSTANT[len(levels)])
        return integral_weights(points, i, levels, self.coordinate)


@dataclass(frozen=True)
class DEIS(Multistep):
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
        "lambda: diffusers DEISMultistep (logrho; below 15 steps with lower_order_final); time: ComfyUI deis to 1e-4 (its time is fitted to "
        "σ 0.002-80); steps: PNDM's PLMS with low-order start"
    )
    max_order: int = knob(3, "Noise predictions that are combined: 1 is DDIM.", low=1, high=4)
    space: str = knob(
        "time", "Variable of the polynomial.", options=("time", "kappa", "lambda", "steps")
    )

    start: str = start_knob()
    lower_order_final: bool = lower_order_knob()
    lower_order_early: bool = lower_order_early_knob()

    @property
    def second_order(self) -> bool:
        return self.space == "steps" or super().second_order

    def _value(self, p: Point, x: Combo, d: Combo) -> Combo:
        return (x - p.alpha * d) / p.sigma

    def _weights(self, points: Points, i: int, levels: list[int]) -> Array:
        """∫ L_j dκ over the step."""
        if self.space == "steps":
            width = points[i + 1].kappa - points[i].kappa
            return width * np.array(CONSTANT[len(levels)])
        return integral_weights(points, i, levels, self.space, "kappa")

    def _move(
        self, build: Builder, i: int, x: Combo, values: Sequence[Combo], weights: Array
    ) -> Combo:
        p, q = build.points[i], build.points[i + 1]
        return q.alpha / p.alpha * x + total(q.alpha * weights, values)


@dataclass(frozen=True)
class GradientEstimation(Solver):
    """Gradient estimation: the velocity is overshot, v̄ = γ·v + (1 − γ)·v₋; γ = 1 is Euler."""

    title: ClassVar[str] = "Gradient Estimation"
    aliases: ClassVar[tuple[str, ...]] = ("gradient_estimation", "GE")
    paper: ClassVar[str] = "Permenter & Yuan 2024 (arXiv 2306.04848), sec. 4"
    equals: ClassVar[str] = "ComfyUI gradient_estimation"
    gamma: float = knob(2.0, "γ: 1 is Euler, 1.5 Adams–Bashforth 2.", low=1.0, high=5.0, step=0.01)

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
            overshot = x + (q.sigma - p.sigma) * (self.gamma * v + (1 - self.gamma) * last)
            held = i > 0 and build.holds(overshot, i + 1, 1.0)  # order 1 wins nothing above 1
            x, last = overshot if held else x + (q.sigma - p.sigma) * v, v
        return build.finish(x).on(points.path)
