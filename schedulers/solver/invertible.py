r"""Exactly invertible sampling: two-step methods whose step can be solved for the oldest of its three states.

With f = (x − D)/σ at level n, h = σ_{n+1} − σ_n and h₋ = σ_n − σ_{n−1}, in the host's coordinates (x0 + κ·ε, or flow's),

    BDIA     x_{n+1} = x_n + h·f + γ·(x_{n−1} − x_n + h₋·f)
    O-BELM   x_{n+1} = r²·x_{n−1} + (1 − r²)·x_n + h·(1 + r)·f ,  r = h/h₋

D is asked at x_n alone, so x_{n−1} follows from x_{n+1} and x_n, by the same formula: with h and h₋ exchanged O-BELM
is its own inverse, and BDIA with 1/γ for γ. A run up, and the way back from its last two states, so end where they
began, to rounding, whatever the network is. One state does not say what the other was: the way back goes on from
a state that was kept (``schedulers/turn_back.py``).

O-BELM has order 2; BDIA at γ = 1, which is the midpoint rule over two steps, too, where the steps change evenly; below
order 1. With μ = h·∂f/∂x ≤ 0 the second root of the recursion stays within the unit circle on the way down where

    BDIA     |μ| ≤ 2(1 − γ)/(1 + γ)          O-BELM   |μ| ≤ 2(1 − r)

(put z = −1 into its polynomial). For the data's small directions μ = h/σ: BDIA at γ = 1 amplifies what alternates from step
to step in every run, O-BELM in none whose levels fall by one factor, where |μ| = 1 − r: take spacings even in log σ. On
the way up, where steps grow, O-BELM's root is r²: what it finds is then farther from the ODE's noise, yet the way back
undoes it.

A root that does not shrink keeps every rounding: in float32 a state at σ = 80 is known to 5·10⁻⁶, and so would be the
picture. States are therefore float64 where the device has it (MPS has not); the network is asked in the run's dtype.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from ..noise import DrawNoise
from ..points import Points
from ..settings import knob
from .base import Solver
from .formula import Builder, Combo
from .plan import Plan
from .run import Program
from .state import State


@dataclass(frozen=True)
class Invertible(Solver):
    """Take it to edit a picture: a run up to noise and, after Turn Back, the way down again end in the same picture exactly,
    with one evaluation a step, and change it only where the condition changed.

    Use it with exponential levels. O-BELM weighs the two states by their steps; BDIA adds to Euler's step what the step from
    here back to the state before would miss it by, times γ. Rising levels take 1/γ, which undoes a run down with γ.
    """

    title: ClassVar[str] = "Invertible (BDIA, O-BELM)"
    aliases: ClassVar[tuple[str, ...]] = (
        "BDIA", "BELM", "O-BELM", "exact inversion", "invert", "editing", "EDICT", "unsampler",
    )  # fmt: skip
    paper: ClassVar[str] = (
        "Zhang et al. 2023 (BDIA, arXiv 2307.10829); Wang et al. 2024 (O-BELM, 2410.07273)"
    )
    equals: ClassVar[str] = (
        "the repositories of the two papers; neither ComfyUI nor diffusers has one"
    )
    method: str = knob(
        "o_belm", "o_belm: order 2, the more stable. bdia: as published first.", options=("o_belm", "bdia")
    )  # fmt: skip
    gamma: float = knob(
        1.0, "BDIA's γ; smaller damps, on the way down, what alternates from step to step.",
        low=0.05, high=1.0, step=0.01,
    )  # fmt: skip

    @property
    def order(self) -> int:
        return 2 if self.method == "o_belm" or self.gamma == 1 else 1

    def plan(self, points: Points) -> Plan:
        self._check(points)
        grid = points.host
        build = Builder(self, grid)
        gamma = 1 / self.gamma if grid.rising else self.gamma
        x, before = build.start, None
        for i, (p, q) in enumerate(grid.steps):
            x, d = build.advance(x, p, i)
            f, h = (x - d) / p.sigma, q.sigma - p.sigma
            if before is None or q.sigma == 0:  # to 0 the step is D, as every solver's
                x, before = x + h * f, x
                continue
            back = p.sigma - grid[i - 1].sigma
            x, before = self._next(x, before, f, h, back, gamma), x
        return build.finish(x).on(points.path)

    def steps(
        self, points: Points, state: State, noise: DrawNoise | None = None, level: int | None = None
    ) -> Program[State]:
        """The questions, in the dtype of the run; the state that is kept is wide, its x is not."""
        program, dtype = super().steps(points, widened(state), noise, level), state.x.dtype
        answer: Any = None
        while True:
            try:
                question: Any = program.send(answer)
            except StopIteration as end:
                return replace(end.value, arrived=end.value.x.to(dtype))
            if isinstance(question, tuple):
                y, ask = question
                answer = (yield y.to(dtype), ask).to(y.dtype)
            else:
                answer = yield question

    def _next(
        self, x: Combo, before: Combo, f: Combo, h: float, back: float, gamma: float
    ) -> Combo:
        if self.method == "bdia":
            return x + h * f + gamma * (before - x + back * f)
        r = h / back
        return r * r * before + (1 - r * r) * x + h * (1 + r) * f


def widened(state: State) -> State:
    """The state in float64, where its device has that."""
    if state.anchors[0].device.type == "mps":
        return state
    return replace(
        state,
        anchors=tuple(t.double() for t in state.anchors),
        history=tuple(t.double() for t in state.history),
        y=None if state.y is None else state.y.double(),
    )
