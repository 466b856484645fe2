"""Adaptive projected guidance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ..per_image import norm, project
from ..settings import knob
from .base import UNCOND, Call, Scaled, curve_knob
from .curve import Curve


@dataclass(frozen=True)
class APG(Scaled):
    """Adaptive projected guidance: high scales without saturation.

    Δ = D_c − D_u, with momentum Δ ← Δ + β·Δ_before, shortened to ‖Δ‖ ≤ r, and split along D_c:
    D = D_c + (w − 1)·(Δ⊥ + η·Δ∥). w is CFG's scale: η = 1, β = 0, r = 0 is CFG. Defaults are the
    paper's for SDXL; r is a length in the model's latent space. The momentum lives for one run.
    """

    guides: ClassVar[bool] = True
    title: ClassVar[str] = "APG"
    aliases: ClassVar[tuple[str, ...]] = ("apg", "adaptive projected guidance")
    paper: ClassVar[str] = "Sadat et al. 2024 (arXiv 2410.02416)"
    needs: ClassVar[frozenset[str]] = frozenset({UNCOND})
    scale: float = knob(8.0, "w: 1 is off, as CFG's.", low=0.0, high=100.0, step=0.01)
    eta: float = knob(
        0.0, "η: share kept of the part along D_c; 1 is CFG.", low=-2.0, high=2.0, step=0.01
    )
    limit: float = knob(
        15.0, "r: largest ‖Δ‖ of an image; 0 is no limit.", low=0.0, high=1e4, step=0.1
    )
    momentum: float = knob(
        -0.5, "β: share of the evaluation before; 0 is none.", low=-1.0, high=0.99, step=0.01
    )
    curve: Curve = curve_knob()

    def apply(self, d: Tensor, call: Call) -> Tensor:
        delta = d - call[UNCOND]
        if self.momentum:
            before = call.memory.get("delta")
            delta = delta if before is None else delta + before * self.momentum
            call.memory["delta"] = delta.detach()
        if self.limit:
            delta = delta * (self.limit / norm(delta).clamp(min=self.limit))
        along = project(delta, d)
        return d + (delta - along * (1 - self.eta)) * (self.weight(call.level) - 1)
