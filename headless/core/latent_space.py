"""Pictures to latents and back, whole or in tiles, as in ComfyUI's core."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ...nodes.host.alone import io
from .schema import Latent, schema


def as_batch(images: Tensor) -> Tensor:
    """IMAGE [B·F, H, W, C]: the frames of videos one after the other."""
    return images.flatten(0, 1) if images.ndim == 5 else images


class VAEDecode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        inputs = [io.Latent.Input("samples"), io.Vae.Input("vae")]
        return schema("VAEDecode", inputs, [io.Image.Output()], "VAE Decode")

    @classmethod
    def execute(cls, samples: Latent, vae: Any) -> Any:
        return io.NodeOutput(as_batch(vae.decode(samples["samples"])))


class VAEEncode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        inputs = [io.Image.Input("pixels"), io.Vae.Input("vae")]
        return schema("VAEEncode", inputs, [io.Latent.Output()], "VAE Encode")

    @classmethod
    def execute(cls, pixels: Tensor, vae: Any) -> Any:
        return io.NodeOutput({"samples": vae.encode(pixels)})


def tile_inputs() -> list[Any]:
    """Lengths in pixels, and in frames where the VAE can cut a video."""
    return [
        io.Int.Input("tile_size", default=512, min=64, max=4096, step=32),
        io.Int.Input("overlap", default=64, min=0, max=4096, step=32),
        io.Int.Input("temporal_size", default=64, min=8, max=4096, step=4),
        io.Int.Input("temporal_overlap", default=8, min=4, max=4096, step=4),
    ]


class VAEDecodeTiled(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        inputs = [io.Latent.Input("samples"), io.Vae.Input("vae"), *tile_inputs()]
        return schema("VAEDecodeTiled", inputs, [io.Image.Output()], "VAE Decode (Tiled)")

    @classmethod
    def execute(
        cls, samples: Latent, vae: Any, tile_size: int, overlap: int, temporal_size: int, temporal_overlap: int
    ) -> Any:  # fmt: skip
        scale = vae.spacial_compression_decode()
        tile, overlap = tile_size // scale, min(overlap, tile_size // 4) // scale
        return io.NodeOutput(as_batch(vae.decode_tiled(samples["samples"], tile, tile, overlap)))


class VAEEncodeTiled(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        inputs = [io.Image.Input("pixels"), io.Vae.Input("vae"), *tile_inputs()]
        return schema("VAEEncodeTiled", inputs, [io.Latent.Output()], "VAE Encode (Tiled)")

    @classmethod
    def execute(
        cls, pixels: Tensor, vae: Any, tile_size: int, overlap: int, temporal_size: int, temporal_overlap: int
    ) -> Any:  # fmt: skip
        return io.NodeOutput({"samples": vae.encode_tiled(pixels, tile_size, tile_size, overlap)})
