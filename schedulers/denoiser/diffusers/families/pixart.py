"""PixArtTransformer2DModel: PixArt-α and PixArt-Σ."""

from __future__ import annotations

from typing import Any

import torch

from ..family import (
    SD_PREVIEWS,
    TINY_BLOCKS,
    TINY_MASK,
    TINY_TEXT,
    Call,
    Family,
    Tiny,
    always,
    mask_arguments,
    text_arguments,
)
from ..folder import Config
from ..prompts import Prompts, t5_with_mask


def arguments(call: Call) -> dict[str, Any]:
    extra: dict[str, Any] = dict(resolution=None, aspect_ratio=None)
    if takes_sizes(call.config):
        size = call.cond.get("size")
        if size is None:
            size = torch.tensor([call.pixels], device=call.t.device).expand(len(call.t), -1)
        size = size[:, :2].to(call.t)
        extra = dict(resolution=size, aspect_ratio=size[:, :1] / size[:, 1:])
    return text_arguments(call) | dict(added_cond_kwargs=extra, **mask_arguments(call))


def takes_sizes(config: Config) -> bool:
    """Micro-conditioning on the size: said by the config, or by its sample size of 128."""
    said = config.get("use_additional_conditions")
    return config.get("sample_size") == 128 if said is None else bool(said)


def clean(prompt: str) -> str:
    return prompt.lower().strip()


def prompts(config: Config, pipeline: str) -> Prompts:
    length = 120 if pipeline == "PixArtAlphaPipeline" else 300
    return Prompts(t5_with_mask, 1, length, clean=clean)


SMALL = TINY_BLOCKS | dict(
    sample_size=8, in_channels=4, out_channels=8, patch_size=2, cross_attention_dim=16, caption_channels=16
)  # fmt: skip
DPM: tuple[str, Config] = ("DPMSolverMultistepScheduler", {})

FAMILY = Family(
    "PixArtTransformer2DModel", arguments, always(("text",)), ("mask", "size"),
    prompts=prompts, legacy=(("Transformer2DModel", "norm_type", "ada_norm_single"),), previews=SD_PREVIEWS,
    tiny={
        "pixart-alpha": Tiny(
            SMALL | dict(use_additional_conditions=True, attention_head_dim=12, cross_attention_dim=24),
            DPM, (4, 8, 12), (TINY_TEXT, TINY_MASK), "AutoencoderKL",
        ),
        "pixart-sigma": Tiny(
            SMALL | dict(use_additional_conditions=False), DPM, (4, 8, 12), (TINY_TEXT,), "AutoencoderKL"
        ),
    },
)  # fmt: skip
