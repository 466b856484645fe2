"""What a solver is fitted to: a model's field, starts, and where each start should end.

All fitting happens on the variance-preserving path, whatever the model's path: the states are of unit
size from pure noise to data, and one table then serves every path.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..path import VP, Path, rescale
from ..solver.fitted import Table
from ..solver.run import Run

#: D(x, σ) of the trajectories ``rows`` [B] (int64, on the CPU), x [B, …] and σ in the field's path.
Field = Callable[[Tensor, float, Tensor], Tensor]


@dataclass
class Problem:
    """N trajectories of a field; ``train`` and ``held`` number those to fit and those to judge by.

    ``start`` [N, …]: x at κ = ``kappa`` in the coordinates of ``path``. ``end`` [N, …]: where the
    teacher ends, at noise level 0. ``states(κ, rows)``: the teacher's x on the VP path at κ, for the rows; None if
    it was not kept. ``batch``: the most images in one call of the field. ``check`` is called before every
    call (raise there to stop). ``evaluations`` counts what was spent, one image = 1; set it to what the
    teacher has cost. ``features`` of pictures [B, …], where ends are compared in them too (by gradients).
    """

    path: Path
    field: Field
    kappa: float
    start: Tensor
    end: Tensor
    train: Tensor
    held: Tensor
    states: Callable[[float, Tensor], Tensor] | None = None
    batch: int = 64
    check: Callable[[], None] | None = None
    evaluations: int = 0
    features: Callable[[Tensor], Tensor] | None = None

    def __post_init__(self) -> None:
        if self.start.shape != self.end.shape:
            raise ValueError(
                f"start has shape {tuple(self.start.shape)}, end {tuple(self.end.shape)}"
            )
        for name in ("train", "held"):
            rows = getattr(self, name)
            if not len(rows) or int(rows.min()) < 0 or int(rows.max()) >= len(self.start):
                raise ValueError(
                    f"{name}: rows must be among the {len(self.start)} trajectories, at least one"
                )
        for name in ("start", "end"):
            if not getattr(self, name).isfinite().all():
                raise ValueError(f"{name} holds NaN or infinity")

    def begin(self, rows: Tensor) -> Tensor:
        """x at the start [B, …], on VP."""
        scale = rescale(self.path.at(self.kappa), VP())[1]
        return self.start[rows] * scale

    def target(self, rows: Tensor) -> Tensor:
        """Where the teacher ends [B, …]; at noise level 0 all paths have the same x."""
        return self.end[rows]

    def denoise(self, x: Tensor, kappa: float, rows: Tensor) -> Tensor:
        """D [B, …] of x [B, …] on VP at the level κ."""
        at, scale = rescale(VP().at(kappa), self.path)
        return self.call(x * scale, at.sigma, rows)

    def call(self, x: Tensor, sigma: float, rows: Tensor) -> Tensor:
        """D of x [B, …] and σ on the field's path, in batches, counted."""
        answers = []
        for part, some in zip(x.split(self.batch), rows.split(self.batch), strict=True):
            if self.check is not None:
                self.check()
            answers.append(self.field(part, sigma, some).to(x.dtype))
        self.evaluations += len(x)
        return torch.cat(answers)

    def run(self, table: Table, rows: Tensor) -> Tensor:
        """Where the table ends from these rows' starts [B, …]. Raises FloatingPointError for a run that diverges."""
        plan = table.plan().on(self.path)
        return plan.solve(Run(lambda x, sigma: self.call(x, sigma, rows)), self.start[rows])

    def errors(self, table: Table, rows: Tensor) -> Tensor:
        """RMSE to the teacher's end, per image [B]; infinite if the runs ended in NaN."""
        try:
            each = rmse(self.run(table, rows) - self.target(rows))
        except FloatingPointError:
            return self.start.new_full((len(rows),), math.inf)
        return each.nan_to_num(math.inf)


def rmse(difference: Tensor) -> Tensor:
    """Root mean square per image."""
    return difference.flatten(1).square().mean(1).sqrt()


def summary(errors: Any, weights: Any = None) -> dict[str, float]:
    """RMSE over all trajectories and the median of theirs, from the errors of each (a tensor or an array).

    ``weights`` [B] (an array): how many trajectories each stands for; by default one.
    """
    each = torch.as_tensor(errors).double().cpu().numpy()
    if weights is None:
        return {"rmse": float(np.sqrt(np.mean(each**2))), "median": float(np.median(each))}
    order = np.argsort(each)
    half = np.cumsum(weights[order])
    middle = each[order][np.searchsorted(half, half[-1] / 2)]
    return {"rmse": float(np.sqrt(np.average(each**2, weights=weights))), "median": float(middle)}


def error_from(value: Any) -> Any:
    """An error of a record out of a JSON text, where null stands for ∞, that of a run that failed."""
    return math.inf if value is None else value
