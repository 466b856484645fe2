"""Noise nodes."""

from __future__ import annotations

from typing import Any

from ...schedulers.noise import NoiseRecipe
from ...schedulers.noise.recipe import TABLES
from ..host import io
from ..ui.inputs import inputs_for, made, summary
from .wire import NoiseWire

CATEGORY = "Sampling Kit/noise"


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
        return io.NodeOutput(NoiseWire(seed))


class NoiseNode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="SamplingKitNoise",
            display_name="Noise",
            category=CATEGORY,
            description=summary(
                NoiseRecipe,
                "A second seed mixes in on the sphere, on the way too. Every colour keeps the variance of each value at 1. "
                "Computed on the CPU, so that no device changes a picture; a latent's batch_index is kept.",
            ),
            search_aliases=sorted(
                {alias for table in TABLES.values() for kind in table.values() for alias in kind.aliases}
                | {"RandomNoise", "seed", "noise"}
            ),
            inputs=[
                io.Int.Input(
                    "seed", default=0, min=0, max=0xFFFFFFFFFFFFFFFF, control_after_generate=True,
                    tooltip="Seed of the first image.",
                ),
                *inputs_for(NoiseRecipe),
            ],
            outputs=[io.Noise.Output(display_name="noise", tooltip="For SamplerCustomAdvanced.")],
        )  # fmt: skip

    @classmethod
    def execute(cls, seed: int, **recipe: Any) -> Any:
        return io.NodeOutput(NoiseWire(seed, made(NoiseRecipe, recipe)))


NODES = (PerImageNoiseNode, NoiseNode)
