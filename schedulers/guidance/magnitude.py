"""Rules about how large a guided prediction may be: rescaling, thresholding, magnitude-aware weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..per_image import norm, quantile, ratio, std
from ..settings import knob
from .base import COND, SPACES, UNCOND, Call, Scaled, away, curve_knob
from .curve import Curve
from .level import Level


def has_space(space: str, at: Level) -> bool:
    """ε says nothing about D at pure noise; the other spaces do."""
    return space != "eps" or at.point.alpha > 0


@dataclass(frozen=True)
class Rescale(Scaled):
    """CFG rescale: bring the guided prediction back to the conditional one's standard deviation.

    o ← φ·o·std(o_c)/std(o) + (1 − φ)·o on the output o in ``space``, std over each image. The paper
    works on v, as ComfyUI's RescaleCFG; diffusers on whatever the network outputs, so the spaces give
    different pictures. Put it after the rule that makes D too strong. No network call.
    """

    title: ClassVar[str] = "Rescale"
    aliases: ClassVar[tuple[str, ...]] = ("RescaleCFG", "cfg rescale", "guidance_rescale")
    paper: ClassVar[str] = "Lin et al. 2023 (arXiv 2305.08891)"
    neutral: ClassVar[float] = 0.0
    scale: float = knob(0.7, "φ: 0 is off, 1 full.", low=0.0, high=1.0, step=0.01)
    space: str = knob("v", "What is rescaled: v of VP, flow's velocity, eps or x0.", options=SPACES)
    curve: Curve = curve_knob()

    def active(self, at: Level) -> bool:
        return super().active(at) and has_space(self.space, at)

    def apply(self, d: Tensor, call: Call) -> Tensor:
        out, cond = (call.output(self.space, t) for t in (d, call[COND]))
        phi = self.weight(call.level)
        return call.data(self.space, out * (ratio(std(cond), std(out)) * phi + (1 - phi)))


@dataclass(frozen=True)
class DynamicThresholding(Scaled):
    """Dynamic thresholding: the largest values of a guided prediction are pulled in.

    pixel: s = max(1, the p-quantile of |D|) of each image, D ← clip(D, −s, s)/s, for data in [−1, 1].
    latent: the same around the mean of each channel, with the p-quantile of |D_c − mean| in place of 1,
    since latents have no range of their own (per image for packed latents). The result is mixed in with
    ``scale``. No network call. Put it after the rule that makes D too strong.
    """

    title: ClassVar[str] = "Dynamic Thresholding"
    aliases: ClassVar[tuple[str, ...]] = ("dynamic thresholding", "imagen", "mimic scale")
    paper: ClassVar[str] = "Saharia et al. 2022 (arXiv 2205.11487, Imagen)"
    neutral: ClassVar[float] = 0.0
    scale: float = knob(1.0, "Share of the thresholded D; 0 is off.", low=0.0, high=1.0, step=0.01)
    percentile: float = knob(0.995, "p, as a share.", low=0.5, high=1.0, step=0.001)
    space: str = knob("latent", "pixel: data in [−1, 1]; latent.", options=("latent", "pixel"))
    curve: Curve = curve_knob()

    def apply(self, d: Tensor, call: Call) -> Tensor:
        mix = self.weight(call.level)
        new = self._pixel(d) if self.space == "pixel" else self._latent(d, call[COND])
        return new if mix == 1 else torch.lerp(d, new, mix)

    def _pixel(self, d: Tensor) -> Tensor:
        flat = d.flatten(1)
        s = quantile(flat.abs(), self.percentile).clamp(min=1)
        return (flat.clamp(-s, s) / s).reshape(d.shape)

    def _latent(self, d: Tensor, cond: Tensor) -> Tensor:
        rows = d.flatten(2) if d.ndim > 2 else d[:, None]
        like = cond.reshape(rows.shape)
        mean = rows.mean(-1, keepdim=True)
        allowed = quantile((like - like.mean(-1, keepdim=True)).abs(), self.percentile)
        s = torch.maximum(quantile((rows - mean).abs(), self.percentile), allowed)
        return (mean + (rows - mean).clamp(-s, s) * ratio(allowed, s)).reshape(d.shape)


@dataclass(frozen=True)
class MAMBOG(Scaled):
    """MAMBO-G: a weight that falls where the guidance is large beside the prediction.

    D = D_u + w'·(D_c − D_u), w' = 1 + (w − 1)·exp(−a·‖o_c − o_u‖/‖o_u‖) with o the network's output,
    per image. The paper's models predict flow's velocity, where the ratio is largest near pure noise;
    the weight therefore starts small. a = 0 is CFG.
    """

    guides: ClassVar[bool] = True
    title: ClassVar[str] = "MAMBO-G"
    aliases: ClassVar[tuple[str, ...]] = ("mambo-g", "magnitude aware guidance")
    paper: ClassVar[str] = "MAMBO-G 2025 (arXiv 2508.03442)"
    needs: ClassVar[frozenset[str]] = frozenset({UNCOND})
    scale: float = knob(8.0, "w: 1 is off; the largest weight.", low=0.0, high=100.0, step=0.01)
    damping: float = knob(8.0, "a: 0 is CFG.", low=0.0, high=100.0, step=0.1)
    space: str = knob("flow", "The output o: flow's velocity, v of VP, eps or x0.", options=SPACES)
    curve: Curve = curve_knob()

    def active(self, at: Level) -> bool:
        return super().active(at) and has_space(self.space, at)

    def apply(self, d: Tensor, call: Call) -> Tensor:
        uncond = call[UNCOND]
        out, out_u = (call.output(self.space, t) for t in (d, uncond))
        damp = (ratio(norm(out - out_u), norm(out_u)) * -self.damping).exp()
        return away(d, uncond, 1 + damp * (self.weight(call.level) - 1))
