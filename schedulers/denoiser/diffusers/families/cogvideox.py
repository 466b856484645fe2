"""CogVideoXTransformer3DModel: CogVideoX 2B, 5B and 1.5, text or picture to video."""

from __future__ import annotations

import importlib
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ..family import (
    ZERO_SNR,
    Beside,
    Call,
    Facts,
    Family,
    Tiny,
    always,
    scaled_as_x,
    square_patch,
    text_arguments,
)
from ..folder import Config
from ..prompts import Prompts, t5_alone


def arguments(call: Call) -> dict[str, Any]:
    c = call.config
    args = text_arguments(call) | dict(hidden_states=call.x.transpose(1, 2))
    if c.get("ofs_embed_dim") is not None:
        args["ofs"] = call.t.new_full((1,), 2.0)
    if c.get("use_rotary_positional_embeddings"):
        frames, height, width = call.x.shape[2:]
        p = c["patch_size"]
        args["image_rotary_emb"] = rotary(
            c["attention_head_dim"], (frames, height // p, width // p), c.get("patch_size_t"),
            (c["sample_height"] // p, c["sample_width"] // p), str(call.x.device),
        )  # fmt: skip
    return args


@lru_cache(maxsize=4)
def rotary(
    dim: int, grid: tuple[int, int, int], patch_t: int | None, trained: tuple[int, int], device: str
) -> tuple[Tensor, Tensor]:
    """(cos, sin) of the 3-D rotary embedding for a grid of (frames, rows, columns) tokens.

    1.0 stretches the grid over the trained one, keeping the aspect ratio, centred; 1.5 cuts it out.
    """
    embed = importlib.import_module("diffusers.models.embeddings").get_3d_rotary_pos_embed
    frames, rows, columns = grid
    if patch_t is not None:
        return embed(
            embed_dim=dim, crops_coords=None, grid_size=(rows, columns), temporal_size=-(-frames // patch_t),
            grid_type="slice", max_size=trained, device=torch.device(device),
        )  # fmt: skip
    high, wide = trained
    if rows / columns > high / wide:
        wide = round(high / rows * columns)
    else:
        high = round(wide / columns * rows)
    top, left = round((trained[0] - high) / 2), round((trained[1] - wide) / 2)
    return embed(
        embed_dim=dim, crops_coords=((top, left), (top + high, left + wide)), grid_size=(rows, columns),
        temporal_size=frames, device=torch.device(device),
    )  # fmt: skip


def unpack(out: Tensor, call: Call) -> Tensor:
    return out.transpose(1, 2)


def patch(config: Config) -> tuple[int, ...]:
    return (config.get("patch_size_t") or 1, *square_patch(config))


def beside(family: Family, facts: Facts) -> Beside:
    """1.5 sees z divided by the factor that x is multiplied with (``invert_scale_latents``)."""
    if facts.vae.get("invert_scale_latents"):
        return Beside(factor=1 / float(facts.vae.get("scaling_factor") or 1.15258426))
    return scaled_as_x(family, facts)


def trained(config: Config) -> torch.dtype | None:
    """2B, without rotary embeddings, was trained in float16; 5B and 1.5 in bfloat16."""
    return torch.bfloat16 if config.get("use_rotary_positional_embeddings") else None


def prompts(config: Config, pipeline: str) -> Prompts:
    return Prompts(t5_alone, 1, int(config.get("max_text_seq_length") or 226))


SMALL = dict(
    num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=4, time_embed_dim=8, text_embed_dim=16,
    num_layers=1, sample_width=8, sample_height=8, sample_frames=9, patch_size=2, temporal_compression_ratio=4,
    max_text_seq_length=8,
)  # fmt: skip
TEXT = (("text", (8, 16)),)
ROTARY = dict(use_rotary_positional_embeddings=True)
ONE = ZERO_SNR | dict(snr_shift_scale=1.0)

FAMILY = Family(
    "CogVideoXTransformer3DModel", arguments, always(("text",)), dims=3, unpack=unpack, patch=patch,
    leads=True, beside=beside, trained=trained, prompts=prompts,
    tiny={
        "cogvideox-2b": Tiny(
            SMALL, ("CogVideoXDDIMScheduler", ZERO_SNR), (4, 3, 8, 8), TEXT, "AutoencoderKLCogVideoX"
        ),
        "cogvideox-5b": Tiny(
            SMALL | ROTARY | dict(sample_height=12), ("CogVideoXDPMScheduler", ONE), (4, 3, 8, 12), TEXT,
            "AutoencoderKLCogVideoX",
        ),
        "cogvideox-1.5": Tiny(
            SMALL | ROTARY | dict(patch_size_t=2, ofs_embed_dim=8, in_channels=8, patch_bias=False),
            ("CogVideoXDDIMScheduler", ONE), (4, 4, 4, 8), (*TEXT, ("concat", (4, 4, 4, 8))), "AutoencoderKLCogVideoX",
        ),
    },
)  # fmt: skip
