"""SanaTransformer2DModel: linear attention on latents 32 times smaller than the picture."""

from __future__ import annotations

from typing import Any

import torch

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


def arguments(call: Call) -> dict[str, Any]:
    guided = {}
    if call.config.get("guidance_embeds"):
        scale = call.config.get("guidance_embeds_scale", 0.1)
        guided = dict(guidance=call.cond.get("guidance", call.filled(4.5)) * scale)
    return text_arguments(call) | mask_arguments(call) | guided


FAMILY = Family(
    "SanaTransformer2DModel", arguments, always(("text",)), ("mask", "guidance"),
    trained=always(torch.bfloat16), pixels=32,
    time=lambda config: float(config.get("timestep_scale") or 1.0),
    tiny={
        "sana": Tiny(
            dict(
                in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=4, num_layers=1,
                num_cross_attention_heads=2, cross_attention_head_dim=4, cross_attention_dim=8, caption_channels=16,
                sample_size=8, mlp_ratio=2.0,
            ),
            ("DPMSolverMultistepScheduler", dict(
                prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
            )),
            (4, 8, 12), (TINY_TEXT, TINY_MASK), "AutoencoderDC",
        ),
    },
)  # fmt: skip
