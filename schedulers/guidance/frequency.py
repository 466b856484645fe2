"""Frequency-decoupled guidance."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from ..settings import knob
from .base import UNCOND, Call, Scaled, curve_knob, needs_picture
from .curve import Constant, Curve, PerStep
from .level import Level


@dataclass(frozen=True)
class FrequencyDecoupled(Scaled):
    """Frequency-decoupled guidance: CFG with one weight for detail and another for what lies below it.

    D = D_u + w_high·(Δ − LΔ) + w_low·LΔ with Δ = D_c − D_u and L the low band of a Laplacian pyramid
    (blur, halve, double, blur over height and width, ``levels`` times). w_low = w_high is CFG. The paper
    finds w_high > w_low better: detail follows the condition, colours do not saturate.
    """

    guides: ClassVar[bool] = True
    title: ClassVar[str] = "Frequency-Decoupled"
    aliases: ClassVar[tuple[str, ...]] = ("fdg", "FreSca", "frequency guidance")
    paper: ClassVar[str] = "Sadat et al. 2025 (arXiv 2506.19713)"
    needs: ClassVar[frozenset[str]] = frozenset({UNCOND})
    scale: float = knob(10.0, "w_high, for detail: 1 is off.", low=0.0, high=100.0, step=0.01)
    low: float = knob(5.0, "w_low, for the rest: 1 is off.", low=0.0, high=100.0, step=0.01)
    levels: int = knob(1, "How many halvings separate low from high.", low=1, high=8)
    curve: Curve = curve_knob()

    def with_cfg(self, cfg: float) -> FrequencyDecoupled:
        """w_high is the host's scale; w_low keeps its share, (w_low − 1)/(w_high − 1)."""
        if cfg == self.cfg:
            return self
        share = (self.low - 1) / (self.scale - 1) if self.scale != 1 else 1.0
        curve = Constant() if isinstance(self.curve, PerStep) else self.curve
        return replace(self, scale=cfg, low=max(1 + share * (cfg - 1), 0.0), curve=curve)

    @property
    def reads(self) -> frozenset[str]:
        return self.needs if self.on or self.low != 1 else frozenset()

    def active(self, at: Level) -> bool:
        rule = self.stepped(at)
        return bool(rule.reads) and rule.curve(at) != 0

    def apply(self, d: Tensor, call: Call) -> Tensor:
        rule = cast(FrequencyDecoupled, self.stepped(call.level))
        uncond = call[UNCOND]
        share = rule.curve(call.level)
        high, low = (w if share == 1 else 1 + share * (w - 1) for w in (rule.scale, rule.low))
        delta = d - uncond
        new = uncond + delta * high
        return new if low == high else new + low_band(delta, self.levels) * (low - high)


def low_band(a: Tensor, levels: int) -> Tensor:
    """The low band of a pyramid over the last two axes of a [B, C, …, H, W]."""
    needs_picture("Frequency-decoupled guidance", a)
    rows, columns = (low_pass_on(n, levels, a.dtype, a.device) for n in a.shape[-2:])
    return rows @ a @ columns.mT


@lru_cache(maxsize=32)
def low_pass_on(n: int, levels: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """:func:`low_pass` where it is used; kept, since copying to a device waits for it."""
    return low_pass(n, levels).to(dtype).to(device)


def low_pass(n: int, levels: int) -> Tensor:
    """[n, n], float64: blur with (1, 4, 6, 4, 1)/16, halve, the same again, double, blur.

    A pyramid is linear and separable, so running it over the unit vectors gives it as a matrix.
    """
    line = torch.eye(n, dtype=torch.float64)[:, None]
    sizes = [n]
    for _ in range(levels):
        line = _resize(_blur(line), max(sizes[-1] // 2, 1))
        sizes.append(line.shape[-1])
    for size in reversed(sizes[:-1]):
        line = _blur(_resize(line, size))
    return line[:, 0].T.contiguous()


def _blur(line: Tensor) -> Tensor:
    kernel = line.new_tensor([[[1.0, 4.0, 6.0, 4.0, 1.0]]]) / 16
    return F.conv1d(F.pad(line, (2, 2), mode="replicate"), kernel)


def _resize(line: Tensor, size: int) -> Tensor:
    return F.interpolate(line, size=size, mode="linear", align_corners=False)
