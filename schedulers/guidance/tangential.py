"""Tangential damping of the unconditional prediction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..per_image import dot, project
from ..settings import knob
from .base import UNCOND, Call, Scaled, away, curve_knob
from .curve import Curve


@dataclass(frozen=True)
class TCFG(Scaled):
    r"""Tangential damping CFG: CFG after removing from ε_u what it does not share with ε_c.

    Per image, the 2 × N matrix of ε_u and ε_c has a first right-singular vector v; ε_u is replaced by
    its projection on v, then D = D_u + w·(D_c − D_u). With u₁ = (cos θ, sin θ) the first left-singular
    vector, 2θ = atan2(2⟨ε_u, ε_c⟩, ‖ε_u‖² − ‖ε_c‖²), v is along u₁ᵀ·(ε_u, ε_c), which is
    (cos θ + sin θ)·(ε_u − k(α/σ)Δ) with k = sin θ/(cos θ + sin θ), Δ = D_c − D_u, and so
    D_u ← D_u + k·(Δ − its projection on v): no SVD, no loss of digits, and finite at α = 0.
    """

    guides: ClassVar[bool] = True
    title: ClassVar[str] = "TCFG"
    aliases: ClassVar[tuple[str, ...]] = ("tcfg", "tangential damping")
    paper: ClassVar[str] = "Kwon et al. 2025 (arXiv 2503.18137)"
    needs: ClassVar[frozenset[str]] = frozenset({UNCOND})
    scale: float = knob(4.0, "w: 1 is off, as CFG's.", low=0.0, high=100.0, step=0.01)
    curve: Curve = curve_knob()

    def apply(self, d: Tensor, call: Call) -> Tensor:
        return away(d, damped(call, d, call[UNCOND]), self.weight(call.level))


def damped(call: Call, cond: Tensor, uncond: Tensor) -> Tensor:
    """D_u with ε_u projected on the first right-singular vector of (ε_u, ε_c)."""
    delta = cond - uncond
    eps = (call.x - uncond * call.alpha) / call.sigma
    eps_c = eps - delta * (call.alpha / call.sigma)
    theta = torch.atan2(2 * dot(eps, eps_c), dot(eps, eps) - dot(eps_c, eps_c)) / 2
    k = theta.sin() / (theta.cos() + theta.sin())
    v = eps - delta * (k * (call.alpha / call.sigma))
    return uncond + (delta - project(delta, v)) * k
