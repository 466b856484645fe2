"""Predictions: what a network outputs, and how it becomes x0. Nothing else knows about this.

With x = α·x0 + σ·ε every prediction is a linear function of (x0, x), so one table of two pairs per
kind says everything: x0 = a·x + b·out and, inverted, out = c·x + d·x0.

=========  ==================================  =========================  ==============
kind       the network outputs                 x0                         valid on
=========  ==================================  =========================  ==============
eps        ε                                   (x − σ·out)/α              any path, α > 0
v          α·ε − σ·x0 (Salimans & Ho 2022)     α·x − σ·out                VP
x0         x0                                  out                        any path
flow       ε − x0 (velocity of the flow)       (x − σ·out)/(α + σ)        any path
edm        F, D = c_skip·x + c_out·F           c_skip·x + c_out·out       any path
score      ∇log p(x) = −ε/σ                    (x + σ²·out)/α             any path, α > 0
=========  ==================================  =========================  ==============

flow: out = ε − x0 and x = α·x0 + σ·ε give x − σ·out = (α + σ)·x0, so x0 = (x − σ·out)/(α + σ);
on rectified flow α + σ = 1 and it reads x − σ·out, at every t including t = 1.

The v identity: diffusers' ``get_velocity(sample=v, noise=x_t)`` computes α·x_t − σ·v, which is
(α² + σ²)·x0 = x0 on VP. CogVideo uses it to turn the network's v back into x0; it is the ``v`` row
here, and holds on VP only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from .path import VE, VP, Flow, Path, coefficients

KINDS = ("eps", "v", "x0", "flow", "edm", "score")

Number = float | Tensor


@dataclass(frozen=True)
class Prediction:
    """A prediction kind; ``sigma_data`` is used by ``edm`` only (Karras et al. 2022, table 1)."""

    kind: str
    sigma_data: float = 0.5

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"prediction {self.kind!r}: choose one of {', '.join(KINDS)}")

    def to_x0(self, out: Tensor, x: Tensor, alpha: Number, sigma: Number) -> Tensor:
        """x0 from the network's output at x = α·x0 + σ·ε (floats, or tensors that broadcast).

        Raises ValueError where the kind says nothing about x0: eps and score at α = 0.
        """
        if self.kind in ("eps", "score") and not isinstance(alpha, Tensor) and alpha == 0:
            raise ValueError(
                f"a {self.kind} network says nothing about x0 at pure noise (α = 0): use v, x0 or flow "
                "prediction, or a schedule without zero terminal SNR"
            )
        a, b = self._x0_weights(alpha, sigma)
        return a * x + b * out

    def from_x0(self, x0: Tensor, x: Tensor, alpha: Number, sigma: Number) -> Tensor:
        """What a perfect network would output: the inverse of :meth:`to_x0` (needs σ > 0 but for x0 and v)."""
        a, b = self._x0_weights(alpha, sigma)
        return (x0 - a * x) / b

    def target(self, x0: Tensor, eps: Tensor, alpha: Number, sigma: Number) -> Tensor:
        """What the network is trained to output at x = α·x0 + σ·ε: the definition of the kind."""
        if self.kind == "eps":
            return eps
        if self.kind == "v":
            return alpha * eps - sigma * x0
        if self.kind == "x0":
            return x0
        if self.kind == "flow":
            return eps - x0
        if self.kind == "score":
            return -eps / sigma
        # F = (x0 − c_skip·y)/c_out with y = x0 + κ·ε, multiplied by α/α
        s = self.sigma_data
        return (sigma * x0 - s * s * alpha * eps) / (
            s * (sigma * sigma + s * s * alpha * alpha) ** 0.5
        )

    def loss(
        self, out: Tensor, x0: Tensor, eps: Tensor, alpha: Number, sigma: Number, on: str = "output"
    ) -> Tensor:
        """Mean square error per image [B] of a training step, in one of the two conventions.

        ``output``: of the network's output against :meth:`target`. ``x0``: of the x0 it implies
        against x0 (CogVideo: get_velocity(v, x_t)); that is :meth:`x0_loss_weight` times the first.
        """
        if on not in ("output", "x0"):
            raise ValueError(f"on = {on!r}: choose output or x0")
        if on == "output":
            error = out - self.target(x0, eps, alpha, sigma)
        else:
            error = self.to_x0(out, alpha * x0 + sigma * eps, alpha, sigma) - x0
        return error.flatten(1).square().mean(1)

    def x0_loss_weight(self, alpha: Number, sigma: Number) -> Number:
        """b² with x0 = a·x + b·out: σ² for v, κ² for eps (1/SNR), 1 for x0, σ² for flow on α + σ = 1."""
        b = self._x0_weights(alpha, sigma)[1]
        return b * b

    def read(self, out: Tensor, x: Tensor, host: Path, sigma: float | Tensor) -> Tensor:
        """x0 from the output at state x [B, …] in a host's coordinates (VE or flow).

        v is read at the same κ on VP, where it is defined.
        """
        x, alpha, level = self._coordinates(x, host, sigma)
        return self.to_x0(out, x, alpha, level)

    def write(self, x0: Tensor, x: Tensor, host: Path, sigma: float | Tensor) -> Tensor:
        """The output from which :meth:`read` makes x0 (σ > 0)."""
        x, alpha, level = self._coordinates(x, host, sigma)
        return self.from_x0(x0, x, alpha, level)

    def _coordinates(
        self, x: Tensor, host: Path, sigma: float | Tensor
    ) -> tuple[Tensor, Number, Number]:
        alpha, level = coefficients(host, sigma, x)
        if self.kind != "v":
            return x, alpha, level
        norm = (alpha * alpha + level * level) ** 0.5
        return x / norm, alpha / norm, level / norm

    def __str__(self) -> str:
        return f"edm (σ_data {self.sigma_data:g})" if self.kind == "edm" else self.kind

    def _x0_weights(self, alpha: Number, sigma: Number) -> tuple[Number, Number]:
        """(a, b) with x0 = a·x + b·out."""
        if self.kind == "eps":
            return 1 / alpha, -sigma / alpha
        if self.kind == "v":
            return alpha, -sigma
        if self.kind == "x0":
            return 0.0, 1.0
        if self.kind == "flow":
            return 1 / (alpha + sigma), -sigma / (alpha + sigma)
        if self.kind == "score":
            return 1 / alpha, sigma * sigma / alpha
        # EDM preconditioning is written for α = 1: with κ = σ/α and y = x/α,
        # D = c_skip(κ)·y + c_out(κ)·F, c_skip = s²/(κ² + s²), c_out = κs/√(κ² + s²).
        s = self.sigma_data
        norm = (sigma * sigma + s * s * alpha * alpha) ** 0.5
        return s * s * alpha / (norm * norm), sigma * s / norm

    def check(self, path: Path) -> None:
        """Raises ValueError where the kind has no meaning on the path."""
        if self.kind == "v" and not isinstance(path, VP):
            raise ValueError(f"v prediction is defined on VP (α² + σ² = 1), not on {path.name}")


def usual(path: Path) -> Prediction:
    """What networks on this path output by custom: flow on flow, EDM's F on VE, eps elsewhere."""
    return {Flow: Prediction("flow"), VE: Prediction("edm", 0.5)}.get(type(path), Prediction("eps"))


def get_velocity(x0: Tensor, noise: Tensor, alpha: float, sigma: float) -> Tensor:
    """v = α·ε − σ·x0 (diffusers' ``get_velocity``, with its arguments x0 and ε). VP only."""
    if not math.isclose(alpha * alpha + sigma * sigma, 1, abs_tol=1e-6):
        raise ValueError(f"v is defined on VP (α² + σ² = 1); got α = {alpha}, σ = {sigma}")
    return alpha * noise - sigma * x0
