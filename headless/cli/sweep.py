"""sampling-kit sweep"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from ..bars import bar, on_terminal
from ..calls.run_variants import sweep
from ..terminal_text import say
from . import options
from .errors import errors_reported
from .report import JsonCommand, Report


@click.command("sweep", cls=JsonCommand)
@options.workflow_argument
@click.option(
    "--grid",
    multiple=True,
    metavar="NODE.INPUT=A,B,C",
    help="Values of an input, named as in --set; repeated: every combination.",
)
@options.settings_option
@options.seeds_option
@options.choices_option
@options.output_option
@options.input_option
@options.models_option
@options.device_option
@click.option(
    "--workers",
    type=click.IntRange(1, 4096),
    help="Processes; default: one per GPU, else one per core.",
)
@click.option(
    "--ray",
    "address",
    metavar="ADDRESS",
    help="A running Ray cluster with a token, such as auto or HOST:6379.",
)
@click.option(
    "--threads", type=click.IntRange(1, 1024), default=1, show_default=True, help="Per worker."
)
@options.json_option
@options.debug_option
def sweep_workflow(
    workflow: Path,
    grid: Sequence[str],
    settings: Sequence[str],
    seeds: Sequence[int] | None,
    choices: bool,
    output_dir: Path,
    input_dir: Path,
    models_dir: Path,
    device: str,
    workers: int | None,
    address: str | None,
    threads: int,
    style: str | None,
    debug: bool,
) -> None:
    """Run WORKFLOW for every combination of --grid and --seeds, on all GPUs, cores or a Ray cluster.

    The same command again does what is missing: an item is done once, whatever is killed. The output
    folder gets items/, manifest.jsonl, table.md and sheet.png.
    """
    report = Report(style, workflow=str(workflow))
    with errors_reported(debug, report):
        with bar(unit="item", shown=not report and on_terminal()) as shown:

            def show(done: int, total: int) -> None:
                shown.total = total
                shown.update(done - shown.n)
                report.event("progress", done=done, total=total)

            def note(text: str) -> None:
                report.event("note", text=text)
                with shown.external_write_mode():
                    say(text, err=True)

            result = sweep(
                workflow,
                grid=grid,
                settings=settings,
                seeds=seeds,
                choices=choices,
                output=output_dir,
                input=input_dir,
                models=models_dir,
                device=device,
                workers=workers,
                ray=address,
                threads=threads,
                progress=show,
                note=note,
            )
        report.put(output=str(output_dir), items=result.items, there=result.there)
        if not report:
            say(f"{output_dir}: {result.items} items, {result.there} of them were there")
