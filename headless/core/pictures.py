"""Pictures and texts that are loaded, saved or shown, as in ComfyUI's core."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ...nodes.host.alone import io
from ...nodes.ui.file_names import find_file, refusal, split_prefix, stamp
from ..context import current
from ..load_image import load_image
from ..save import run_metadata, save_animation, save_images
from .schema import schema

WEBP_METHODS = {"default": 4, "fastest": 0, "slowest": 6}


class SaveImage(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        inputs = [io.Image.Input("images"), io.String.Input("filename_prefix", default="ComfyUI")]
        outputs = [io.Image.Output("images")]
        return schema("SaveImage", inputs, outputs, "Save Image", is_output_node=True)

    @classmethod
    def validate_inputs(cls, filename_prefix: str = "ComfyUI") -> bool | str:
        return refusal(lambda: split_prefix(filename_prefix, current().output))

    @classmethod
    def execute(cls, images: Tensor, filename_prefix: str = "ComfyUI") -> Any:
        run = current()
        saved = save_images(images, filename_prefix, run.output, run_metadata(run))
        return io.NodeOutput(images, ui={"images": saved})


class PreviewImage(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        inputs = [io.Image.Input("images")]
        outputs = [io.Image.Output("images")]
        return schema("PreviewImage", inputs, outputs, "Preview Image", is_output_node=True)

    @classmethod
    def execute(cls, images: Tensor) -> Any:
        run = current()
        saved = save_images(images, "preview", run.temp, run_metadata(run), "temp")
        return io.NodeOutput(images, ui={"images": saved})


class PreviewAny(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        inputs, outputs = [io.AnyType.Input("source")], [io.String.Output()]
        return schema("PreviewAny", inputs, outputs, "Preview as Text", is_output_node=True)

    @classmethod
    def execute(cls, source: Any) -> Any:
        return io.NodeOutput(str(source), ui={"text": [str(source)]})


class LoadImage(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        inputs = [io.String.Input("image", default="")]
        return schema("LoadImage", inputs, [io.Image.Output(), io.Mask.Output()], "Load Image")

    @classmethod
    def fingerprint_inputs(cls, image: str = "") -> Any:
        return stamp(find_file(image, current().input))

    @classmethod
    def validate_inputs(cls, image: str = "") -> bool | str:
        return refusal(lambda: find_file(image, current().input))

    @classmethod
    def execute(cls, image: str) -> Any:
        return io.NodeOutput(*load_image(image, current().input))


class SaveAnimatedWEBP(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        inputs = [
            io.Image.Input("images"),
            io.String.Input("filename_prefix", default="ComfyUI"),
            io.Float.Input("fps", default=6.0, min=0.01, max=1000.0, step=0.01),
            io.Boolean.Input("lossless", default=True),
            io.Int.Input("quality", default=80, min=0, max=100),
            io.Combo.Input("method", options=list(WEBP_METHODS)),
        ]
        outputs = [io.Image.Output("images")]
        return schema(
            "SaveAnimatedWEBP", inputs, outputs, "Save Animated WEBP", is_output_node=True
        )

    @classmethod
    def validate_inputs(cls, filename_prefix: str = "ComfyUI") -> bool | str:
        return refusal(lambda: split_prefix(filename_prefix, current().output))

    @classmethod
    def execute(
        cls, images: Tensor, filename_prefix: str, fps: float, lossless: bool, quality: int, method: str
    ) -> Any:  # fmt: skip
        run = current()
        how = dict(lossless=lossless, quality=quality, method=WEBP_METHODS[method])
        saved = save_animation(images, filename_prefix, run.output, run_metadata(run), fps, how)
        return io.NodeOutput(images, ui={"images": [saved], "animated": [True]})
