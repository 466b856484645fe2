"""A SAMPLER in fewer calls one after another: any solver that is a table, by Picard sweeps; one with noise in every step also
by speculation."""

from __future__ import annotations

from typing import Any

from ...schedulers.solver import Parallel, PicardSweeps, Speculation, Speculative
from ..host import io
from ..ui.inputs import inputs_for, summary
from .solvers import CATEGORY
from .state import run_inside

ONE_CALL = (
    "States of several levels go into one call with our Guider where no patch, mask, ControlNet or gradient goes by the level; "
    "elsewhere each is a call of its own, and nothing is gained. The log says how many rounds and evaluations a run took."
)
OUTPUT = io.Sampler.Output(
    display_name="sampler", tooltip="For SamplerCustomAdvanced with our Guider."
)


class ParallelSteps(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="SamplingKitParallelSteps",
            display_name=PicardSweeps.title,
            category=CATEGORY,
            description=summary(
                PicardSweeps,
                f"For every solver that is a table of steps, with its noise. {ONE_CALL}",
                f"Elsewhere: {Parallel.equals}.",
                f"Reference: {Parallel.paper}.",
            ),
            search_aliases=list(PicardSweeps.aliases),
            inputs=[
                io.Sampler.Input("sampler", tooltip="A solver of the Sampling Kit: the steps."),
                *inputs_for(PicardSweeps),
            ],
            outputs=[OUTPUT],
        )  # fmt: skip

    @classmethod
    def execute(cls, sampler: Any, **settings: Any) -> Any:
        return run_inside(Parallel, sampler, PicardSweeps(**settings))


class SpeculativeSteps(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="SamplingKitSpeculativeSteps",
            display_name=Speculation.title,
            category=CATEGORY,
            description=summary(
                Speculation,
                "For solvers that draw fresh noise before every evaluation: DDPM, DDIM and Euler Ancestral with eta above "
                f"0, DPM-Solver++ multistep and UniPC with eta above 0, ER-SDE, SA-Solver, LCM. {ONE_CALL}",
                f"Elsewhere: {Speculative.equals}.",
                f"Reference: {Speculative.paper}.",
            ),
            search_aliases=list(Speculation.aliases),
            inputs=[
                io.Sampler.Input(
                    "sampler",
                    tooltip="A solver of the Sampling Kit that draws noise in every step.",
                ),
                *inputs_for(Speculation),
            ],
            outputs=[OUTPUT],
        )  # fmt: skip

    @classmethod
    def execute(cls, sampler: Any, **settings: Any) -> Any:
        return run_inside(Speculative, sampler, Speculation(**settings))


NODES = (ParallelSteps, SpeculativeSteps)
