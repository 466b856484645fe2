"""Heun's method as in EDM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..points import Points
from .ddim import ddim_step
from .euler import Churn
from .formula import Builder
from .plan import Plan
from .runge_kutta import TABLEAUX, sigma_step


@dataclass(frozen=True)
class HeunEDM(Churn):
    """EDM's sampler: an Euler step, then the trapezoidal rule; the last step, to 0, is Euler alone.

    Integrates dx/dσ = (x − D)/σ in the coordinates of SIGMAS (κ for VP, sub-VP and VE, t for flow).
    Two evaluations per step but for the last.
    """

    title: ClassVar[str] = "Heun (EDM)"
    aliases: ClassVar[tuple[str, ...]] = (
        "heun",
        "EDM",
        "HeunDiscreteScheduler",
        "stochastic sampler",
        "scheduler",
    )
    paper: ClassVar[str] = "Karras et al. 2022 (arXiv 2206.00364), alg. 1 and 2"
    equals: ClassVar[str] = (
        "NVlabs/edm; ComfyUI and k-diffusion heun (its churn only off flow); diffusers HeunDiscreteScheduler, "
        "FlowMatchHeunDiscreteScheduler"
    )

    @property
    def order(self) -> int:
        return 2

    def nfe(self, steps: int) -> int:
        return 2 * steps - 1

    def plan(self, points: Points) -> Plan:
        self._check(points)
        build = Builder(self, points.host)
        x, steps = build.start, build.points.steps
        for i, (p, q) in enumerate(steps):
            hat, x = self._raise(build, x, p, p.sigma, len(steps))
            if q.sigma:
                x, _ = sigma_step(build, x, hat, q, i, TABLEAUX["heun"])
            else:
                x, d = build.advance(x, hat, i)
                x = build.take(ddim_step(hat, q), x, d)
        return build.finish(x).on(points.path)
