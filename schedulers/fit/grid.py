r"""Fit Steps: which noise levels to visit, found from recorded trajectories of the model.

Three ways to propose levels and one to improve them, all without gradients:

* ``gits``: the cost of one DDIM jump from recorded level i to j is how far it ends from the trajectory at
  j, and the best n jumps are a shortest path (Chen et al. 2024, arXiv 2405.11326).
* ``oss``: the same with the student's own states in place of the teacher's, so with real evaluations, for
  one image at a time; then the median over images (Pei et al. 2025, arXiv 2503.21774).
* ``curvature``: levels at equal shares of ∫ |dD/ds|^{1/p} ds, the equidistribution of a local error of
  order p, with s = log(κ/(1 + κ)).
* ``search``: moves one level at a time while the error at the end falls, with the solver itself.

A proposal is only as good as what it does with the solver that will use it, so :func:`fit_steps` runs them
all, and every fixed spacing of the kit, on held-out trajectories, and returns the best of all.

Errors and costs are in units of x0 = those of the data: √(mean square) of y = x/α.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import spacing
from ..counts import counted
from ..noise_schedule import Array, NoiseSchedule
from ..path import VP, rescale
from ..points import Points
from ..solver import Solver
from ..solver.fitted import ddim, table_of
from ..text_table import text_table
from .problem import Problem, summary
from .trajectories import Trajectories, log_time

METHODS = ("gits", "oss", "curvature", "search")
GAMMAS = (0.8, 1.0, 1.15, 1.5)
ORDERS = (1, 2, 3)

#: Spacings of ``spacing.ALL`` that have more to try than their defaults, or none: those that you write.
SETTINGS: dict[str, dict[str, spacing.Spacing]] = {
    "uniform_lambda": {"uniform λ": spacing.UniformLambda()},
    "kl_optimal": {"KL optimal": spacing.KLOptimal()},
    "beta": {"beta 0.6": spacing.Beta()},
    "karras": {f"karras {rho:g}": spacing.Karras(rho) for rho in (3.0, 5.0, 7.0, 10.0, 14.0)},
    "polyexponential": {
        f"polyexponential {rho:g}": spacing.Polyexponential(rho) for rho in (0.7, 1.5, 2.0)
    },
    "flow_shift": {f"flow shift {s:g}": spacing.FlowShift(s) for s in (0.3, 1.5, 3.0, 6.0)},
    "explicit": {},
    "drawn": {},
    "named": {},  # of one model each
}


def fixed_spacings() -> dict[str, spacing.Spacing]:
    """The kit's spacings that a fit must beat, by name, with the settings people use."""
    tried: dict[str, spacing.Spacing] = {}
    for name, kind in spacing.ALL.items():
        tried |= SETTINGS[name] if name in SETTINGS else {name.replace("_", " "): kind()}
    return tried


FIXED = fixed_spacings()


# ------------------------------------------------------------------------------------- trajectories


class Course:
    """Some rows of a recording at ``most`` levels or fewer, the first and the last among them, on VP."""

    def __init__(self, recorded: Trajectories, rows: Tensor, most: int = 64) -> None:
        count = len(recorded.origin.kappas)
        picked = np.unique(np.linspace(0, count - 1, min(most, count)).round().astype(int))
        self.recorded, self.rows, self.levels = recorded, rows, picked.tolist()
        self.kappas = [recorded.origin.kappas[i] for i in self.levels]

    def parts(self) -> Iterator[tuple[Tensor, Tensor]]:
        """(x [levels, b, n], D) for a few rows at a time."""
        host = self.recorded.path
        scales = [rescale(host.at(k), VP())[1] for k in self.kappas]
        for rows in self.rows.split(self.recorded.batch):
            x = [
                self.recorded.x(i, rows).flatten(1) * c
                for i, c in zip(self.levels, scales, strict=True)
            ]
            d = [self.recorded.d(i, rows).flatten(1) for i in self.levels]
            yield torch.stack(x), torch.stack(d)


def jump_costs(course: Course) -> Array:
    """[levels, levels]: mean error of one DDIM jump from level i to j > i; ∞ elsewhere."""
    kappas, count = course.kappas, len(course.kappas)
    total = np.full((count, count), np.inf)
    total[np.triu_indices(count, 1)] = 0.0
    for x, d in course.parts():
        for j in range(1, count):
            weights = torch.tensor([ddim(kappas[i], kappas[j]) for i in range(j)], dtype=x.dtype)
            landed = weights[:, 0, None, None] * x[:j] + weights[:, 1, None, None] * d[:j]
            off = (landed - x[j]).square().mean(2).sqrt().sum(1) / VP().at(kappas[j]).alpha
            total[:j, j] += off.double().numpy() / len(course.rows)
    return total


def shortest(costs: Array, jumps: int, gamma: float = 1.0) -> list[int]:
    """Levels of the path with exactly ``jumps`` jumps from the first to the last level that minimises
    Σ_k γ^k·cost, jump k counted from 0 at the start."""
    count = len(costs)
    if not 1 <= jumps < count:
        raise ValueError(
            f"{jumps} steps: {count} recorded levels allow 1 to {count - 1}; record more"
        )
    best, chosen = costs[:, -1].copy(), []
    for _ in range(jumps - 1):
        through = costs + gamma * best[None, :]
        chosen.append(through.argmin(1))
        best = through.min(1)
    path = [0]
    for pick in reversed(chosen):
        path.append(int(pick[path[-1]]))
    return [*path, count - 1]


# ----------------------------------------------------------------------------------------- proposals


def gits(course: Course, steps: int, gammas: Sequence[float] = GAMMAS) -> dict[str, list[float]]:
    """{name: κ of steps + 1 levels}; no evaluation. γ > 1 weighs the jumps near the data more."""
    costs = jump_costs(course)
    return {f"GITS γ {g:g}": [course.kappas[i] for i in shortest(costs, steps, g)] for g in gammas}


def oss(course: Course, problem: Problem, steps: int) -> dict[str, list[float]]:
    """Per image, the n jumps whose own states end nearest to the teacher's end, and near it on the way.

    The best state after k jumps at level j is kept for each j; costs (steps − 1)·levels evaluations per image.
    """
    kappas, count = course.kappas, len(course.kappas)
    if not 1 <= steps < count:
        raise ValueError(
            f"{steps} steps: {count} recorded levels allow 1 to {count - 1}; record more"
        )
    paths: list[list[int]] = []
    done, shape = 0, problem.start.shape[1:]
    for truth, _ in course.parts():
        rows = course.rows[done : done + truth.shape[1]]
        done += len(rows)
        images = torch.arange(len(rows))
        states = {0: truth[0]}
        came: list[Tensor] = []  # per jump: [levels, b], the level it came from
        for k in range(steps):
            left = steps - 1 - k  # jumps still to come
            targets = range(k + 1, count - left) if left else [count - 1]
            ends = torch.empty_like(truth)
            best = torch.full((count, len(rows)), math.inf, dtype=truth.dtype)
            origin = torch.zeros(count, len(rows), dtype=torch.long)
            for i, x in states.items():
                like = x.reshape(-1, *shape).to(problem.start.device)
                d = problem.denoise(like, kappas[i], rows).flatten(1).to(x)
                for j in (j for j in targets if j > i):
                    a, b = ddim(kappas[i], kappas[j])
                    landed = a * x + b * d
                    off = (landed - truth[j]).square().mean(1)
                    better = off < best[j]
                    best[j], origin[j] = (
                        torch.where(better, off, best[j]),
                        torch.where(better, i, origin[j]),
                    )
                    ends[j] = torch.where(better[:, None], landed, ends[j])
            states = {j: ends[j] for j in targets}
            came.append(origin)
        path = [torch.full_like(images, count - 1)]
        for origin in reversed(came):
            path.insert(0, origin[path[0], images])
        paths += torch.stack(path, 1).tolist()
    middle = torch.tensor(paths).sort(0).values[(len(paths) - 1) // 2]
    return {"OSS": [kappas[i] for i in middle.tolist()]}


def curvature(course: Course, steps: int, orders: Sequence[int] = ORDERS) -> dict[str, list[float]]:
    """Quantiles of how much D changes; no evaluation. p = 1: equal lengths of D's curve."""
    kappas = [k for k in course.kappas if k > 0]
    change = np.zeros(len(kappas) - 1)
    for _, d in course.parts():
        d = d[: len(kappas)]
        change += (d[1:] - d[:-1]).square().mean(2).sqrt().sum(1).double().numpy()
    s = np.array([log_time(k) for k in kappas])
    widths = -np.diff(s)
    proposals = {}
    for p in orders:
        mass = np.concatenate([[0.0], np.cumsum((change / widths + 1e-12) ** (1 / p) * widths)])
        at = np.interp(np.arange(1, steps) / steps * mass[-1], mass, s)
        proposals[f"curvature 1/{p}"] = [kappas[0], *(kappa_of(v) for v in at), 0.0]
    return proposals


def kappa_of(s: float) -> float:
    """κ where ``log_time`` is s < 0."""
    return 1 / math.expm1(-s)


def search(
    problem: Problem,
    solver: Solver,
    points: Points,
    rows: Tensor,
    evaluations: int,
    floor: float,
    report: Callable[[float], None] | None = None,
) -> list[float]:
    """κ of the levels, the inner ones moved one at a time towards a neighbour in s while the RMSE on ``rows``
    falls; each time none helps, the moves are halved. Stops after ``evaluations``."""
    until, share = problem.evaluations + evaluations, 0.3
    best, kappas = error_of(problem, solver, points, rows), list(points.kappas)
    lowest = log_time(floor)
    while share > 0.02 and problem.evaluations < until:
        moved = False
        for i in range(1, len(kappas) - 1):
            for side in (-1, 1):
                if problem.evaluations >= until:
                    break
                s, other = log_time(kappas[i]), kappas[i + side]
                trial = list(kappas)
                trial[i] = kappa_of(s + share * ((log_time(other) if other > 0 else lowest) - s))
                error = error_of(problem, solver, Points(points.path, tuple(trial)), rows)
                if error < best:
                    best, kappas, moved = error, trial, True
                    if report is not None:
                        report(best)
                    break
        share *= 1.0 if moved else 0.5
    return kappas


def error_of(problem: Problem, solver: Solver, points: Points, rows: Tensor) -> float:
    """RMSE at the end over all rows; ∞ for a run that cannot be made or diverges."""
    try:
        errors = problem.errors(table_of(solver.plan(points)), rows)
    except (ValueError, FloatingPointError):
        return math.inf
    return summary(errors)["rmse"]


# -------------------------------------------------------------------------------------------- choice


@dataclass(frozen=True)
class Candidate:
    """Levels, who proposed them, and their errors on the held-out trajectories."""

    name: str
    points: Points
    fitted: bool
    rmse: float
    median: float


@dataclass(frozen=True)
class FittedSteps:
    """What :func:`fit_steps` found: the candidates, best first, for ``solver`` at ``nfe`` evaluations.

    ``evaluations`` were spent, one image = 1, the teacher not included.
    """

    solver: str
    nfe: int
    candidates: tuple[Candidate, ...]
    evaluations: int
    held: int

    @property
    def best(self) -> Candidate:
        return self.candidates[0]

    @property
    def best_fixed(self) -> Candidate:
        return next(c for c in self.candidates if not c.fitted)

    def text(self) -> str:
        """For people: who won, by how much, and all candidates."""
        best, fixed = self.best, self.best_fixed
        verdict = (
            f"{best.name}: {best.rmse / fixed.rmse:.2f} times the error of {fixed.name}, the best fixed spacing"
            if best.fitted
            else f"{best.name}, a fixed spacing: no fit was better"
        )
        rows = [(c.name, c.rmse, c.median, c.points.sigmas()) for c in self.candidates]
        lines = text_table(
            ("spacing", "rmse", "median", "levels"),
            [(n, r, m, " ".join(f"{v:.3g}" for v in levels)) for n, r, m, levels in rows],
        )
        head = f"{self.solver}, {counted(self.nfe, 'evaluation')}, {counted(self.held, 'held-out trajectory', 'held-out trajectories')}"
        return f"{head}\n{verdict}\n{self.evaluations} one-image evaluations\n\n{lines}"

    def payload(self) -> dict[str, Any]:
        """The same as JSON."""
        return dict(
            solver=self.solver,
            nfe=self.nfe,
            evaluations=self.evaluations,
            candidates=[
                dict(
                    name=c.name,
                    fitted=c.fitted,
                    rmse=c.rmse,
                    median=c.median,
                    sigmas=c.points.sigmas(),
                )
                for c in self.candidates
                if math.isfinite(c.rmse)
            ],
        )


def steps_for(solver: Solver, nfe: int) -> int:
    """The most steps that ``nfe`` evaluations allow. Raises ValueError if they allow none."""
    steps = max((n for n in range(1, nfe + 1) if solver.nfe(n) <= nfe), default=0)
    if not steps:
        raise ValueError(
            f"nfe = {nfe}: {solver.title} needs {solver.nfe(1)} evaluations for one step"
        )
    return steps


def fixed_points(
    problem: Problem, schedule: NoiseSchedule, steps: int, ends: spacing.Ends | None = None
) -> dict[str, Points]:
    """Every fixed spacing that fits the schedule, begun at the problem's level at most."""
    grids = {}
    for name, kind in FIXED.items():
        try:
            first, *kappas = spacing.space(schedule, steps, kind, ends=ends).kappas
            narrower = not (ends is None or isinstance(ends, spacing.WholeRange | spacing.SkipLast))
            top = min(first, problem.kappa) if narrower else problem.kappa
            grids[name] = Points(problem.path, (top, *kappas))
        except ValueError:  # does not fit here: too few timesteps, or shifted above the start
            continue
    return grids


def proposed(
    methods: Sequence[str], problem: Problem, course: Course, few: Course, steps: int
) -> dict[str, list[float]]:
    """{name: κ of steps + 1 levels} by the methods that need no start; ``oss`` runs on the ``few`` rows."""
    makers = {
        "gits": lambda: gits(course, steps),
        "curvature": lambda: curvature(course, steps),
        "oss": lambda: oss(few, problem, steps),
    }
    if steps == 1:
        return {}
    made = [make() for method, make in makers.items() if method in methods]
    return {name: kappas for proposals in made for name, kappas in proposals.items()}


def fit_steps(
    problem: Problem,
    recorded: Trajectories,
    solver: Solver,
    nfe: int,
    schedule: NoiseSchedule,
    *,
    methods: Iterable[str] = METHODS,
    samples: int = 8,
    budget: int = 4000,
    report: Callable[[str, float], None] | None = None,
) -> FittedSteps:
    """The best levels for ``solver`` with ``nfe`` evaluations: fitted ones, or a fixed spacing where none is better.

    Proposals are made from the train rows (``oss`` from the first ``samples`` of them, ``search`` within
    ``budget`` evaluations), and all are judged by their RMSE on the held-out ones. report(name, best RMSE).
    Raises ValueError for a solver without a plan, or that draws noise.
    """
    unknown = sorted(set(methods := tuple(methods)) - set(METHODS))
    if unknown:
        raise ValueError(f"methods: {unknown[0]!r} is none of {', '.join(METHODS)}")
    if not solver.planned or solver.stochastic:
        why = "draws noise" if solver.stochastic else "chooses its own steps"
        raise ValueError(
            f"solver: {solver.title} {why}; steps are fitted for a deterministic, planned solver"
        )
    if not math.isclose(problem.kappa, recorded.origin.kappas[0], rel_tol=1e-6):
        raise ValueError("the problem does not start where the recording does")
    steps, spent = steps_for(solver, nfe), problem.evaluations
    course = Course(recorded, problem.train)
    floor = recorded.origin.floor or min(k for k in course.kappas if k > 0)
    candidates: list[Candidate] = []

    def judge(name: str, points: Points, fitted: bool) -> None:
        try:
            errors = problem.errors(table_of(solver.plan(points)), problem.held)
        except (ValueError, FloatingPointError):  # a solver that cannot use these levels
            return
        candidates.append(Candidate(name, points, fitted, **summary(errors)))
        if report is not None:
            report(name, min(c.rmse for c in candidates))

    def best() -> Candidate:
        return min(candidates, key=lambda c: c.rmse)

    for name, points in fixed_points(problem, schedule, steps).items():
        judge(name, points, False)
    if not candidates:
        raise ValueError(f"no fixed spacing of {steps} steps fits {schedule!r}")
    few = Course(recorded, problem.train[:samples], most=32)
    for name, kappas in proposed(methods, problem, course, few, steps).items():
        judge(name, Points(problem.path, tuple(kappas)), True)
    if steps > 1 and "search" in methods and math.isfinite(best().rmse):
        begun, progress = best(), None
        if report is not None:
            progress = lambda error: report("search", error)  # noqa: E731
        kappas = search(problem, solver, begun.points, problem.train, budget, floor, progress)
        judge(f"search from {begun.name}", Points(problem.path, tuple(kappas)), True)
    ordered = tuple(sorted(candidates, key=lambda c: c.rmse))
    return FittedSteps(repr(solver), nfe, ordered, problem.evaluations - spent, len(problem.held))
