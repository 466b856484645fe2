"""UNet2DConditionModel: Stable Diffusion 1, 2 and XL with its refiner."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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
    class_needs,
    scaled_as_x,
)
from ..folder import Config
from ..prompts import Encoder, Prompts, clips


def arguments(call: Call) -> dict[str, Any]:
    labels = {"class_labels": call.cond["labels"]} if "labels" in call.cond else {}
    args = dict(sample=call.x, timestep=call.t, encoder_hidden_states=call.cond["text"], **labels)
    if call.config.get("addition_embed_type") == "text_time":
        size = call.cond.get("size")
        if size is None:
            size = call.t.new_tensor([usual_size(call)]).expand(len(call.t), -1)
        size = size.to(call.t)
        args["added_cond_kwargs"] = dict(text_embeds=call.cond["pooled"], time_ids=size)
    return args


def usual_size(call: Call) -> tuple[float, ...]:
    """Whole picture, no crop, at its own size; for the refiner, which takes 5 numbers, aesthetic score 6."""
    height, width = call.pixels
    wide = call.config["projection_class_embeddings_input_dim"] - call.cond["pooled"].shape[-1]
    if wide // call.config["addition_time_embed_dim"] == 5:
        return (height, width, 0, 0, 6.0)
    return (height, width, 0, 0, height, width)


def needs(config: Config) -> tuple[str, ...]:
    added = ("pooled",) if config.get("addition_embed_type") == "text_time" else ()
    return ("text", *added, *class_needs(config))


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
    "UNet2DConditionModel", arguments, needs, ("size",), patch=always((1, 1)),
    supported=dict(
        addition_embed_type=(None, "text_time"), encoder_hid_dim_type=(None,), time_cond_proj_dim=(None,)
    ),
    beside=beside, prompts=prompts, previews=SD_PREVIEWS,
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
