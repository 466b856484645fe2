"""Prompts into CONDITIONING with the text encoders that a diffusers folder carries."""

from __future__ import annotations

from typing import Any

from torch import nn

from ...schedulers.denoiser.diffusers import load_text
from .. import host
from ..host import io
from ..host.conditioning import Conditioning, named_conditioning
from ..ui.file_names import refusal
from .folders import folder_input, open_folder, resolve, stamp

CATEGORY = "Sampling Kit/denoiser"


class Encoders:
    """A folder's text encoders, moved by the host."""

    def __init__(self, folder: str) -> None:
        """Raises ValueError naming the folder if an encoder or a tokenizer is missing or unknown."""
        found = open_folder(folder)
        try:
            self.text = load_text(found)
        except ValueError as error:
            raise ValueError(f"folder = {folder!r}: {error}") from error
        models = nn.ModuleList(encoder.model for encoder in self.text.encoders)
        self.patcher = host.places.patcher(models, "text_encoder", keep=False)

    @property
    def gone(self) -> bool:
        """Whether the host took the weights away, to make room."""
        return any(weight.is_meta for weight in self.patcher.model.parameters())

    def encode(self, prompt: str, second: str = "") -> Conditioning:
        with host.places.loaded(self.patcher):
            named = self.text.encode(prompt, second=second)
        return named_conditioning({name: value.cpu() for name, value in named.items()})


_last: dict[str, Encoders] = {}


def encoders(folder: str) -> Encoders:
    """The encoders of a folder. Those used last are kept, since a run encodes two prompts at least,
    until the host makes room, a file of the folder changes or another folder is asked for."""
    key = repr(stamp(folder))
    if key not in _last or _last[key].gone:
        _last.clear()  # before loading: two T5 may not fit
        _last[key] = Encoders(folder)
    return _last[key]


class DiffusersTextEncode(io.ComfyNode):
    LIBRARIES = ("transformers",)  # that it needs to run

    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="SamplingKitDiffusersTextEncode",
            display_name="Diffusers Text Encode",
            category=CATEGORY,
            description="Encodes a prompt with the text encoders in a diffusers folder, as the folder's own pipeline does: "
            "CLIP for Stable Diffusion, both CLIPs for SDXL, CLIPs and T5 for SD3 and Flux, T5 for PixArt, CogVideoX, LTX and "
            "Wan. For the MODEL of the same folder. Where a pipeline is given no negative prompt and takes zeros (SDXL), use "
            "ConditioningZeroOut.",
            search_aliases=["CLIPTextEncode", "prompt", "T5", "text encoder", "CogVideoX", "conditioning"],
            inputs=[
                folder_input(),
                io.String.Input(
                    "prompt", default="", multiline=True, dynamic_prompts=True,
                    tooltip="Cut at the length the pipeline uses: 77 tokens for CLIP, 226 for CogVideoX's T5.",
                ),
                io.String.Input(
                    "second_prompt", default="", multiline=True, dynamic_prompts=True, optional=True, advanced=True,
                    tooltip="For the second encoder, as the pipelines' prompt_2: SDXL's and SD3's second CLIP, Flux's T5. "
                    "Empty: the same prompt. A folder with one encoder takes none.",
                ),
            ],
            outputs=[io.Conditioning.Output(display_name="conditioning", tooltip="For the Guider, with the MODEL of the same folder.")],
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, folder: str = "") -> bool | str:
        return True if folder is None else refusal(lambda: resolve(folder))

    @classmethod
    def fingerprint_inputs(cls, folder: str = "", **kwargs: Any) -> Any:
        return stamp(folder)

    @classmethod
    def execute(cls, folder: str, prompt: str = "", second_prompt: str = "") -> Any:
        return io.NodeOutput(encoders(folder).encode(prompt, second_prompt))


NODES = (DiffusersTextEncode,)
