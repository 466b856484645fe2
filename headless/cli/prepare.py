"""What subcommands do before a workflow runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..context import Context, use
from ..extras import absent
from ..prompt import Registry
from ..workflow import Workflow, WorkflowError

if TYPE_CHECKING:
    from ..queue import Job


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
    settings: Sequence[str],
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

    part = part_of(with_settings(read, nodes, settings), nodes, only)
    loaded, uploads = with_uploads(part, input_dir, place)
    jobs = []
    for seed in seeds:
        one, chosen = with_choices(with_seed(loaded, nodes, seed), nodes, seed, choices)
        label = "" if seed is None else f"seed{seed}"
        jobs.append(Job(label, one.prompt, one.ui, uploads, chosen))
    return jobs
