"""Run a workflow in a ComfyUI that is started for it: its nodes, the same call."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..prompt import Registry, title
from ..workflow import NodeFailure, Workflow
from .preparation import Settings, context_of, queue_jobs, refuse_mistakes
from .results import Done, NodeProgress, RunResult, Watcher

if TYPE_CHECKING:
    from ..comfyui import Installation, Running
    from ..queue import Job

VARIABLE = "COMFYUI_PATH"  # names a ComfyUI for workflows that need one
Progress = Callable[[NodeProgress], None]
Ended = Callable[[RunResult], None]


@dataclass(frozen=True)
class Wanted:
    """What a run is to be. ``seeds``: [None] keeps those of the workflow."""

    settings: Settings
    only: Sequence[str]
    seeds: Sequence[int | None]
    choices: bool
    output: Path
    input: Path
    models: Path
    device: str
    deterministic: bool


def comfyui_for(
    workflow: Workflow, nodes: Registry, folder: Path | str | None, python: Path | str | None
) -> Installation | None:
    """The ComfyUI that is to run a workflow: ``folder``, or that of the environment where the graph holds a class that is
    not among ``nodes``. None: it runs here."""
    named = os.environ.get(VARIABLE)
    here = all(node["class_type"] in nodes for node in workflow.prompt.values())
    if folder is None and (here or not named):
        return None
    from ..comfyui import installation

    program = Path(python) if python else None
    if folder is not None:
        return installation(Path(folder), program)
    return installation(Path(str(named)), program, VARIABLE)


def run_in_comfyui(
    place: Installation, workflow: Workflow, wanted: Wanted,
    progress: Progress | None, done: Ended | None, note: Callable[[str], None],
) -> tuple[RunResult, ...]:  # fmt: skip
    """Start it, run the workflow once per seed, fetch the results, stop it.

    Raises NodeFailure where it does not start or a run fails, after the others; WorkflowError.
    """
    from ..comfyui import serving

    with serving(place, wanted.models, wanted.device, wanted.deterministic, note) as comfy:
        return run_in(comfy, place, workflow, wanted, progress, done, note)


def run_in(
    comfy: Running, place: Installation, workflow: Workflow, wanted: Wanted,
    progress: Progress | None = None, done: Ended | None = None, note: Callable[[str], None] = lambda text: None,
) -> tuple[RunResult, ...]:  # fmt: skip
    """The same in one that is there."""
    from ..comfyui import unless_it_ends
    from ..editor_graph import converter
    from ..object_info import registry_of
    from ..queue import Queue, access, object_info
    from ..queue.access import API_KEY

    nodes = registry_of(object_info([comfy.address]))
    read = workflow.converted(converter(nodes))
    asked = wanted.settings, wanted.only, wanted.seeds, wanted.input, wanted.choices
    jobs = queue_jobs(read, nodes, *asked, place="temp")  # nothing stays in its input folder
    for job in (jobs[0], jobs[-1]):
        checked = read.with_prompt(job.prompt)
        context = context_of(checked, wanted.output, wanted.input, wanted.models, "cpu")
        refuse_mistakes(checked, nodes, context, f"the ComfyUI in {place.root}")
    key: Mapping[str, Any] = {k: v for k, v in os.environ.items() if k == API_KEY}
    told = _Told(jobs, nodes, wanted, progress, done, note)
    queue = Queue(comfy.address, wanted.output, told, access=access(environment=key))

    async def work() -> list[Done]:
        return await unless_it_ends(comfy, asyncio.ensure_future(queue.run(jobs)))

    ended = asyncio.run(work())
    failed = [one for one in ended if one.error is not None]
    if failed:
        raise NodeFailure("\n       ".join(f"{one.label or 'run'}: {one.error}" for one in failed))
    return tuple(told.results[one.label] for one in ended)


class _Told(Watcher):
    """Hands on what the queue tells, as a run tells it."""

    def __init__(
        self, jobs: Sequence[Job], nodes: Registry, wanted: Wanted,
        progress: Progress | None, done: Ended | None, note: Callable[[str], None],
    ) -> None:  # fmt: skip
        self.prompt, self.nodes, self.wanted = jobs[0].prompt, nodes, wanted
        self.seeds = dict(zip((job.label for job in jobs), wanted.seeds, strict=True))
        self.tell, self.done, self.say = progress, done, note
        self.results: dict[str, RunResult] = {}
        self.since = time.perf_counter()

    def progress(self, label: str, node: str, step: int, total: int) -> None:
        if self.tell is not None:
            shown = title(self.prompt, node, self.nodes) if node in self.prompt else node
            self.tell(NodeProgress(node, shown, step, total))

    def finished(self, done: Done) -> None:
        if done.error is not None:
            return
        seconds, self.since = time.perf_counter() - self.since, time.perf_counter()
        result = RunResult(
            seed=self.seeds[done.label],
            files=tuple((self.wanted.output / name).resolve() for name in done.files),
            texts=tuple(("shown", text) for text in done.texts),
            outputs={},
            seconds=round(seconds, 3),
            chosen=done.chosen,
        )
        self.results[done.label] = result
        if self.done is not None:
            self.done(result)

    def note(self, text: str) -> None:
        self.say(text)
