"""Settings from A1111 Text: a picture's settings, as people share them, for Sample."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from ..host import io
from ..ui.file_names import refusal
from ..ui.live_route import show_live
from ..ui.payload import report_on_page
from . import CATEGORY
from .infotext import Settings, settings_of

EXAMPLE = "a castle\nNegative prompt: blurry\nSteps: 30, Sampler: DPM++ 2M Karras, CFG scale: 5, Seed: 7, Size: 512x768"


class A1111Settings(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="SamplingKitA1111Settings",
            display_name="Settings from A1111 Text",
            category=CATEGORY,
            description="Use it to run what somebody shared from A1111, Forge or a picture site: the text under a picture becomes the "
            "settings of Sample. What has no counterpart is said, with the node that has it. On Sample itself the menu entry "
            "“Paste A1111 settings”, and a PNG dropped on the node, set its widgets.",
            search_aliases=["A1111", "Forge", "infotext", "PNG info", "parameters", "generation data", "civitai", "read prompt"],
            inputs=[
                io.String.Input(
                    "text", multiline=True, default="", placeholder=EXAMPLE,
                    tooltip="Prompt, “Negative prompt: …” and the line “Steps: 30, Sampler: …”, as they were copied.",
                )
            ],
            outputs=[
                io.String.Output(display_name="positive", tooltip="The prompt, without <lora:…>."),
                io.String.Output(display_name="negative", tooltip="The negative prompt."),
                io.Int.Output(display_name="seed", tooltip="For Sample. A1111 draws its noise on the GPU: for the same one see Noise."),
                io.Int.Output(display_name="steps", tooltip="Steps that are taken, also in img2img."),
                io.Float.Output(display_name="cfg", tooltip="CFG scale."),
                io.Combo.Output(display_name="solver", tooltip="For Sample's solver."),
                io.Combo.Output(display_name="spacing", tooltip="For Sample's spacing."),
                io.Float.Output(display_name="denoise", tooltip="1 but for img2img."),
                io.Int.Output(display_name="width", tooltip="Pixels."),
                io.Int.Output(display_name="height", tooltip="Pixels."),
                io.String.Output(display_name="report", tooltip="What was read, and what has no counterpart."),
            ],
            is_output_node=True,
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, text: str | None = None) -> bool | str:
        return True if text is None else refusal(lambda: settings_of(text))

    @classmethod
    def execute(cls, text: str) -> Any:
        read = settings_of(text)
        report = report_of(read)
        return io.NodeOutput(
            read.positive, read.negative, read.seed, read.steps, read.cfg, read.solver, read.spacing, read.denoise,
            read.width, read.height, report, ui=report_on_page(report),
        )  # fmt: skip


def report_of(read: Settings) -> str:
    """A line with what was read, and one for each thing without a counterpart."""
    line = (
        f"{read.solver}, {read.spacing}, {read.steps} steps, cfg {read.cfg:g}, seed {read.seed}, {read.width} × {read.height}"
        + (f", denoise {read.denoise:g}" if read.denoise < 1 else "")
    )
    return "\n".join([line, *read.said])


NODES = (A1111Settings,)


def on_sample(text: str) -> dict[str, Any]:
    """The settings for the page, which sets the widgets of Sample to them."""
    return {"settings": asdict(settings_of(text))}


show_live("SamplingKitA1111Settings", A1111Settings, on_sample)
