"""Nodes that measure."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from torch import Tensor

from ...schedulers.measure.metrics import distances
from ...schedulers.show.data_uri import gallery
from ...schedulers.text_table import text_table
from ..host import io
from ..ui.payload import report_on_page

CATEGORY = "Sampling Kit/inspect"


class Difference(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        either = [io.Image, io.Latent]
        return io.Schema(
            node_id="SamplingKitDifference",
            display_name="Difference",
            category=CATEGORY,
            description="Compares two batches, image by image: root mean square (RMSE) and largest difference, PSNR, and a "
            "picture of |a − b| times gain, black where they are equal. Images have values from 0 to 1; the peak of "
            "PSNR is 1 for them, and the range of a for latents.",
            search_aliases=["compare", "RMSE", "PSNR", "error", "round trip", "image difference"],
            inputs=[
                io.MultiType.Input("a", types=either, tooltip="IMAGE or LATENT; the reference."),
                io.MultiType.Input("b", types=either, tooltip="The same type and shape as a."),
                io.Float.Input(
                    "gain", default=10.0, min=0.0, max=1000000.0, step=1.0, round=False,
                    tooltip="Factor on the difference picture.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="difference", tooltip="Latents of other than 3 channels are shown grey, by the mean over channels."),
                io.String.Output(display_name="text", tooltip="One line per image; Preview as Text shows it."),
                io.String.Output(display_name="json", tooltip='[{"rmse", "largest", "psnr"}, …], psnr null where it is not finite.'),
            ],
            is_output_node=True,
        )  # fmt: skip

    @classmethod
    def execute(cls, a: Any, b: Any, gain: float = 10.0) -> Any:
        if isinstance(a, dict) != isinstance(b, dict):
            raise ValueError("a and b: connect two IMAGEs or two LATENTs, not one of each")
        peak = None if isinstance(a, dict) else 1.0
        x, y = (v["samples"] if isinstance(v, dict) else v for v in (a, b))
        try:
            found = distances(x, y, peak)
        except ValueError as error:
            raise ValueError(f"a and b: {error}") from None
        rows = [
            (f"image {i}", d.rmse, d.largest, d.psnr if d.rmse else "equal")
            for i, d in enumerate(found)
        ]
        text = text_table(("", "RMSE", "largest", "PSNR in dB"), rows)
        facts = json.dumps([dataclasses.asdict(distance) for distance in found])
        picture = as_image((x - y).abs() * gain, channels_last=peak is not None)
        return io.NodeOutput(picture, text, facts, ui=report_on_page(text, gallery(picture)))


def as_image(x: Tensor, channels_last: bool) -> Tensor:
    """IMAGE [B, H, W, 3] of non-negative values; a latent's frames become images."""
    if not channels_last:
        x = x if x.shape[1] == 3 else x.mean(1, keepdim=True)
        x = x.movedim(1, -1).reshape(-1, *x.shape[-2:], x.shape[1])
    x = x[..., :3]
    return x.expand(*x.shape[:-1], 3).clamp(0, 1).float()


NODES = (Difference,)
