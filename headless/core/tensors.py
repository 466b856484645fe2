"""SIGMAS, LATENT and MASK, cut and combined as in ComfyUI's core."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from ...nodes.host.alone import io
from .schema import Latent, schema


class SplitSigmas(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        inputs = [io.Sigmas.Input("sigmas"), io.Int.Input("step", default=0, min=0, max=10000)]
        outputs = [
            io.Sigmas.Output(display_name="high_sigmas"),
            io.Sigmas.Output(display_name="low_sigmas"),
        ]
        return schema("SplitSigmas", inputs, outputs)

    @classmethod
    def execute(cls, sigmas: Tensor, step: int) -> Any:
        return io.NodeOutput(sigmas[: step + 1].clone(), sigmas[step:].clone())


class FlipSigmas(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        return schema("FlipSigmas", [io.Sigmas.Input("sigmas")], [io.Sigmas.Output()])

    @classmethod
    def execute(cls, sigmas: Tensor) -> Any:
        flipped = sigmas.flip(0)
        if len(flipped) and flipped[0] == 0:
            flipped[0] = 1e-4  # as the core: a run cannot start at exactly 0
        return io.NodeOutput(flipped)


class LatentMultiply(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        inputs = [
            io.Latent.Input("samples"),
            io.Float.Input("multiplier", default=1.0, min=-10.0, max=10.0, step=0.01),
        ]
        return schema("LatentMultiply", inputs, [io.Latent.Output()])

    @classmethod
    def execute(cls, samples: Latent, multiplier: float) -> Any:
        return io.NodeOutput({**samples, "samples": samples["samples"] * multiplier})


class SetLatentNoiseMask(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        inputs = [io.Latent.Input("samples"), io.Mask.Input("mask")]
        return schema("SetLatentNoiseMask", inputs, [io.Latent.Output()], "Set Latent Noise Mask")

    @classmethod
    def execute(cls, samples: Latent, mask: Tensor) -> Any:
        rows = mask.reshape(-1, 1, *mask.shape[-2:])
        return io.NodeOutput({**samples, "noise_mask": rows})


class SolidMask(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        inputs = [
            io.Float.Input("value", default=1.0, min=0.0, max=1.0, step=0.01),
            io.Int.Input("width", default=512, min=1, max=16384, step=1),
            io.Int.Input("height", default=512, min=1, max=16384, step=1),
        ]
        return schema("SolidMask", inputs, [io.Mask.Output()], "Create Solid Mask")

    @classmethod
    def execute(cls, value: float, width: int, height: int) -> Any:
        return io.NodeOutput(torch.full((1, height, width), float(value)))


def _logical(function: Any) -> Any:
    return lambda a, b: function(a.round().bool(), b.round().bool()).float()


class MaskComposite(io.ComfyNode):
    operations: ClassVar[dict[str, Any]] = {
        "multiply": torch.mul,
        "add": torch.add,
        "subtract": torch.sub,
        "and": _logical(torch.logical_and),
        "or": _logical(torch.logical_or),
        "xor": _logical(torch.logical_xor),
    }

    @classmethod
    def define_schema(cls) -> Any:
        inputs = [
            io.Mask.Input("destination"),
            io.Mask.Input("source"),
            io.Int.Input("x", default=0, min=0, max=16384, step=1),
            io.Int.Input("y", default=0, min=0, max=16384, step=1),
            io.Combo.Input("operation", options=list(cls.operations)),
        ]
        return schema("MaskComposite", inputs, [io.Mask.Output()], "Combine Masks")

    @classmethod
    def execute(cls, destination: Tensor, source: Tensor, x: int, y: int, operation: str) -> Any:
        out = destination.reshape(-1, *destination.shape[-2:]).clone()
        there = out[:, y : y + source.shape[-2], x : x + source.shape[-1]]
        source = source.reshape(-1, *source.shape[-2:])[:, : there.shape[-2], : there.shape[-1]]
        there.copy_(cls.operations[operation](there, source))
        return io.NodeOutput(out.clamp(0, 1))
