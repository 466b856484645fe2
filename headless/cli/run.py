"""sampling-kit run"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from ..bars import node_bars, on_terminal
from ..calls.results import NodeProgress, RunResult
from ..calls.run_here import run
from ..context import Progress
from ..terminal_text import indented, one_line, say
from . import options
from .errors import errors_reported
from .report import JsonCommand, Report


@click.command("run", cls=JsonCommand)
@options.workflow_argument
@options.settings_option
@options.seed_option
@options.seeds_option
@click.option(
    "--pick",
    metavar="N,N",
    help="Finish these drafts of a workflow with Pick Drafts: 3,7 or 1,4-6; an empty text: the drafts alone.",
)
@click.option(
    "--a1111",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="A picture from A1111 or Forge, or a text file: its settings go into the workflow's Settings from A1111 Text.",
)
@options.only_option
@options.choices_option
@options.output_option
@options.input_option
@options.models_option
@options.device_option
@click.option(
    "--at-once",
    type=click.IntRange(min=1),
    metavar="N",
    help="Most images in one call of the network; default: what fits into a GPU's memory. The images stay the same.",
)
@click.option(
    "--deterministic",
    is_flag=True,
    help="Refuse operations that may differ from run to run; fixes the threads at 1.",
)
@click.option(
    "--comfyui",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Start this ComfyUI for the run, with its nodes and models, and stop it. COMFYUI_PATH names one for workflows "
    "with nodes that do not run here.",
)
@click.option(
    "--comfyui-python",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The Python that runs it; default: that of its .venv or venv.",
)
@options.json_option
@options.debug_option
def run_workflow(
    workflow: Path,
    settings: Sequence[str],
    seed: int | None,
    seeds: Sequence[int] | None,
    pick: str | None,
    a1111: Path | None,
    only: Sequence[str],
    choices: bool,
    output_dir: Path,
    input_dir: Path,
    models_dir: Path,
    device: str,
    at_once: int | None,
    deterministic: bool,
    comfyui: Path | None,
    comfyui_python: Path | None,
    style: str | None,
    debug: bool,
) -> None:
    """Run WORKFLOW, JSON or a picture that carries it, here or in a ComfyUI that is started for it."""
    report = Report(style, workflow=str(workflow))
    with errors_reported(debug, report), ExitStack() as stack:
        bars = stack.enter_context(closing(Bars()))

        def progress(now: NodeProgress) -> None:
            report.event("progress", node=now.node, step=now.step, total=now.total)
            if not report:
                bars.show(now)

        def done(result: RunResult) -> None:
            bars.close()
            report.add("runs", "run", facts_of(result))
            if not report:
                tell(result)

        def note(text: str) -> None:
            report.event("note", text=text)
            if not report:
                say(text, err=True)

        report.whole(runs=[])
        what = dict(settings=settings, seed=seed, seeds=seeds, pick=pick, a1111=a1111, only=only)
        where = dict(output=output_dir, input=input_dir, models=models_dir, device=device)
        how = dict(choices=choices, at_once=at_once, deterministic=deterministic)
        program = dict(comfyui=comfyui, comfyui_python=comfyui_python)
        every: dict[str, Any] = {**what, **where, **how, **program}
        told = progress if report or on_terminal() else None
        run(workflow, **every, progress=told, done=done, note=note)


def facts_of(result: RunResult) -> dict[str, Any]:
    """For programs."""
    return dict(
        outputs=result.outputs,
        files=[str(path) for path in result.files],
        seconds=result.seconds,
        seed=result.seed,
        chosen=dict(result.chosen),
        errors=[asdict(error) for error in result.errors],
    )


def tell(result: RunResult) -> None:
    """For people: what nodes show, what runs estimate of their errors if no node shows it, and the files."""
    for heading, text in result.texts:
        say(f"{one_line(heading)}:\n{indented(text)}", err=True)
    shown = "\n".join(text for _, text in result.texts)
    for error in dict.fromkeys(map(str, result.errors)):
        if error not in shown:
            say(error, err=True)
    say("\n".join(str(path) for path in result.files))


class Bars:
    """One bar per node of the run that goes on."""

    def __init__(self) -> None:
        self.titles: dict[str, str] = {}
        self.stack = ExitStack()
        self.report: Progress | None = None

    def show(self, now: NodeProgress) -> None:
        """Move the node's bar; the first one of a run begins them."""
        self.titles[now.node] = now.title
        if self.report is None:
            self.report = self.stack.enter_context(node_bars(self.titles.__getitem__))
        self.report(now.node, now.step, now.total)

    def close(self) -> None:
        """The run is over."""
        self.stack.close()
        self.report = None
