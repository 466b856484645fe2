"""Inverse problems: a prediction that agrees with a measurement y = A·x0 + noise."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ..per_image import norm, ratio
from ..settings import knob, wire
from .base import Call, Scaled, curve_knob
from .curve import Curve
from .level import Level
from .measurement import Measurement


class Reconstruction(Scaled):
    """Base class: what to do with the residual is the subclass's."""

    neutral: ClassVar[float] = 0.0
    measurement: Measurement | None

    def measured(self) -> Measurement:
        if self.measurement is None:
            raise ValueError(f"{self.title}: connect a MEASUREMENT")
        return self.measurement


def measurement_wire() -> Measurement | None:
    field: Measurement | None = wire("MEASUREMENT", "What is known of the picture.")
    return field


def posterior_variance(at: Level, data_std: float) -> float:
    """Var[x0 | x] for data of standard deviation s: s²κ²/(s² + κ²), finite for every κ."""
    p, s2 = at.point, data_std**2
    return s2 * p.sigma**2 / (s2 * p.alpha**2 + p.sigma**2)


@dataclass(frozen=True)
class DDNM(Reconstruction):
    """DDNM: replace what was measured, keep what the measurement cannot see. No gradient, no extra call.

    D ← D + s·A⁺(y − A·D); with s = 1, A·D = y afterwards, exactly for inpainting, super-resolution,
    colourisation and the frequencies a blur leaves. With noise (σ_y > 0) A⁺ becomes
    Aᵀ(AAᵀ + σ_y²/r²)⁻¹, r² = κ²/(1 + κ²), which trusts y less towards the end (not the paper's DDNM+).
    Put it last.
    """

    title: ClassVar[str] = "DDNM"
    aliases: ClassVar[tuple[str, ...]] = ("ddnm", "inpainting", "super-resolution", "null space")
    paper: ClassVar[str] = "Wang, Yu & Zhang 2023 (arXiv 2212.00490)"
    scale: float = knob(1.0, "s: 0 is off, 1 exact.", low=0.0, high=1.0, step=0.01)
    measurement: Measurement | None = measurement_wire()
    curve: Curve = curve_knob()

    def apply(self, d: Tensor, call: Call) -> Tensor:
        m, variance = self.measured(), posterior_variance(call.level, 1.0)
        return d + m.pull(m.residual(d), variance) * (variance * self.weight(call.level))


class ThroughModel(Reconstruction):
    """Base of rules with a gradient through the model. At α = 0 x says nothing about x0: off.

    They use J = ∂D/∂x of the chain's D so far; (σ²/α)·J is the covariance of x0 given x (Tweedie).
    """

    gradient: ClassVar[bool] = True

    def active(self, at: Level) -> bool:
        return at.point.alpha > 0 and super().active(at)


@dataclass(frozen=True)
class DPS(ThroughModel):
    r"""DPS: down the gradient of the residual ρ = ‖y − A·D(x)‖, for measurements with or without noise.

    steps: the paper's, which takes ζ·∇_x ρ from the state after every step, on VP. A DDIM step moves by
    α'(1 − κ'/κ)·ΔD, so that is D ← D − ζ·∇_x ρ/(α'(1 − κ'/κ)), exactly so on DDIM and Euler; its strength
    grows with the number of steps: about 0.3 for hundreds (the paper makes 1000), 1 for 40, 3 for 8.
    drift: D ← D − ζ·(σ²/α)·∇_x ρ² = D + 2ζ·Cov·Aᵀ(y − A·D) with Cov the posterior covariance of x0: a
    likelihood of variance 1/2ζ, the same for every solver, path and number of steps.
    Costs a backward pass of the model (together about three evaluations) and its memory.
    """

    title: ClassVar[str] = "DPS"
    aliases: ClassVar[tuple[str, ...]] = ("dps", "diffusion posterior sampling")
    paper: ClassVar[str] = "Chung et al. 2023 (arXiv 2209.14687)"
    scale: float = knob(1.0, "ζ: 0 is off.", low=0.0, high=1e6, step=0.01)
    form: str = knob(
        "steps", "steps: the paper's; drift: as a likelihood.", options=("steps", "drift")
    )
    measurement: Measurement | None = measurement_wire()
    curve: Curve = curve_knob()

    def apply(self, d: Tensor, call: Call) -> Tensor:
        m, zeta = self.measured(), self.weight(call.level)
        residual = m.residual(d.detach())
        down = call.vjp(d, m.operator.adjoint(residual))  # −½·∇_x ρ²
        if self.form == "drift":
            return d + down * (2 * zeta * call.sigma**2 / call.alpha)
        # From the host's x to VP's x/n, n² = α² + σ²: ∇ there is n·∇ here, and α' there is α'/n'.
        p, q = call.level.point, call.level.ahead(self.title)
        n, n_ahead = (math.hypot(r.alpha, r.sigma) for r in (p, q))
        length = zeta * n * n_ahead / (q.alpha * call.level.share(self.title))
        return d + ratio(down, norm(residual)) * length


@dataclass(frozen=True)
class PiGDM(ThroughModel):
    """ΠGDM: the likelihood's gradient with a Gaussian guess of what x leaves open about x0.

    D ← D + s·(σ²/α)·Jᵀ·Aᵀ(r²·AAᵀ + σ_y²)⁻¹(y − A·D), J = ∂D/∂x, r² = s_d²κ²/(s_d² + κ²) for data of
    standard deviation s_d. s = 1 is exact for Gaussian data of that deviation. Costs a backward pass of
    the model (together about three evaluations) and its memory.
    """

    title: ClassVar[str] = "ΠGDM"
    aliases: ClassVar[tuple[str, ...]] = ("pgdm", "pigdm", "pseudoinverse guidance")
    paper: ClassVar[str] = "Song et al. 2023 (ICLR, Pseudoinverse-guided diffusion models)"
    scale: float = knob(1.0, "s: 0 is off.", low=0.0, high=100.0, step=0.01)
    measurement: Measurement | None = measurement_wire()
    data_std: float = knob(
        1.0, "s_d: standard deviation of the data.", low=0.01, high=100.0, step=0.01
    )
    curve: Curve = curve_knob()

    def apply(self, d: Tensor, call: Call) -> Tensor:
        m, variance = self.measured(), posterior_variance(call.level, self.data_std)
        pull = m.pull(m.residual(d.detach()), variance)
        return d + call.vjp(d, pull) * (self.weight(call.level) * call.sigma**2 / call.alpha)
