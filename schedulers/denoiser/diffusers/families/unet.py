"""UNet2DModel: pictures or latents without text, with or without classes (DDPM, EDM, NCSN++)."""

from __future__ import annotations

from typing import Any

from ..family import TINY_UNET, Call, Family, Tiny, class_needs
from ..folder import Config


def arguments(call: Call) -> dict[str, Any]:
    labels = {"class_labels": call.cond["labels"]} if "labels" in call.cond else {}
    return dict(sample=call.x, timestep=call.t, **labels)


def levels(config: Config) -> tuple[int, ...]:
    """Every level halves the picture."""
    return (2 ** (len(config.get("block_out_channels") or (1,)) - 1),) * 2


UNET = TINY_UNET | dict(
    in_channels=3, out_channels=3,
    down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
)  # fmt: skip
SIZE = (3, 8, 12)

FAMILY = Family(
    "UNet2DModel", arguments, class_needs, patch=levels, pixels=1,
    supported=dict(class_embed_type=(None, "timestep", "identity")),
    tiny={
        "ddpm": Tiny(UNET, ("DDPMScheduler", {}), SIZE, pipeline="DDPMPipeline"),
        "ddim-x0": Tiny(
            UNET, ("DDIMScheduler", dict(prediction_type="sample", beta_schedule="squaredcos_cap_v2")), SIZE
        ),
        "ddpm-classes": Tiny(
            UNET | dict(num_class_embeds=4), ("DDPMScheduler", dict(beta_schedule="sigmoid")), SIZE, (("labels", ()),)
        ),
        "ddpm-learned": Tiny(UNET | dict(out_channels=6), ("DDPMScheduler", dict(variance_type="learned_range")), SIZE),
        "edm-v": Tiny(UNET, ("EDMEulerScheduler", dict(prediction_type="v_prediction")), SIZE),
        "svd-like": Tiny(
            UNET,
            ("EulerDiscreteScheduler", dict(
                timestep_type="continuous", prediction_type="v_prediction", sigma_min=0.002, sigma_max=700.0
            )),
            SIZE,
        ),
        "ncsn": Tiny(UNET | dict(time_embedding_type="fourier"), ("ScoreSdeVeScheduler", dict(sigma_max=50.0)), SIZE),
    },
)  # fmt: skip
