"""Runs of many tables from the same starts: those that agree so far share their evaluations.

Most training-free solvers begin alike: on one grid all of them see the same first D, and all that begin with DDIM's
step the same second one. Tables with the same levels so form a tree, whose nodes are evaluated a level at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..solver.fitted import Table
from .problem import Problem, rmse
from .track import Track, formed

#: Numbers that agree to so many digits are one.
DIGITS = 10


class Node(NamedTuple):
    """Tables that agree up to here, and their run so far."""

    members: list[int]
    track: Track


def errors_of(
    problem: Problem,
    tables: Sequence[Table],
    rows: Tensor,
    report: Callable[[int, int], None] | None = None,
) -> list[Tensor]:
    """``problem.errors`` of every table [B], to rounding; infinite for runs that end in NaN. report(done, of all)."""
    grids: dict[Hashable, list[int]] = {}
    for i, table in enumerate(tables):
        grids.setdefault(_rounded((table.start, table.end, *table.levels)), []).append(i)
    errors = [problem.start.new_full((len(rows),), math.inf) for _ in tables]
    target, done = problem.target(rows), 0
    for members in grids.values():
        if report is not None:
            report(done, len(tables))
        for node in _walked(problem, tables, members, rows):
            each = rmse(node.track.y[-1] - target).nan_to_num(math.inf, math.inf)
            for i in node.members:
                errors[i] = each
        done += len(members)
    return errors


def _walked(
    problem: Problem, tables: Sequence[Table], members: list[int], rows: Tensor
) -> list[Node]:
    """The ends of tables with the same levels."""
    nodes = [Node(members, Track([], []))]
    for i, kappa in enumerate((*tables[members[0]].levels, None)):
        nodes = [new for node in nodes for new in _split(problem, tables, node, rows, i)]
        if kappa is None:
            return nodes
        states = torch.cat([node.track.y[i] for node in nodes])
        answers = problem.denoise(states, kappa, rows.repeat(len(nodes)))
        for node, d in zip(nodes, answers.split(len(rows)), strict=True):
            node.track.d.append(d)
    return nodes


def _split(
    problem: Problem, tables: Sequence[Table], node: Node, rows: Tensor, i: int
) -> list[Node]:
    """One node for every state i that the members come to."""
    groups: dict[Hashable, list[int]] = {}
    for member in node.members:
        table = tables[member]
        mix = table.mix[i - 1] if i else None
        key = (_rounded((table.x[i], *(table.d[i - 1] if i else ()))), id(mix) if mix else None)
        groups.setdefault(key, []).append(member)
    made = []
    for group in groups.values():
        y = formed(problem, tables[group[0]], rows, i, node.track)
        made.append(Node(group, Track([*node.track.y, y], [*node.track.d])))
    return made


def _rounded(numbers: Sequence[float]) -> Hashable:
    return tuple(float(f"{v:.{DIGITS}g}") for v in numbers)
