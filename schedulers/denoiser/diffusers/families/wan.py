"""WanTransformer3DModel: Wan 2.1 and 2.2, text or picture to video."""

from __future__ import annotations

import html
import importlib.util
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..family import (
    TINY_TEXT,
    Beside,
    Call,
    Facts,
    Family,
    Tiny,
    always,
    scaled_as_x,
    text_arguments,
)
from ..folder import Config
from ..prompts import Encoder, Prompts


def arguments(call: Call) -> dict[str, Any]:
    image = {"encoder_hidden_states_image": call.cond["image"]} if "image" in call.cond else {}
    return text_arguments(call) | image


def patch(config: Config) -> tuple[int, ...]:
    return tuple(config.get("patch_size") or (1, 2, 2))


def needs(config: Config) -> tuple[str, ...]:
    return ("text", "image") if config.get("image_dim") else ("text",)


def beside(family: Family, facts: Facts) -> Beside:
    """A video with frames given, after four channels that say which frames of each latent are."""
    return replace(scaled_as_x(family, facts), kept=True)


def encode(
    encoders: Sequence[Encoder], prompts: Sequence[str], length: int, config: Config
) -> dict[str, Tensor]:
    """States of the padding are zero."""
    text, mask = encoders[0].t5(prompts, length, True)
    return dict(text=text * mask[..., None].to(text))


SMALL = dict(
    patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4,
    text_dim=16, freq_dim=16, ffn_dim=32, num_layers=1, rope_max_seq_len=32,
)  # fmt: skip
UNIPC = (
    "UniPCMultistepScheduler",
    dict(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
)


def clean(prompt: str) -> str:
    """Mended where ftfy is installed, as the pipeline does; entities read, blanks made one."""
    if importlib.util.find_spec("ftfy"):
        prompt = importlib.import_module("ftfy").fix_text(prompt)
    prompt = html.unescape(html.unescape(prompt)).strip()
    return re.sub(r"\s+", " ", prompt)


FAMILY = Family(
    "WanTransformer3DModel", arguments, needs, dims=3, patch=patch, beside=beside,
    trained=always(torch.bfloat16),
    prompts=lambda config, pipeline: Prompts(encode, 1, 512, clean=clean), previews=((16, None, "Wan21"), (48, None, "Wan22")),
    tiny={
        "wan": Tiny(SMALL, UNIPC, (4, 3, 4, 6), (TINY_TEXT,), "AutoencoderKLWan"),
        "wan-i2v": Tiny(
            SMALL | dict(in_channels=12), UNIPC, (4, 3, 4, 6), (TINY_TEXT, ("concat", (8, 3, 4, 6))), "AutoencoderKLWan",
            "WanImageToVideoPipeline",
        ),
    },
)  # fmt: skip
