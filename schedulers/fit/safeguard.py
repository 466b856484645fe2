"""The last word on a fit: it is what it was made to be on every trajectory that there is, or it goes back.

Moves are judged on the held-out trajectories. Where an ODE forks these may show no seed that ends far off, while one of those that the fit
was made from, which lowered its weight as that of an outlier, does. So in the end all are looked at. A fit that is worse than its start or than
the best pair there goes back half of its way from the start, and again, before it is given up: what typical seeds gain grows
with the way, what rare ones lose grows faster.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from ..solver.fitted import Table
from .ends import mark
from .problem import Problem, summary
from .table_numbers import mean_table

#: What of an RMSE over tens of trajectories is noise: up to here one is not worse than another.
NOISE = 1.05
#: Of the way from the start to the fit that are tried: 1/2, 1/4, …
HALVES = 3
FIT = "fit"


class Kept(NamedTuple):
    """``name``: fit, a part of it such as "1/4 of the fit", or one of the others."""

    name: str
    table: Table


class Look(NamedTuple):
    """What is kept, and the errors on the held-out trajectories of everything that was looked at, by name."""

    kept: Kept
    held: Mapping[str, dict[str, float]]


def safest(problem: Problem, start: Table, fit: Table, others: Mapping[str, Table]) -> Look:
    """The fit, or the largest part of its way from ``start``, whose RMSE over all trajectories is at most NOISE times the least of
    the start and the others; or the best of these by :func:`ends.mark`. Every table runs once."""
    rows = torch.cat([problem.train, problem.held])
    ran: dict[Table, Tensor] = {}
    held: dict[str, dict[str, float]] = {}

    def errors(name: str, table: Table) -> Tensor:
        each = ran[table] = ran[table] if table in ran else problem.errors(table, rows)
        held[name] = summary(each[len(problem.train) :])
        return each

    tables = {"start": start, **others}
    rivals = {name: errors(name, table) for name, table in tables.items()}
    limit = NOISE * min(summary(each)["rmse"] for each in rivals.values())
    for name, table in towards(start, fit):
        if summary(errors(name, table))["rmse"] <= limit:
            return Look(Kept(name, table), held)
    able = [name for name in tables if summary(rivals[name])["rmse"] <= limit]
    best = min(able, key=lambda name: mark(rivals[name]))
    return Look(Kept(best, tables[best]), held)


def towards(start: Table, fit: Table) -> Iterator[tuple[str, Table]]:
    """(name, table): the fit, and what lies half of the way to it, a quarter, …"""
    yield FIT, fit
    for i in range(1, HALVES + 1):
        try:
            fit = mean_table(start, fit)
        except ValueError:  # levels that cross, or other bands
            return
        yield f"1/{2**i} of the fit", fit
