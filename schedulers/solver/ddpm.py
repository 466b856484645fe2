"""DDPM: ancestral sampling of the reverse Markov chain."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from ..path import Point
from ..points import Points
from ..settings import knob
from .base import Solver, decay
from .formula import LinearStep, linear_plan
from .plan import Plan

VARIANCES = ("small", "large", "interpolated", "analytic")


@dataclass(frozen=True)
class DDPM(Solver):
    """Ancestral sampling: draw x' from the posterior q(x' | x, x0 = D) at every step.

    The chain the evidence lower bound is written for. It wants many steps (the whole training table
    for published quality); on fewer it is respaced and stays exact in its marginals for a point mass.
    """

    title: ClassVar[str] = "DDPM"
    aliases: ClassVar[tuple[str, ...]] = ("DDPM", "ddpm", "ancestral", "DDPMScheduler", "scheduler")
    paper: ClassVar[str] = (
        "Ho, Jain & Abbeel 2020, eq. 6-7; Nichol & Dhariwal 2021, eq. 15; Bao et al. 2022 (Analytic-DPM)"
    )
    equals: ClassVar[str] = (
        "diffusers DDPMScheduler (fixed_small, fixed_large); with the small variance also DDIM eta 1, "
        "ComfyUI euler_ancestral on models that are not flow, and SDE-DPM-Solver-1"
    )
    variance: str = knob(
        "small",
        "Noise per step: 'small' is exact for data at one point, 'large' for white-noise data, "
        "'interpolated' mixes their logarithms (the learned-range rule with a fixed mix), 'analytic' "
        "is exact for Gaussian data of deviation data_std.",
        options=VARIANCES,
    )
    mix: float = knob(
        0.5,
        "For 'interpolated': 0 is small, 1 is large.",
        low=0.0,
        high=1.0,
        step=0.01,
        advanced=True,
    )
    clip_x0: float = knob(
        0.0,
        "Limit every prediction to ±this value; 0 is off. 1 suits pixel models, latents have no such range.",
        low=0.0,
        high=1000.0,
        step=0.01,
    )
    data_std: float = knob(
        0.5,
        "For 'analytic': the data's standard deviation per value.",
        low=0.0,
        high=100.0,
        step=0.001,
        advanced=True,
    )

    @property
    def stochastic(self) -> bool:
        return True

    def plan(self, points: Points) -> Plan:
        self._check(points)
        return linear_plan(self, points, self._step, self.clip_x0)

    def _step(self, p: Point, q: Point) -> LinearStep:
        """Posterior mean (α'/α)e^{−2h}·x + α'(1 − e^{−2h})·D, written so that α = 0 stays finite."""
        squared = decay(p, q) ** 2
        mean_x = p.alpha / q.alpha * (q.sigma / p.sigma) ** 2
        return LinearStep(mean_x, q.alpha * (1 - squared), math.sqrt(self._variance(p, q)))

    def _variance(self, p: Point, q: Point) -> float:
        """small β̃ = σ'²(1 − e^{−2h}); large β = σ² − (α/α')²σ'²; no noise on arrival at σ' = 0."""
        if q.sigma == 0:
            return 0.0
        small = q.sigma**2 * (1 - decay(p, q) ** 2)
        large = p.sigma**2 - (p.alpha / q.alpha * q.sigma) ** 2
        if self.variance == "analytic":  # Bao et al. 2022: β̃ + (weight of D)²·Var(x0 | x)
            spread = (self.data_std * p.sigma) ** 2 / ((self.data_std * p.alpha) ** 2 + p.sigma**2)
            return small + (q.alpha * (1 - decay(p, q) ** 2)) ** 2 * spread
        share = {"small": 0.0, "large": 1.0, "interpolated": self.mix}[self.variance]
        return float(small ** (1 - share) * large**share)
