"""sampling-kit run --comfyui: the same command, the nodes of a ComfyUI that is started for it."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..prompt import Registry
from ..terminal_text import say
from ..workflow import NodeFailure, Workflow
from .report import Report

if TYPE_CHECKING:
    from ..comfyui import Installation, Running
    from ..queue import Done

VARIABLE = "COMFYUI_PATH"  # names a ComfyUI for workflows that need one


@dataclass(frozen=True)
class Wanted:
    """What the command line asks for. ``seeds``: [None] keeps those of the workflow."""

    settings: Sequence[str]
    only: Sequence[str]
    seeds: Sequence[int | None]
    choices: bool
    output: Path
    input: Path
    models: Path
    device: str
    deterministic: bool


def comfyui_for(
    workflow: Workflow, nodes: Registry, folder: Path | None, python: Path | None
) -> Installation | None:
    """The ComfyUI that is to run a workflow: ``folder``, or that of the environment where the graph holds a class that is
    not among ``nodes``. None: it runs here."""
    named = os.environ.get(VARIABLE)
    here = all(node["class_type"] in nodes for node in workflow.prompt.values())
    if folder is None and (here or not named):
        return None
    from ..comfyui import installation

    return (
        installation(folder, python) if folder else installation(Path(str(named)), python, VARIABLE)
    )


def run_in_comfyui(place: Installation, workflow: Workflow, wanted: Wanted, report: Report) -> None:
    """Start it, run the workflow once per seed, fetch the results, stop it. Raises NodeFailure, WorkflowError."""
    from ..comfyui import serving

    def note(text: str) -> None:
        report.event("note", text=text)
        if not report:
            say(text, err=True)

    with serving(place, wanted.models, wanted.device, wanted.deterministic, note) as comfy:
        started = time.perf_counter()
        done = _run(comfy, place, workflow, wanted, report)
        seconds = round(time.perf_counter() - started, 3)
    for one, seed in zip(done, wanted.seeds, strict=True):
        files = [str((wanted.output / name).resolve()) for name in one.files]
        facts = dict(files=files, texts=list(one.texts), error=one.error, chosen=dict(one.chosen))
        report.add("runs", "run", facts | {"seed": seed})
    report.put(seconds=seconds)
    failed = [one for one in done if one.error is not None]
    if failed:
        raise NodeFailure("\n       ".join(f"{one.label or 'run'}: {one.error}" for one in failed))


def _run(
    comfy: Running, place: Installation, workflow: Workflow, wanted: Wanted, report: Report
) -> list[Done]:
    from ..comfyui import unless_it_ends
    from ..editor_graph import converter
    from ..object_info import registry_of
    from ..queue import Queue, access, object_info
    from ..queue.access import API_KEY
    from .prepare import context_of, queue_jobs, refuse_mistakes
    from .queue_bars import QueueBars

    nodes = registry_of(object_info([comfy.address]))
    read = workflow.converted(converter(nodes))
    asked = wanted.settings, wanted.only, wanted.seeds, wanted.input, wanted.choices
    jobs = queue_jobs(read, nodes, *asked, place="temp")  # nothing stays in its input folder
    for job in (jobs[0], jobs[-1]):
        checked = read.with_prompt(job.prompt)
        context = context_of(checked, wanted.output, wanted.input, wanted.models, "cpu")
        refuse_mistakes(checked, nodes, context, f"the ComfyUI in {place.root}")
    key: Mapping[str, Any] = {k: v for k, v in os.environ.items() if k == API_KEY}
    with QueueBars(wanted.output, len(jobs), report=report) as bars:
        queue = Queue(comfy.address, wanted.output, bars, access=access(environment=key))

        async def work() -> list[Done]:
            return await unless_it_ends(comfy, asyncio.ensure_future(queue.run(jobs)))

        return asyncio.run(work())
