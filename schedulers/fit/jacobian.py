"""What every number of a table does to where its runs end, by differences: evaluations only, no gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from ..solver.fitted import Table
from ..solver.run import Program
from .problem import Problem
from .run_fit import Array
from .table_numbers import Name, moved, names
from .track import Track, formed, walk, walked


def columns(
    problem: Problem,
    table: Table,
    change: Array,
    rows: Tensor,
    track: Track,
    window: int,
    probe: float,
) -> list[Tensor]:
    """∂(end)/∂(every number), each [n, …], by one difference; exact for the last row."""
    end = track.y[-1]
    slopes: dict[int, Tensor] = {}
    sizes: dict[int, float] = {}
    programs: list[Program[Track]] = []
    fitted = names(table, window)
    for index, name in enumerate(fitted):
        if name.enters == table.nfe:
            slopes[index] = track.y[-2] if name.kind == "x" else track.d[-1 - name.back]
            continue
        other, size = probed(table, change, index, name, window, probe)
        if other is None:
            slopes[index] = torch.zeros_like(end)
            continue
        y = formed(problem, other, rows, name.enters, track)
        programs.append(walk(problem, other, rows, track, name.enters, y))
        sizes[index] = size
    moves = walked(problem, rows, programs)
    for (index, size), move in zip(sizes.items(), moves, strict=True):
        slopes[index] = (move.y[-1] - end) / size
    return [slopes[index] for index in range(len(fitted))]


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
