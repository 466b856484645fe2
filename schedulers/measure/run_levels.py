"""The noise levels of runs and the plan of a solver, as plain numbers for a page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..noise_schedule import NoiseSchedule
from ..points import Points
from ..solver import Plan

#: The most levels (of all runs together) and the most rows of a table that a page is sent.
MOST_LEVELS, MOST_ROWS = 4096, 200


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
        finite = any(value is not None for value in values)
        facts[quantity] = [_digits(values[i]) for i in kept] if finite else None
    return facts


def _digits(value: float | str | None) -> float | str | None:
    return float(f"{value:.7g}") if isinstance(value, (int, float)) else value


def plan_record(plan: Plan) -> dict[str, Any]:
    """A plan for a page: its facts, the names of its columns and one row of numbers per stage."""
    rows = list(plan.rows())
    columns = plan.columns()
    shown = [[_digits(row.get(name)) for name in columns] for row in rows[:MOST_ROWS]]
    facts = dict(solver=plan.solver, path=plan.path.name, order=plan.order, nfe=plan.nfe)
    kept = dict(zip(("kept_states", "kept_predictions"), plan.reach, strict=True))
    more = dict(steps=plan.steps, columns=columns, rows=shown, stages=len(rows))
    return facts | more | kept
