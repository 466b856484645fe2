r"""Corrections to a table, all 0 at the start, made so that plain descent finds its way.

With u the change of ln κ,

    κ_i = κ_i°·e^{u_i} ,   x_i = x_i°·X(κ_{i−1}, κ_i)/X(κ_{i−1}°, κ_i°) + … ,   likewise every d_{ij} with DDIM's D weight,

where X, D are the weights of DDIM's exact step: moving a level moves the step, not a label only. Predictions
of neighbouring steps are almost equal, so weights on them make a badly conditioned problem. Each row's
weights are therefore written as v·L⁻¹ with L·Lᵀ the products of the row's terms, averaged over a few
trajectories and pixels (for bands: within each band) and divided by their mean square. Then any
element of v changes the state by about v times its size, and plain descent finds its way. (Adam does not:
most elements of the bands have next to no gradient, and their noise, scaled up, undoes what the others gain.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..solver.band_mix import Mix
from ..solver.fitted import Table, ddim
from .problem import Problem

#: Radial frequencies / Nyquist of the bands, where the start has none.
KNOTS = (0.0, 0.0625, 0.125, 0.25, 0.5, 1.0)


@dataclass(frozen=True)
class Corrections:
    """Corrections to ``base``. Values (float64, on the CPU): ``levels`` [K] of ln κ; ``x`` [1], relative, of the first row;
    ``weights.i`` [1 + i + 1] and ``bands.i`` [bands, C, C·(1 + i + 1)] of y_i's and the D's weights in y_{i+1}.
    """

    base: Table
    values: Mapping[str, Tensor]
    factors: Mapping[str, Tensor]

    def levels(self) -> Tensor:
        return double(self.base.levels) * self.values["levels"].exp()

    def opening(self, levels: Tensor) -> Tensor:
        """The weight of x_start."""
        base = self.base
        now = on_vp(levels[0])[1] / on_vp(double(base.levels[0]))[1]
        return base.x[0] * now * (1 + self.values["x"][0])

    def row(self, i: int, levels: Tensor) -> Tensor:
        """Weights [1 + i + 1] of y_i and of D_i … D_0 in y_{i+1}."""
        base = self.base
        weights = [base.x[i + 1], *base.d[i], *[0.0] * (i + 1 - len(base.d[i]))]
        x, d = torch.ones(()).double(), torch.ones(()).double()
        if i + 1 < base.nfe:
            x0, d0 = ddim(base.levels[i], base.levels[i + 1])
            a, b = on_vp(levels[i]), on_vp(levels[i + 1])
            x = b[1] / a[1] / x0
            if abs(d0) > 1e-3:
                d = (b[0] - a[0] * b[1] / a[1]) / d0
        ratios = torch.stack([x, *[d] * (i + 1)])
        row, change = double(weights) * ratios, self.values[f"weights.{i}"]
        if f"weights.{i}" in self.factors:
            row = row + unscaled(self.factors[f"weights.{i}"], change[None])[0]
        return row

    def matrices(self, i: int) -> Tensor | None:
        """[1 + i + 1, bands, C, C] of y_i and of D_i … D_0 in y_{i+1}."""
        mix, change = self.base.mix[i], self.values.get(f"bands.{i}")
        total: Tensor | None = None
        if change is not None:
            flat = unscaled(self.factors[f"bands.{i}"], change)
            bands, c = flat.shape[:2]
            total = flat.reshape(bands, c, i + 2, c).permute(2, 0, 1, 3)
        if mix is not None:
            bands, c = len(mix.knots), mix.channels
            start = torch.zeros(i + 2, bands, c, c).double()
            start[: len(mix.x)] = double(mix.x)
            start[1 : 1 + len(mix.d)] = double(mix.d)
            total = start if total is None else total + start
        return total

    @property
    def knots(self) -> tuple[float, ...]:
        if "knots" in self.factors:
            return tuple(self.factors["knots"].tolist())
        return next((mix.knots for mix in self.base.mix if mix), ())


def unscaled(factor: Tensor, values: Tensor) -> Tensor:
    """values·L⁻¹."""
    return torch.linalg.solve_triangular(factor, values, upper=False, left=False)


def table_from(numbers: Corrections) -> Table:
    """The table with its corrections. Raises ValueError if its levels no longer fall."""
    base = numbers.base
    if not any(v.any() for v in numbers.values.values()):
        return base
    with torch.no_grad():
        levels = numbers.levels()
        rows = [numbers.row(i, levels).tolist() for i in range(base.nfe)]
        mixes: list[Mix | None] = []
        for i in range(base.nfe):
            m = numbers.matrices(i)
            mixes.append(
                Mix(numbers.knots, m[:1].numpy(), m[1:].numpy()) if m is not None else None
            )
        x = (float(numbers.opening(levels)), *(row[0] for row in rows))
        d = tuple(tuple(row[1:]) for row in rows)
    return replace(base, levels=tuple(levels.tolist()), x=x, d=d, mix=tuple(mixes))


def blank(table: Table, factors: Mapping[str, Tensor], channels: int) -> dict[str, Tensor]:
    """All corrections 0, of the shapes that :class:`Corrections` says."""
    sizes: dict[str, tuple[int, ...]] = {"levels": (table.nfe,), "x": (1,)}
    for i in range(table.nfe):
        sizes[f"weights.{i}"] = (i + 2,)
        if f"bands.{i}" in factors:
            sizes[f"bands.{i}"] = (len(factors["knots"]), channels, channels * (i + 2))
    return {name: torch.zeros(size, dtype=torch.float64) for name, size in sizes.items()}


def knots_of(problem: Problem, table: Table) -> tuple[float, ...]:
    """The bands to fit: the start's if it has some; none for what is no picture."""
    knots = {mix.knots for mix in table.mix if mix}
    if len(knots) > 1:
        raise ValueError(f"the start's rows have different bands: {sorted(knots)}")
    if problem.start.ndim not in (4, 5):
        return ()
    return knots.pop() if knots else KNOTS


def on_vp(kappa: Tensor) -> tuple[Tensor, Tensor]:
    """(α, σ) on VP at κ, differentiable."""
    alpha = 1 / (1 + kappa * kappa).sqrt()
    return alpha, alpha * kappa


def double(values: Any) -> Tensor:
    """Numbers as float64."""
    return torch.tensor(values, dtype=torch.float64)
