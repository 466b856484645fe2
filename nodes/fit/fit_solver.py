"""Nodes that fit a solver to a model: record, fit steps, fit weights. What becomes of a fit is in ``fitted.py``."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from ...schedulers import spacing
from ...schedulers.fit import amed, compare, ends, forward, gradient, grid, store
from ...schedulers.fit.problem import Problem
from ...schedulers.fit.trajectories import DTYPES, Origin, Trajectories, record, teacher_points
from ...schedulers.measure import plain
from ...schedulers.noise_schedule import NoiseSchedule
from ...schedulers.points import Points
from ...schedulers.sample import noised
from ...schedulers.settings import Settings
from ...schedulers.solver import DPMSolverMultistep, Solver
from ...schedulers.solver.fitted import FittedSolver, Table, table_of
from ...schedulers.whole_file import write_whole
from ..host import (
    facts_of_guider,
    folder,
    io,
    latent_shape,
    noise_scale_of_guider,
    progress,
    schedule_of_guider,
    with_field,
)
from ..host.guider_field import Facts, Ready
from ..solver.state import plain_solver
from ..ui.file_names import refusal, split_prefix
from ..ui.inputs import choice, chosen
from ..ui.wire_types import SolverFitType, TrajectoriesType

CATEGORY = "Sampling Kit/fit"
SUFFIX = ".safetensors"
TEACHER = DPMSolverMultistep(3, weights="exact")
T = TypeVar("T")


# ---------------------------------------------------------------------------------------- recording


@dataclass(frozen=True)
class Recording:
    """TRAJECTORIES: recorded rows, and the GUIDERs they are of, which a fit evaluates again."""

    trajectories: Trajectories
    guiders: tuple[Any, ...]
    schedule: NoiseSchedule
    facts: Facts

    def ready(self, then: Callable[[Ready], T]) -> T:
        """``then`` while the guiders can be asked."""
        recorded = self.trajectories
        origin = recorded.origin
        return with_field(self.guiders, origin.shape, recorded.batch, origin.seed, then)

    def problem(self, ready: Ready, held: int) -> Problem:
        """The last ``held`` rows judge, the others are fitted."""
        count, batch = self.trajectories.count, self.trajectories.batch
        if not 0 < held < count:
            raise ValueError(
                f"held_out = {held}: of {count} recorded trajectories, between 1 and {count - 1} can judge the fit"
            )
        return self.trajectories.problem(ready.field, count - held, held, batch, ready.check)

    def describe(self) -> str:
        o, facts = self.trajectories.origin, self.facts
        shape = "×".join(map(str, o.shape))
        return (
            f"{self.trajectories.count} trajectories of {shape}, {len(o.kappas)} levels, in {self.trajectories.folder}\n"
            f"model {facts.model} ({facts.prediction}, {o.path}), {facts.guidance}\n"
            f"teacher {o.teacher}, {o.substeps} steps between levels; seeds {o.seed} to {o.seed + self.trajectories.count - 1}"
        )


class RecordTrajectories(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        grow = io.Autogrow
        return io.Schema(
            node_id="SamplingKitRecordTrajectories",
            display_name="Record Trajectories",
            category=CATEGORY,
            description="Runs a fine solver (the teacher) on your MODEL with your prompts, guidance and LoRAs, and keeps what it "
            "passes through, in files: what fits compare with. A recording that is interrupted goes on where it stopped, one "
            "that is there is only read, and another prompt, model or setting gets a folder of its own. Cost: count × (levels × "
            "substeps) evaluations, CFG twice that in network calls.",
            search_aliases=["fit solver", "teacher", "distill", "calibration", "trajectory", "AMED", "GITS"],
            is_output_node=True,
            inputs=[
                io.Guider.Input("guider", tooltip="The model as you use it: CFGGuider, BasicGuider, the kit's Guider, …"),
                io.Latent.Input("latent", tooltip="An empty latent of the size you draw. The batch size does not matter."),
                io.Int.Input("seed", default=1000, min=0, max=0xFFFFFFFF, tooltip="Of the first trajectory; row i has seed + i."),
                io.Int.Input("count", default=64, min=2, max=100000, tooltip="Trajectories: to fit and to judge by. 24 will do, 64 are good."),
                io.Int.Input("levels", default=24, min=2, max=1000, tooltip="Noise levels that are kept, even in log-SNR."),
                io.Int.Input("substeps", default=2, min=1, max=100, tooltip="Steps of the teacher from one level to the next."),
                io.Int.Input("batch", default=8, min=1, max=4096, tooltip="Images in one evaluation, and in one file."),
                io.String.Input(
                    "folder", default="SamplingKit/trajectories",
                    tooltip="Below the output folder; each recording gets a sub-folder there.",
                ),
                io.Sampler.Input(
                    "teacher", optional=True,
                    tooltip="A deterministic solver of the kit, Adaptive Step Size included. Default: DPM-Solver++ of order 3.",
                ),
                io.Sigmas.Input("sigmas", optional=True, tooltip="The levels to keep, in place of `levels`; from the largest down."),
                io.Combo.Input("dtype", options=list(DTYPES), default="float32", optional=True, advanced=True, tooltip="Of the teacher's state."),
                grow.Input(
                    "more", optional=True,
                    template=grow.TemplatePrefix(io.Guider.Input("guider", tooltip="The same MODEL with another prompt."), prefix="guider", min=0, max=30),
                    tooltip="Further prompts: trajectories take turns, so that the solver is fitted to all of them.",
                ),
            ],
            outputs=[
                TrajectoriesType.Output(display_name="trajectories", tooltip="For Fit Steps and Fit Solver."),
                io.String.Output(display_name="text", tooltip="What was recorded, and where."),
            ],
        )  # fmt: skip

    @classmethod
    def validate_inputs(
        cls, folder: str = "SamplingKit/trajectories", more: Any = None
    ) -> bool | str:
        """``more``: ComfyUI hands growing inputs to every validate_inputs."""
        return True if folder is None else refusal(lambda: place(folder))

    @classmethod
    def execute(
        cls, guider: Any, latent: dict[str, Any], seed: int, count: int, levels: int, substeps: int, batch: int,
        folder: str, teacher: Any = None, sigmas: Tensor | None = None, dtype: str = "float32",
        more: Mapping[str, Any] | None = None,
    ) -> Any:  # fmt: skip
        others = [value for value in (more or {}).values() if value is not None]
        solver = TEACHER if teacher is None else plain_solver(teacher, "teacher")
        values: dict[str, Any] = dict(
            seed=seed, count=count, levels=levels, substeps=substeps, batch=batch, dtype=dtype
        )
        found = recorded((guider, *others), latent, place(folder), solver, sigmas, **values)
        return io.NodeOutput(found, found.describe(), ui={"text": [found.describe()]})


def place(name: str) -> Path:
    """The folder of recordings below the output folder. Raises ValueError if it leads out of it."""
    root = folder("output")
    try:
        subfolder, stem = split_prefix(name, root)
    except ValueError:
        raise ValueError(
            f"folder = {name!r}: give a name inside of the output folder {root}"
        ) from None
    return root / subfolder / stem


def recorded(
    guiders: tuple[Any, ...], latent: Mapping[str, Any], where: Path, solver: Solver, sigmas: Any = None, *,
    seed: int, count: int, levels: int, substeps: int, batch: int, dtype: str = "float32",
    tell: Callable[[int, str], None] | None = None,
) -> Recording:  # fmt: skip
    """Record, or go on, or open. One description decides the sub-folder."""
    samples = latent["samples"]
    if torch.is_tensor(samples) and bool(samples.count_nonzero()):
        raise ValueError(
            "latent: it holds a picture; trajectories start from pure noise: connect an empty latent"
        )
    shape, schedule = latent_shape(guiders[0], samples), schedule_of_guider(guiders[0])
    everyone = [facts_of_guider(g) for g in guiders]
    facts = everyone[0]
    for i, other in enumerate(everyone[1:]):
        if (other.model, other.guidance) != (facts.model, facts.guidance):
            raise ValueError(
                f"more.guider{i}: another MODEL or guidance ({other.guidance}) than guider ({facts.guidance}); "
                "all must be the same but for the prompts"
            )
    points = kept_levels(schedule, levels, sigmas)
    top = points.kappas[0]
    full = math.isinf(top) or top >= schedule.kappa_max * (1 - 1e-5)
    one = torch.ones(1, dtype=torch.float64)
    sigma = points.sigmas()[0]
    scale = float(
        noised(points.path, sigma, 0 * one, one * noise_scale_of_guider(guiders[0]), full)
    )
    conditions = "+".join(f.condition for f in everyone)
    origin = Origin(
        points.path.name, tuple(Points.from_sigmas(points.path, points.sigmas()).kappas), shape, seed, scale,
        repr(solver), substeps, schedule.kappa_min, dtype, facts.model, facts.prediction, facts.guidance, conditions,
    )  # fmt: skip
    if tell is None:
        told = progress(count)
        tell = lambda done, text="": told(done, f"{done} of {count} trajectories")  # noqa: E731

    def run(ready: Ready) -> Trajectories:
        return record(
            where / origin.digest(), origin, solver, ready.field, count, batch=batch, check=ready.check,
            report=lambda done, total: tell(done, ""),
        )  # fmt: skip

    tell(0, "")
    trajectories = with_field(guiders, shape, batch, seed, run)
    return Recording(trajectories, guiders, schedule, facts)


def kept_levels(schedule: NoiseSchedule, count: int, sigmas: Any) -> Points:
    """The levels of a recording, in the host's coordinates."""
    if sigmas is None:
        return spacing.space(schedule, count, spacing.UniformLambda()).host
    levels = [float(s) for s in sigmas]
    if len(levels) < 2 or levels[0] < levels[-1]:
        raise ValueError(
            f"sigmas: {len(levels)} levels; a recording needs two or more, the largest first"
        )
    return Points.from_sigmas(schedule.path, levels).host


# ---------------------------------------------------------------------------------------- fit steps


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
        told, done = progress(total), 0

        def report(name: str, best: float) -> None:
            nonlocal done
            done += 1
            told(min(done, total - 1), f"held-out error {best:.4g} ({name})")

        def fit(ready: Ready) -> grid.FittedSteps:
            problem = recording.problem(ready, held_out)
            return grid.fit_steps(
                problem, recording.trajectories, solver, nfe, recording.schedule,
                methods=methods, budget=budget, report=report,
            )  # fmt: skip

        result = recording.ready(fit)
        told(total, f"held-out error {result.best.rmse:.4g} ({result.best.name})")
        sigmas = torch.tensor(result.best.points.sigmas(), dtype=torch.float32)
        facts = json.dumps(plain(result.payload()), allow_nan=False)
        return io.NodeOutput(sigmas, result.text(), facts, ui={"text": [result.text()]})


def checked(trajectories: Any) -> Recording:
    if not isinstance(trajectories, Recording):
        raise TypeError(f"trajectories: expected TRAJECTORIES, got {type(trajectories).__name__}")
    return trajectories


# --------------------------------------------------------------------------------------- fit solver


Run = Callable[[Problem, Table, Any, Callable[[Any], None], Path], Any]


@dataclass(frozen=True)
class Method:
    """``run(problem, table, settings, progress, file)`` → its last state, which has table, before and after;
    what it needs to go on after an interruption is in ``file``. ``gradients``: through the model."""

    run: Run
    gradients: bool = False


def run_forward(
    problem: Problem, table: Table, settings: forward.Forward, progress: Callable[[Any], None], file: Path
) -> forward.State:  # fmt: skip
    def keep(state: forward.State) -> None:
        store.save_state(file, state)
        progress(state)

    state = store.load_state(file) if file.exists() else None
    return forward.fit(problem, table, settings, keep, state)


def run_gradient(
    problem: Problem, table: Table, settings: gradient.Gradient, progress: Callable[[Any], None], file: Path
) -> gradient.State:  # fmt: skip
    def keep(state: gradient.State) -> None:
        gradient.save(file, state, settings)
        progress(state)

    if not file.exists():
        state = None
    elif isinstance(settings, amed.Amed):
        state = gradient.load(file, amed.beginning(problem, table, settings), settings)
    else:
        state = gradient.load(file, table, settings)
    fit: Any = amed.fit if isinstance(settings, amed.Amed) else gradient.fit
    return fit(problem, table, settings, keep, state)


#: Ways to fit, by the choice in the node; and what runs them.
METHODS: dict[str, type[Settings]] = {
    "forward": forward.Forward,
    "gradient": gradient.Gradient,
    "amed": amed.Amed,
}
FITS: dict[type[Settings], Method] = {
    forward.Forward: Method(run_forward),
    gradient.Gradient: Method(run_gradient, gradients=True),
    amed.Amed: Method(run_gradient, gradients=True),
}
PARTS = 1000  # of a progress bar


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
            search_aliases=["AMED", "EPD", "DC-Solver", "LD3", "BNS", "learned solver", "distill", "few steps", "train solver"],
            is_output_node=True,
            inputs=[
                TrajectoriesType.Input("trajectories", tooltip="From Record Trajectories."),
                io.Int.Input("nfe", default=6, min=2, max=100, tooltip="Evaluations of a run of the fitted solver."),
                io.Int.Input("held_out", default=16, min=1, max=100000, tooltip="Trajectories that are not fitted but judge the result."),
                choice("method", METHODS, "How to fit. Forward needs no gradients, so it works with fp8, GGUF and offloaded weights."),
                io.Int.Input("starts", default=1, min=1, max=20, optional=True, tooltip="Fit from so many of the best training-free pairs, keep the best."),
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
        if sampler is not None:
            levels = [] if sigmas is None else sigmas.tolist()
            points = Points.from_sigmas(recording.schedule.path, levels)
            begin = (plain_solver(sampler), points)
        fit = fitted(recording, settings, nfe, held_out, starts=starts, begin=begin)
        return io.NodeOutput(fit, card_text(fit), ui={"text": [card_text(fit)]})


def fitted(
    recording: Recording,
    settings: Settings,
    nfe: int,
    held: int,
    *,
    starts: int = 1,
    begin: tuple[Solver, Points] | None = None,
    tell: Callable[[int, str], None] | None = None,
) -> FittedSolver:
    """The fit for ``nfe`` evaluations: read, gone on with, or made. tell(per mille, text)."""
    told = tell or progress(PARTS)
    origin, count = recording.trajectories.origin, recording.trajectories.count
    kept = Kept(recording, (repr(settings), nfe, held, count, starts, repr(begin)))
    if kept.done.is_file():
        return store.load(kept.done).at(nfe)
    method, first = FITS[type(settings)], count - held
    card = dict(
        model=origin.model, path=origin.path, prediction=origin.prediction, guidance=origin.guidance,
        shape=list(origin.shape), dtype=origin.dtype, method=f"{settings!r}",
        teacher=f"{origin.teacher}, {origin.substeps} steps from each of {len(origin.kappas)} levels to the next",
        seeds=[[origin.seed, origin.seed + first - 1], [origin.seed + first, origin.seed + count - 1]],
    )  # fmt: skip

    def run(ready: Ready) -> FittedSolver:
        if method.gradients and ready.refusal:
            raise ValueError(
                f"method: {settings.title} needs gradients through the MODEL, but {ready.refusal}; use forward, "
                "which needs none"
            )
        problem = recording.problem(ready, held)
        problem.evaluations = teacher_cost(recording)
        found: list[tuple[float, FittedSolver]] = []

        def report(state: Any) -> None:
            if isinstance(settings, forward.Forward):
                spent = problem.evaluations
                share = spent / max(settings.allowed(nfe), spent + 1)
            else:
                share = getattr(state, "iteration", 0) / max(getattr(settings, "iterations", 1), 1)
            least = min(state.after["rmse"], *(rmse for rmse, _ in found), math.inf)
            told(
                int(PARTS * share), f"held-out error {least:.4g}, before {state.before['rmse']:.4g}"
            )

        for i, start in enumerate(
            kept.starts(lambda: start_tables(problem, recording, nfe, starts, begin))
        ):
            state = method.run(problem, start.table, settings, report, kept.file(f"state-{i}"))
            facts = dict(start=start.card["start"], before=state.before, after=state.after)
            found.append((state.after["rmse"], FittedSolver(state.table, card | facts)))
        best = min(found, key=lambda entry: entry[0])[1]
        return FittedSolver(best.table, {**best.card, "evaluations": problem.evaluations})

    with torch.inference_mode(not method.gradients):
        fit = recording.ready(run)
    kept.finish(fit)
    told(
        PARTS,
        f"held-out error {fit.card['after']['rmse']:.4g}, before {fit.card['before']['rmse']:.4g}",
    )
    return fit


@dataclass(frozen=True)
class Kept:
    """A fit in the folder of its recording: its starts and states while it runs, the result later."""

    recording: Recording
    key: tuple[Any, ...]

    def file(self, what: str) -> Path:
        digest = hashlib.sha256(repr(self.key).encode()).hexdigest()[:16]
        return self.recording.trajectories.folder / f"fit-{digest}-{what}{SUFFIX}"

    @property
    def done(self) -> Path:
        return self.file("done")

    def starts(self, make: Callable[[], Mapping[str, Table]]) -> list[FittedSolver]:
        """The tables to start from, each with its name on its card; made once. They count when their list is there,
        which is written last: a fit does not go on from a part of its starts."""
        folder, count = self.recording.trajectories.folder, self._count()
        files = [self.file(f"start-{i:02}") for i in range(count)]
        if not files or not all(file.is_file() for file in files):
            for old in folder.glob(self.file("state-*").name):  # of other starts
                old.unlink()
            tables = make()
            files = [self.file(f"start-{i:02}") for i in range(len(tables))]
            for file, (name, table) in zip(files, tables.items(), strict=True):
                store.save(file, [FittedSolver(table, {"start": name})])
            write_whole(self.listing, json.dumps({"starts": len(files)}))
        return [store.load(file).fits[0] for file in files]

    @property
    def listing(self) -> Path:
        return self.file("starts").with_suffix(".json")

    def _count(self) -> int:
        """How many starts there are; 0 where they are not all there."""
        try:
            count = json.loads(self.listing.read_text())["starts"]
        except (OSError, ValueError, TypeError, KeyError):
            return 0
        return count if isinstance(count, int) and 0 < count < 1000 else 0

    def finish(self, fit: FittedSolver) -> None:
        store.save(self.done, [fit])
        self.listing.unlink(missing_ok=True)
        for name in ("start-*", "state-*"):
            for file in self.recording.trajectories.folder.glob(self.file(name).name):
                file.unlink()


def teacher_cost(recording: Recording) -> int:
    """One-image evaluations of the recording."""
    points, _ = teacher_points(recording.trajectories.origin)
    return recording.trajectories.count * (len(points) - 1)


def start_tables(
    problem: Problem,
    recording: Recording,
    nfe: int,
    starts: int,
    begin: tuple[Solver, Points] | None,
) -> dict[str, Table]:
    """{name: where a fit may start}."""
    if begin is not None:
        solver, points = begin
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
        return {f"{compare.short(solver)} on given steps": replace(table, start=problem.kappa)}
    pairs = compare.training_free(
        problem, recording.schedule, nfe, problem.held[:16], compare.STARTS, compare.START_SPACINGS,
        keep=max(8, starts), first=2,
    )  # fmt: skip
    others = {pair.name: table_of(pair.solver.plan(pair.points)) for pair in pairs[1:starts]}
    return dict([own_ends(problem, pairs[0], nfe)]) | others


def own_ends(problem: Problem, pair: compare.Pair, nfe: int) -> tuple[str, Table]:
    """(name, table) of the pair, or of its solver between ends of its own where that comes nearer."""
    rows, at = problem.train[:16], pair.points.kappas
    name, best = pair.name, table_of(pair.solver.plan(pair.points))
    least = ends.mark(problem.errors(best, rows))
    begin = ends.Ends(min(at[0], 80.0), at[-2], 0.1)
    for found, between, table in ends.search(problem, pair.solver, nfe, begin, rows, 12):
        if found < least:
            name, best, least = f"{compare.short(pair.solver)}, σ/α {between}", table, found
    return name, best


def card_text(fit: FittedSolver) -> str:
    """The card for people."""
    rows = {"evaluations per run": fit.table.nfe, "window": fit.table.window, **fit.card}
    return "\n".join(f"{k}: {v}" for k, v in rows.items() if v is not None)


NODES: tuple[type[Any], ...] = (RecordTrajectories, FitSteps, FitSolver)
