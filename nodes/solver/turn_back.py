"""The way back of a run with an invertible solver."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...schedulers.points import require_run
from ...schedulers.solver import Invertible
from ...schedulers.split import Handover, Part
from ...schedulers.turn_back import TurnedBack
from .. import host
from ..host import io
from ..ui.wire_types import SamplerStateType
from .state import CATEGORY, checked, plain_solver


class TurnBack(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="SamplingKitTurnBack",
            display_name="Turn Back",
            category=CATEGORY,
            description="The way back of a run from a picture up to noise, from the last two states of that run: with the same GUIDER "
            "the picture comes back exactly, with another prompt only what differs changes. The run up: Flip Sigmas, Keep "
            "State around an Invertible solver, DisableNoise. The way back: a second SamplerCustomAdvanced with these outputs, "
            "DisableNoise and the latent of the first, which says that it has run.",
            search_aliases=["exact inversion", "BDIA", "BELM", "EDICT", "edit", "unsampler", "img2img"],
            inputs=[
                io.Sampler.Input("sampler", tooltip="The Invertible solver of the run up."),
                SamplerStateType.Input("state", tooltip="From its Keep State."),
                io.Sigmas.Input("sigmas", tooltip="Of the run up, rising."),
            ],
            outputs=[
                io.Sampler.Output(display_name="sampler", tooltip="For the second SamplerCustomAdvanced."),
                io.Sigmas.Output(display_name="sigmas", tooltip="The levels back, from the last but one of the run up."),
                SamplerStateType.Output(display_name="state", tooltip="At the end of the way back, for Save State."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, sampler: Any, state: Handover, sigmas: Tensor) -> Any:
        require_run(sigmas)
        solver = plain_solver(sampler)
        if not isinstance(solver, Invertible):
            raise ValueError(
                f"sampler: {solver.title} cannot be turned back; use Invertible here and for the run up"
            )
        if len(sigmas) < 3 or sigmas[0] >= sigmas[-1]:
            raise ValueError(
                f"sigmas: {len(sigmas)} levels from σ = {sigmas[0]:g} to {sigmas[-1]:g}; give those of the run up, at least 3, rising "
                "(Flip Sigmas)"
            )  # fmt: skip
        after = Handover()
        part = Part(solver, after, after=TurnedBack(checked(state), solver))
        return io.NodeOutput(host.runs.make_sampler(part), torch.flip(sigmas, (0,))[1:], after)


NODES = (TurnBack,)
