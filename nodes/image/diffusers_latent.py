"""Empty latents of the shape that a MODEL takes."""

from __future__ import annotations

from typing import Any

from .. import host
from ..host import io
from ..ui.file_names import refusal
from .sizes import MOST_CODED, check_product, check_size, zeros


class EmptyDiffusersLatent(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="SamplingKitEmptyDiffusersLatent",
            display_name="Empty Diffusers Latent",
            category="Sampling Kit/image",
            description="An empty LATENT of the shape a MODEL takes, for pictures and video: channels, pixels and frames per "
            "latent come from the MODEL, sizes are rounded to what it takes. Works for every MODEL, not only those from "
            "diffusers folders.",
            search_aliases=["EmptyLatentImage", "EmptySD3LatentImage", "empty video latent", "EmptyHunyuanLatentVideo", "CogVideoX"],
            inputs=[
                io.Model.Input("model", tooltip="Any MODEL."),
                io.Int.Input("width", default=512, min=8, max=16384, step=8, tooltip="Pixels, rounded down."),
                io.Int.Input("height", default=512, min=8, max=16384, step=8, tooltip="Pixels, rounded down."),
                io.Int.Input(
                    "frames", default=1, min=1, max=16384, optional=True,
                    tooltip="Of a video: 1 + a multiple of what the MODEL takes at a time, such as 49 or 81; another number is refused "
                    "with the two next to it. Pictures have 1.",
                ),
                io.Int.Input("batch_size", default=1, min=1, max=4096, optional=True, tooltip="Number of pictures or videos."),
            ],
            outputs=[io.Latent.Output(display_name="latent", tooltip="All zeros: for sampling from noise alone.")],
        )  # fmt: skip

    @classmethod
    def validate_inputs(
        cls, width: int | None = None, height: int | None = None, frames: int | None = 1,
        batch_size: int | None = 1,
    ) -> bool | str:  # fmt: skip
        return refusal(lambda: check_size(MOST_CODED, _limits(width, height, frames, batch_size)))

    @classmethod
    def execute(
        cls, model: Any, width: int, height: int, frames: int = 1, batch_size: int = 1
    ) -> Any:
        sizes = dict(width=width, height=height, frames=frames, batch_size=batch_size)
        check_product(MOST_CODED, **sizes)
        layout = host.models.latent_layout(model)
        if frames > 1 and layout.dims != 3:
            raise ValueError(f"frames = {frames}: this MODEL makes pictures; set frames to 1")
        samples = zeros(layout.shape(batch_size, width, height, frames))
        ratios = {"downscale_ratio_spacial": layout.spatial}
        if layout.dims == 3:
            ratios["downscale_ratio_temporal"] = layout.temporal
        return io.NodeOutput({"samples": samples, **ratios})


def _limits(
    width: int | None, height: int | None, frames: int | None, batch_size: int | None
) -> dict[str, tuple[int | None, int, int]]:
    sides = {"width": (width, 8, 16384), "height": (height, 8, 16384)}
    return {**sides, "frames": (frames, 1, 16384), "batch_size": (batch_size, 1, 4096)}


NODES = (EmptyDiffusersLatent,)
