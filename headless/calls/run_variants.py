"""Run every combination of values of a workflow."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..settings_flags import with_settings
from .preparation import (
    Settings,
    Source,
    context_of,
    opened,
    refuse_mistakes,
    setting_texts,
)
from .results import SweepResult


def sweep(
    workflow: Source,
    *,
    grid: Sequence[str] | Mapping[str, Sequence[Any]] = (),
    settings: Settings = (),
    seeds: Sequence[int] | None = None,
    choices: bool = True,
    output: Path | str = "output",
    input: Path | str = "input",
    models: Path | str = "models",
    device: str = "auto",
    workers: int | None = None,
    ray: str | None = None,
    threads: int = 1,
    progress: Callable[[int, int], None] | None = None,
    note: Callable[[str], None] | None = None,
) -> SweepResult:
    """Run ``workflow`` for every combination of ``grid`` and ``seeds``, on all GPUs, cores or a Ray cluster.

    ``grid``: NODE.INPUT=A,B,C each, or {"NODE.INPUT": [a, b, c]}. The same call again does what is missing.
    ``workers``: processes, by default one per GPU, else one per core; ``ray``: the address of a running cluster;
    ``threads`` per worker; ``choices``: {a|b} in prompts are made, by the seed. ``progress(done, total)`` and ``note(text)`` are told what happens.

    Raises WorkflowError for what cannot run or another sweep in ``output``, NodeFailure naming items that failed.
    """
    from ..editor_graph import converter
    from ..registry import registry
    from ..sweep import Crew, axes, work_list
    from ..sweep import sweep as work_off

    nodes, output, input, models = registry(), Path(output), Path(input), Path(models)
    rows = _grid_texts(grid)
    chosen = with_settings(opened(workflow, converter(nodes)), nodes, setting_texts(settings))
    context = context_of(chosen, output, input, models, "cpu")
    items = work_list(chosen, nodes, rows, seeds, choices)
    typed = chosen.typed | {value for _, values in axes(rows) for value in values}
    context = replace(context, typed=typed)
    for item in (items[0], items[-1]):
        refuse_mistakes(replace(chosen, prompt=item.prompt), nodes, context)
    crew = Crew(workers, ray, device, threads, input, models, typed)
    silent: Any = lambda *_: None  # noqa: E731
    told = progress or silent, note or silent
    there, done = work_off(chosen, items, rows, seeds, output, crew, *told)
    return SweepResult(output, there + done, there)


def _grid_texts(grid: Sequence[str] | Mapping[str, Sequence[Any]]) -> list[str]:
    """Each as NODE.INPUT=A,B,C."""
    if not isinstance(grid, Mapping):
        return list(grid)
    return [f"{target}={','.join(map(_cell, values))}" for target, values in grid.items()]


def _cell(value: Any) -> str:
    """A value as CSV holds it."""
    (text,) = setting_texts({"": value})
    text = text.removeprefix("=")
    quoted = text.replace('"', '""')
    return f'"{quoted}"' if any(c in text for c in ',"\n') or text != text.strip() else text
