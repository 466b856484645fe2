"""The work list of a sweep: the cartesian product of a grid and seeds."""

from __future__ import annotations

import csv
import hashlib
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..dynamic_prompts import with_choices
from ..prompt import Registry
from ..settings_flags import with_seed, with_settings
from ..workflow import Prompt, Workflow, WorkflowError

LIMIT = 1_000_000  # items of one sweep


@dataclass(frozen=True)
class Item:
    """One graph of a sweep and what was set in it."""

    index: int
    values: dict[str, Any]
    prompt: Prompt

    @property
    def name(self) -> str:
        return f"{self.index:06}"

    @property
    def graph(self) -> str:
        """A digest of the graph, by which a result knows whether it is of this item."""
        return hashlib.sha256(json.dumps(self.prompt, sort_keys=True).encode()).hexdigest()[:16]


def axes(grid: Sequence[str]) -> list[tuple[str, list[str]]]:
    """[(node.input, values)] of ``node.input=a,b,c``; a value may be quoted as in CSV."""
    named = []
    for text in grid:
        target, equals, values = text.partition("=")
        if not equals or "." not in target or not values.strip():
            raise WorkflowError(f"--grid {text!r} does not have the form NODE.INPUT=A,B,C")
        named.append((target, next(csv.reader([values], skipinitialspace=True))))
    return named


def work_list(
    workflow: Workflow,
    nodes: Registry,
    grid: Sequence[str],
    seeds: Sequence[int] | None,
    choices: bool = True,
) -> list[Item]:
    """Every combination, seeds innermost; with ``choices`` those in prompts are made. Raises WorkflowError for one that cannot be set."""
    named = axes(grid)
    count = len(seeds or [None])
    for _, values in named:
        count *= len(values)
    if count > LIMIT:
        raise WorkflowError(f"this sweep has {count} items, the limit is {LIMIT}")
    items: list[Item] = []
    for combination in itertools.product(*(v for _, v in named)):
        chosen = {t: v for (t, _), v in zip(named, combination, strict=True)}
        with_grid = with_settings(workflow, nodes, [f"{t}={v}" for t, v in chosen.items()])
        for seed in seeds or (None,):
            seeded = with_seed(with_grid, nodes, seed)
            one, texts = with_choices(seeded, nodes, seed, choices)
            mine = chosen | ({} if seed is None else {"seed": seed}) | texts
            items.append(Item(len(items), mine, one.prompt))
    return items
