"""A few trajectories that stand for all: the hardest ones each for itself, some others for the rest.

Where a model's ODE forks, a few seeds in a hundred hold nearly all of the squared error, and a handful of trajectories
shows none of them or far too many. Which ones are hard, one cheap run of all tells: seeds that are hard for one solver mostly are for
others. A weighted mean over strata then estimates that over all trajectories (stratified sampling, Neyman 1934).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..noise_schedule import NoiseSchedule
from ..solver import DPMSolverMultistep
from ..spacing import Karras
from . import ends
from .problem import Problem
from .run_fit import Array

#: How many trajectories of a sample are the hardest of all: one in so many.
HARD = 4
#: Where the scout's run begins at most; of flow models the schedule begins at infinity.
TOP = 80.0


@dataclass(frozen=True)
class Sample:
    """``rows`` of a problem; ``hard`` [rows] says which are of the hardest, of which there are ``all_hard`` among ``count``
    trajectories. Every part from the first row on is a sample too."""

    rows: Tensor
    hard: tuple[bool, ...]
    all_hard: int
    count: int

    def weights(self, first: int) -> Array:
        """How many trajectories each of the ``first`` rows stands for."""
        hard = np.array(self.hard[:first])
        each = (
            self.all_hard / max(hard.sum(), 1),
            (self.count - self.all_hard) / max((~hard).sum(), 1),
        )
        return np.where(hard, *each)

    def mark(self, errors: Tensor) -> float:
        """:func:`ends.mark` over all trajectories, from the errors of the first rows."""
        return ends.mark(errors, self.weights(len(errors)))


def sample(rows: Tensor, hardness: Tensor, size: int) -> Sample:
    """``size`` of the rows, or all; ``hardness`` [rows] is any number that is larger for harder ones."""
    size = min(size, len(rows))
    order = torch.argsort(hardness, descending=True, stable=True)
    count = max(size // HARD, 1) if size > 1 else 0
    top, others = order[:count].tolist(), sorted(order[count:].tolist())
    picked, hard = list[int](), list[bool]()
    while len(picked) < size:
        # every HARDth from the second on, so that two rows have one of each kind
        is_hard = bool(top) and (len(picked) % HARD == 1 or not others)
        picked.append((top if is_hard else others).pop(0))
        hard.append(is_hard)
    return Sample(rows[picked], tuple(hard), count, len(rows))


def hardness(problem: Problem, schedule: NoiseSchedule, nfe: int, rows: Tensor) -> Tensor:
    """Errors [rows] of a usual solver with ``nfe`` evaluations: DPM-Solver++(2M) on Karras' levels; zeros where it cannot run."""
    top = min(schedule.kappa_max, problem.kappa, TOP)
    try:
        span = ends.Spaced(schedule, Karras(), top, schedule.kappa_min)
        return problem.errors(ends.table(problem, DPMSolverMultistep(), nfe, span), rows)
    except ValueError:
        return torch.zeros(len(rows))
