"""Conditionings that carry a picture, or nothing: ComfyUI's nodes with their meaning."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...nodes.host.alone import io
from .schema import Latent, schema

Conditioning = list[Any]
PAIR = (io.Conditioning.Input("positive"), io.Conditioning.Input("negative"), io.Vae.Input("vae"))
BESIDE = [
    io.Conditioning.Output(display_name="positive"),
    io.Conditioning.Output(display_name="negative"),
    io.Latent.Output(display_name="latent"),
]


def with_values(conditioning: Conditioning, **values: Any) -> Conditioning:
    return [[text, {**extra, **values}] for text, extra in conditioning]


class ConditioningZeroOut(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        inputs = [io.Conditioning.Input("conditioning")]
        return schema("ConditioningZeroOut", inputs, [io.Conditioning.Output()])

    @classmethod
    def execute(cls, conditioning: Conditioning) -> Any:
        pooled = "pooled_output"
        return io.NodeOutput(
            [
                [torch.zeros_like(text), {**x, **{k: torch.zeros_like(x[k]) for k in (pooled,) if x.get(k) is not None}}]
                for text, x in conditioning
            ]
        )  # fmt: skip


class InpaintModelConditioning(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        inputs = [
            *PAIR, io.Image.Input("pixels"), io.Mask.Input("mask"),
            io.Boolean.Input("noise_mask", default=True),
        ]  # fmt: skip
        return schema("InpaintModelConditioning", inputs, BESIDE)

    @classmethod
    def execute(
        cls, positive: Conditioning, negative: Conditioning, vae: Any, pixels: Tensor, mask: Tensor, noise_mask: bool = True
    ) -> Any:  # fmt: skip
        pixels, mask = pixels.clone(), mask.reshape(-1, 1, *mask.shape[-2:])
        mask = F.interpolate(mask, pixels.shape[1:3], mode="bilinear")
        grey = (pixels[..., :3] - 0.5) * (1 - mask.round()).movedim(1, -1) + 0.5
        latent: Latent = {"samples": vae.encode(pixels)}
        if noise_mask:
            latent["noise_mask"] = mask
        values = dict(concat_latent_image=vae.encode(grey), concat_mask=mask)
        both = (with_values(c, **values) for c in (positive, negative))
        return io.NodeOutput(*both, latent)


class InstructPixToPixConditioning(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        return schema("InstructPixToPixConditioning", [*PAIR, io.Image.Input("pixels")], BESIDE)

    @classmethod
    def execute(
        cls, positive: Conditioning, negative: Conditioning, vae: Any, pixels: Tensor
    ) -> Any:
        picture = vae.encode(pixels)
        both = (with_values(c, concat_latent_image=picture) for c in (positive, negative))
        return io.NodeOutput(*both, {"samples": torch.zeros_like(picture)})


class WanImageToVideo(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        size = dict(min=16, max=16384, step=16)
        inputs = [
            *PAIR,
            io.Int.Input("width", default=832, **size),
            io.Int.Input("height", default=480, **size),
            io.Int.Input("length", default=81, min=1, max=16384, step=4),
            io.Int.Input("batch_size", default=1, min=1, max=4096),
            io.Image.Input("start_image", optional=True),
        ]
        return schema("WanImageToVideo", inputs, BESIDE)

    @classmethod
    def execute(
        cls, positive: Conditioning, negative: Conditioning, vae: Any, width: int, height: int, length: int,
        batch_size: int, start_image: Tensor | None = None,
    ) -> Any:  # fmt: skip
        space, channels = vae.spacial_compression_decode(), vae.latent_channels
        frames = (length - 1) // 4 + 1
        shape = (batch_size, channels, frames, height // space, width // space)
        if start_image is None:
            return io.NodeOutput(positive, negative, {"samples": torch.zeros(shape)})
        first = start_image[:length, ..., :3].movedim(-1, 1)
        if first.shape[2:] != (height, width):
            first = F.interpolate(first, (height, width), mode="bilinear")
        video = torch.full((length, height, width, 3), 0.5)
        video[: len(first)] = first.movedim(1, -1)
        picture = vae.encode(video)
        mask = torch.ones(1, 1, frames, *picture.shape[-2:])
        mask[:, :, : (len(first) - 1) // 4 + 1] = 0
        values = dict(concat_latent_image=picture, concat_mask=mask)
        both = (with_values(c, **values) for c in (positive, negative))
        return io.NodeOutput(*both, {"samples": torch.zeros(shape)})
