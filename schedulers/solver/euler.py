"""Euler's method, with EDM's churn or with ancestral noise."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from ..path import Path, Point
from ..points import Points
from ..settings import knob
from .base import Row, Solver, ddim_row, make_plan, one_evaluation_plan
from .plan import Plan, Stage


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

    def _raise(self, path: Path, p: Point, sigma: float, steps: int) -> tuple[Point, Row]:
        """The raised point p̂ and the move to it.

        γ = min(S_churn/N, √2 − 1) where S_tmin ≤ σ ≤ S_tmax; κ̂ = (1 + γ)κ and, in y = x/α,
        ŷ = y + S_noise·√(κ̂² − κ²)·z, which is right on every path. Pure noise cannot be raised.
        """
        gamma = min(self.churn / steps, math.sqrt(2) - 1)
        if gamma == 0 or p.alpha == 0 or not self.churn_from <= sigma <= self.churn_to:
            return p, Row(1.0, 0.0)
        hat = path.at(p.kappa * (1 + gamma))
        added = hat.alpha * math.sqrt(hat.kappa**2 - p.kappa**2)
        return hat, Row(hat.alpha / p.alpha, 0.0, self.noise * added)


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

    @classmethod
    def variants(cls) -> tuple[Solver, ...]:
        return (cls(), cls(20.0))

    def plan(self, points: Points) -> Plan:
        self._check(points)
        steps, stages, move = points.steps, [], Row(1.0, 0.0)
        for i, (p, q) in enumerate(steps):
            hat, lift = self._raise(points.path, p, points.host_sigma(i), len(steps))
            x, d = (lift.x * move.x,), (lift.x * move.d,) if i else ()
            stages.append(Stage(i, hat, x, d, lift.noise))
            move = ddim_row(hat, q, 0.0)
        if steps:
            stages.append(Stage(len(steps) - 1, steps[-1][1], (move.x,), (move.d,), evaluate=False))
        return make_plan(self, points.path, points[0], tuple(stages))


@dataclass(frozen=True)
class EulerAncestral(Solver):
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

    @classmethod
    def variants(cls) -> tuple[Solver, ...]:
        return (cls(), cls(0.5))

    def plan(self, points: Points) -> Plan:
        self._check(points)
        rows = [ddim_row(p, q, self.eta) for p, q in points.steps]
        rows = [Row(row.x, row.d, row.noise * self.noise) for row in rows]
        return one_evaluation_plan(self, points, rows)
