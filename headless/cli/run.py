"""sampling-kit run"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..bars import node_bars, on_terminal
from ..context import Context, Progress
from ..terminal_text import indented, one_line, say
from ..workflow import Workflow, load
from . import options
from .errors import errors_reported
from .report import JsonCommand, Report
from .run_in_comfyui import Wanted, comfyui_for, run_in_comfyui

if TYPE_CHECKING:
    from ..graph import Kept
    from ..prompt import Registry


@click.command("run", cls=JsonCommand)
@options.workflow_argument
@options.settings_option
@options.seed_option
@options.seeds_option
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
    with errors_reported(debug, report):
        plan = options.seeds_to_run(seed, seeds)
        folders = output_dir, input_dir, models_dir
        wanted = Wanted(settings, only, plan, choices, *folders, device, deterministic)
        from ..editor_graph import converter
        from .prepare import own_nodes

        nodes = own_nodes()
        read = load(workflow, converter(nodes))
        place = comfyui_for(read, nodes, comfyui, comfyui_python)
        if place is None:
            _run_here(read, wanted, at_once, report)
        elif at_once:
            raise click.UsageError("--at-once does not reach into a ComfyUI")
        else:
            run_in_comfyui(place, read, wanted, report)


def _run_here(read: Workflow, wanted: Wanted, at_once: int | None, report: Report) -> None:
    """Run the workflow once per seed without ComfyUI."""
    from ...nodes.host.alone import places
    from ..dynamic_prompts import with_choices
    from ..registry import registry
    from ..settings_flags import only as part_of
    from ..settings_flags import with_seed, with_settings
    from .prepare import context_of, refuse_mistakes

    if wanted.deterministic:
        from ..provenance import be_deterministic

        be_deterministic(threads=1)
    nodes, plan = registry(), wanted.seeds
    places.set_images_at_once(at_once)
    loaded = part_of(with_settings(read, nodes, wanted.settings), nodes, wanted.only)
    device = options.set_device(wanted.device)
    context = context_of(loaded, wanted.output, wanted.input, wanted.models, device)

    def variant(seed: int | None) -> tuple[Workflow, dict[str, str]]:
        return with_choices(with_seed(loaded, nodes, seed), nodes, seed, wanted.choices)

    for end in (plan[0], plan[-1]):  # what fits both ends fits all seeds
        refuse_mistakes(variant(end)[0], nodes, context)
    report.whole(runs=[])
    kept: Kept | None = {} if len(plan) > 1 else None
    for one in plan:
        workflow, chosen = variant(one)
        made = _run_once(workflow, nodes, context, report, kept)
        report.add("runs", "run", made | {"seed": one, "chosen": chosen})
        if not report:
            for heading, text in _texts(made["outputs"], loaded, nodes):
                say(f"{one_line(heading)}:\n{indented(text)}", err=True)
            say("\n".join(made["files"]))


def _run_once(
    workflow: Workflow, nodes: Registry, context: Context, report: Report, kept: Kept | None = None
) -> dict[str, Any]:
    """{"outputs", "files", "seconds"} of one run."""
    from ...schedulers.measure import plain
    from ..graph import execute
    from ..prompt import title

    started = time.perf_counter()
    with ExitStack() as stack:
        progress = _progress_events(report) if report else None
        if not report and on_terminal():
            bars = node_bars(lambda node: title(workflow.prompt, node, nodes))
            progress = stack.enter_context(bars)
        here = replace(
            context,
            prompt=workflow.prompt,
            workflow=workflow.ui,
            progress=progress,
            tally=Counter(),
            plans=[],
        )
        outputs = execute(workflow, nodes, here, kept)
    return {
        "outputs": plain(outputs),
        "files": _files(outputs, {"output": context.output, "temp": context.temp}),
        "seconds": round(time.perf_counter() - started, 3),
    }


def _progress_events(report: Report) -> Progress:
    """A run's progress callback that reports events."""
    return lambda node, step, total: report.event("progress", node=node, step=step, total=total)


def _texts(
    outputs: Mapping[str, Mapping[str, Any]], workflow: Workflow, nodes: Registry
) -> Iterator[tuple[str, str]]:
    """(title of a node, text that it shows), each text once."""
    from ..prompt import title

    shown = {text: node for node, ui in outputs.items() for text in ui.get("text", ())}
    yield from ((title(workflow.prompt, node, nodes), text) for text, node in shown.items())


def _files(outputs: Mapping[str, Mapping[str, Any]], folders: Mapping[str, Path]) -> list[str]:
    """Absolute paths of the images and other files that nodes say they wrote."""
    shown = (entries for ui in outputs.values() for entries in (ui.get("images"), ui.get("files")))
    entries = (entry for some in shown for entry in some or ())
    paths = (folders[entry["type"]] / entry["subfolder"] / entry["filename"] for entry in entries)
    return [str(path.resolve()) for path in paths]
