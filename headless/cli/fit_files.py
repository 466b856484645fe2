"""sampling-kit fit list, show, compare, export: fits that are there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from ..bars import on_terminal, stage_bars
from ..calls import stored_fits
from ..terminal_text import say
from . import options
from .errors import errors_reported
from .report import JsonCommand, Report

fit_file = click.Path(path_type=Path, dir_okay=False)
nfe_option = click.option(
    "--nfe", type=click.IntRange(1), help="The fit for this number of evaluations; default: all."
)


@click.command("list", cls=JsonCommand)
@click.argument("folders", type=click.Path(path_type=Path, file_okay=False), nargs=-1)
@options.models_option
@options.json_option
@options.debug_option
def list_fits(folders: Sequence[Path], models_dir: Path, style: str | None, debug: bool) -> None:
    """List the files of fits in FOLDERS; by default in --models/solvers, and those that ship."""
    report = Report(style)
    with errors_reported(debug, report):
        places = folders or (models_dir / "solvers", stored_fits.SHIPPED)
        for stored in stored_fits.fits_in([p for p in places if p.is_dir()]):
            if not report:
                say(f"{stored.file}: {stored.error or about(stored.cards)}")
            from ...schedulers.measure import plain

            cards = {str(n): plain(dict(card)) for n, card in stored.cards.items()}
            facts = dict(file=str(stored.file), fits=cards, error=stored.error or None)
            report.add("files", "file", facts)


def about(cards: Mapping[int, Mapping[str, Any]]) -> str:
    """One line: for how many evaluations, of which model and guidance."""
    first = next(iter(cards.values()))
    of = f"model {first.get('model', 'unknown')}, {first.get('guidance', 'guidance unknown')}"
    return f"{', '.join(map(str, cards))} evaluations; {of}"


@click.command("show", cls=JsonCommand)
@click.argument("file", type=fit_file)
@nfe_option
@options.json_option
@options.debug_option
def show_fit(file: Path, nfe: int | None, style: str | None, debug: bool) -> None:
    """What FILE's fits were made for, what they gained, and their numbers."""
    report = Report(style)
    with errors_reported(debug, report):
        from ...schedulers.measure import plain

        for fit in stored_fits.chosen_fits([file], nfe):
            table = fit.table
            numbers = dict(
                levels=table.levels, x=table.x, d=table.d, bands=sum(map(bool, table.mix))
            )
            report.add("fits", "fit", plain(dict(nfe=table.nfe, card=dict(fit.card)) | numbers))
            if report:
                continue
            say(f"{table.nfe} evaluations")
            for name, value in fit.card.items():
                say(f"  {name}: {value}")
            for i, (kappa, x, d) in enumerate(zip(table.levels, table.x[1:], table.d, strict=True)):
                weights = " ".join(f"{w:.4g}" for w in d)
                bands = ", and bands" if table.mix[i] else ""
                say(f"  σ/α {kappa:.4g}: {x:.4g} of the state, D, newest first: {weights}{bands}")


@click.command("compare", cls=JsonCommand)
@click.argument("file", type=fit_file)
@click.argument("workflow", type=options.WorkflowPath(), required=False)
@click.option("--embedded", metavar="KIND", help="An embedded model instead of a workflow's.")
@click.option("--cfg", type=float, default=1.0, show_default=True, help="CFG scale, with --embedded.")  # fmt: skip
@click.option("--node", help="Id of the sampling node, if the workflow has several.")
@nfe_option
@click.option(
    "--seeds",
    callback=options.parse_row,
    default="900000-900015",
    show_default=True,
    metavar="A-B",
    help="Of the trajectories that judge; a fit must not have seen them.",
)
@click.option("--batch", type=click.IntRange(1), default=8, show_default=True, help="Images per evaluation.")  # fmt: skip
@options.against_option
@options.trajectories_option
@options.input_option
@options.models_option
@options.device_option
@options.json_option
@options.debug_option
def compare_stored(
    file: Path, workflow: Path | None, embedded: str | None, cfg: float, node: str | None, nfe: int | None,
    seeds: range, batch: int, against: str, trajectories: Path | None, input_dir: Path, models_dir: Path, device: str,
    style: str | None, debug: bool,
) -> None:  # fmt: skip
    """How FILE's fits do on the model, guidance and size of WORKFLOW, or of an embedded model.

    It need not be what they were fitted to: that is how a fit's worth on a LoRA, another CFG scale or another size is
    measured. Records trajectories, and compares with the best training-free pairs of solver and spacing on them.
    """
    report = Report(style)
    with errors_reported(debug, report), ExitStack() as stack:
        more: dict[str, Any] = {}
        if not report and on_terminal():
            more["stage"] = stack.enter_context(stage_bars())
        found = stored_fits.compare_fits(
            [file], workflow, embedded=embedded, cfg=cfg, node=node, nfe=nfe, seeds=seeds, batch=batch, against=against,
            trajectories=trajectories or file.parent / "trajectories", input=input_dir, models=models_dir,
            device=device, note=(lambda text: report.event("note", text=text)) if report else say, **more,
        )  # fmt: skip
        if report:
            from ...schedulers.measure import plain

            report.put(**plain(found.payload()))
        else:
            say("\n" + found.text())


@click.command("export", cls=JsonCommand)
@click.argument("file", type=fit_file)
@nfe_option
@click.option("--output", type=fit_file, help="Where to write. Default: FILE with the number and .json; - is stdout.")  # fmt: skip
@options.json_option
@options.debug_option
def export_fit(
    file: Path, nfe: int | None, output: Path | None, style: str | None, debug: bool
) -> None:
    """Write FILE's fits as text, which Solver from Text and people can read, one file for each number of evaluations."""
    report = Report(style)
    with errors_reported(debug, report):
        from ...schedulers.solver.solver_text import fit_text
        from ...schedulers.whole_file import write_whole

        fits = stored_fits.chosen_fits([file], nfe)
        if output is not None and len(fits) > 1:
            raise click.UsageError(f"{file} has several fits: choose one with --nfe, or leave --output out")  # fmt: skip
        for fit in fits:
            text = fit_text(fit)
            if output is not None and str(output) == "-":
                say(text)
                continue
            target = output or file.with_name(f"{file.stem}-{fit.table.nfe}.json")
            write_whole(target, text)
            report.add("files", "file", dict(file=str(target), nfe=fit.table.nfe))
            if not report:
                say(str(target))
