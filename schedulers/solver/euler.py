"""Euler's method, with EDM's churn."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from ..path import Point
from ..points import Points
from ..settings import knob
from .base import Solver
from .ddim import ddim_step
from .formula import Builder, Combo
from .plan import Plan


@dataclass(frozen=True)
class Churn(Solver):
    """Solvers that may raise the noise level a little before each step (EDM, alg. 2)."""

    churn: float = knob(
        0.0,
        "Total noise added over the run (S_churn); 0 is deterministic.",
        low=0.0,
        high=1000.0,
        step=0.1,
    )
    churn_from: float = knob(
        0.0, "Churn only at or above this σ (S_tmin).", low=0.0, high=1e5, step=0.01, advanced=True
    )
    churn_to: float = knob(
        1e5, "Churn only at or below this σ (S_tmax).", low=0.0, high=1e5, step=0.01, advanced=True
    )
    noise: float = knob(
        1.0, "Size of the added noise (S_noise).", low=0.0, high=2.0, step=0.001, advanced=True
    )

    @property
    def stochastic(self) -> bool:
        return self.churn > 0

    def _raise(
        self, build: Builder, x: Combo, p: Point, sigma: float, steps: int
    ) -> tuple[Point, Combo]:
        """The raised point p̂ and the state there, from x at p.

        γ = min(S_churn/N, √2 − 1) where S_tmin ≤ σ ≤ S_tmax; κ̂ = (1 + γ)κ and, in y = x/α,
        ŷ = y + S_noise·√(κ̂² − κ²)·z, which is right on every path. Pure noise cannot be raised.
        """
        gamma = min(self.churn / steps, math.sqrt(2) - 1)
        if gamma == 0 or p.alpha == 0 or not self.churn_from <= sigma <= self.churn_to:
            return p, x
        hat = build.points.path.at(p.kappa * (1 + gamma))
        added = hat.alpha * math.sqrt(hat.kappa**2 - p.kappa**2)
        y = hat.alpha / p.alpha * x
        return hat, y + self.noise * added * build.draw() if self.noise else y


@dataclass(frozen=True)
class Euler(Churn):
    """Euler's method on dx/dσ = (x − D)/σ, one evaluation per step, optionally with EDM's churn."""

    title: ClassVar[str] = "Euler"
    aliases: ClassVar[tuple[str, ...]] = (
        "euler",
        "EulerDiscreteScheduler",
        "EDM Euler",
        "scheduler",
    )
    paper: ClassVar[str] = "Karras et al. 2022 (arXiv 2206.00364), alg. 2 without its correction"
    equals: ClassVar[str] = (
        "ComfyUI and k-diffusion euler; diffusers EulerDiscreteScheduler; DDIM eta 0"
    )

    def plan(self, points: Points) -> Plan:
        self._check(points)
        build, steps = Builder(self, points), points.steps
        x = build.start
        for i, (p, q) in enumerate(steps):
            hat, x = self._raise(build, x, p, points.host_sigma(i), len(steps))
            x, d = build.advance(x, hat, i)
            x = build.take(ddim_step(hat, q), x, d)
        return build.finish(x)
