"""Facts about MODELs from diffusers folders that both hosts need."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ...schedulers.denoiser.diffusers import DiffusersDenoiser


@dataclass(frozen=True)
class LatentLayout:
    """Channels; axes after them (3 for video, frames first); pixels and frames per latent; the multiples
    that latent sizes must be of, one an axis."""

    channels: int
    dims: int = 2
    spatial: int = 8
    temporal: int = 1
    patch: tuple[int, ...] = ()

    def shape(self, batch: int, width: int, height: int, frames: int = 1) -> tuple[int, ...]:
        """[batch, channels, (frames,) height, width] for a size in pixels, rounded down to what the
        network takes; frames, of which the first has a latent of its own, are rounded up."""
        patch = self.patch or (1,) * self.dims
        sizes = [
            n // self.spatial // p * p for n, p in zip((height, width), patch[-2:], strict=True)
        ]
        if min(sizes) < 1:
            smallest = " × ".join(str(self.spatial * p) for p in patch[-2:])
            raise ValueError(f"width × height = {width} × {height}: this MODEL needs at least {smallest} pixels")  # fmt: skip
        time = -(-((frames - 1) // self.temporal + 1) // patch[0]) * patch[0]
        return (batch, self.channels, *((time,) if self.dims == 3 else ()), *sizes)


def layout_of(network: DiffusersDenoiser) -> LatentLayout:
    latents, family = network.latents, network.family
    spatial = latents.spatial if latents else family.pixels
    temporal = latents.temporal if latents else (family.frames if network.dims == 3 else 1)
    patch = network.family.patch(network.config)
    return LatentLayout(network.channels, network.dims, spatial, temporal, patch)


def dtypes_of(network: DiffusersDenoiser) -> list[torch.dtype]:
    """Those it computes well in, best first: float16 only if it was not trained in bfloat16."""
    bf16 = network.family.trained(network.config) == torch.bfloat16
    return [*([] if bf16 else [torch.float16]), torch.bfloat16, torch.float32]
