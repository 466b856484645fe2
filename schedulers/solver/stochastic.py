"""Further stochastic solvers: ER-SDE, score-SDE Euler–Maruyama, LCM-style renoising."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..path import Point
from ..points import Points
from ..settings import knob
from .base import Solver, decay, regular
from .ddim import ddim_step
from .formula import Builder, Combo, LinearStep, linear_plan, total
from .plan import Plan
from .weights import NODES, WEIGHTS

#: A level κ and D there.
Known = tuple[float, Combo]

#: φ(κ) of the extended reverse-time SDE, as log φ: how much of the old noise is kept.
NOISE_SCALES: dict[str, Callable[[float], float]] = {
    "er_sde": lambda kappa: math.log(kappa) + float(np.logaddexp(kappa**0.3, math.log(10))),
    "reverse_sde": lambda kappa: 2 * math.log(kappa),
    "ode": lambda kappa: math.log(kappa),
}


@dataclass(frozen=True)
class ERSDE(Solver):
    """ER-SDE: the extended reverse-time SDE with a noise scale φ(κ), order 1 to 3 by differences of D.

    With r = φ(κ')/φ(κ): y' = r·y + (1 − r)·D + … + √(κ'² − r²κ²)·z in y = x/α. φ = κ is the ODE, φ = κ²
    the reverse SDE, and the paper's choice κ(e^{κ^0.3} + 10) lies between.
    """

    title: ClassVar[str] = "ER-SDE"
    aliases: ClassVar[tuple[str, ...]] = ("er_sde", "SamplerER_SDE", "ER-SDE-Solver")
    paper: ClassVar[str] = "Cui et al. 2023 (arXiv 2309.06169), alg. 1-3"
    equals: ClassVar[str] = (
        "ComfyUI er_sde (which sums the integrals with 200 points; here Gauss–Legendre)"
    )
    max_order: int = knob(3, "Predictions that are combined.", low=1, high=3)
    scale: str = knob("er_sde", "Noise scale φ(κ).", options=tuple(NOISE_SCALES))
    noise: float = knob(1.0, "Size of the noise.", low=0.0, high=2.0, step=0.001, advanced=True)

    @property
    def order(self) -> int:
        return 1 if self.stochastic else min(self.max_order, 2)

    @property
    def stochastic(self) -> bool:
        return self.scale != "ode" and self.noise > 0

    def plan(self, points: Points) -> Plan:
        self._check(points)
        build = Builder(self, points)
        x = build.start
        past: list[Known] = []
        for i, (p, q) in enumerate(points.steps):
            x, d = build.advance(x, p, i)
            if q.sigma == 0:
                x = d
                continue
            past = [(p.kappa, d), *past][: self.max_order]
            used = [k for k in past if math.isfinite(k[0])] or past[:1]
            x = self._step(build, p, q, x, used[: max(1, self._highest(build, x, i, used))])
        return build.finish(x)

    def _highest(self, build: Builder, x: Combo, i: int, past: list[Known]) -> int:
        """How many of the ``past`` predictions step i → i + 1 from x combines (see ``rising.py``)."""
        p, q = build.points.steps[i]
        return build.highest(
            len(past), lambda at, n: at.holds(self._step(at, p, q, x, past[:n]), i + 1)
        )

    def _step(self, build: Builder, p: Point, q: Point, x: Combo, past: list[Known]) -> Combo:
        """y' = r·y + (1 − r)·D + A₁·D' + A₂·D'' + noise, derivatives in κ by divided differences."""
        kept, integrals = self._coefficients(p, q)
        size = math.sqrt(max(q.sigma**2 - (q.alpha * kept * p.kappa) ** 2, 0)) if p.alpha else 0.0
        if p.alpha == 0:  # r·x/α → κ'·ε for φ = κ, and to 0 for the others
            y = (q.sigma if self.scale == "ode" else 0.0) * x + q.alpha * past[0][1]
            size = 0.0 if self.scale == "ode" else q.sigma
        else:
            y = q.alpha * kept / p.alpha * x + q.alpha * (1 - kept) * past[0][1]
            slopes = divided_differences(past)
            y = y + q.alpha * total(integrals[: len(slopes)], slopes)
        return y + self.noise * size * build.draw() if self.stochastic and size else y

    def _coefficients(self, p: Point, q: Point) -> tuple[float, tuple[float, float]]:
        """r, and A₁ = κ' − κ + φ'∫du/φ, A₂ = ½(κ' − κ)² + φ'∫(u − κ)du/φ over u from κ' to κ."""
        if p.alpha == 0:
            return 0.0, (0.0, 0.0)
        log_phi, a, b = NOISE_SCALES[self.scale], q.kappa, p.kappa
        u = a * (b / a) ** ((NODES + 1) / 2)  # Gauss–Legendre in log u
        weight = WEIGHTS / 2 * math.log(b / a) * u
        ratio = np.exp([log_phi(a) - log_phi(float(v)) for v in u])
        first = a - b + float(weight @ ratio)
        second = (a - b) ** 2 / 2 + float(weight @ (ratio * (u - b)))
        return math.exp(log_phi(a) - log_phi(b)), (first, second)


def divided_differences(past: list[Known]) -> list[Combo]:
    """[D', D''] in κ at the newest node, from up to three values."""
    if len(past) == 1:
        return []
    (k0, d0), (k1, d1), *rest = past
    first = (d0 - d1) / (k0 - k1)
    if not rest:
        return [first]
    k2, d2 = rest[0]
    second = (first - (d1 - d2) / (k1 - k2)) / ((k0 - k2) / 2)
    return [first, second]


@dataclass(frozen=True)
class EulerMaruyama(Solver):
    """Euler–Maruyama on the reverse-time SDE of the variance-exploding process, in time κ².

    y' = y + (κ² − κ'²)·∇log p + √(κ² − κ'²)·z with ∇log p = (D − y)/κ², carried to the model's path;
    the same step as DDPM with the large variance on a VE model. A step from pure noise is DDPM's.
    """

    title: ClassVar[str] = "Euler-Maruyama (score SDE)"
    aliases: ClassVar[tuple[str, ...]] = (
        "score SDE",
        "reverse SDE",
        "euler maruyama",
        "ScoreSdeVeScheduler",
    )
    paper: ClassVar[str] = "Song et al. 2021 (arXiv 2011.13456), eq. 6 and app. E"
    equals: ClassVar[str] = "diffusers ScoreSdeVe without its corrector"
    noise: float = knob(1.0, "Size of the noise.", low=0.0, high=2.0, step=0.001, advanced=True)

    @property
    def stochastic(self) -> bool:
        return True

    def plan(self, points: Points) -> Plan:
        self._check(points)
        return linear_plan(self, points, self._step)

    def _step(self, p: Point, q: Point) -> LinearStep:
        step = reverse_sde_step(p, q)
        return step._replace(noise=step.noise * self.noise)


def reverse_sde_step(p: Point, q: Point) -> LinearStep:
    """Euler–Maruyama from p to q in time κ²; DDPM's step from pure noise and to 0."""
    if not regular(p, q):
        return ddim_step(p, q, 1.0)
    squared = decay(p, q) ** 2
    mean_x = p.alpha / q.alpha * (q.sigma / p.sigma) ** 2
    return LinearStep(mean_x, q.alpha * (1 - squared), q.alpha * p.kappa * math.sqrt(1 - squared))


@dataclass(frozen=True)
class LCM(Solver):
    """Predict x0, then noise it afresh to the next level: multistep sampling of consistency models.

    x' = α'·D + σ'·z. For models distilled to jump to the end in one step; on an ordinary model the
    spread of the result is too small at any number of steps.
    """

    title: ClassVar[str] = "LCM (renoise)"
    aliases: ClassVar[tuple[str, ...]] = ("lcm", "LCMScheduler", "consistency model", "SamplerLCM")
    paper: ClassVar[str] = "Song et al. 2023 (arXiv 2303.01469), alg. 1; Luo et al. 2023 (LCM)"
    equals: ClassVar[str] = (
        "ComfyUI lcm; diffusers LCMScheduler, FlowMatchEuler with stochastic_sampling"
    )

    @property
    def order(self) -> int:
        return 0

    @property
    def stochastic(self) -> bool:
        return True

    def plan(self, points: Points) -> Plan:
        self._check(points)
        return linear_plan(self, points, lambda p, q: LinearStep(0.0, q.alpha, q.sigma))
