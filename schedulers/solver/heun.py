"""Heun's method as in EDM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..path import Point
from ..points import Points
from .base import Solver, make_plan
from .euler import Churn
from .plan import Plan, Stage


@dataclass(frozen=True)
class HeunEDM(Churn):
    """EDM's sampler: an Euler step, then the trapezoidal rule; the last step, to 0, is Euler alone.

    Integrates dx/dσ = (x − D)/σ in the coordinates of SIGMAS (κ for VP, sub-VP and VE, t for flow).
    Two evaluations per step but for the last.
    """

    order: ClassVar[int] = 2
    path_invariant: ClassVar[bool] = False
    starts_at_pure_noise: ClassVar[bool] = False
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

    def nfe(self, steps: int) -> int:
        return 2 * steps - 1

    @classmethod
    def variants(cls) -> tuple[Solver, ...]:
        return (cls(), cls(20.0, noise=1.003))

    def plan(self, points: Points) -> Plan:
        self._check(points)
        host = points.host
        steps, stages = host.steps, []
        x = 1.0
        d: tuple[float, ...] = ()
        for i, (p, q) in enumerate(steps):
            hat, lift = self._raise(host.path, p, p.sigma, len(steps))
            stages.append(Stage(i, hat, (lift.x * x,), tuple(lift.x * w for w in d), lift.noise))
            if q.sigma == 0:
                x, d = 0.0, (1.0,)
                continue
            ratio = q.sigma / hat.sigma
            stages.append(Stage(i, q, (ratio,), (1 - ratio,), commit=False))
            x, d = ratio, trapezoid(hat, q)
        if steps:
            stages.append(Stage(len(steps) - 1, steps[-1][1], (x,), d, evaluate=False))
        return make_plan(self, host.path, host[0], tuple(stages)).on(points.path)


def trapezoid(p: Point, q: Point) -> tuple[float, float]:
    """Weights of the new and the old D in x' = (σ'/σ)·x + w_new·D' + w_old·D.

    With δ = σ' − σ, x' = x + δ/2·[(x − D)/σ + (x_E − D')/σ'] and the Euler state
    x_E = (σ'/σ)·x + (1 − σ'/σ)·D.
    """
    delta = q.sigma - p.sigma
    return -delta / (2 * q.sigma), delta / 2 * (1 / q.sigma - 2 / p.sigma)
