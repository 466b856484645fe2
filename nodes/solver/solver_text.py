"""Nodes for solvers as text: read and proved, and written."""

from __future__ import annotations

import logging
from typing import Any

import torch

from ...schedulers.measure.solver_proof import report
from ...schedulers.path import PATHS, VE, Path
from ...schedulers.points import Points
from ...schedulers.printable import one_line
from ...schedulers.solver.fitted import FittedSolver
from ...schedulers.solver.plan_solver import PlanSolver
from ...schedulers.solver.solver_text import Written, fit_text, plan_text, read, tableau_text
from ...schedulers.solver.tableau_solver import AdaptiveTableau, TableauSolver
from .. import host
from ..host import io
from ..host.fit_wire import checked_fit, misfits
from ..ui.file_names import refusal
from ..ui.payload import report_on_page
from ..ui.wire_types import NoiseScheduleType, SolverFitType
from .state import plain_solver

CATEGORY = "Sampling Kit/solver/text"
log = logging.getLogger("sampling_kit")
EXAMPLE = """{"tableau": {
  "name": "Bogacki-Shampine",
  "order": 3,
  "variable": "exponential",
  "c": [0, "1/2", "3/4"],
  "a": [[], ["1/2"], [0, "3/4"]],
  "b": ["2/9", "1/3", "4/9"]
}}"""


class SolverFromText(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="SamplingKitSolverFromText",
            display_name="Solver from Text",
            category=CATEGORY,
            description="A solver that you write, as JSON; the workflow carries it. {\"tableau\": {\"c\", \"a\", \"b\"}}: a Runge–Kutta method of "
            "any number of stages, with name, order (claimed), variable (sigma, lambda, exponential), b2 (an embedded pair) and adaptive "
            "({\"rtol\", \"atol\"}: steps by that pair). {\"plan\": {\"path\", \"rows\"}}: a table of weights at levels of its own, as Solver Table "
            "shows it. {\"fit\": …}: a fitted solver. Solver to Text writes all three. The node proves order and stability, measures the "
            "error on exact Gaussian data, and refuses a text with the row at fault.",
            search_aliases=["Butcher tableau", "custom sampler", "Runge-Kutta", "coefficients", "JSON", "weights", "RES4LYF"],
            inputs=[
                io.String.Input(
                    "text", default=EXAMPLE, multiline=True,
                    tooltip="One of tableau, plan and fit. Fractions stand in quotes: \"1/3\". At most 2^20 characters; nothing in it is run.",
                ),
                io.Guider.Input(
                    "guider", optional=True,
                    tooltip="For a plan or a fit: the one that SamplerCustomAdvanced gets, whose noise schedule sets the SIGMAS.",
                ),
            ],
            outputs=[
                io.Sampler.Output(display_name="sampler", tooltip="For SamplerCustomAdvanced."),
                io.Sigmas.Output(display_name="sigmas", tooltip="Of a plan or a fit: the levels that belong to it. A tableau runs any; take those of Steps."),
                io.String.Output(display_name="text", tooltip="What was proved and measured."),
                SolverFitType.Output(display_name="fit", tooltip="Of a fit: for Save Fitted Solver, Solver Report and Fitted Solver."),
            ],
            is_output_node=True,
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, text: str = EXAMPLE) -> bool | str:
        return True if text is None else refusal(lambda: solver_of(text))

    @classmethod
    def execute(cls, text: str = EXAMPLE, guider: Any = None) -> Any:
        solver = solver_of(text)
        said, sampler = report(solver), host.runs.make_sampler(solver)
        fit, sigmas = (
            solver if isinstance(solver, FittedSolver) else blocked("fit"),
            blocked("sigmas"),
        )
        if isinstance(solver, PlanSolver | FittedSolver):
            sigmas = torch.tensor(levels_of(solver, guider).sigmas(), dtype=torch.float32)
        warnings = warnings_of(solver, guider)
        for warning in warnings:
            log.warning("Solver from Text: %s", one_line(warning))
        said = "\n".join([*(f"WARNING: {w}" for w in warnings), said])
        return io.NodeOutput(sampler, sigmas, said, fit, ui=report_on_page(said))


#: What the nodes after this one are told when they get an output that the text does not have.
NOT_THERE = {
    "sigmas": "Solver from Text holds a tableau, which runs any noise levels: connect the SIGMAS of Steps instead",
    "fit": 'Solver from Text holds no fit: only {"fit": …} is a SOLVER_FIT; connect its output sampler',
}


def blocked(output: str) -> Any:
    return host.runs.blocked(NOT_THERE[output])


def warnings_of(solver: Written, guider: Any) -> list[str]:
    """What a fit was made for and the GUIDER is not."""
    if guider is None or not isinstance(solver, FittedSolver):
        return []
    schedule = host.runs.schedule_of_guider(guider)
    return misfits(solver, host.runs.facts_of_guider(guider), schedule)


def solver_of(text: Any) -> Written:
    """Raises ValueError naming the input."""
    try:
        return read(text)
    except ValueError as error:
        raise ValueError(f"text: {error}") from None


def levels_of(solver: PlanSolver | FittedSolver, guider: Any) -> Points:
    """Its noise levels on the path of the GUIDER's MODEL; without one on the path that it was written for."""
    if guider is not None:
        return solver.points(host.runs.schedule_of_guider(guider).path)
    return solver.points(solver.path if isinstance(solver, PlanSolver) else path_of_card(solver))


def path_of_card(fit: FittedSolver) -> Path:
    kinds = {kind.name: kind for kind in PATHS}
    return kinds.get(str(fit.card.get("path")), VE)()


class SolverToText(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="SamplingKitSolverToText",
            display_name="Solver to Text",
            category=CATEGORY,
            description="Writes a solver as the text that Solver from Text reads: a fitted one bit for bit, any other as the plan of its run over "
            "SIGMAS. A workflow then carries the solver without a file.",
            search_aliases=["export solver", "JSON", "share a fit", "coefficients", "plan"],
            inputs=[
                SolverFitType.Input("fit", optional=True, tooltip="From Fit Solver or Load Fitted Solver. Without it, what sampler holds is written."),
                io.Sampler.Input("sampler", optional=True, tooltip="A solver of the Sampling Kit; not used with a fit."),
                io.Sigmas.Input("sigmas", optional=True, tooltip="The run whose plan is written; a fit and a tableau need none."),
                NoiseScheduleType.Input("noise_schedule", optional=True, tooltip="Of that run; the weights are those on its path."),
            ],
            outputs=[io.String.Output(display_name="text", tooltip="For Solver from Text.")],
            is_output_node=True,
        )  # fmt: skip

    @classmethod
    def execute(
        cls, fit: Any = None, sampler: Any = None, sigmas: Any = None, noise_schedule: Any = None
    ) -> Any:
        text = written(fit, sampler, sigmas, noise_schedule)
        return io.NodeOutput(text, ui=report_on_page(text))


def written(fit: Any, sampler: Any, sigmas: Any, noise_schedule: Any) -> str:
    """Raises ValueError naming the input that is missing."""
    if fit is not None:
        return fit_text(checked_fit(fit))
    if sampler is None:
        raise ValueError("fit: connect a fit here, or a solver to sampler")
    solver = plain_solver(sampler)
    if isinstance(solver, FittedSolver):
        return fit_text(solver)
    if isinstance(solver, TableauSolver | AdaptiveTableau):
        return tableau_text(solver)
    if not solver.planned:
        raise ValueError(f"sampler: {solver.title} chooses its steps while it runs: it has no plan")
    for name, value in (("sigmas", sigmas), ("noise_schedule", noise_schedule)):
        if value is None:
            raise ValueError(
                f"{name}: {solver.title} is written as the plan of a run; connect the run's {name}"
            )
    points = Points.from_sigmas(noise_schedule.path, sigmas.tolist())
    return plan_text(solver.plan(points), points, solver.title)


NODES = (SolverFromText, SolverToText)
