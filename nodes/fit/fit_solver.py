"""Fit Solver: noise levels and weights fitted to a model. What becomes of a fit is in ``fitted_solver.py``."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ...schedulers.fit import fit_files
from ...schedulers.fit.amed_fit import Amed
from ...schedulers.fit.forward import Forward
from ...schedulers.fit.gradient import Gradient
from ...schedulers.fit.problem import Problem
from ...schedulers.fit.run_fit import Fit, run_fit
from ...schedulers.fit.safeguard import FIT, safest
from ...schedulers.fit.starts import Starts, best_pair, best_starts
from ...schedulers.fit.verdict import Rival, verdict
from ...schedulers.points import Points, require_run
from ...schedulers.solver import Solver
from ...schedulers.solver.fitted import FittedSolver, Table, table_of
from .. import host
from ..host import io
from ..host.guider_field import Ready
from ..solver.state import plain_solver
from ..ui.inputs import choice, chosen
from ..ui.payload import report_on_page
from ..ui.search_words import FEWER
from ..ui.wire_types import SolverFitType, TrajectoriesType
from .kept import Kept, card_text, in_short
from .recording import CATEGORY, Recording, checked, teacher_cost
from .talk import PARTS, Talk

#: Ways to fit, by the choice in the node.
METHODS: dict[str, type[Fit[Any]]] = {
    "forward": Forward,
    "gradient": Gradient,
    "amed": Amed,
}


class FitSolver(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="SamplingKitFitSolver",
            display_name="Fit Solver",
            category=CATEGORY,
            description="A solver with its own noise levels and weights, fitted to this model, guidance and number of evaluations so "
            "that it ends where the teacher ends. It starts exactly at the best training-free solver and spacing, is judged on "
            "held-out trajectories, and is never worse than its start there. Interrupted, it goes on from its best numbers; done, "
            "it is read from the recording's folder.",
            search_aliases=["AMED", "EPD", "DC-Solver", "LD3", "BNS", "learned solver", "distill", "few steps", "train solver", *FEWER],
            is_output_node=True,
            inputs=[
                TrajectoriesType.Input("trajectories", tooltip="From Record Trajectories."),
                io.Int.Input("nfe", default=6, min=2, max=100, tooltip="Evaluations of a run of the fitted solver."),
                io.Int.Input("held_out", default=16, min=1, max=100000, tooltip="Trajectories that are not fitted but judge the result."),
                choice("method", METHODS, "How to fit. Forward needs no gradients, so it works with fp8, GGUF and offloaded weights.", advanced=True),
                io.Int.Input("starts", default=1, min=1, max=20, optional=True, advanced=True, tooltip="Fit from so many of the best training-free pairs, keep the best."),
                io.Sampler.Input("sampler", optional=True, tooltip="Start from this solver of the kit, with sigmas, instead."),
                io.Sigmas.Input("sigmas", optional=True, tooltip="The steps that sampler starts with; Fit Steps makes good ones."),
            ],
            outputs=[
                SolverFitType.Output(display_name="fit", tooltip="For Fitted Solver, Save Fitted Solver, Solver Report."),
                io.String.Output(display_name="text", tooltip="Where it started, what it gained, what it cost."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, trajectories: Any, nfe: int, held_out: int, method: Mapping[str, Any] | None = None, starts: int = 1,
        sampler: Any = None, sigmas: Tensor | None = None,
    ) -> Any:  # fmt: skip
        recording, settings = checked(trajectories), chosen("method", METHODS, method)
        if (sampler is None) != (sigmas is None):
            raise ValueError("sampler and sigmas: connect both to start there, or neither")
        begin = None
        if sampler is not None and sigmas is not None:
            require_run(sigmas)
            points = Points.from_sigmas(recording.schedule.path, sigmas.tolist())
            begin = (plain_solver(sampler), points)
        fit = fitted(recording, settings, nfe, held_out, starts=starts, begin=begin)
        return io.NodeOutput(fit, card_text(fit), ui=report_on_page(card_text(fit)))


def fitted(
    recording: Recording,
    settings: Fit[Any],
    nfe: int,
    held: int,
    *,
    starts: int = 1,
    begin: tuple[Solver, Points] | None = None,
    tell: Callable[[int, str], None] | None = None,
) -> FittedSolver:
    """The fit for ``nfe`` evaluations: read, gone on with, or made. tell(per mille, text)."""
    talk = Talk(tell or host.places.progress(PARTS))
    origin, count = recording.trajectories.origin, recording.trajectories.count
    kept = Kept(recording, (repr(settings), nfe, held, count, starts, repr(begin)))
    if kept.done.is_file():
        return fit_files.load(kept.done).at(nfe)
    talk.stage(f"{settings.title} for {nfe} evaluations: getting the model ready")
    first = count - held
    card = dict(
        model=origin.model, path=origin.path, prediction=origin.prediction, guidance=origin.guidance,
        shape=list(origin.shape), dtype=origin.dtype, method=f"{settings!r}",
        teacher=f"{origin.teacher}, {origin.substeps} steps from each of {len(origin.kappas)} levels to the next",
        seeds=[[origin.seed, origin.seed + first - 1], [origin.seed + first, origin.seed + count - 1]],
    )  # fmt: skip

    def run(ready: Ready) -> FittedSolver:
        if settings.gradients and ready.refusal:
            raise ValueError(
                f"method: {settings.title} needs gradients through the MODEL, but {ready.refusal}; use forward, "
                "which needs none"
            )
        problem = recording.problem(ready, held)
        problem.evaluations = teacher_cost(recording)
        listen(problem, talk)
        talk.stage("looking for the best training-free start")
        begun = kept.starts(lambda: beginning(problem, recording, nfe, starts, begin))
        fits = [
            FittedSolver(table, card | facts)
            for table, facts in fits_from(problem, settings, begun.starts, kept, talk)
        ]
        best = min(fits, key=lambda fit: fit.card["after"]["rmse"])
        talk.stage("a last look at all trajectories")
        start = begun.starts[fits.index(best)]
        return concluded(problem, best, start, begun.pair)

    with torch.inference_mode(not settings.gradients):
        fit = recording.ready(run)
    kept.finish(fit)
    talk.end(in_short(fit))
    return fit


def listen(problem: Problem, talk: Talk) -> None:
    """``talk`` hears of every evaluation of ``problem``."""
    check = problem.check

    def heard() -> None:
        if check is not None:
            check()
        talk.pulse()

    problem.check, talk.evaluations = heard, lambda: problem.evaluations


def fits_from(
    problem: Problem, settings: Fit[Any], starts: list[FittedSolver], kept: Kept, talk: Talk
) -> Iterator[tuple[Table, dict[str, Any]]]:
    """(table, start and errors) of a fit from every start."""
    least = math.inf
    for i, start in enumerate(starts):
        of_all = f" {i + 1} of {len(starts)}" if len(starts) > 1 else ""

        def report(state: Any, of_all: str = of_all, i: int = i, least: float = least) -> None:
            error = min(state.after["rmse"], least)
            text = f"fit{of_all}: held-out error {error:.4g}, before {state.before['rmse']:.4g}"
            talk.now(text, (i + settings.share(problem, state)) / len(starts))

        talk.stage(f"fit{of_all} begins")
        state = run_fit(problem, start.table, settings, report, file=kept.file(f"state-{i}"))
        least = min(least, state.after["rmse"])
        yield state.table, dict(start=start.card["start"], before=state.before, after=state.after)


def concluded(
    problem: Problem, fit: FittedSolver, start: FittedSolver, pair: FittedSolver | None
) -> FittedSolver:
    """The fit with its verdict; a part of it, its start or the best pair in its place where that is safer on all trajectories."""
    others = {"pair": pair.table} if pair else {}
    kept, held = safest(problem, start.table, fit.table, others)
    facts = dict(fit.card)
    if kept.name != FIT:
        facts["after"], facts["kept"] = held[kept.name], kept.name
    rival = Rival(pair.card["start"], **held["pair"]) if pair else None
    sentence = verdict(fit.table.nfe, facts["before"], facts["after"], rival, kept.name)
    spent = problem.evaluations
    return FittedSolver(kept.table, {**facts, "evaluations": spent, "verdict": sentence})


def beginning(
    problem: Problem,
    recording: Recording,
    nfe: int,
    starts: int,
    begin: tuple[Solver, Points] | None,
) -> Starts:
    """Where a fit may start, and the pair that it is compared with."""
    if begin is None:
        return best_starts(problem, recording.schedule, nfe, starts)
    name, table = start_on(problem, recording, nfe, *begin)
    return Starts({name: table}, best_pair(problem, recording.schedule, nfe))


def start_on(
    problem: Problem, recording: Recording, nfe: int, solver: Solver, points: Points
) -> tuple[str, Table]:
    """(name, table) of a solver on steps that are chosen. Raises ValueError where they are no start for these trajectories."""
    if (
        not math.isclose(points.kappas[0], problem.kappa, rel_tol=1e-3)
        and points.kappas[0] != problem.kappa
    ):
        raise ValueError(
            f"sigmas: they start at {points.sigmas()[0]:.4g}, the trajectories at {recording.trajectories.points.sigmas()[0]:.4g}"
        )
    table = table_of(solver.plan(points))
    if table.nfe != nfe:
        raise ValueError(
            f"sigmas: sampler needs {table.nfe} evaluations on these steps, nfe is {nfe}"
        )
    return f"{solver.call} on given steps", replace(table, start=problem.kappa)


NODES: tuple[type[Any], ...] = (FitSolver,)
