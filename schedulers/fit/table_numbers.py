"""The numbers of a table that a fit without gradients moves, and tables with them moved.

They are those of DDIM's exact step with corrections, so moving a level moves a step and not only a label:

    κ_i = κ_i°·e^{u_i} ,   x_i = DDIM(κ_{i−1}, κ_i).x + … ,   d_{i0} = DDIM(κ_{i−1}, κ_i).d + …
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from ..solver.band_mix import Mix
from ..solver.fitted import Table, ddim
from .run_fit import Array


class Name(NamedTuple):
    """One number: ``kind`` level, x or d of ``row``, with ``back`` for a D; ``enters``: the first state it changes."""

    kind: str
    row: int
    back: int = 0

    @property
    def enters(self) -> int:
        return self.row + (self.kind == "d")


def names(table: Table, window: int) -> list[Name]:
    """The numbers that are fitted. The first level is one of them unless it is pure noise: a run may be told a
    lower one than it starts from, and the weight of x_start follows it."""
    k = table.nfe
    lowest = 0 if math.isfinite(table.levels[0]) else 1
    inner = [Name("level", i) for i in range(lowest, k)] + [Name("x", i) for i in range(1, k + 1)]
    counts = [max(len(row), min(window, i + 1)) for i, row in enumerate(table.d)]
    return inner + [Name("d", i, j) for i, count in enumerate(counts) for j in range(count)]


def moved(table: Table, window: int, change: Array) -> Table | None:
    """The table with its numbers changed, the first level at most its start; None if levels no longer fall."""
    changes = dict(zip(names(table, window), map(float, change), strict=True))
    levels = [k * math.exp(changes.get(Name("level", i), 0.0)) for i, k in enumerate(table.levels)]
    levels[0] = min(levels[0], max(table.levels[0], table.start))
    old, new = ((table.start, *ks, table.end) for ks in (table.levels, levels))
    x, d = list(table.x), [dict(enumerate(row)) for row in table.d]
    for i in range(len(x)):
        (x0, d0), (x1, d1) = ddim(*old[i : i + 2]), ddim(*new[i : i + 2])
        x[i] += x1 - x0
        if i:
            d[i - 1][0] = d[i - 1].get(0, 0.0) + (d1 - d0)
    for name, v in changes.items():
        if name.kind == "x":
            x[name.row] += v
        elif name.kind == "d":
            d[name.row][name.back] = d[name.row].get(name.back, 0.0) + v
    rows = [[row.get(j, 0.0) for j in range(max(row) + 1)] for row in d]
    try:
        return replace(table, levels=tuple(levels), x=tuple(x), d=tuple(map(tuple, rows)))
    except ValueError:
        return None


def mean_table(a: Table, b: Table) -> Table:
    """Half way from a to b, fits with as many evaluations from the same start: in ln κ, in what their weights differ
    from DDIM's by, and in bands (which must have the same knots)."""
    fitted = names(a, a.nfe)
    levels = [math.log(q / p) for p, q in zip(a.levels, b.levels, strict=True)]
    far = np.array([levels[n.row] if n.kind == "level" else 0.0 for n in fitted])
    there = moved(a, a.nfe, far)
    if a.start != b.start or there is None:
        raise ValueError("the tables have different starts, or levels that cross")
    for i, n in enumerate(fitted):
        if n.kind == "x":
            far[i] = b.x[n.row] - there.x[n.row]
        elif n.kind == "d":
            p, q = ((*t.d[n.row], *[0.0] * t.nfe)[n.back] for t in (there, b))
            far[i] = q - p
    middle = moved(a, a.nfe, far / 2)
    assert middle is not None
    return replace(middle, mix=tuple(halfway_mix(p, q) for p, q in zip(a.mix, b.mix, strict=True)))


def halfway_mix(a: Mix | None, b: Mix | None) -> Mix | None:
    """The mean of a row's bands, where none are zeros."""
    if a is None or b is None:
        one = a or b
        return one and replace(one, x=one.x / 2, d=one.d / 2)
    if a.knots != b.knots:
        raise ValueError(f"bands with different knots: {a.knots} and {b.knots}")

    def both(p: Array, q: Array) -> Array:
        total = np.zeros((max(len(p), len(q)), *p.shape[1:]))
        total[: len(p)] += p / 2
        total[: len(q)] += q / 2
        return total

    return Mix(a.knots, both(a.x, b.x), both(a.d, b.d))
