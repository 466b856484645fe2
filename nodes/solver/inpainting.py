"""A SAMPLER that inpaints: any solver, with Langevin moves that fit what is new to what the noise mask keeps."""

from __future__ import annotations

from typing import Any

from ...schedulers.inpainting import Inpainting, LangevinMoves
from ..host import io
from ..ui.inputs import inputs_for, summary
from .solvers import CATEGORY
from .state import run_inside


class LangevinInpainting(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="SamplingKitLangevinInpainting",
            display_name=LangevinMoves.title,
            category=CATEGORY,
            description=summary(
                LangevinMoves,
                "For any MODEL, video and flow too, and any GUIDER. The LATENT is the picture with a noise mask (Set Latent Noise "
                "Mask), 1 where it is made anew; the sampler node adds noise, with denoise 1. Take a solver of one evaluation a "
                "step, such as DDIM. A MODEL made for inpainting needs it less.",
                f"Elsewhere: {Inpainting.equals}.",
                f"Reference: {Inpainting.paper}.",
            ),
            search_aliases=list(LangevinMoves.aliases),
            inputs=[
                io.Sampler.Input("sampler", tooltip="A solver of the Sampling Kit: the steps."),
                *inputs_for(LangevinMoves),
            ],
            outputs=[
                io.Sampler.Output(
                    display_name="sampler",
                    tooltip="For SamplerCustomAdvanced or SamplerCustom, whose LATENT has a noise mask.",
                )
            ],
        )

    @classmethod
    def execute(cls, sampler: Any, **settings: Any) -> Any:
        return run_inside(Inpainting, sampler, LangevinMoves(**settings))


NODES = (LangevinInpainting,)
