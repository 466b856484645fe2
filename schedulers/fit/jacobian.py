"""What every number of a table does to where its runs end, by differences: evaluations only, no gradients."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ..solver.fitted import Table
from .problem import Problem
from .run_fit import Array
from .table_numbers import Name, moved, names
from .track import Track, at_once, formed, walk, walked


def each_column(
    problem: Problem,
    table: Table,
    change: Array,
    rows: Tensor,
    track: Track,
    window: int,
    probe: float,
) -> Iterator[tuple[int, Tensor]]:
    """(which of :func:`names`, ∂(end)/∂(that number) [n, …]), in no order, by one difference; exact for the last row.

    ``track``: the run of ``table`` with its numbers changed by ``change`` [P]. Each is handed out as it is made: as many runs
    as share their calls are in memory at a time.
    """
    end, fitted = track.y[-1], names(table, window)
    runs: list[tuple[int, Table, float]] = []
    for index, name in enumerate(fitted):
        if name.enters == table.nfe:
            yield index, track.y[-2] if name.kind == "x" else track.d[-1 - name.back]
            continue
        other, size = probed(table, change, index, name, window, probe)
        if other is None:
            yield index, torch.zeros_like(end)
        else:
            runs.append((index, other, size))
    together = at_once(problem, rows)
    for part in (runs[i : i + together] for i in range(0, len(runs), together)):
        programs = []
        for index, other, _ in part:
            enters = fitted[index].enters
            y = formed(problem, other, rows, enters, track)
            programs.append(walk(problem, other, rows, track, enters, y))
        for (index, _, size), move in zip(part, walked(problem, rows, programs), strict=True):
            yield index, (move.y[-1] - end) / size


def probed(
    table: Table, change: Array, index: int, name: Name, window: int, probe: float
) -> tuple[Table | None, float]:
    """The table with one number moved a little, and by how much; None where levels are too close to move."""
    size = probe * (-3 if name.kind == "level" else 1)  # down: the first has a limit
    for step in (size, -size):  # if the levels are closer than that, the other way
        there = change.copy()
        there[index] += step
        other = moved(table, window, there)
        if other is not None:
            return other, step
    return None, size
