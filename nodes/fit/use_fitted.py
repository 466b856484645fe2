"""A fitted solver in use: SAMPLER and the SIGMAS that belong to it."""

from __future__ import annotations

import logging
from typing import Any

import torch

from ...schedulers.printable import one_line
from .. import host
from ..host import io
from ..host.fit_wire import checked_fit, misfits
from ..ui.payload import report_on_page
from ..ui.search_words import FEWER
from ..ui.wire_types import SolverFitType

CATEGORY = "Sampling Kit/fit"
log = logging.getLogger("sampling_kit")


class UseFittedSolver(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="SamplingKitFittedSolver",
            display_name="Fitted Solver",
            category=CATEGORY,
            description="A fitted solver as SAMPLER and SIGMAS, for SamplerCustomAdvanced. It runs its own noise levels only. On a "
            "MODEL with another path (flow, VP) the numbers are converted exactly; on another model or guidance than it was fitted to "
            "it still runs, with a warning.",
            search_aliases=["AMED", "EPD", "learned solver", "few steps", "fast", *FEWER],
            inputs=[
                SolverFitType.Input("fit", tooltip="From Load Fitted Solver or Fit Solver."),
                io.Guider.Input("guider", tooltip="The one that SamplerCustomAdvanced gets: its noise schedule sets the SIGMAS."),
            ],
            outputs=[
                io.Sampler.Output(display_name="sampler", tooltip="For SamplerCustomAdvanced."),
                io.Sigmas.Output(display_name="sigmas", tooltip="The noise levels that belong to the sampler, for SamplerCustomAdvanced."),
                io.String.Output(display_name="text", tooltip="Warnings, if it was made for something else."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, fit: Any, guider: Any) -> Any:
        solver, schedule = checked_fit(fit), host.runs.schedule_of_guider(guider)
        warnings = misfits(solver, host.runs.facts_of_guider(guider), schedule)
        for warning in warnings:
            log.warning("Fitted Solver: %s", one_line(warning))
        text = "\n".join(f"WARNING: {w}" for w in warnings) or "fits this model and guidance"
        sigmas = torch.tensor(solver.points(schedule.path).sigmas(), dtype=torch.float32)
        return io.NodeOutput(host.runs.make_sampler(solver), sigmas, text, ui=report_on_page(text))


NODES = (UseFittedSolver,)
