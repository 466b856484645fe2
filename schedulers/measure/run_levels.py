"""The noise levels of runs and the plan of a solver, as plain numbers for a page and as a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

from torch import Tensor

from ..noise_schedule import NoiseSchedule
from ..points import Points
from ..show.style import new_figure, pixels
from ..solver import Plan

#: What the levels of a run can be plotted as and against, and how an axis is labelled.
QUANTITIES = {
    "log_sigma": "σ (log)",
    "sigma": "σ",
    "lambda": "λ = log(α/σ)",
    "timestep": "timestep",
}
POSITIONS = {"step": "step", "progress": "progress"}
#: The most levels (of all runs together) and the most rows of a table that a page is sent.
MOST_LEVELS, MOST_ROWS = 4096, 200
#: Okabe & Ito's colours, told apart by colour-blind readers.
COLORS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#999999", "#000000")


@dataclass(frozen=True)
class Run:
    """The noise levels of one run. Without a noise schedule only its σ is known."""

    points: Points
    schedule: NoiseSchedule | None = None
    name: str = ""

    def values(self, quantity: str) -> list[float | None]:
        """One number per level; None where it is infinite or not known.

        σ as in SIGMAS; the timestep of level 0 is None, since no network is asked there.
        """
        if quantity in ("sigma", "log_sigma"):
            lowest = 0.0 if quantity == "log_sigma" else -1.0
            return [sigma if sigma > lowest else None for sigma in self.points.sigmas()]
        if self.schedule is None:
            return [None] * len(self.points)
        if quantity == "lambda":
            return [_finite(self.points[i].lam) for i in range(len(self.points))]
        kappas = self.points.kappas
        times = self.schedule.time([k or 1.0 for k in kappas]).tolist()
        return [t if k > 0 else None for t, k in zip(times, kappas, strict=True)]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def record(runs: Sequence[Run]) -> dict[str, Any]:
    """Runs for a page: σ, λ and timestep to 7 digits. Long runs are thinned to every k-th level and the last."""
    most = MOST_LEVELS // max(len(runs), 1)
    return {"runs": [_record(run, most) for run in runs]}


def _record(run: Run, most: int) -> dict[str, Any]:
    count = len(run.points)
    every = max(1, math.ceil((count - 1) / max(most - 1, 1)))
    kept = sorted({*range(0, count, every), count - 1}) if count else []
    facts = dict(name=run.name, steps=max(count - 1, 0), every=every)
    for quantity in ("sigma", "lambda", "timestep"):
        values = run.values(quantity)
        known = any(value is not None for value in values)
        facts[quantity] = [_digits(values[i]) for i in kept] if known else None
    return facts


def _digits(value: float | str | None) -> float | str | None:
    return float(f"{value:.7g}") if isinstance(value, (int, float)) else value


def plan_record(plan: Plan) -> dict[str, Any]:
    """A plan for a page: its facts, the names of its columns and one row of numbers per stage."""
    rows = list(plan.rows())
    columns = plan.columns()
    shown = [[_digits(row.get(name)) for name in columns] for row in rows[:MOST_ROWS]]
    facts = dict(solver=plan.solver, path=plan.path.name, order=plan.order, nfe=plan.nfe)
    return facts | dict(steps=plan.steps, columns=columns, rows=shown, stages=len(rows))


def plot(runs: Sequence[Run], y: str, x: str, width: int = 960, height: int = 640) -> Tensor:
    """Runs overlaid as IMAGE [1, height, width, 3] in [0, 1]. Raises ImportError without matplotlib."""
    figure = new_figure(width, height)
    ax = figure.subplots()
    for run, color in zip(runs, cycle(COLORS), strict=False):
        values = [math.nan if v is None else v for v in run.values(y)]
        last = max(len(values) - 1, 1)
        at = [i / last if x == "progress" else i for i in range(len(values))]
        marker = "o" if len(values) <= 100 else None
        ax.plot(at, values, color=color, marker=marker, markersize=5, linewidth=2, label=run.name)
    if y == "log_sigma":
        ax.set_yscale("log")
    if all(v is None for run in runs for v in run.values(y)):
        text = "connect noise_schedule to see this quantity"
        ax.text(0.5, 0.5, text, ha="center", va="center", fontsize=15, transform=ax.transAxes)
    ax.set_xlabel(POSITIONS[x], fontsize=15)
    ax.set_ylabel(QUANTITIES[y], fontsize=15)
    ax.tick_params(labelsize=13)
    ax.grid(alpha=0.3)
    if any(run.name for run in runs):
        ax.legend(fontsize=13)
    return pixels(figure)
