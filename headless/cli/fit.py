"""sampling-kit fit: make fits; list, show, compare and export those that are there."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from ..bars import on_terminal, stage_bars
from ..calls.fit_model import fit
from ..terminal_text import say
from . import options
from .errors import errors_reported
from .fit_files import compare_stored, export_fit, list_fits, show_fit
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


@click.command("make", cls=JsonCommand)
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
    "--workers",
    type=click.IntRange(1, 256),
    default=1,
    show_default=True,
    help="Processes that fit at once, one number of evaluations each; on several GPUs in turn. Changes no number.",
)
@options.against_option
@options.trajectories_option
@options.input_option
@options.models_option
@options.device_option
@options.json_option
@options.debug_option
def make_fits(
    workflow: Path | None, embedded: str | None, cfg: float, node: str | None, output: Path, nfes: list[int],
    seeds: range, held: int, method: str, settings: Sequence[str], starts: int, levels: int, substeps: int,
    batch: int, workers: int, against: str, trajectories: Path | None, input_dir: Path, models_dir: Path, device: str,
    style: str | None, debug: bool,
) -> None:  # fmt: skip
    """Fit a solver to the model, guidance and size of WORKFLOW, or to an embedded model.

    Also: `fit list`, `fit show FILE`, `fit compare FILE WORKFLOW`, `fit export FILE`, for fits that are there.

    Records trajectories, fits one solver per number of evaluations, compares them with every training-free
    pair of solver and spacing, and writes the fits, the table and a plot. Interrupted, it goes on where it
    stopped when it is started again.
    """
    report = Report(style)
    with errors_reported(debug, report):
        with ExitStack() as stack:
            more: dict[str, Any] = {}
            if not report and on_terminal():
                more["stage"] = stack.enter_context(stage_bars())
            result = fit(
                workflow, output=output, embedded=embedded, cfg=cfg, node=node, nfes=nfes, seeds=seeds, held=held,
                method=method, settings=settings, starts=starts, levels=levels, substeps=substeps, batch=batch,
                against=against, workers=workers, trajectories=trajectories, input=input_dir, models=models_dir,
                device=options.set_device(device),
                note=(lambda text: report.event("note", text=text)) if report else say, **more,
            )  # fmt: skip
        files = [str(path) for path in result.files]
        if report:
            from ...schedulers.measure import plain

            facts = result.comparison.payload() | {"files": files, "seconds": result.seconds}
            report.put(**plain(facts))
        else:
            say("\n".join(["", result.comparison.text(), "", *files]))


class FitCommand(click.Group):
    """What is none of its commands is for `make`, whose name may be left out: `sampling-kit fit WORKFLOW`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or args[0] not in self.commands:
            args = ["make", *args]
        return super().parse_args(ctx, args)


fit_solver = FitCommand(
    "fit", short_help="Fit a solver to the model of WORKFLOW; list, show, compare, export fits."
)
for command in (make_fits, list_fits, show_fit, compare_stored, export_fit):
    fit_solver.add_command(command)
