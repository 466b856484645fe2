"""Nodes for fitted solvers: save, load, use, and compare with what needs no fitting."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock

from ...schedulers.fit import compare, fit_files
from ...schedulers.measure import plain
from ...schedulers.show import fit_plot
from ...schedulers.solver import Solver
from ...schedulers.solver.fitted import FittedSolver
from ...schedulers.whole_file import make_folder
from .. import host
from ..host import io
from ..host.fit_wire import checked_fit
from ..host.guider_field import Ready
from ..ui.file_names import is_there, leads_out, refusal, split_prefix, stamp
from ..ui.inputs import listed
from ..ui.payload import report_on_page
from ..ui.wire_types import SolverFitType, TrajectoriesType
from .kept import SUFFIX, card_text
from .recording import CATEGORY, Recording, checked
from .talk import PARTS

KIND = "solvers"
SHIPPED = Path(__file__).resolve().parents[2] / "embedded" / "solvers"
log = logging.getLogger("sampling_kit")


# -------------------------------------------------------------------------------------------- files


def solver_folders() -> list[Path]:
    """Where fits are looked for: the models folders, the output folder's solvers, and what ships."""
    try:
        written = [host.places.folder("output") / KIND]
    except LookupError:  # outside of a run
        written = []
    return [*host.places.model_folders(KIND), *written, SHIPPED]


def fit_names() -> list[str]:
    """The files there are, for a combo."""
    names = (
        f.relative_to(r).as_posix()
        for r in solver_folders()
        if r.is_dir()
        for f in r.rglob(f"*{SUFFIX}")
    )
    return sorted(set(names))


def fit_file(name: str) -> Path:
    """The file of a choice. Raises ValueError saying where files belong."""
    roots = solver_folders()
    said, places = (
        f"file = {str(name)[:200]!r}",
        " or ".join(map(str, roots[:-1])) or f"models/{KIND}",
    )
    if not isinstance(name, str) or not name.strip() or "\0" in name:
        raise ValueError(f"{said}: choose a fitted solver; they belong in {places}")
    if leads_out(name):
        path = Path(name)
        if (
            path.is_absolute()
            and host.places.typed_path(name)
            and path.suffix == SUFFIX
            and path.is_file()
        ):
            return path
        raise ValueError(
            f"{said} leads outside of {places}: put the file there, or type its path, --set NODE.file=PATH"
        )
    for root in roots:
        path = root / name
        if is_there(path) and path.is_file() and path.resolve().is_relative_to(root.resolve()):
            return path
    raise ValueError(
        f"{said}: there is no such file in {places}. Found: {', '.join(fit_names()) or 'none'}"
    )


class SaveFittedSolver(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="SamplingKitSaveFittedSolver",
            display_name="Save Fitted Solver",
            category=CATEGORY,
            description="Writes a fitted solver to models/solvers, as safetensors with a readable header. One file holds the fits "
            "of one model and guidance for several numbers of evaluations: saving another one adds it.",
            search_aliases=["save solver", "export", "safetensors"],
            is_output_node=True,
            inputs=[
                SolverFitType.Input("fit", tooltip="From Fit Solver."),
                io.String.Input("name", default="my-model", tooltip="File name below models/solvers, with sub-folders; .safetensors is added."),
            ],
            outputs=[io.String.Output(display_name="file", tooltip="The name, for Load Fitted Solver.")],
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, name: str = "my-model") -> bool | str:
        return True if name is None else refusal(lambda: new_fit_file(name))

    @classmethod
    def execute(cls, fit: Any, name: str) -> Any:
        file, root = new_fit_file(name)
        contents = saved(checked_fit(fit), file)
        shown = file.relative_to(root).as_posix()
        return io.NodeOutput(shown, ui=report_on_page(f"{shown}: {contents}"))


def new_fit_file(name: str) -> tuple[Path, Path]:
    """(file, its root). Raises ValueError if the name leads out of models/solvers."""
    roots = host.places.model_folders(KIND, new=True) or [host.places.folder("output") / KIND]
    try:
        subfolder, stem = split_prefix(name.removesuffix(SUFFIX), roots[0])
    except ValueError:
        raise ValueError(f"name = {name!r}: give a file name inside of {roots[0]}") from None
    return roots[0] / subfolder / f"{stem}{SUFFIX}", roots[0]


def saved(fit: FittedSolver, file: Path) -> str:
    """Write ``fit``, beside those for other numbers of evaluations that the file has. What the file holds now."""
    make_folder(file.parent)
    with FileLock(
        file.with_name(f".{file.name}.lock")
    ):  # two processes add to one file, one after the other
        others: list[FittedSolver] = []
        if file.is_file():
            others = [f for f in fit_files.load(file).fits if f.table.nfe != fit.table.nfe]
            for other in others:
                if wrong := fit_files.differences(
                    other.card, model=fit.card.get("model"), guidance=fit.card.get("guidance")
                ):
                    raise ValueError(
                        f"name: {file.name} holds fits of something else ({wrong[0]}); give another name"
                    )
        fit_files.save(file, [*others, fit])
    return (
        f"fits for {', '.join(map(str, sorted([f.table.nfe for f in (*others, fit)])))} evaluations"
    )


class LoadFittedSolver(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="SamplingKitLoadFittedSolver",
            display_name="Load Fitted Solver",
            category=CATEGORY,
            description="A fitted solver from models/solvers, from solvers in the output folder, or one that ships with the kit.",
            search_aliases=["load solver", "AMED", "EPD", "safetensors", "loader"],
            inputs=[
                io.Combo.Input("file", options=listed(fit_names), tooltip="What Save Fitted Solver wrote, or somebody gave you."),
                io.Int.Input("nfe", default=6, min=1, max=1000, tooltip="Evaluations of a run; the file has a fit for some numbers, the error lists them."),
            ],
            outputs=[
                SolverFitType.Output(display_name="fit", tooltip="For Fitted Solver."),
                io.String.Output(display_name="about", tooltip="What it was fitted to, and its errors before and after."),
            ],
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, file: str = "") -> bool | str:
        return True if file is None else refusal(lambda: fit_file(file))

    @classmethod
    def fingerprint_inputs(cls, file: str = "", **kwargs: Any) -> Any:
        return stamp(fit_file(file))

    @classmethod
    def execute(cls, file: str, nfe: int) -> Any:
        family = fit_files.load(fit_file(file))
        try:
            fit = family.at(nfe)
        except ValueError as error:
            raise ValueError(f"nfe = {nfe}: {error}") from None
        return io.NodeOutput(fit, card_text(fit))


# ------------------------------------------------------------------------------------------- report


class SolverReport(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        grow = io.Autogrow
        return io.Schema(
            node_id="SamplingKitSolverReport",
            display_name="Solver Report",
            category=CATEGORY,
            description="Fitted solvers beside the best training-free pair of solver and spacing at the same number of evaluations, on "
            "held-out trajectories: table, plot, JSON.",
            search_aliases=["compare solvers", "benchmark", "error", "NFE", "AMED"],
            is_output_node=True,
            inputs=[
                TrajectoriesType.Input("trajectories", tooltip="The recording that the fits were made from, or another one."),
                grow.Input(
                    "fits",
                    template=grow.TemplatePrefix(SolverFitType.Input("fit", tooltip="From Fit Solver or Load Fitted Solver."), prefix="fit", min=1, max=20),
                    tooltip="One or more, for different numbers of evaluations.",
                ),
                io.Int.Input("held_out", default=16, min=1, max=100000, tooltip="The last so many trajectories judge; no fit may have seen them."),
                io.Combo.Input(
                    "against", options=list(AGAINST), default="usual", optional=True,
                    tooltip="usual: 15 solvers on every spacing; all: every deterministic setting of the kit, ten times slower.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="plot", tooltip="Error against evaluations."),
                io.String.Output(display_name="text", tooltip="The table; also shown by Preview as Text."),
                io.String.Output(display_name="json", tooltip="The same for programs; null where a number is not finite."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, trajectories: Any, fits: Mapping[str, Any], held_out: int, against: str = "usual"
    ) -> Any:
        recording = checked(trajectories)
        solvers = [checked_fit(fit) for fit in (fits or {}).values() if fit is not None]
        if not solvers:
            raise ValueError("fits: connect at least one SOLVER_FIT")
        report = reported(recording, solvers, held_out, against)
        facts = json.dumps(plain(report.payload()), allow_nan=False)
        plot, text = fit_plot.plot(report), report.text()
        return io.NodeOutput(plot, text, facts, ui=report_on_page(text, plot))


AGAINST: dict[str, Callable[[], tuple[Solver, ...]]] = {
    "usual": lambda: compare.USUAL,
    "all": compare.every_solver,
}


def reported(
    recording: Recording, fits: Sequence[FittedSolver], held: int, against: str = "usual",
    tell: Callable[[int, str], None] | None = None,
) -> compare.Comparison:  # fmt: skip
    """The comparison, on the last ``held`` rows of the recording."""
    origin, say = recording.trajectories.origin, tell or host.places.progress(PARTS)
    last = origin.seed + recording.trajectories.count - 1
    first = last - held + 1
    for fit in fits:
        low, high = (fit.card.get("seeds") or [[0, -1]])[0]  # those it was fitted to
        if fit.card.get("model") == origin.model and max(low, first) <= min(high, last):
            raise ValueError(
                f"held_out = {held}: the fit for {fit.table.nfe} evaluations was made with seeds up to {high}, these "
                f"trajectories begin at {first}; choose fewer"
            )
    warnings = [
        w
        for fit in fits
        for w in fit_files.differences(fit.card, model=origin.model, guidance=origin.guidance)
    ]
    about = dict(
        guidance=origin.guidance, model=origin.model, path=origin.path, teacher=origin.teacher,
        seeds=[first, first + held - 1], warnings=sorted(set(warnings)),
    )  # fmt: skip

    def run(ready: Ready) -> compare.Comparison:
        problem = recording.problem(ready, held)
        report = lambda i, n: say(int(PARTS * i / n), "")  # noqa: E731
        return compare.compare(
            problem,
            recording.schedule,
            fits,
            solvers=AGAINST[against](),
            about=about,
            report=report,
        )

    return recording.ready(run)


NODES: tuple[type[Any], ...] = (SaveFittedSolver, LoadFittedSolver, SolverReport)
