"""UNet2DConditionModel: Stable Diffusion 1, 2 and XL with its refiner."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..family import (
    SD_PREVIEWS,
    TINY_POOLED,
    TINY_TEXT,
    TINY_UNET,
    ZERO_SNR,
    Beside,
    Call,
    Facts,
    Family,
    Tiny,
    always,
    scaled_as_x,
)
from ..folder import Config
from ..prompts import Encoder, Prompts, clips


def arguments(call: Call) -> dict[str, Any]:
    args: dict[str, Any] = dict(
        sample=call.x, timestep=call.t, encoder_hidden_states=call.cond["text"]
    )
    if call.config.get("addition_embed_type") == "text_time":
        size = call.cond.get("size")
        size = usual_size(call) if size is None else size.to(call.t)
        args["added_cond_kwargs"] = dict(text_embeds=call.cond["pooled"], time_ids=size)
    return args


def usual_size(call: Call) -> Tensor:
    """[B, 6] the whole picture, no crop, at its own size; [B, 5] for the refiner, with an aesthetic score."""
    height, width = call.pixels
    rows = call.t.new_tensor([height, width, 0, 0]).expand(len(call.t), -1)
    if is_refiner(call.config, call.cond["pooled"]):
        score = call.cond.get("aesthetic")
        score = call.filled(6.0) if score is None else score.to(call.t)
        return torch.cat([rows, score[:, None]], 1)
    return torch.cat([rows, rows[:, :2]], 1)


def is_refiner(config: Config, pooled: Tensor) -> bool:
    """Whether it takes 5 numbers beside the pooled text, not 6."""
    wide = config["projection_class_embeddings_input_dim"] - pooled.shape[-1]
    return wide // config["addition_time_embed_dim"] == 5


def needs(config: Config) -> tuple[str, ...]:
    return ("text", "pooled") if config.get("addition_embed_type") == "text_time" else ("text",)


def refuses(family: Family, config: Config) -> str:
    """Networks that see what no CONDITIONING can carry."""
    label = next((k for k in ("class_embed_type", "num_class_embeds") if config.get(k)), "")
    if label:
        return (
            f"{label} = {config[label]!r}: it is told a class, a noise level or a picture's embedding beside the text "
            "(x4 upscalers, unCLIP), for which a CONDITIONING has no place: use the folder's own pipeline"
        )
    more, own = family.concat_channels(config), family.latent_channels(config)
    if more not in (0, own, own + 1):
        return (
            f"in_channels = {config['in_channels']}: it sees {more} channels beside x, which is neither a picture ({own}) "
            f"nor a mask and a picture ({own + 1}): use the folder's own pipeline"
        )
    return ""


def beside(family: Family, facts: Facts) -> Beside:
    """Inpainting sees mask and picture scaled as x; instruct-pix2pix the picture's latents as they are,
    but for CosXL's edit network."""
    edits = facts.pipeline in ("", "StableDiffusionInstructPix2PixPipeline") or (
        facts.pipeline == "StableDiffusionXLInstructPix2PixPipeline"
        and not facts.index.get("is_cosxl_edit")
    )
    if edits and family.concat_channels(facts.config) == family.latent_channels(facts.config):
        return Beside(factor=1.0)
    return scaled_as_x(family, facts)


def sd(
    encoders: Sequence[Encoder], prompts: Sequence[str], length: int, config: Config
) -> dict[str, Tensor]:
    return dict(text=encoders[0].clip(prompts, skip=0)[0])


def sdxl(
    encoders: Sequence[Encoder], prompts: Sequence[str], length: int, config: Config
) -> dict[str, Tensor]:
    text, pooled = clips(encoders, prompts)
    return dict(text=text, pooled=pooled[-1])


def prompts(config: Config, pipeline: str) -> Prompts:
    twice = config.get("addition_embed_type") == "text_time"
    return Prompts(sdxl, 2, optional=1) if twice else Prompts(sd)


UNET = TINY_UNET | dict(
    in_channels=4, out_channels=4, cross_attention_dim=16,
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
)  # fmt: skip
SDXL = UNET | dict(
    addition_embed_type="text_time",
    addition_time_embed_dim=4,
    projection_class_embeddings_input_dim=48,  # 6·4 + 24
)
BETAS = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
EULER = ("EulerDiscreteScheduler", BETAS)
SIZE, TEXT, BOTH = (4, 8, 12), (TINY_TEXT,), (TINY_TEXT, TINY_POOLED)

FAMILY = Family(
    "UNet2DConditionModel", arguments, needs, ("size", "aesthetic"), patch=always((1, 1)),
    supported=dict(
        addition_embed_type=(None, "text_time"), encoder_hid_dim_type=(None,), time_cond_proj_dim=(None,)
    ),
    refuses=refuses, beside=beside, prompts=prompts, previews=SD_PREVIEWS,
    tiny={
        "sd": Tiny(UNET, ("PNDMScheduler", BETAS | dict(steps_offset=1)), SIZE, TEXT, "AutoencoderKL"),
        "sd2-v": Tiny(UNET, ("DDIMScheduler", BETAS | ZERO_SNR), SIZE, TEXT, "AutoencoderKL"),
        "sdxl": Tiny(SDXL, EULER, SIZE, BOTH, "AutoencoderKL"),
        "sdxl-refiner": Tiny(
            SDXL | dict(projection_class_embeddings_input_dim=44), EULER, SIZE, BOTH, "AutoencoderKL"
        ),
        "sd-inpaint": Tiny(
            UNET | dict(in_channels=9), EULER, SIZE, (*TEXT, ("concat", (5, 8, 12))), "AutoencoderKL",
            "StableDiffusionInpaintPipeline",
        ),
        "instruct-pix2pix": Tiny(
            UNET | dict(in_channels=8), EULER, SIZE, (*TEXT, ("concat", (4, 8, 12))), "AutoencoderKL",
            "StableDiffusionInstructPix2PixPipeline",
        ),
        "edm": Tiny(UNET, ("EDMEulerScheduler", {}), SIZE, TEXT),
    },
)  # fmt: skip
