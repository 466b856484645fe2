"""Adams methods that are exact for Gaussian data: EDM's preconditioning, done by the solver.

For data N(μ, s²) the trajectories of the probability-flow ODE are known. With N² = s²α² + σ², the
variance of x, and the angle θ = arctan(σ/(sα)) (θ = π/2 at pure noise, 0 at the data) put

    u = x/N,    R = D − (s²α/N²)·x,    du/dθ = −R/(s·sinθ).

(In y = x/α, κ = σ/α = s·tanθ the ODE is dy/dκ = (y − D)/κ, and u = y·cosθ/s; differentiate.) R is what D
differs by from the Gaussian guess with μ = 0, and two scalings of it are slow functions of θ:

    network   F = R/(s·sinθ)     du = −F dθ              F is the output of a network preconditioned as in
                                                         EDM, or TrigFlow's velocity; 0 if μ = 0
    mean      M = R/sin²θ        du = −M·(sinθ/s) dθ     M is the mean μ that would explain D; always μ
                                                         for N(μ, s²)

An Adams method extrapolates F or M by the polynomial through its last values and integrates that
exactly: predictor (Bashforth), and corrector (Moulton) once the next value is known, which costs no
evaluation. s → 0 is data prediction (R = D: DPM-Solver++, UniP), and s → ∞ with F noise prediction (F = −ε:
DEIS).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..noise_schedule import Array
from ..path import Point
from ..points import Points
from ..settings import knob
from .ddim import ddim_step
from .formula import Builder, Combo, total
from .multistep import (
    MOST_NODES,
    Multistep,
    coordinate_knob,
    lower_order_early_knob,
    lower_order_knob,
)
from .plan import Plan
from .weights import COORDINATES, NODES, WEIGHTS, lagrange, quadrature


@dataclass(frozen=True)
class GaussianAdams(Multistep):
    """Adams predictor and corrector on what differs from Gaussian data, one evaluation per step.

    Exact in any number of falling steps for data N(μ, prior²): for every μ with residual 'mean', for μ = 0 with
    'network'. Where the data lie near a plane, as images do, the prior that errs least goes with their deviation
    along it, √(Tr C²/Tr C) of their covariance C: about a third of that with corrector, more without. Below eight
    steps take coordinate 'index' without corrector.
    """

    title: ClassVar[str] = "Gaussian Adams"
    aliases: ClassVar[tuple[str, ...]] = (
        "adams moulton", "preconditioned adams", "EDM preconditioning", "TrigFlow", "predictor corrector", "scheduler",
    )  # fmt: skip
    paper: ClassVar[str] = (
        "This pack; from Karras et al. 2022 (preconditioning, arXiv 2206.00364), Lu & Song 2024 (TrigFlow, "
        "2410.11081), Zhao et al. 2023 (free corrector, 2302.04867)"
    )
    equals: ClassVar[str] = (
        "as prior → 0: UniP and DPM-Solver++ with exact weights; as prior → ∞ with residual network: DEIS"
    )

    prior: float = knob(
        1.0,
        "Standard deviation of the data along their main directions, in the units of the latent or the "
        "pixel values; 0.001 is as good as data prediction.",
        low=1e-6,
        high=1e6,
        step=0.001,
    )
    predictor: int = knob(3, "Values that the predictor combines.", low=1, high=4)
    corrector: int = knob(
        4, "Values that the corrector combines, the new one included; 0 for none.", low=0, high=4
    )
    residual: str = knob(
        "mean",
        "What is extrapolated: 'mean' is the data's mean, as D tells it; 'network' is EDM's output.",
        options=("mean", "network"),
    )
    coordinate: str = coordinate_knob()
    lower_order_final: bool = lower_order_knob()
    lower_order_early: bool = lower_order_early_knob(
        "with ends by rule; where few levels go down to the schedule's smallest it errs more."
    )

    def nodes(self, left: int = MOST_NODES) -> tuple[int, int]:
        return min(self.predictor, left), min(self.corrector, left + 1)

    def plan(self, points: Points) -> Plan:
        self._check(points)
        build = Builder(self, points)
        x, predicted = build.start, Combo()
        past: list[tuple[int, Combo]] = []
        for i, (p, q) in enumerate(points.steps):
            x, d = build.advance(x, p, i)
            new = (i, self._value(p, x, d))
            if i:
                x = self._mend(build, x, i, [new, *past], predicted)
            if q.sigma == 0:
                x = d
                continue
            past = [new, *past][: self.memory]
            count = self._predicting(build, x, i, past)
            if count:
                predicted = self._change(points, i, past[:count])
                x = self._deviation(q) * (x / self._deviation(p) + predicted)
            else:
                end = build.take(ddim_step(p, q), x, d)
                predicted = end / self._deviation(q) - x / self._deviation(p)
                x = end
        return build.finish(x)

    def _mend(
        self, build: Builder, x: Combo, i: int, values: list[tuple[int, Combo]], predicted: Combo
    ) -> Combo:
        """x at level i, its step changed from ``predicted`` to what ``values`` say, the newest one at i."""

        def corrected(count: int) -> Combo:
            change = self._change(build.points, i - 1, values[:count]) - predicted
            return x + self._deviation(build.points[i]) * change

        most = self._correcting(build.points, i - 1, values[1:])
        count = build.highest(most, lambda alone, n: alone.holds(corrected(n), i))
        return corrected(count) if count else x

    def _predicting(self, build: Builder, x: Combo, i: int, past: list[tuple[int, Combo]]) -> int:
        """How many values predict step i → i + 1 from x; 0: Euler's step (see ``rising.py``)."""
        p, q = build.points.steps[i]

        def holds(alone: Builder, count: int) -> bool:
            predicted = self._change(alone.points, i, past[:count])
            y = self._deviation(q) * (x / self._deviation(p) + predicted)
            if alone.holds(y, i + 1):
                return True
            if not self.corrector or i + 2 >= len(alone.points):
                return False
            y, d = alone.advance(y, q, i + 1)
            values = [(i + 1, self._value(q, y, d)), *past]
            return alone.holds(self._mend(alone, y, i + 1, values, predicted), i + 1)

        most = self.nodes(self._left(build.points, i))[0]
        return build.highest(min(most, len(past)), holds)

    def _change(self, points: Points, i: int, values: list[tuple[int, Combo]]) -> Combo:
        """Change of u in step i → i + 1."""
        weights = self._weights(points, i, [k for k, _ in values])
        return total(weights, [v for _, v in values])

    def _deviation(self, p: Point) -> float:
        """N, the standard deviation of x."""
        return math.hypot(self.prior * p.alpha, p.sigma)

    def _value(self, p: Point, x: Combo, d: Combo) -> Combo:
        """M or F at x, where the prediction is d."""
        n = self._deviation(p)
        scale = p.sigma**2 if self.residual == "mean" else self.prior * p.sigma * n
        return (n**2 * d - self.prior**2 * p.alpha * x) / scale

    def _weights(self, points: Points, i: int, levels: list[int]) -> Array:
        """∫ L_j·(sinθ/s) dθ for M, ∫ L_j dθ for F, from level i + 1 to level i."""
        start, end = (math.atan2(q.sigma, self.prior * q.alpha) for q in (points[i], points[i + 1]))
        theta = (start + end) / 2 - NODES * (start - end) / 2
        density = np.sin(theta) / self.prior if self.residual == "mean" else np.ones_like(theta)
        density *= (start - end) / 2
        if self.coordinate == "index":  # u's own measure is even in the index
            ahead = lagrange([float(k - i) for k in levels], (NODES + 1) / 2)
            return np.asarray(ahead @ WEIGHTS / 2 * (density @ WEIGHTS))
        at = COORDINATES[self.coordinate](points.path, self.prior * np.tan(theta))
        return quadrature(points, i, levels, self.coordinate, at, density)
