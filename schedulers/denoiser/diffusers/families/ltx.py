"""LTXVideoTransformer3DModel: LTX-Video, one token a latent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..family import (
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
from ..prompts import Encoder, Prompts


def arguments(call: Call) -> dict[str, Any]:
    frames, height, width = call.x.shape[2:]
    # rope_interpolation_scale: seconds per latent frame, pixels per latent row and column
    fps = float(call.cond["fps"][0]) if "fps" in call.cond else 25.0
    across = call.pixels[0] / height
    return text_arguments(call) | mask_arguments(call) | dict(
        hidden_states=call.x.flatten(2).mT, num_frames=frames, height=height, width=width,
        rope_interpolation_scale=(8 / fps, across, across),
    )  # fmt: skip


def unpack(out: Tensor, call: Call) -> Tensor:
    return out.mT.reshape(len(out), -1, *call.x.shape[2:])


def encode(
    encoders: Sequence[Encoder], prompts: Sequence[str], length: int, config: Config
) -> dict[str, Tensor]:
    """Padding is attended to by T5, but not by the network."""
    text, mask = encoders[0].t5(prompts, length, False)
    return dict(text=text, mask=mask)


FAMILY = Family(
    "LTXVideoTransformer3DModel", arguments, always(("text",)), ("mask", "fps"), dims=3, unpack=unpack,
    patch=always((1, 1, 1)), trained=always(torch.bfloat16),
    supported=dict(patch_size=(1, None), patch_size_t=(1, None)), pixels=32, frames=8,
    prompts=lambda config, pipeline: Prompts(encode, 1, 128), previews=((128, None, "LTXV"),),
    tiny={
        "ltx": Tiny(
            dict(
                in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=12, cross_attention_dim=24,
                num_layers=1, caption_channels=16,
            ),
            ("FlowMatchEulerDiscreteScheduler", dict(
                use_dynamic_shifting=True, base_shift=0.95, max_shift=2.05, base_image_seq_len=1024, shift_terminal=0.1
            )),
            (4, 3, 4, 6), (TINY_TEXT, TINY_MASK), "AutoencoderKLLTXVideo",
        ),
    },
)  # fmt: skip
