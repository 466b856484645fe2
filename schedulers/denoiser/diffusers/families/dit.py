"""DiTTransformer2DModel: classes of ImageNet in the latents of Stable Diffusion."""

from __future__ import annotations

from typing import Any

from ..family import TINY_BLOCKS, Call, Family, Tiny, always


def arguments(call: Call) -> dict[str, Any]:
    return dict(hidden_states=call.x, timestep=call.t, class_labels=call.cond["labels"])


FAMILY = Family(
    "DiTTransformer2DModel", arguments, always(("labels",)), square=True,
    legacy=(("Transformer2DModel", "norm_type", "ada_norm_zero"),), previews=((4, 0.18215, "SD15"),),
    tiny={
        "dit": Tiny(
            TINY_BLOCKS | dict(in_channels=4, out_channels=8, sample_size=8, num_embeds_ada_norm=10),
            ("DDIMScheduler", {}), (4, 8, 8), (("labels", ()),), "AutoencoderKL",
        ),
    },
)  # fmt: skip
