"""Normalized attention guidance: a negative prompt inside the attention of one network call.

z⁺ and z⁻ are what attention gives a picture's tokens from the positive prompt's keys and values and from the negative's:

    z̃ = z⁻ + w·(z⁺ − z⁻)                     extrapolated; w = 1 is z⁺
    ẑ = z̃·min(1, τ·‖z⁺‖₁/‖z̃‖₁)               no token longer than τ times what it was
    z = α·ẑ + (1 − α)·z⁺                     blended

Chen et al. 2025 (arXiv 2505.21179), with the scale as the authors' code counts it, where 1 is off. CFG extrapolates
the networks' ends, which for a distilled network of few steps lie far apart; here both prompts share one picture in every layer.

Both prompts' tokens go through one call of the network side by side: :func:`joint` and :func:`crossed` keep them apart in attention.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..settings import knob
from .base import NEGATIVE, InAttention, Scaled, curve_knob
from .curve import Curve
from .level import Level


def normalized(plus: Tensor, minus: Tensor, scale: float, tau: float, alpha: float) -> Tensor:
    """z [..., d] of z⁺ and z⁻ [..., d]; norms over d, in float32: fp16's sums of thousands of values overflow."""
    far = minus + (plus - minus) * scale
    size, limit = (t.abs().sum(-1, keepdim=True, dtype=torch.float32) for t in (far, plus))
    shrink = (limit * tau / size.clamp(min=1e-20)).clamp(max=1.0).to(far.dtype)
    return plus + (far * shrink - plus) * alpha


@dataclass(frozen=True)
class NAG(Scaled):
    """A negative prompt inside attention, for models that run without CFG: distilled ones, of few steps.

    z = α·ẑ + (1 − α)·z⁺ of the two prompts' attention z⁺ and z⁻, ẑ being z⁻ + w·(z⁺ − z⁻) cut to τ times the L1 norm
    of z⁺. No second network call: the negative prompt's tokens go along, and attention runs once more.
    """

    title: ClassVar[str] = "NAG"
    aliases: ClassVar[tuple[str, ...]] = (
        "nag", "normalized attention guidance", "negative prompt", "distilled", "schnell", "turbo",
    )  # fmt: skip
    paper: ClassVar[str] = "Chen et al. 2025 (arXiv 2505.21179)"
    beside: ClassVar[frozenset[str]] = frozenset({NEGATIVE})
    scale: float = knob(
        5.0, "w: 1 is off; the authors take 5 for Flux and SD 3.5, 3 for SDXL, 9 for Wan.",
        low=0.0, high=100.0, step=0.01,
    )  # fmt: skip
    tau: float = knob(
        2.5, "τ: how many times longer than before a token may become.",
        low=1.0, high=100.0, step=0.01,
    )  # fmt: skip
    alpha: float = knob(
        0.25, "α: the share of the guided attention; 0 is off.",
        low=0.0, high=1.0, step=0.01,
    )  # fmt: skip
    curve: Curve = curve_knob()

    def active(self, at: Level) -> bool:
        return self.alpha != 0 and super().active(at)

    def in_attention(self, at: Level) -> InAttention | None:
        if not self.active(at):
            return None
        weight, tau, alpha = self.weight(at), self.tau, self.alpha
        return lambda plus, minus: normalized(plus, minus, weight, tau, alpha)

    def apply(self, d: Tensor, call: object) -> Tensor:
        """D as it is: it was guided inside of the network."""
        return d
