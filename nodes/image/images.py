"""Pixel-space latents and pictures."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ...schedulers.show.contact_sheet import labelled, tiles
from ..host import io
from ..ui.file_names import refusal
from .sizes import MOST_PIXELS, check_product, check_size, zeros

CATEGORY = "Sampling Kit/image"
LABELS = {
    "row": "Words left of the rows of pictures, from above, with ; between them and ' / ' for a new line.",
    "column": "Words above the columns of pictures, from the left, with ; between them and ' / ' for a new line.",
}


class EmptyPixelLatent(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="SamplingKitEmptyPixelLatent",
            display_name="Empty Pixel Latent",
            category=CATEGORY,
            description="An empty LATENT for models that work on pixels: three channels at full size.",
            search_aliases=["EmptyLatentImage", "empty latent"],
            inputs=[
                io.Int.Input("width", default=64, min=8, max=8192, tooltip="Pixels."),
                io.Int.Input("height", default=64, min=8, max=8192, tooltip="Pixels."),
                io.Int.Input(
                    "batch_size", default=1, min=1, max=4096, tooltip="Number of pictures."
                ),
            ],
            outputs=[
                io.Latent.Output(
                    display_name="latent", tooltip="All zeros: for sampling from noise alone."
                )
            ],
        )

    @classmethod
    def validate_inputs(
        cls, width: int | None = None, height: int | None = None, batch_size: int | None = None
    ) -> bool | str:
        return refusal(lambda: check_size(MOST_PIXELS, _limits(width, height, batch_size)))

    @classmethod
    def execute(cls, width: int, height: int, batch_size: int) -> Any:
        check_product(MOST_PIXELS, width=width, height=height, batch_size=batch_size)
        samples = zeros((batch_size, 3, height, width))
        return io.NodeOutput({"samples": samples, "downscale_ratio_spacial": 1})


def _limits(
    width: int | None, height: int | None, batch_size: int | None
) -> dict[str, tuple[int | None, int, int]]:
    sides = {"width": (width, 8, 8192), "height": (height, 8, 8192)}
    return {**sides, "batch_size": (batch_size, 1, 4096)}


class LatentToImage(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="SamplingKitLatentToImage",
            display_name="Latent to Image",
            category=CATEGORY,
            description="Shows a pixel-space LATENT in [−1, 1] as IMAGE: what VAE Decode is for latent models.",
            search_aliases=["VAE Decode", "decode", "pixel space"],
            inputs=[io.Latent.Input("latent", tooltip="Of a model that works on pixels.")],
            outputs=[io.Image.Output(display_name="image", tooltip="Values cut to 0 to 1.")],
        )

    @classmethod
    def execute(cls, latent: dict[str, Any]) -> Any:
        x = latent["samples"]
        if x.ndim not in (4, 5) or x.shape[1] not in (1, 3):
            raise ValueError(
                f"latent: shape {tuple(x.shape)} is not a pixel-space latent [B, 1 or 3, (T,) H, W]; "
                "a latent model needs VAE Decode"
            )
        frames = x.movedim(1, -1).reshape(-1, *x.shape[-2:], x.shape[1])
        return io.NodeOutput((frames.expand(*frames.shape[:-1], 3) / 2 + 0.5).clamp(0, 1).float())


class ImageToLatent(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="SamplingKitImageToLatent",
            display_name="Image to Latent",
            category=CATEGORY,
            description="Makes a pixel-space LATENT in [−1, 1] from IMAGE: what VAE Encode is for latent models.",
            search_aliases=["VAE Encode", "encode", "pixel space", "img2img", "图生图"],
            inputs=[io.Image.Input("image", tooltip="Values from 0 to 1.")],
            outputs=[io.Latent.Output(display_name="latent", tooltip="Values from −1 to 1.")],
        )

    @classmethod
    def execute(cls, image: Tensor) -> Any:
        samples = image[..., :3].movedim(-1, 1).contiguous() * 2 - 1
        return io.NodeOutput({"samples": samples, "downscale_ratio_spacial": 1})


class ImageSheet(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        more = "Another batch, set below the first."
        return io.Schema(
            node_id="SamplingKitImageSheet",
            display_name="Image Sheet",
            category=CATEGORY,
            description="Lays out batches of pictures as one: columns within a batch, further batches below, enlarged "
            "without smoothing.",
            search_aliases=["grid", "contact sheet", "image grid", "compare"],
            inputs=[
                io.Image.Input("images", tooltip="The first batch."),
                io.Int.Input("columns", default=5, min=1, max=100, tooltip="Pictures per row."),
                io.Int.Input(
                    "scale",
                    default=3,
                    min=1,
                    max=32,
                    tooltip="Each pixel becomes a square of this size.",
                ),
                io.Int.Input(
                    "gap",
                    default=6,
                    min=0,
                    max=256,
                    tooltip="White space between pictures, in final pixels.",
                ),
                *(io.Image.Input(f"images_{n}", optional=True, tooltip=more) for n in (2, 3, 4)),
                *(
                    io.String.Input(f"{line}_labels", default="", optional=True, tooltip=where)
                    for line, where in LABELS.items()
                ),
                io.Int.Input(
                    "reference",
                    default=0,
                    min=0,
                    max=4,
                    optional=True,
                    tooltip="Which batch the others are compared with: left of their rows stands the RMSE to its rows, of values from 0 "
                    "to 1. 0: none.",
                ),
            ],
            outputs=[io.Image.Output(display_name="sheet", tooltip="One picture.")],
        )

    @classmethod
    def execute(
        cls, images: Tensor, columns: int, scale: int, gap: int,
        images_2: Tensor | None = None, images_3: Tensor | None = None, images_4: Tensor | None = None,
        row_labels: str = "", column_labels: str = "", reference: int = 0,
    ) -> Any:  # fmt: skip
        connected = {1: images, 2: images_2, 3: images_3, 4: images_4}
        batches = [batch for batch in connected.values() if batch is not None]
        grid = sum(-(-len(b) // columns) for b in batches), min(columns, max(map(len, batches)))
        sheet, rows = tiles(batches, columns, scale, gap), words(row_labels)
        if reference:
            rows = with_errors(rows, batches, connected[reference], reference, columns)
        return io.NodeOutput(labelled(sheet, grid, gap, rows, words(column_labels)))


def with_errors(
    labels: list[str], batches: list[Tensor], exact: Tensor | None, number: int, columns: int
) -> list[str]:
    """The rows' labels, each with the RMSE of its pictures to the same pictures of ``exact`` [B, h, w, C]; without it where there are
    none, and at ``exact`` itself."""
    if exact is None:
        raise ValueError(
            f"reference = {number}: no batch is connected there; connect images_{number}, or choose the number of one that is, or 0"
        )
    found = list[str]()
    for batch in batches:
        for start in range(0, len(batch), columns):
            label = labels[len(found)] if len(found) < len(labels) else ""
            row, same = (b[start : start + columns] for b in (batch, exact))
            if batch is not exact and row.shape == same.shape:
                error = (row.double() - same.to(row.device).double()).square().mean().sqrt().item()
                label = f"{label}\nRMSE {error:.2g}".strip()
            found.append(label)
    return found


def words(labels: str) -> list[str]:
    """The labels of a text, in which ``;`` stands between them and ``/`` between the lines of one."""
    if not labels.strip():
        return []
    return ["\n".join(line.strip() for line in label.split(" / ")) for label in labels.split(";")]


NODES = (EmptyPixelLatent, LatentToImage, ImageToLatent, ImageSheet)
