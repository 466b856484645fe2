"""Run a workflow in this process."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..context import Context
from ..settings_flags import only as part_of
from ..settings_flags import with_pick, with_seed, with_settings
from ..workflow import Workflow
from .preparation import (
    Settings,
    Source,
    context_of,
    opened,
    refuse_mistakes,
    seeds_to_run,
    set_device,
    setting_texts,
)
from .results import NodeProgress, RunResult

if TYPE_CHECKING:
    from ..graph import Kept
    from ..prompt import Registry


def run(
    workflow: Source,
    *,
    settings: Settings = (),
    seed: int | None = None,
    seeds: Sequence[int] | None = None,
    pick: str | None = None,
    only: Sequence[str] = (),
    output: Path | str = "output",
    input: Path | str = "input",
    models: Path | str = "models",
    device: str = "auto",
    at_once: int | None = None,
    deterministic: bool = False,
    progress: Callable[[NodeProgress], None] | None = None,
    done: Callable[[RunResult], None] | None = None,
) -> tuple[RunResult, ...]:
    """Run ``workflow`` here, once per seed; a result each.

    ``settings``: values of inputs, NODE.INPUT=VALUE; ``seed`` or ``seeds``: set every seed of the workflow;
    ``pick``: the drafts that its Pick Drafts goes on with, "3, 7"; ``only``: run up to these outputs alone; ``at_once``: most images in one call of the network;
    ``deterministic``: refuse operations that may differ from run to run. ``progress`` is told every step of a
    node, ``done`` every result as soon as it is there.

    Raises WorkflowError for what is no workflow that runs here, NodeFailure if a node raises, ArgumentError.
    """
    from ...nodes.host.alone import places
    from ..editor_graph import converter
    from ..registry import registry

    plan = seeds_to_run(seed, seeds)
    if deterministic:
        from ..provenance import be_deterministic

        be_deterministic(threads=1)
    nodes = registry()
    places.set_images_at_once(at_once)
    read = opened(workflow, converter(nodes))
    changed = with_pick(with_settings(read, nodes, setting_texts(settings)), pick)
    chosen = part_of(changed, nodes, only)
    context = context_of(chosen, Path(output), Path(input), Path(models), set_device(device))
    for end in (plan[0], plan[-1]):  # what fits both ends fits all seeds
        refuse_mistakes(with_seed(chosen, nodes, end), nodes, context)
    kept: Kept | None = {} if len(plan) > 1 else None
    results = []
    for one in plan:
        result = _run_once(with_seed(chosen, nodes, one), one, nodes, context, progress, kept)
        results.append(result)
        if done is not None:
            done(result)
    return tuple(results)


def _run_once(
    workflow: Workflow, seed: int | None, nodes: Registry, context: Context,
    progress: Callable[[NodeProgress], None] | None, kept: Kept | None,
) -> RunResult:  # fmt: skip
    from ...schedulers.measure import plain
    from ..graph import execute
    from ..prompt import title

    def tell(node: str, step: int, total: int) -> None:
        if progress is not None:
            progress(NodeProgress(node, title(workflow.prompt, node, nodes), step, total))

    started = time.perf_counter()
    here = replace(
        context,
        prompt=workflow.prompt,
        workflow=workflow.ui,
        progress=tell if progress else None,
        tally=Counter(),
        plans=[],
    )
    outputs = execute(workflow, nodes, here, kept)
    return RunResult(
        seed=seed,
        files=tuple(_files(outputs, {"output": context.output, "temp": context.temp})),
        texts=tuple(_texts(outputs, workflow, nodes)),
        outputs=plain(outputs),
        seconds=round(time.perf_counter() - started, 3),
    )


def _texts(
    outputs: Mapping[str, Mapping[str, Any]], workflow: Workflow, nodes: Registry
) -> Iterator[tuple[str, str]]:
    """(title of a node, text that it shows), each text once."""
    from ..prompt import title

    shown = {text: node for node, ui in outputs.items() for text in ui.get("text", ())}
    yield from ((title(workflow.prompt, node, nodes), text) for text, node in shown.items())


def _files(outputs: Mapping[str, Mapping[str, Any]], folders: Mapping[str, Path]) -> Iterator[Path]:
    """Absolute paths of the images and other files that nodes say they wrote."""
    shown = (entries for ui in outputs.values() for entries in (ui.get("images"), ui.get("files")))
    for entry in (entry for some in shown for entry in some or ()):
        yield (folders[entry["type"]] / entry["subfolder"] / entry["filename"]).resolve()
