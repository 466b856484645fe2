"""Noise nodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from ...schedulers.noise import PerImageNoise
from ..host import io

CATEGORY = "Sampling Kit/noise"


@dataclass(frozen=True)
class ImageSeeds:
    """NOISE: image i of a batch starts from the noise of seed + i (or seed + batch_index[i])."""

    seed: int

    def generate_noise(self, latent: dict[str, Any]) -> Any:
        """Noise shaped like latent["samples"], on the CPU; nested latents get one draw per part."""
        torch.manual_seed(self.seed)  # samplers of other packs draw from the global stream
        samples, indices = latent["samples"], latent.get("batch_index")
        noise = PerImageNoise(self.seed, None if indices is None else tuple(indices))
        if getattr(samples, "is_nested", False):
            return type(samples)([noise(-part, t.cpu()) for part, t in enumerate(samples.unbind())])
        return noise(0, samples.cpu())


class PerImageNoiseNode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="SamplingKitPerImageNoise",
            display_name="Per-Image Noise",
            category=CATEGORY,
            description="Noise in which image i of a batch has seed + i: a batch of 3 holds the same pictures as three "
            "runs with seeds s, s + 1, s + 2. A single image equals ComfyUI's RandomNoise. Drawn on the CPU. "
            "batch_index is honoured for this noise; the noise a stochastic solver draws on the way counts images from 0.",
            search_aliases=["RandomNoise", "seed", "batch seed", "noise"],
            inputs=[
                io.Int.Input(
                    "seed", default=0, min=0, max=0xFFFFFFFFFFFFFFFF, control_after_generate=True,
                    tooltip="Seed of the first image.",
                ),
            ],
            outputs=[io.Noise.Output(display_name="noise", tooltip="For SamplerCustomAdvanced.")],
        )  # fmt: skip

    @classmethod
    def execute(cls, seed: int) -> Any:
        return io.NodeOutput(ImageSeeds(seed))


NODES = (PerImageNoiseNode,)
