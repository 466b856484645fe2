"""SD3Transformer2DModel: Stable Diffusion 3 and 3.5."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..family import (
    TINY_FLOW,
    TINY_POOLED,
    TINY_TEXT,
    Call,
    Family,
    Tiny,
    always,
    text_arguments,
)
from ..folder import Config
from ..prompts import Encoder, Prompts, clips


def arguments(call: Call) -> dict[str, Any]:
    return text_arguments(call) | dict(pooled_projections=call.cond["pooled"])


def encode(
    encoders: Sequence[Encoder], prompts: Sequence[str], length: int, config: Config
) -> dict[str, Tensor]:
    """CLIP's states, padded to T5's width, then T5's states (zeros in a folder without T5)."""
    states, pooled = clips(encoders[:2], prompts)
    t5 = encoders[2].t5(prompts, length, False)[0] if len(encoders) > 2 else None
    if t5 is None:
        t5 = states.new_zeros(len(states), length, config["joint_attention_dim"])
    wide = F.pad(states, (0, t5.shape[-1] - states.shape[-1]))
    return dict(text=torch.cat([wide, t5.to(wide)], 1), pooled=torch.cat(pooled, -1))


FAMILY = Family(
    "SD3Transformer2DModel", arguments, always(("text", "pooled")),
    prompts=lambda config, pipeline: Prompts(encode, 3, 256, optional=1), previews=((16, 1.5305, "SD3"),),
    tiny={
        "sd3": Tiny(
            dict(
                sample_size=8, patch_size=2, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=8,
                num_attention_heads=2, joint_attention_dim=16, caption_projection_dim=16, pooled_projection_dim=24,
                pos_embed_max_size=8,
            ),
            TINY_FLOW, (4, 8, 12), (TINY_TEXT, TINY_POOLED), "AutoencoderKL",
        ),
    },
)  # fmt: skip
