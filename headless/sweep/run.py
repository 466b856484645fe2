"""A sweep from its work list to its summary."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..workflow import NodeFailure, Workflow
from .crew import Crew
from .folder import Folder, silent
from .items import Item
from .worker import Files, Record


def sweep(
    workflow: Workflow,
    items: Sequence[Item],
    grid: Sequence[str],
    seeds: Sequence[int] | None,
    output: Path,
    crew: Crew,
    bar: Callable[[int, int], Any] = lambda done, total: None,
    note: Callable[[str], None] = silent,
) -> tuple[int, int]:
    """Do what is missing of a sweep's ``items``; returns (items there already, items done now).

    ``note`` is told what was damaged. Raises WorkflowError if another sweep works there or has worked there,
    NodeFailure naming items that failed, after all others are done.
    """
    spec = dict(
        workflow=workflow.prompt,
        grid=list(grid),
        seeds=_written(seeds),
    )
    with Folder.opened(output, spec, note) as folder:
        there = set(folder.done(items))
        todo = [item for item in items if item.name not in there]
        done = len(items) - len(todo)
        bar(done, len(items))

        def finished(item: Item, record: Record, files: Files) -> None:
            nonlocal done
            folder.add(item, record, files)
            done += 1
            bar(done, len(items))

        try:
            failed = crew.work(todo, finished) if todo else {}
        finally:
            folder.summarise()
    if failed:
        shown = [f"item {name}: {why}" for name, why in list(failed.items())[:20]]
        more = f"and {len(failed) - 20} more" if len(failed) > 20 else ""
        raise NodeFailure("\n       ".join([f"{len(failed)} items failed", *shown, more]).rstrip())
    return len(items) - len(todo), len(todo)


def _written(seeds: Sequence[int] | None) -> Any:
    """The seeds as sweep.json holds them: the two ends of a range, or {"list": …}."""
    if seeds is None:
        return None
    return [seeds[0], seeds[-1]] if isinstance(seeds, range) else {"list": list(seeds)}
