"""sampling-kit fit"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from ...schedulers.whole_file import whole
from ..bars import on_terminal, stage_bars
from ..context import use
from ..terminal_text import say
from ..workflow import Workflow, load
from . import options
from .errors import errors_reported
from .report import JsonCommand, Report


def parse_numbers(_: click.Context, __: click.Parameter, text: str) -> list[int]:
    """4-10 or 4,5,6,8,10."""
    try:
        ranges = [[int(n) for n in part.split("-")] for part in text.split(",")]
        numbers = sorted({n for ends in ranges for n in range(ends[0], ends[-1] + 1)})
    except ValueError:
        numbers = []
    if not numbers or numbers[0] < 2:
        raise click.BadParameter(f"{text!r} is not numbers from 2 on, such as 4-10 or 4,6,8")
    return numbers


@click.command("fit", cls=JsonCommand)
@click.argument("workflow", type=options.WorkflowPath(), required=False)
@click.option(
    "--embedded",
    metavar="KIND",
    help="Fit an embedded model (network, mixture, …) instead of a workflow's.",
)
@click.option(
    "--cfg", type=float, default=1.0, show_default=True, help="CFG scale, with --embedded."
)
@click.option("--node", help="Id of the sampling node, if the workflow has several.")
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="The fits: FILE.safetensors; the plot goes beside it as .png.",
)
@click.option(
    "--nfe",
    "nfes",
    callback=parse_numbers,
    default="4-10",
    show_default=True,
    help="Evaluations per run to fit for.",
)
@click.option(
    "--seeds",
    callback=options.parse_row,
    default="1000-1063",
    show_default=True,
    metavar="A-B",
    help="Of the trajectories.",
)
@click.option(
    "--held-out",
    "held",
    type=click.IntRange(1),
    default=16,
    show_default=True,
    help="The last so many judge and are not fitted.",
)
@click.option(
    "--method", default="forward", show_default=True, help="Way to fit; a wrong one lists them."
)
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="NAME=VALUE",
    help="A setting of the method; may be repeated.",
)
@click.option(
    "--starts",
    type=click.IntRange(1, 20),
    default=1,
    show_default=True,
    help="Training-free pairs to fit from.",
)
@click.option(
    "--levels",
    type=click.IntRange(2),
    default=24,
    show_default=True,
    help="Noise levels to record.",
)
@click.option(
    "--substeps",
    type=click.IntRange(1),
    default=2,
    show_default=True,
    help="Teacher steps between levels.",
)
@click.option(
    "--batch", type=click.IntRange(1), default=8, show_default=True, help="Images per evaluation."
)
@click.option(
    "--against",
    type=click.Choice(["usual", "all"]),
    default="usual",
    show_default=True,
    help="Training-free solvers to compare with.",
)
@click.option(
    "--trajectories",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of recordings. Default: beside FILE.",
)
@options.input_option
@options.models_option
@options.device_option
@options.json_option
@options.debug_option
def fit_solver(
    workflow: Path | None, embedded: str | None, cfg: float, node: str | None, output: Path, nfes: list[int],
    seeds: range, held: int, method: str, settings: Sequence[str], starts: int, levels: int, substeps: int,
    batch: int, against: str, trajectories: Path | None, input_dir: Path, models_dir: Path, device: str,
    style: str | None, debug: bool,
) -> None:  # fmt: skip
    """Fit a solver to the model, guidance and size of WORKFLOW, or to an embedded model.

    Records trajectories, fits one solver per number of evaluations, compares them with every training-free
    pair of solver and spacing, and writes the fits, the table and a plot. Interrupted, it goes on where it
    stopped when it is started again.
    """
    report = Report(style)
    with errors_reported(debug, report):
        if (workflow is None) == (embedded is None):
            raise click.UsageError("give either a WORKFLOW or --embedded KIND")
        import torch

        from ...nodes.denoiser.embedded import KINDS
        from ...nodes.fit.fit_solver import METHODS
        from ...schedulers.measure import plain
        from .. import fit_workflow as fitting
        from ..editor_graph import converter
        from ..registry import registry
        from .prepare import context_of

        chosen = _settings_of(METHODS, method, settings)
        if embedded is not None and embedded not in KINDS:
            raise click.UsageError(f"--embedded {embedded}: choose one of {', '.join(KINDS)}")
        nodes, device = registry(), options.set_device(device)
        loaded = (
            load(workflow, converter(nodes))
            if workflow
            else Workflow(Path(f"--embedded {embedded}"), {})
        )
        context = context_of(loaded, output.parent, input_dir, models_dir, device)
        folder = trajectories or output.parent / "trajectories"
        with ExitStack() as stack:
            stack.enter_context(use(context))
            stack.enter_context(torch.inference_mode())
            tell: Any = lambda what: lambda step, text="": None  # noqa: E731
            if not report and on_terminal():
                tell = stack.enter_context(stage_bars())
            if embedded is None:
                source = fitting.from_workflow(loaded, nodes, context, node)
            else:
                size = getattr(KINDS[embedded](), "size", 32)
                source = fitting.from_embedded(embedded, cfg, size, nodes)
            started = time.perf_counter()
            fits, comparison = fitting.fit_source(
                source, folder, nfes, chosen, seeds=seeds, held=held, levels=levels, substeps=substeps, batch=batch,
                starts=starts, against=against, say=(lambda text: report.event("note", text=text)) if report else say, tell=tell,
            )  # fmt: skip
        files = _write_fits(output, fits, comparison)
        if report:
            seconds = round(time.perf_counter() - started, 1)
            facts = comparison.payload() | {"files": files, "seconds": seconds}
            report.put(**plain(facts))
        else:
            say("\n".join(["", comparison.text(), "", *files]))


def _settings_of(methods: Mapping[str, Any], name: str, texts: Sequence[str]) -> Any:
    """The method's settings with NAME=VALUE applied; UsageError naming what is wrong."""
    if name not in methods:
        raise click.UsageError(f"--method {name}: choose one of {', '.join(methods)}")
    kind, values = methods[name], {}
    fields = {f.name: f for f in dataclasses.fields(kind)}
    for text in texts:
        key, sign, value = text.partition("=")
        if not sign or key not in fields:
            raise click.UsageError(f"--set {text}: give NAME=VALUE with one of {', '.join(fields)}")
        values[key] = value
    try:
        typed = {k: _typed(v, fields[k].default) for k, v in values.items()}
        return kind(**typed)
    except ValueError as error:
        raise click.UsageError(f"--set: {error}") from None


def _typed(text: str, like: Any) -> Any:
    """The text as a value of the kind of ``like``."""
    if isinstance(like, bool):
        if text.lower() not in ("true", "false"):
            raise ValueError(f"{text!r} is neither true nor false")
        return text.lower() == "true"
    return type(like)(text) if isinstance(like, int | float) else text


def _write_fits(output: Path, fits: Sequence[Any], comparison: Any) -> list[str]:
    """The fits, and the plot; the files' paths."""
    from PIL import Image

    from ...nodes.fit.fitted_solver import SUFFIX, saved
    from ...schedulers.show import fit_plot

    file = output if output.suffix == SUFFIX else output.with_name(output.name + SUFFIX)
    for fit in fits:
        saved(fit, file)
    files = [str(file.resolve())]
    picture = fit_plot.plot(comparison)
    plot = file.with_suffix(".png")
    with whole(plot) as part:
        Image.fromarray((picture[0] * 255).round().byte().cpu().numpy()).save(part, "PNG")
    return [*files, str(plot.resolve())]
