"""Pictures of the kind that the shipped models draw."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ...embedded import postcards
from ..denoiser.embedded import EACH, NONE, class_rows
from ..host import io
from ..host.conditioning import class_conditioning


class Postcards(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="SamplingKitPostcards",
            display_name="Postcards",
            category="Sampling Kit/image",
            description="Pictures of the kind that the Embedded Denoiser draws, painted by a program: image i has seed + i. "
            "Models are made from the seeds 0 to scenes − 1; those from 2147483648 on are new to every model.",
            search_aliases=["test image", "load image", "postcards", "data set", "example picture"],
            inputs=[
                io.Combo.Input(
                    "name", options=[*postcards.CLASSES, EACH], default=EACH,
                    tooltip="The class; with 'one of each' image i has class i.",
                ),
                io.Int.Input(
                    "seed", default=postcards.HELD_OUT, min=0, max=0xFFFFFFFFFFFFFFFF, control_after_generate=True,
                    tooltip="Seed of the first image.",
                ),
                io.Int.Input("size", default=64, min=postcards.MIN_SIZE, max=postcards.MAX_SIZE, tooltip="Pixels."),
                io.Int.Input("batch_size", default=1, min=1, max=4096, tooltip="Number of pictures."),
            ],
            outputs=[
                io.Image.Output(display_name="images", tooltip="For Image to Latent, or a preview."),
                io.Conditioning.Output(display_name="conditioning", tooltip="Their classes, as Class Condition gives them."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, name: str, seed: int, size: int, batch_size: int) -> Any:
        if name == NONE:
            raise ValueError(f"name = {name!r}: a picture has a class")
        rows = class_rows(name)
        rows = [rows[i % len(rows)] for i in range(batch_size if name == EACH else 1)]
        labels = [int(np.argmax(rows[i % len(rows)])) for i in range(batch_size)]
        images = np.stack(
            [postcards.scene(k, (seed + i) % 2**64, size) for i, k in enumerate(labels)]
        )
        return io.NodeOutput(torch.from_numpy(images).float() / 255, class_conditioning(rows))


NODES = (Postcards,)
