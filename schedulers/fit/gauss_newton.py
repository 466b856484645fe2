"""The equations of a Gauss–Newton move: what numbers do to ends, measured once and corrected as the run moves on.

A Jacobian by differences costs as much as tens of runs, a step by it one. So the same trajectories are used again after
a step: their new ends say by how much the equations were off, and Broyden's update, the least change of the Jacobian
that agrees with what the step did, mends them (Broyden 1965; here per trajectory, in units of what a number may be
expected to change by).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..solver.fitted import Table
from .jacobian import each_column
from .problem import Problem, rmse
from .run_fit import Array
from .table_numbers import moved, names
from .track import tracked


@dataclass
class Equations:
    """``slopes`` [P, n, …] and ``off`` [n, …], the distance to the teacher's ends, of the trajectories ``rows`` at
    the change ``at`` [P]; on the CPU."""

    rows: Tensor
    slopes: Tensor
    off: Tensor
    at: Array

    def normal(self, scale: float, shape: float = 1.0) -> tuple[Array, Array, float]:
        """(JᵀWJ, JᵀWr, rᵀWr), means over trajectories and values; W has the weights of :func:`trusted` at
        δ = ``scale``."""
        n, size, count = len(self.rows), self.off[0].numel(), len(self.slopes)
        w = (trusted(rmse(self.off), scale, shape) / size).sqrt()
        matrix, slope, square = torch.zeros(count, count).double(), torch.zeros(count).double(), 0.0
        for i in range(n):  # one at a time: in float64 they are as large again
            # a run that failed (NaN) says nothing
            j = (w[i] * self.slopes[:, i]).flatten(1).double().nan_to_num_(0, 0, 0)
            r = (w[i] * self.off[i]).flatten().double().nan_to_num_(0, 0, 0)
            matrix += j @ j.T
            slope += j @ r
            square += float(r.square().sum())
        return (matrix / n).numpy(), (slope / n).numpy(), square / n

    def step_to(self, change: Array, off: Tensor, spread: Array) -> None:
        """Take what the step to ``change`` did as it was, and go on from there."""
        step = torch.from_numpy(change - self.at).to(self.slopes.dtype)
        toward = step / torch.from_numpy(spread**2).to(step.dtype)
        missed = off - self.off - torch.tensordot(step, self.slopes, 1)
        for slope, share in zip(self.slopes, (toward / (step @ toward)).tolist(), strict=True):
            slope.add_(missed, alpha=share)
        self.off, self.at = off, change


def measured(
    problem: Problem, table: Table, change: Array, rows: Tensor, window: int, probe: float
) -> Equations:
    """The equations of ``table`` with its numbers changed by ``change`` [P], on the trajectories ``rows`` [n]; as many evaluations as ``forward.cost`` says."""
    here = moved(table, window, change)
    assert here is not None
    count, shape = len(names(table, window)), problem.start.shape[1:]
    slopes = torch.empty(count, len(rows), *shape, dtype=problem.start.dtype)
    off = torch.empty(len(rows), *shape, dtype=problem.start.dtype)
    done = 0
    for some in rows.split(problem.batch):
        part = slice(done, done := done + len(some))
        track = tracked(problem, here, some)
        off[part] = track.y[-1] - problem.target(some)
        for i, slope in each_column(problem, table, change, some, track, window, probe):
            slopes[i, part] = slope
    return Equations(rows, slopes, off, change)


def ends_off(problem: Problem, table: Table, rows: Tensor) -> Tensor:
    """The table's distance to the teacher's ends [n, …], on the CPU."""
    parts = rows.split(problem.batch)
    return torch.cat([(tracked(problem, table, r).y[-1] - problem.target(r)).cpu() for r in parts])


def loss(errors: Tensor, shape: float) -> Tensor:
    """ρ of errors in units of δ: at shape 1 pseudo-Huber, √(1 + e²) − 1, at 0 Cauchy, ln(1 + e²/2); between them Barron's
    general robust loss (arXiv 1701.03077)."""
    over = 2 - shape
    if not shape:
        return (errors**2 / over).log1p()
    return over / shape * ((1 + errors**2 / over) ** (shape / 2) - 1)


def trusted(errors: Tensor, scale: float, shape: float = 1.0) -> Tensor:
    """Weights per image of the least squares that :func:`loss` amounts to: ρ'(e)/e, with δ = ``scale``."""
    return (1 + (errors / scale) ** 2 / (2 - shape)) ** (shape / 2 - 1)
