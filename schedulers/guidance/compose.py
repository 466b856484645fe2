"""Several conditions at once: AND, NOT, and a negative that does not fight the positive."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ..per_image import project
from ..settings import knob, wire
from .base import COND, NEGATIVE, UNCOND, Call, Scaled, curve_knob
from .curve import Curve
from .level import Level


@dataclass(frozen=True)
class Compose(Scaled):
    """Composition: AND (positive weight) and NOT (negative weight) of further conditions.

    D ← D + scale·Σ_i w_i·m_i·(D_i − D_u), with CFG for the first condition before it: then
    D = D_u + Σ w_i·(D_i − D_u) over all of them. m_i is a mask or 1. A condition of weight 0 is not
    evaluated. The sum is the score of the product of the noised densities, which for σ > 0 is not
    the noised product (Du et al. 2023): exact sampling would need MCMC.
    """

    title: ClassVar[str] = "Composition"
    aliases: ClassVar[tuple[str, ...]] = ("composable diffusion", "AND", "NOT", "regional prompt")
    paper: ClassVar[str] = "Liu et al. 2022 (arXiv 2206.01714)"
    neutral: ClassVar[float] = 0.0
    weights: str = knob("4", "w_1, w_2, …: one per further condition; negative: NOT.")
    scale: float = knob(1.0, "Factor on all of them; 0 is off.", low=0.0, high=100.0, step=0.01)
    masks: tuple[Tensor | None, ...] = wire(
        "MASKS", "Per condition a mask that broadcasts with the latent, or none.", ()
    )
    curve: Curve = curve_knob()
    first: int = knob(1, "Its conditions are cond.first, cond.first+1, …", low=1, advanced=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.masks) > len(self.parts):
            raise ValueError(f"{self.title}: {len(self.masks)} masks for {len(self.parts)} weights")

    @property
    def parts(self) -> tuple[float, ...]:
        """w_1, w_2, …"""
        try:
            values = tuple(float(w) for w in self.weights.replace(";", ",").split(",") if w.strip())
        except ValueError:
            values = (math.nan,)
        if not all(math.isfinite(w) for w in values):
            raise ValueError(f"{self.where('weights')}: write numbers, such as 4, -1.5")
        return values

    def terms(self) -> list[tuple[str, float, Tensor | None]]:
        """(branch, weight, mask) of the conditions that count."""
        masks = (*self.masks, *[None] * len(self.parts))
        rows = zip(self.parts, masks, strict=False)
        return [(f"{COND}.{i}", w, mask) for i, (w, mask) in enumerate(rows, self.first) if w]

    @property
    def reads(self) -> frozenset[str]:
        names = [branch for branch, _, _ in self.terms()]
        return frozenset({*names, UNCOND}) if names and self.on else frozenset()

    def active(self, at: Level) -> bool:
        return bool(self.reads) and super().active(at)

    def apply(self, d: Tensor, call: Call) -> Tensor:
        scale = self.weight(call.level)
        for branch, w, mask in self.terms():
            part = (call[branch] - call[UNCOND]) * (w * scale)
            d = d + (part if mask is None else part * mask.to(part))
        return d


@dataclass(frozen=True)
class PerpNeg(Scaled):
    """Perpendicular negative: only that part of a negative prompt that does not oppose the positive.

    D_c ← D_c − w_n·(Δ_n − its projection on Δ_c), Δ_n = D_n − D_u, Δ_c = D_c − D_u, per image. Put it
    before CFG, which then gives the paper's D_u + w·(Δ_c − w_n·Δ_n⊥). Needs the empty condition and the
    negative prompt: one more call than CFG.
    """

    title: ClassVar[str] = "Perpendicular Negative"
    aliases: ClassVar[tuple[str, ...]] = ("perp-neg", "PerpNegGuider", "negative prompt")
    paper: ClassVar[str] = "Armandpour et al. 2023 (arXiv 2304.04968)"
    neutral: ClassVar[float] = 0.0
    needs: ClassVar[frozenset[str]] = frozenset({UNCOND, NEGATIVE})
    scale: float = knob(1.0, "w_n: 0 is off.", low=0.0, high=100.0, step=0.01)
    curve: Curve = curve_knob()

    def apply(self, d: Tensor, call: Call) -> Tensor:
        positive, negative = d - call[UNCOND], call[NEGATIVE] - call[UNCOND]
        return d - (negative - project(negative, positive)) * self.weight(call.level)
