"""Run a workflow in this process, or in a ComfyUI that is started for it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..context import Context
from ..settings_flags import only as part_of
from ..settings_flags import with_infotext, with_pick, with_seed, with_settings
from ..workflow import Workflow
from .preparation import (
    Settings,
    Source,
    context_of,
    opened,
    own_nodes,
    refuse_mistakes,
    seeds_to_run,
    set_device,
    setting_texts,
)
from .results import ArgumentError, NodeProgress, RunResult
from .run_in_comfyui import Wanted, comfyui_for, run_in_comfyui

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
    a1111: Path | str | None = None,
    only: Sequence[str] = (),
    choices: bool = True,
    output: Path | str = "output",
    input: Path | str = "input",
    models: Path | str = "models",
    device: str = "auto",
    at_once: int | None = None,
    deterministic: bool = False,
    comfyui: Path | str | None = None,
    comfyui_python: Path | str | None = None,
    progress: Callable[[NodeProgress], None] | None = None,
    done: Callable[[RunResult], None] | None = None,
    note: Callable[[str], None] = lambda text: None,
) -> tuple[RunResult, ...]:
    """Run ``workflow`` once per seed, here or in the ComfyUI in ``comfyui``; a result each.

    ``settings``: values of inputs, NODE.INPUT=VALUE; ``seed`` or ``seeds``: set every seed of the workflow;
    ``pick``: numbers for its Pick Drafts; ``a1111``: a picture or a text file whose settings go into its Settings from A1111 Text; ``only``: run up to these outputs alone; ``choices``: {a|b} in prompts are made, by the seed; ``at_once``: most images in one call of the network;
    ``deterministic``: refuse operations that may differ from run to run; ``comfyui``: is started for this call, with its nodes and models, by
    ``comfyui_python`` or the Python of its venv, and stopped (COMFYUI_PATH names one for graphs that need it). ``progress`` is told every step of a
    node, ``done`` every result as soon as it is there, ``note`` what else
    happens.

    Raises WorkflowError for what is no workflow that runs, NodeFailure if a node raises, ArgumentError.
    """
    from ..editor_graph import converter

    plan, nodes = seeds_to_run(seed, seeds), own_nodes()
    read = with_pick(opened(workflow, converter(nodes)), pick)
    read = with_infotext(read, None if a1111 is None else Path(a1111))
    folders = Path(output), Path(input), Path(models)
    wanted = Wanted(settings, only, plan, choices, *folders, device, deterministic)
    place = comfyui_for(read, nodes, comfyui, comfyui_python)
    if place is None:
        return _run_here(read, wanted, at_once, progress, done)
    if at_once:
        raise ArgumentError("--at-once does not reach into a ComfyUI")
    return run_in_comfyui(place, read, wanted, progress, done, note)


def _run_here(
    read: Workflow, wanted: Wanted, at_once: int | None,
    progress: Callable[[NodeProgress], None] | None, done: Callable[[RunResult], None] | None,
) -> tuple[RunResult, ...]:  # fmt: skip
    """Run the workflow once per seed in this process."""
    from ...nodes.host.alone import places
    from ..dynamic_prompts import with_choices
    from ..registry import registry

    if wanted.deterministic:
        from ..provenance import be_deterministic

        be_deterministic(threads=1)
    nodes, plan = registry(), wanted.seeds
    places.set_images_at_once(at_once)
    part = part_of(with_settings(read, nodes, setting_texts(wanted.settings)), nodes, wanted.only)
    device = set_device(wanted.device)
    context = context_of(part, wanted.output, wanted.input, wanted.models, device)

    def variant(seed: int | None) -> tuple[Workflow, dict[str, str]]:
        return with_choices(with_seed(part, nodes, seed), nodes, seed, wanted.choices)

    for end in (plan[0], plan[-1]):  # what fits both ends fits all seeds
        refuse_mistakes(variant(end)[0], nodes, context)
    kept: Kept | None = {} if len(plan) > 1 else None
    results = []
    for one in plan:
        workflow, chosen = variant(one)
        result = _run_once(workflow, one, nodes, context, progress, kept)
        results.append(replace(result, chosen=chosen))
        if done is not None:
            done(results[-1])
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
        errors=[],
    )
    outputs = execute(workflow, nodes, here, kept)
    return RunResult(
        seed=seed,
        files=tuple(_files(outputs, {"output": context.output, "temp": context.temp})),
        texts=tuple(_texts(outputs, workflow, nodes)),
        outputs=plain(outputs),
        seconds=round(time.perf_counter() - started, 3),
        errors=tuple(here.errors),
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
