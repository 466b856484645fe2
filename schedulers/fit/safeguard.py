"""The last word on a fit: it is what it was made to be on every trajectory that there is, or its start or the best pair is taken.

Moves are judged on the held-out trajectories. Where an ODE forks these may show no seed that ends far off, while one of those that the fit
was made from, which lowered its weight as that of an outlier, does. So in the end all are looked at.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from ..solver.fitted import Table
from .ends import mark
from .problem import Problem, summary

#: What of an RMSE over tens of trajectories is noise: up to here one is not worse than another.
NOISE = 1.05


def safest(problem: Problem, tables: Mapping[str, Table]) -> str:
    """The first of ``tables``, unless its RMSE over all trajectories is above NOISE times the least: then the best
    by :func:`ends.mark` of those that are not."""
    rows = torch.cat([problem.train, problem.held])
    errors = {name: problem.errors(table, rows) for name, table in tables.items()}
    seen = {name: summary(each)["rmse"] for name, each in errors.items()}
    able = [name for name in tables if seen[name] <= NOISE * min(seen.values())]
    first = next(iter(tables))
    return first if first in able else min(able, key=lambda name: mark(errors[name]))
