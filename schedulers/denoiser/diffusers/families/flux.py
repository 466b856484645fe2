"""FluxTransformer2DModel: Flux.1, whose network sees 2 × 2 latents as one token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..family import TINY_POOLED, TINY_TEXT, Call, Family, Tiny, always, text_arguments
from ..folder import Config
from ..prompts import Encoder, Prompts


def arguments(call: Call) -> dict[str, Any]:
    height, width = (n // 2 for n in call.x.shape[-2:])
    rows = torch.arange(height, device=call.t.device).repeat_interleave(width)
    columns = torch.arange(width, device=call.t.device).repeat(height)
    ids = torch.stack([torch.zeros_like(rows), rows, columns], 1).to(call.t)
    text = call.cond["text"]
    guidance = {}
    if call.config.get("guidance_embeds"):
        guidance = dict(guidance=call.cond.get("guidance", call.filled(3.5)))
    return text_arguments(call) | dict(
        hidden_states=squeeze(call.x, 2), pooled_projections=call.cond["pooled"], img_ids=ids,
        txt_ids=ids.new_zeros(text.shape[1], 3), **guidance,
    )  # fmt: skip


def unpack(out: Tensor, call: Call) -> Tensor:
    return unsqueeze(out, call.x.shape[-2] // 2, call.x.shape[-1] // 2, 2)


def squeeze(x: Tensor, p: int) -> Tensor:
    """[B, C, H, W] → tokens [B, H/p·W/p, C·p·p]."""
    b, c, h, w = x.shape
    x = x.reshape(b, c, h // p, p, w // p, p).permute(0, 2, 4, 1, 3, 5)
    return x.reshape(b, (h // p) * (w // p), c * p * p)


def unsqueeze(tokens: Tensor, rows: int, columns: int, p: int) -> Tensor:
    """Inverse of :func:`squeeze`."""
    x = tokens.reshape(len(tokens), rows, columns, -1, p, p).permute(0, 3, 1, 4, 2, 5)
    return x.reshape(len(tokens), -1, rows * p, columns * p)


def encode(
    encoders: Sequence[Encoder], prompts: Sequence[str], length: int, config: Config
) -> dict[str, Tensor]:
    return dict(
        text=encoders[1].t5(prompts, length, False)[0], pooled=encoders[0].clip(prompts, 0)[1]
    )


FAMILY = Family(
    "FluxTransformer2DModel", arguments, always(("text", "pooled")), ("guidance",), unpack=unpack,
    patch=always((2, 2)), time=always(1e-3), packed=4, trained=always(torch.bfloat16),
    supported=dict(patch_size=(1, None)), exact_time="time_text_embed",
    prompts=lambda config, pipeline: Prompts(encode, 2, 512), previews=((16, 0.3611, "Flux"),),
    tiny={
        "flux": Tiny(
            dict(
                patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16,
                num_attention_heads=2, joint_attention_dim=16, pooled_projection_dim=24, guidance_embeds=True,
                axes_dims_rope=[4, 6, 6],
            ),
            ("FlowMatchEulerDiscreteScheduler", dict(use_dynamic_shifting=True)), (4, 8, 12),
            (TINY_TEXT, TINY_POOLED), "AutoencoderKL",
        ),
    },
)  # fmt: skip
