"""What the five functions do before anything runs."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..context import Context, use
from ..extras import absent
from ..prompt import Registry
from ..shipped import example
from ..workflow import Convert, Workflow, WorkflowError, from_graph, load
from .results import ArgumentError

if TYPE_CHECKING:
    from ..queue import Job

#: A file, the name of an example, or an API graph (or an editor's).
Source = Path | str | Mapping[str, Any] | Workflow
#: NODE.INPUT=VALUE each, or {"NODE.INPUT": value}.
Settings = Sequence[str] | Mapping[str, Any]


def opened(source: Source, convert: Convert | None = None) -> Workflow:
    """The workflow. Raises WorkflowError for what is none."""
    if isinstance(source, Workflow):
        return source
    if isinstance(source, Mapping):
        return from_graph(source, convert)
    shipped = None if Path(source).exists() else example(str(source))
    return load(shipped or source, convert)


def setting_texts(settings: Settings) -> list[str]:
    """Each as NODE.INPUT=VALUE."""
    if isinstance(settings, str):
        raise ArgumentError(f"settings = {settings!r}: give a list of NODE.INPUT=VALUE, or a dict")
    if isinstance(settings, Mapping):
        return [f"{target}={_text(value)}" for target, value in settings.items()]
    return list(settings)


def _text(value: Any) -> str:
    """The text that --set reads as ``value``."""
    if not isinstance(value, str):
        return json.dumps(value)
    try:
        json.loads(value)
    except ValueError:
        return value
    return json.dumps(value)  # "7" as a text, not a number


def seeds_to_run(seed: int | None, seeds: Sequence[int] | None) -> Sequence[int | None]:
    """The seeds; [None] keeps those of the workflow."""
    if seed is not None and seeds is not None:
        raise ArgumentError("use --seed or --seeds, not both")
    if seeds is not None and not len(seeds):
        raise ArgumentError("seeds is empty: give at least one")
    return seeds if seeds is not None else [seed]


def set_device(name: str) -> str:
    """Choose where models run: auto, cpu, cuda, mps; the device's name."""
    from ...nodes import host

    try:
        return str(host.places.set_device(name))
    except ValueError as error:
        raise ArgumentError(f"--device {name}: {error}") from None


def context_of(workflow: Workflow, output: Path, input: Path, models: Path, device: str) -> Context:
    """A run without progress; previews go to output/temp."""
    temp = output / "temp"
    facts: dict[str, Any] = dict(models=models, typed=workflow.typed)
    return Context(output, input, temp, device, None, workflow.prompt, workflow.ui, **facts)


def refuse_mistakes(workflow: Workflow, nodes: Registry, context: Context, where: str = "") -> None:
    """Raise WorkflowError with one line per mistake. ``where``: the server whose nodes these are."""
    from ..graph import check

    with use(context):
        errors = check(workflow, nodes, where)
    if errors:
        raise WorkflowError("\n       ".join(str(error) for error in errors))


def own_nodes() -> Registry:
    """The nodes that run here; none without torch, as where the extra 'queue' alone is installed."""
    if absent(["torch", "numpy"]):
        return {}
    from ..registry import registry

    return registry()


def nodes_for_queue(workflow: Workflow, ask: Callable[[], dict[str, Any]]) -> Registry:
    """Our nodes; where the graph has others, those of a server (``ask`` is its /object_info), which then decides."""
    from ..object_info import registry_of

    nodes = own_nodes()
    if all(node["class_type"] in nodes for node in workflow.prompt.values()):
        return nodes
    return {**nodes, **registry_of(ask())}


def queue_jobs(
    read: Workflow,
    nodes: Registry,
    settings: Settings,
    only: Sequence[str],
    seeds: Sequence[int | None],
    input_dir: Path,
    choices: bool = True,
    place: str = "input",
) -> list[Job]:
    """One job per seed of a workflow for servers, with the pictures that they must have first, in their folder ``place``."""
    from ..dynamic_prompts import with_choices
    from ..queue import Job, with_uploads
    from ..settings_flags import only as part_of
    from ..settings_flags import with_seed, with_settings

    part = part_of(with_settings(read, nodes, setting_texts(settings)), nodes, only)
    loaded, uploads = with_uploads(part, input_dir, place)
    jobs = []
    for seed in seeds:
        one, chosen = with_choices(with_seed(loaded, nodes, seed), nodes, seed, choices)
        label = "" if seed is None else f"seed{seed}"
        jobs.append(Job(label, one.prompt, one.ui, uploads, chosen))
    return jobs
