"""DDIM: the non-Markovian family between DDPM and the probability-flow ODE."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..points import Points
from ..settings import knob
from .base import Solver, ddim_row, one_evaluation_plan
from .plan import Plan


@dataclass(frozen=True)
class DDIM(Solver):
    """DDIM with its noise strength η as a knob: 0 is deterministic, 1 is DDPM.

    At η = 0 every step solves the probability-flow ODE exactly for a constant prediction, which makes
    it Euler's method in σ/α on any path.
    """

    title: ClassVar[str] = "DDIM"
    aliases: ClassVar[tuple[str, ...]] = ("DDIM", "ddim", "DDIMScheduler", "eta", "scheduler")
    paper: ClassVar[str] = "Song, Meng & Ermon 2021 (arXiv 2010.02502), eq. 12 and 16"
    equals: ClassVar[str] = "diffusers DDIMScheduler; eta 0: ComfyUI euler and ddim, DPM-Solver-1"
    eta: float = knob(
        0.0, "Noise strength: 0 deterministic, 1 as DDPM.", low=0.0, high=1.0, step=0.001
    )

    @property
    def stochastic(self) -> bool:
        return self.eta > 0

    @classmethod
    def variants(cls) -> tuple[Solver, ...]:
        return (cls(), cls(1.0), cls(0.4))

    def plan(self, points: Points) -> Plan:
        self._check(points)
        return one_evaluation_plan(
            self, points, [ddim_row(p, q, self.eta) for p, q in points.steps]
        )
