"""What is proved and measured of a solver that was written as text: order, stability, and what its rows carry.

A tableau: the order conditions, the interval of stability, and the slope of its error against the steps on exact
Gaussian data, on VP, VE and flow. A table of fixed levels has no order. It is run on Gaussians of many deviations, whose
end is known: how far the deviation of its result is from theirs, beside DDIM at the same levels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from ..denoiser.analytic import Gaussian
from ..path import VE, VP, Flow, Path
from ..points import Points
from ..solver import DDIM, Solver
from ..solver.fitted import FittedSolver
from ..solver.order_conditions import HIGHEST, broken_condition, order_of, stable_to
from ..solver.plan import Plan, Stage
from ..solver.plan_solver import PlanSolver, shares
from ..solver.run import Run
from ..solver.tableau_solver import AdaptiveTableau, TableauSolver
from ..text_table import text_table

MEAN, DEVIATION = (0.3, -1.0, 2.0), (0.5, 1.5, 0.8)
TOP, BOTTOM = 4.0, 0.1  # κ of the ends
STEPS = (4, 8, 16, 32, 64)
#: Errors below this are rounding, in deviations of the state; slopes are taken above.
FLOOR = 1e-12
#: Deviations of the data on which a table is run, and rows that a report shows.
WIDTHS, MOST_LINES = np.geomspace(0.05, 20.0, 27), 64


@dataclass(frozen=True)
class Slope:
    """Errors [STEPS] on one path, in deviations of the state; ``order``: log₂ of the last ratio above rounding."""

    path: str
    errors: tuple[float, ...]

    @property
    def order(self) -> float:
        above = [e for e in self.errors if FLOOR < e < math.inf]
        if len(above) < 2:
            return math.nan
        return math.log2(above[-2] / above[-1])


def slopes(solver: Solver) -> tuple[Slope, ...]:
    """On VP, VE and flow, from κ = 4 to 0.1 in steps even in log κ; the exact end is the Gaussian's."""
    return tuple(
        Slope(path.name, tuple(gaussian_error(solver, path, n) for n in STEPS))
        for path in (VP(), VE(), Flow())
    )


def gaussian_error(solver: Solver, path: Path, steps: int) -> float:
    """Root mean square distance from the trajectory's end of states one deviation off the mean."""
    host = path.host
    points = Points(path, tuple(np.geomspace(TOP, BOTTOM, steps + 1)))
    mean, std = (torch.tensor(v, dtype=torch.float64) for v in (MEAN, DEVIATION))
    first, last = (host.at(k) for k in (TOP, BOTTOM))
    before, after = ((p.alpha**2 * std**2 + p.sigma**2).sqrt() for p in (first, last))
    end = solver.solve(
        points, Run(Gaussian(host, mean, std), finite=False), (first.alpha * mean + before)[None]
    )
    return float(((end - last.alpha * mean - after) / after).square().mean().sqrt())


@dataclass(frozen=True)
class Kept:
    """How a table of fixed levels keeps Gaussians: |deviation/exact − 1| per width, and the largest on the way."""

    shares: tuple[float, ...]
    growth: float

    @property
    def worst(self) -> tuple[float, float]:
        """(share, deviation of the data)."""
        i = int(np.argmax(self.shares))
        return self.shares[i], float(WIDTHS[i])

    @property
    def unit(self) -> float:
        """For data of deviation 1."""
        return self.shares[int(np.abs(np.log(WIDTHS)).argmin())]


def kept(solver: Solver, points: Points) -> Kept:
    """Exact: the run is linear, so a batch holds what the start and each noise draw become."""
    host = points.path.host
    widths = torch.tensor(WIDTHS, dtype=torch.float64)
    deviation = lambda sigma: (  # noqa: E731
        (host.on(sigma).alpha ** 2 * widths**2 + sigma**2).sqrt()
    )
    draws = sum(bool(stage.noise) for stage in solver.plan(points).stages)
    x = torch.zeros(1 + draws, len(widths), dtype=torch.float64)
    start, end = (host.at(k).sigma for k in (points.kappas[0], points.kappas[-1]))
    x[0] = deviation(start)
    d, largest = Gaussian(host, torch.zeros_like(widths), widths), [1.0]

    def denoise(y: Tensor, sigma: float) -> Tensor:
        size = y.square().sum(0).sqrt() / deviation(sigma)
        largest.append(float(size.nan_to_num(math.inf).max()))
        return d(y, sigma)

    def noise(position: int, like: Tensor) -> Tensor:
        z = torch.zeros_like(like)
        z[position] = 1.0
        return z

    result = solver.solve(points, Run(denoise, noise, finite=False), x).square().sum(0).sqrt()
    gaps = (result / deviation(end) - 1).abs().nan_to_num(math.inf)
    return Kept(tuple(gaps.tolist()), max(largest))


# ------------------------------------------------------------------------------------------ reports


@lru_cache(maxsize=32)
def report(solver: Solver) -> str:
    """What is proved and measured of a solver read from text, for people."""
    if isinstance(solver, TableauSolver | AdaptiveTableau):
        return tableau_report(solver)
    if isinstance(solver, PlanSolver):
        return plan_report(solver)
    if isinstance(solver, FittedSolver):
        return fit_report(solver)
    raise TypeError(f"{solver!r} was not read from text")


def tableau_report(solver: TableauSolver | AdaptiveTableau) -> str:
    t = solver.tableau
    order = order_of(t.a, t.b)
    beyond = broken_condition(t.a, t.b, order + 1) if order < HIGHEST else ""
    facts = [
        ("stages", f"{len(t.c)}, in {solver.variable}"),
        ("order", _proved(t.order, order) + (f"; not {order + 1}: {beyond}" if beyond else "")),
        ("row sums of a", "equal c"),
        ("sum of b", f"{math.fsum(t.b):.10g}"),
        ("stable on", f"[-{stable_to(t.a, t.b):.4g}, 0] of the real axis"),
    ]
    if solver.low:
        facts.append(("embedded pair", f"b2 has order {order_of(t.a, solver.low)}"))
    if isinstance(solver, AdaptiveTableau):
        facts.append(("steps", f"by the pair, rtol {solver.rtol:g}, atol {solver.atol:g}"))
    weights = [[f"{c:.4g}", *_cells(a, len(t.c))] for c, a in zip(t.c, t.a, strict=True)]
    weights += [["b", *_cells(t.b, len(t.c))]]
    weights += [["b2", *_cells(solver.low, len(t.c))]] if solver.low else []
    fixed = TableauSolver(t, solver.variable)
    rows = [[s.path, *s.errors, f"{s.order:.2f}"] for s in slopes(fixed)]
    return "\n\n".join(
        (
            _titled("tableau", solver.name, facts),
            text_table(["c", *(f"a{j}" for j in range(len(t.c)))], weights),
            "Measured on an exact Gaussian, σ/α from 4 to 0.1: error in its deviations by number of fixed steps, and slope\n"
            "(these data are linear in x: a slope above the order is theirs, not the method's)\n"
            + text_table(["path", *map(str, STEPS), "slope"], rows),
        )
    )


def plan_report(solver: PlanSolver) -> str:
    plan = solver.written()
    facts = [
        ("rows", f"{len(plan.stages)} on {plan.path.name}, {plan.nfe} evaluations"),
        ("data share", "every row carries α, to six digits"),
        ("noise share", _noise_fact(plan)),
        *_fixed_facts(solver, solver.points(_measured_on(plan.path, solver.levels[0]))),
    ]
    rows = [
        [i, s.step, _sigma(plan, s), *_weights(s), _ratio(share.noise, share.sigma)]
        for i, (s, share) in enumerate(zip(plan.stages, shares(plan), strict=True))
    ]
    header = ["row", "step", "σ", "x", "d", "noise", "asks D", "noise share"]
    return "\n\n".join((_titled("plan", solver.name, facts), _table(header, rows)))


def fit_report(solver: FittedSolver) -> str:
    table = solver.table
    facts = [("rows", f"{table.nfe} evaluations, σ/α from {table.start:.4g} to {table.end:.4g}")]
    if any(table.mix):
        facts.append(
            ("error", "not measured: it mixes channels by frequency, so it needs pictures")
        )
    else:
        facts += _fixed_facts(solver, solver.points(_measured_on(VP(), table.start)))
    stages = table.stages()
    rows = [[i, s.step, f"{s.at.kappa:.4g}", *_weights(s)] for i, s in enumerate(stages)]
    header = ["row", "step", "σ/α", "x", "d", "noise", "asks D"]
    return "\n\n".join(
        (_titled("fit", str(solver.card.get("model") or ""), facts), _table(header, rows))
    )


def _measured_on(path: Path, start: float) -> Path:
    """The path of the measurement: flow where the run starts at pure noise, which VE cannot hold."""
    return Flow() if math.isinf(start) else path.host


def _fixed_facts(solver: Solver, points: Points) -> list[tuple[str, str]]:
    here, ddim = kept(solver, points), kept(DDIM(), points)
    share, width = here.worst
    return [
        ("order", "none: its levels are fixed"),
        (
            "on Gaussians",
            f"deviation off by {here.unit:.3g} for data of deviation 1, DDIM at these levels by {ddim.unit:.3g}",
        ),
        (
            "worst",
            f"off by {share:.3g}, for data of deviation {width:.3g} (DDIM's worst: {ddim.worst[0]:.3g})",
        ),
        (
            "stability",
            f"on the way no state exceeds {max(here.growth, 1.0):.4g} times its exact deviation",
        ),
    ]


def _noise_fact(plan: Plan) -> str:
    gaps = [abs(s.noise - s.sigma) / s.sigma if s.sigma else s.noise for s in shares(plan)]
    row = int(np.argmax(gaps))
    if gaps[row] <= 1e-5:
        return "every row has its σ"
    return f"row {row} is off by {gaps[row]:.3g} of its σ, the most: exact for constant D it is not"


def _proved(claimed: int, order: int) -> str:
    return f"{order} proved" if claimed == order else f"{claimed} claimed, {order} proved"


def _titled(kind: str, name: str, facts: Sequence[tuple[str, str]]) -> str:
    return "\n".join([f"{kind} {name}".rstrip(), *(f"{key}: {value}" for key, value in facts)])


def _table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    text = text_table(header, rows[:MOST_LINES])
    return text if len(rows) <= MOST_LINES else f"{text}\n… {len(rows) - MOST_LINES} more rows"


def _cells(values: Sequence[float], count: int) -> list[str]:
    return [f"{v:.4g}" for v in values] + [""] * (count - len(values))


def _weights(stage: Stage) -> list[str]:
    """x, d, noise and whether D is asked, for a line of a table."""
    lists = [", ".join(f"{w:.4g}" for w in weights) or "-" for weights in (stage.x, stage.d)]
    asks = ("yes" if stage.commit else "yes, not kept") if stage.evaluate else "no"
    return [*lists, f"{stage.noise:.4g}", asks]


def _sigma(plan: Plan, stage: Stage) -> str:
    pure = math.isinf(stage.at.kappa) and plan.path.host != plan.path
    return "inf" if pure else f"{plan.path.host.at(stage.at.kappa).sigma:.4g}"


def _ratio(got: float, must: float) -> str:
    return f"{got / must:.4g}" if must else f"{got:.4g} of 0"
