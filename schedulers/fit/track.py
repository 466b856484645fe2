"""Runs of a table with all that happens on the way, from any row on; several of one kind share their calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from ..solver.band_mix import Spectra
from ..solver.fitted import Table
from ..solver.run import Ask, Program, Run, drive_together
from .problem import Problem


class Track(NamedTuple):
    """A run's states y_0 … y_K and predictions D_0 … D_{K−1}, on VP."""

    y: list[Tensor]
    d: list[Tensor]


def formed(problem: Problem, table: Table, rows: Tensor, i: int, track: Track) -> Tensor:
    """y_i from what ``track`` has before it."""
    if i == 0:
        return table.x[0] * problem.begin(rows)
    state, earlier = track.y[i - 1], track.d[i - 1 :: -1]
    out = table.x[i] * state
    for w, d in zip(table.d[i - 1], earlier, strict=False):
        out = out + w * d
    mix = table.mix[i - 1]
    return out if mix is None else out + mix.apply([state], earlier, Spectra())


def walk(
    problem: Problem, table: Table, rows: Tensor, track: Track, i: int, y: Tensor
) -> Program[Track]:
    """The questions of a run from state y_i = y on, with what ``track`` has before it. Levels are κ."""
    new = Track([*track.y[:i], y], track.d[:i])
    for row in range(i, table.nfe):
        new.d.append((yield new.y[row], Ask(table.levels[row], row, table.nfe)))
        new.y.append(formed(problem, table, rows, row + 1, new))
    return new


def walked(problem: Problem, rows: Tensor, programs: Sequence[Program[Track]]) -> list[Track]:
    """Where runs of the same rows lead. As many at once as ``problem.batch`` has room for share their
    calls, so the numbers do not depend on anything else."""

    def denoise(y: Tensor, kappa: float) -> Tensor:
        return problem.denoise(y, kappa, rows.repeat(len(y) // len(rows)))

    run, size = Run(denoise, finite=False), at_once(problem, rows)
    parts = [programs[i : i + size] for i in range(0, len(programs), size)]
    return [track for part in parts for track in drive_together(part, run)]


def at_once(problem: Problem, rows: Tensor) -> int:
    """How many runs of these rows share their calls."""
    return max(1, problem.batch // len(rows))


def tracked(problem: Problem, table: Table, rows: Tensor) -> Track:
    """The run of a table from the rows' starts."""
    none = Track([], [])
    start = formed(problem, table, rows, 0, none)
    return walked(problem, rows, [walk(problem, table, rows, none, 0, start)])[0]
