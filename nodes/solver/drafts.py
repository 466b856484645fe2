"""Nodes that finish a few of many runs: a numbered sheet of drafts, and the states of those that were picked."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ...schedulers.draft_numbers import picked
from ...schedulers.show.contact_sheet import numbered
from ...schedulers.split import Handover, taken
from .. import host
from ..host import io
from ..ui.wire_types import SamplerStateType
from .state import CATEGORY, checked


class DraftSheet(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="SamplingKitDraftSheet",
            display_name="Draft Sheet",
            category=CATEGORY,
            description="Lays out the drafts of many seeds as one picture and numbers them from 1, for Pick Drafts. Draft: a run "
            "that Keep State stops after a few steps; denoised_output of its SamplerCustomAdvanced shows what each would become.",
            search_aliases=["contact sheet", "preview seeds", "numbered grid", "draft"],
            inputs=[
                io.Image.Input("images", tooltip="One picture per draft, from denoised_output."),
                io.Int.Input("columns", default=4, min=1, max=100, tooltip="Pictures per row."),
                io.Int.Input("height", default=160, min=16, max=2048, tooltip="Of each picture on the sheet, in pixels."),
            ],
            outputs=[io.Image.Output(display_name="sheet", tooltip="One picture; the numbers stand above the drafts.")],
        )  # fmt: skip

    @classmethod
    def execute(cls, images: Tensor, columns: int = 4, height: int = 160) -> Any:
        return io.NodeOutput(numbered(images[..., :3].cpu(), columns, height))


class PickDrafts(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="SamplingKitPickDrafts",
            display_name="Pick Drafts",
            category=CATEGORY,
            description="Goes on with some of many runs: the state and the latent of the drafts whose numbers you write, for "
            "Resume State. Each is finished as its full run, with the solver's history, its place in the noise stream and the "
            "rules' memory. Without numbers nothing after this node runs: look at the drafts first, then write the numbers and "
            "queue again; ComfyUI keeps the drafts in its cache. A conditioning of its own for each image stays with the first "
            "images: give all drafts one prompt.",
            search_aliases=["select seeds", "choose", "LatentFromBatch", "draft", "preview then finish"],
            inputs=[
                SamplerStateType.Input("state", tooltip="From Keep State."),
                io.Latent.Input("latent", tooltip="The output of SamplerCustomAdvanced that left this state."),
                io.String.Input(
                    "numbers", default="",
                    tooltip="Numbers on the sheet, such as 3, 7 or 1, 4-6. Empty: stop after the drafts.",
                ),
            ],
            outputs=[
                SamplerStateType.Output(display_name="state", tooltip="Of the picked drafts, for Resume State."),
                io.Latent.Output(display_name="latent", tooltip="Theirs, for the SamplerCustomAdvanced that goes on."),
            ],
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, numbers: str = "") -> bool | str:
        try:
            picked(numbers or "", 10**6)
        except ValueError as error:
            return str(error).split("; the drafts are")[0]
        return True

    @classmethod
    def execute(cls, state: Handover, latent: dict[str, Any], numbers: str = "") -> Any:
        stopped = checked(state).get("Pick Drafts")
        rows = picked(numbers, len(stopped.state.x))
        if not rows:
            return io.NodeOutput(host.runs.blocked(), host.runs.blocked())
        return io.NodeOutput(Handover(taken(stopped, rows)), rows_of_latent(latent, rows))


def rows_of_latent(latent: dict[str, Any], rows: list[int]) -> dict[str, Any]:
    """The LATENT of some images of a batch, with their batch_index, as LatentFromBatch leaves it."""
    samples, mask = latent["samples"], latent.get("noise_mask")
    indices = latent.get("batch_index")
    if getattr(samples, "is_nested", False):
        chosen = type(samples)([part[rows] for part in samples.unbind()])
    else:
        chosen = samples[rows]
    some = {
        **latent,
        "samples": chosen,
        "batch_index": [indices[i] if indices else i for i in rows],
    }
    if isinstance(mask, Tensor) and len(mask) > 1:
        some["noise_mask"] = mask[[i % len(mask) for i in rows]]
    return some


NODES = (DraftSheet, PickDrafts)
