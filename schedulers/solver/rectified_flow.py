"""Rectified flow: Euler along the straight line between noise and data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..path import Flow
from ..points import Points
from ..settings import knob
from .base import Solver, ddim_row, one_evaluation_plan
from .plan import Plan


@dataclass(frozen=True)
class RectifiedFlow(Solver):
    """Euler on the velocity v = ε − x0: x' = x + (t' − t)·v, exact when trajectories are straight.

    Worked out in flow coordinates x = (1 − t)·x0 + t·ε and carried over to the model's own, so it
    runs on any model; there it takes the same steps as DDIM. η > 0 adds the matching noise.
    """

    title: ClassVar[str] = "Rectified Flow"
    aliases: ClassVar[tuple[str, ...]] = (
        "rectified flow",
        "flow matching",
        "FlowMatchEulerDiscreteScheduler",
        "reflow",
        "scheduler",
    )
    paper: ClassVar[str] = "Liu, Gong & Liu 2023 (arXiv 2209.03003), eq. 1"
    equals: ClassVar[str] = (
        "diffusers FlowMatchEulerDiscreteScheduler; ComfyUI euler on flow models"
    )
    eta: float = knob(
        0.0, "Noise strength: 0 is the ODE, 1 the reverse SDE.", low=0.0, high=1.0, step=0.001
    )

    @property
    def stochastic(self) -> bool:
        return self.eta > 0

    @classmethod
    def variants(cls) -> tuple[Solver, ...]:
        return (cls(), cls(1.0))

    def plan(self, points: Points) -> Plan:
        self._check(points)
        flow = points.on(Flow())
        rows = [ddim_row(p, q, self.eta) for p, q in flow.steps]
        return one_evaluation_plan(self, flow, rows).on(points.path)
