"""Noise nodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from ...schedulers.noise import BatchSeed, PerImageNoise
from ..host import io

CATEGORY = "Sampling Kit/noise"


@dataclass(eq=False)
class ImageSeeds:
    """NOISE: image i of a batch starts from the noise of seed + i (or seed + batch_index[i]).

    Packs set ``seed`` on a NOISE. The seed that a run reads after :meth:`generate_noise` says which images of the batch
    it is for, so that our solvers' own draws are those images' too.
    """

    seed: int

    def generate_noise(self, latent: dict[str, Any]) -> Any:
        """Noise shaped like latent["samples"], on the CPU; nested latents get one draw per part."""
        torch.manual_seed(self.seed)  # samplers of other packs draw from the global stream
        samples, indices = latent["samples"], latent.get("batch_index")
        self.seed = BatchSeed(self.seed, indices)
        noise = PerImageNoise(self.seed, self.seed.images)
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
            "A latent's batch_index (LatentFromBatch) says which images they are, for this noise and for what our stochastic "
            "solvers draw on the way.",
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
