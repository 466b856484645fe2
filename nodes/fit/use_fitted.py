"""A fitted solver in use: SAMPLER and the SIGMAS that belong to it."""

from __future__ import annotations

import logging
import math
from typing import Any

import torch

from ...schedulers.fit import fit_files
from ...schedulers.noise_schedule import NoiseSchedule
from ...schedulers.printable import one_line
from ...schedulers.solver.fitted import FittedSolver
from .. import host
from ..host import io
from ..host.guider_field import Facts
from ..ui.payload import report_on_page
from ..ui.search_words import FEWER
from ..ui.wire_types import SolverFitType

CATEGORY = "Sampling Kit/fit"
log = logging.getLogger("sampling_kit")


def checked_fit(fit: Any) -> FittedSolver:
    if not isinstance(fit, FittedSolver):
        raise TypeError(f"fit: expected a SOLVER_FIT, got {type(fit).__name__}")
    return fit


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


def misfits(fit: FittedSolver, facts: Facts, schedule: NoiseSchedule) -> list[str]:
    """What the fit was made for and this run is not."""
    found = fit_files.differences(fit.card, model=facts.model, guidance=facts.guidance)
    top, own = fit.table.start, schedule.kappa_max
    if not (math.isinf(top) and own > 1000) and not math.isclose(top, own, rel_tol=1e-3):
        found.append(
            f"this fit starts at σ/α = {top:.4g}, the MODEL's noisiest level is {own:.4g}: pictures may come out "
            "dull or noisy"
        )
    return found


NODES = (UseFittedSolver,)
