"""Nodes that show noise levels and plans: on the page before a run, as IMAGE, text and JSON after it."""

from __future__ import annotations

import json
from typing import Any

from ...schedulers.measure.run_levels import Run, plan_record, record
from ...schedulers.noise_schedule import NoiseSchedule
from ...schedulers.path import VE
from ...schedulers.points import Points
from ...schedulers.show.schedule_plot import POSITIONS, QUANTITIES, plot
from ...schedulers.solver import Plan, Solver
from ..guidance.rules import numbered
from ..host import io
from ..solver.state import plain_solver
from ..ui.live_route import show_live
from ..ui.payload import levels_on_page, plan_on_page
from ..ui.wire_types import NoiseScheduleType

CATEGORY = "Sampling Kit/inspect"
MOST_STEPS = 1000  # of a plan that is shown before a run


def _run(sigmas: Any, schedule: Any, name: str = "") -> Run:
    """The run of SIGMAS on a wire, or one that already is a Run (in a preview), which knows its schedule."""
    if isinstance(sigmas, Run):
        return Run(sigmas.points, schedule or sigmas.schedule, f"{name} {sigmas.name}".strip())
    path = schedule.path if isinstance(schedule, NoiseSchedule) else VE()
    return Run(Points.from_sigmas(path, sigmas.tolist()), schedule, name)


class PlotSchedule(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        sigmas = io.Sigmas.Input("sigmas", tooltip="The noise levels of one run.")
        grow = io.Autogrow
        return io.Schema(
            node_id="SamplingKitPlotSchedule",
            display_name="Plot Schedule",
            category=CATEGORY,
            description="The noise levels of up to eight runs in one plot: σ, log σ, λ or timestep, against step or progress. "
            "Drawn on the node before any run where the levels follow from widgets alone, and after a run for every SIGMAS; "
            "point at the plot to read values, copy them as text.",
            search_aliases=["sigma plot", "visualize sigmas", "sigmas", "scheduler", "graph", "log SNR"],
            inputs=[
                grow.Input(
                    "sigmas", template=grow.TemplatePrefix(sigmas, prefix="sigmas", min=1, max=8),
                    tooltip="SIGMAS to overlay.",
                ),
                NoiseScheduleType.Input(
                    "noise_schedule", optional=True,
                    tooltip="What the model of these runs knows; gives λ and timesteps. Without it they are shown where Steps "
                    "or Schedule Editor say them.",
                ),
                io.Combo.Input("y", options=list(QUANTITIES), optional=True, tooltip="What is plotted: σ on a logarithmic scale, σ, λ = log(α/σ), or the network's timestep."),
                io.Combo.Input("x", options=list(POSITIONS), optional=True, tooltip="Against the step's number, or progress from 0 to 1."),
            ],
            outputs=[
                io.Image.Output(display_name="plot", tooltip="960 × 640."),
                io.String.Output(display_name="text", tooltip="The σ of each run on a line; Steps takes such a line as an explicit list."),
                io.String.Output(display_name="json", tooltip='{"runs": [{"sigma", "lambda", "timestep"}, …]}; null where infinite.'),
            ],
            is_output_node=True,
        )  # fmt: skip

    @classmethod
    def execute(
        cls, sigmas: Any = None, noise_schedule: Any = None, y: str = "log_sigma", x: str = "step"
    ) -> Any:
        runs = cls.runs(sigmas, noise_schedule)
        text = "\n".join(", ".join(f"{s:.7g}" for s in run.points.sigmas()) for run in runs)
        facts = json.dumps(record(runs), allow_nan=False)
        return io.NodeOutput(plot(runs, y, x), text, facts, ui=levels_on_page(runs))

    @classmethod
    def runs(
        cls, sigmas: Any = None, noise_schedule: Any = None, y: str = "", x: str = ""
    ) -> list[Run]:
        given = sorted(numbered(sigmas, "sigmas").items())
        return [_run(v, noise_schedule, f"{i}:" if len(given) > 1 else "") for i, v in given]


class SolverTable(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="SamplingKitSolverTable",
            display_name="Solver Table",
            category=CATEGORY,
            description="The plan of a solver: per stage the weights of x, of the denoiser's outputs D (newest first) and of "
            "noise, with the number of evaluations (NFE) and the order of accuracy. The table is all there is to a run: "
            "y = Σ x[j]·anchor + Σ D[j]·D + noise·z. Shown on the node before a run where its inputs follow from widgets.",
            search_aliases=["plan", "coefficients", "Butcher tableau", "NFE", "solver", "weights"],
            inputs=[
                io.Sampler.Input("sampler", tooltip="A solver of the Sampling Kit."),
                io.Sigmas.Input("sigmas", tooltip="The noise levels of the run."),
                NoiseScheduleType.Input("noise_schedule", tooltip="Of the run; the weights are those on its path."),
            ],
            outputs=[
                io.String.Output(display_name="text", tooltip="The table in Markdown; Preview as Text shows it."),
                io.String.Output(display_name="json", tooltip='{"solver", "order", "nfe", "columns", "rows", …}'),
            ],
            is_output_node=True,
        )  # fmt: skip

    @classmethod
    def execute(cls, sampler: Any, sigmas: Any, noise_schedule: Any) -> Any:
        plan = cls.plan(plain_solver(sampler), sigmas, noise_schedule)
        facts = json.dumps(plan_record(plan), allow_nan=False)
        return io.NodeOutput(plan.table(), facts, ui=plan_on_page(plan))

    @classmethod
    def plan(cls, sampler: Solver, sigmas: Any, noise_schedule: Any) -> Plan:
        """Raises ValueError for a solver that has no table."""
        if not sampler.planned:
            raise ValueError(f"{sampler.title} chooses its steps while it runs: it has no table")
        points = _run(sigmas, noise_schedule).points
        if not len(points):
            raise ValueError(
                "sigmas: no noise levels, so there is no table: connect those of a run"
            )
        return sampler.plan(points)


def _live_plan(**inputs: Any) -> Plan:
    run = inputs.get("sigmas")
    if isinstance(run, Run) and len(run.points) > MOST_STEPS + 1:
        raise ValueError(f"{len(run.points) - 1} steps: a table is shown up to {MOST_STEPS}")
    return SolverTable.plan(**inputs)


NODES = (PlotSchedule, SolverTable)

show_live("SamplingKitPlotSchedule", PlotSchedule, PlotSchedule.runs)
show_live("SamplingKitSolverTable", SolverTable, _live_plan)
