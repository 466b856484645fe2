"""DDIM: the non-Markovian family between DDPM and the probability-flow ODE, and what it is called elsewhere."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from ..path import Flow, Point
from ..points import Points
from ..settings import knob
from .base import Solver, decay
from .formula import LinearStep, linear_plan
from .plan import Plan


def ddim_step(p: Point, q: Point, eta: float = 0.0) -> LinearStep:
    """DDIM(η) from p to q (Song, Meng & Ermon 2021, eq. 12 and 16).

    x' = α'D + √(σ'² − s²)·ε + s·z with ε = (x − αD)/σ and s = η·σ'·√(1 − (κ'/κ)²), at most σ'.
    η = 0 is the exact ODE step for constant D; η = 1 is DDPM with the small variance.
    """
    s = min(eta * q.sigma * math.sqrt(max(1 - decay(p, q) ** 2, 0)), q.sigma) if eta else 0.0
    kept = math.sqrt(q.sigma**2 - s**2)
    return LinearStep(kept / p.sigma, q.alpha - p.alpha * kept / p.sigma, s)


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

    def plan(self, points: Points) -> Plan:
        self._check(points)
        return linear_plan(self, points, self._step)

    def _step(self, p: Point, q: Point) -> LinearStep:
        return ddim_step(p, q, self.eta)


@dataclass(frozen=True)
class EulerAncestral(DDIM):
    """Euler down to a lower noise level, then fresh noise back up to the next one.

    In y = x/α this is DDIM(η), which is how it is worked out here: η = 1 is DDPM on VP, VE and flow.
    """

    title: ClassVar[str] = "Euler Ancestral"
    aliases: ClassVar[tuple[str, ...]] = (
        "euler_ancestral",
        "euler a",
        "EulerAncestralDiscreteScheduler",
        "SamplerEulerAncestral",
        "scheduler",
    )
    paper: ClassVar[str] = "k-diffusion; equal to DDIM (Song, Meng & Ermon 2021), eq. 16"
    equals: ClassVar[str] = (
        "ComfyUI and k-diffusion euler_ancestral except on flow models, where ComfyUI's rule is another"
    )
    eta: float = knob(
        1.0, "Share of the noise that is replaced at each step.", low=0.0, high=1.0, step=0.01
    )
    noise: float = knob(
        1.0, "Size of the fresh noise.", low=0.0, high=2.0, step=0.001, advanced=True
    )

    @property
    def stochastic(self) -> bool:
        return self.eta > 0 and self.noise > 0

    def _step(self, p: Point, q: Point) -> LinearStep:
        step = super()._step(p, q)
        return step._replace(noise=step.noise * self.noise)


@dataclass(frozen=True)
class RectifiedFlow(DDIM):
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

    def plan(self, points: Points) -> Plan:
        return super().plan(points.on(Flow())).on(points.path)
