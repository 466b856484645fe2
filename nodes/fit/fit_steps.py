"""Fit Steps: noise levels fitted to a model, a solver and a number of evaluations."""

from __future__ import annotations

import json
from typing import Any

import torch

from ...schedulers.fit import grid
from ...schedulers.measure import plain
from .. import host
from ..host import io
from ..host.guider_field import Ready
from ..solver.state import plain_solver
from ..ui.payload import report_on_page
from ..ui.wire_types import TrajectoriesType
from .recording import CATEGORY, checked


class FitSteps(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="SamplingKitFitSteps",
            display_name="Fit Steps",
            category=CATEGORY,
            description="Noise levels for this model, this solver and this number of evaluations: proposed from the recorded "
            "trajectories (GITS and OSS dynamic programming, quantiles of curvature, a search with the solver itself), compared on "
            "held-out trajectories with every fixed spacing of the kit, and the best of all is returned.",
            search_aliases=["GITS", "OSS", "optimal steps", "scheduler", "sigmas", "align your steps", "AYS"],
            is_output_node=True,
            inputs=[
                TrajectoriesType.Input("trajectories", tooltip="From Record Trajectories."),
                io.Sampler.Input("sampler", tooltip="The kit's solver that will run on these steps."),
                io.Int.Input("nfe", default=8, min=1, max=1000, tooltip="Evaluations of the run; a solver that needs two per step gets half as many steps."),
                io.Int.Input("held_out", default=16, min=1, max=100000, tooltip="Trajectories that are not fitted but judge the result."),
                io.Combo.Input("method", options=["all", *grid.METHODS], default="all", optional=True, tooltip="Who may propose; fixed spacings always take part."),
                io.Int.Input(
                    "budget", default=4000, min=0, max=10000000, optional=True, advanced=True,
                    tooltip="One-image evaluations that the search may spend.",
                ),
            ],
            outputs=[
                io.Sigmas.Output(display_name="sigmas", tooltip="For SamplerCustomAdvanced, with the same solver."),
                io.String.Output(display_name="text", tooltip="Who won, and the errors of all."),
                io.String.Output(display_name="json", tooltip="The same for programs; null where a number is not finite."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, trajectories: Any, sampler: Any, nfe: int, held_out: int, method: str = "all", budget: int = 4000
    ) -> Any:  # fmt: skip
        recording, solver = checked(trajectories), plain_solver(sampler)
        methods = grid.METHODS if method == "all" else (method,)
        total = len(grid.FIXED) + 10
        tell, done = host.places.progress(total), 0

        def report(name: str, best: float) -> None:
            nonlocal done
            done += 1
            tell(min(done, total - 1), f"held-out error {best:.4g} ({name})")

        def fit(ready: Ready) -> grid.FittedSteps:
            problem = recording.problem(ready, held_out)
            return grid.fit_steps(
                problem, recording.trajectories, solver, nfe, recording.schedule,
                methods=methods, budget=budget, report=report,
            )  # fmt: skip

        result = recording.ready(fit)
        tell(total, f"held-out error {result.best.rmse:.4g} ({result.best.name})")
        sigmas = torch.tensor(result.best.points.sigmas(), dtype=torch.float32)
        facts = json.dumps(plain(result.payload()), allow_nan=False)
        return io.NodeOutput(sigmas, result.text(), facts, ui=report_on_page(result.text()))


NODES: tuple[type[Any], ...] = (FitSteps,)
