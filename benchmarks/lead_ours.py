"""What ours bring to ``benchmarks.lead``: all solvers, spacings and ends; and "auto", which has nothing to choose.

SCOUTS try every grid (a spacing with its ends); all solvers then try the best GRIDS of those, and the pairs go the way of every side's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import groupby

from torch import Tensor

from sampling_kit.schedulers import policy
from sampling_kit.schedulers import spacing as spacings
from sampling_kit.schedulers.noise_schedule import NoiseSchedule
from sampling_kit.schedulers.points import Points
from sampling_kit.schedulers.solver import (
    ALL,
    AMED,
    DDIM,
    TCD,
    AdamsBashforth,
    DPMSolver,
    DPMSolverMultistep,
    Euler,
    GaussianAdams,
    GradientEstimation,
    HeunEDM,
    Invertible,
    Plan,
    RectifiedFlow,
    Restart,
    RungeKutta,
    SASolver,
    Solver,
    UniPC,
)
from sampling_kit.schedulers.solver.run import Run, drive_together
from sampling_kit.schedulers.solver.selection import variants
from sampling_kit.schedulers.solver.state import State

from .lead_choice import CHOSEN_BY, ROUNDS, Pair, Seeds, Winner, judged, size, task_of, winner
from .policy import cfg_of
from .problems import Problem, median, rmse

OURS, AUTO = "ours", "auto"
#: Runge–Kutta methods and solvers that are others in other clothes: none is first anywhere in docs/solvers.md up to 20 evaluations.
LEFT_OUT = (RungeKutta, HeunEDM, Restart, TCD, Invertible, AMED, RectifiedFlow, Euler)


@lru_cache(maxsize=1)
def our_solvers() -> tuple[Solver, ...]:
    """Every deterministic variant of one evaluation a step, and single-step methods of DPM-Solver and exponential Runge–Kutta."""
    still = (v for kind in ALL if kind not in LEFT_OUT for v in variants(kind) if not v.stochastic)
    return tuple(dict.fromkeys((*(v for v in still if v.planned), *SCOUTS)))


def our_spacings(schedule: NoiseSchedule) -> tuple[spacings.Spacing, ...]:
    std = policy.usual_std(schedule)
    shares = tuple(spacings.NoiseShare(scale * std, 0.5) for scale in (1.0, 2.5, 5.0, 10.0))
    tables = (spacings.HostTable(), spacings.HostTable("ddim_uniform"))
    in_time = (spacings.Trailing(), spacings.Linspace(), spacings.Beta())
    return (*shares, spacings.Karras(), spacings.Exponential(), spacings.KLOptimal(), *in_time, *tables)  # fmt: skip


@lru_cache(maxsize=200_000)
def plan_of(solver: Solver, points: Points) -> Plan | None:
    try:
        return solver.plan(points)
    except ValueError:
        return None


@dataclass(frozen=True)
class Choice(Pair):
    """A solver on levels, as a plan; the name of its spacing says the ends, too."""

    plan: Plan
    points: Points


@dataclass(frozen=True)
class Grid:
    title: str
    spacing: spacings.Spacing
    ends: spacings.Ends


#: They try every grid.
SCOUTS: tuple[Solver, ...] = (
    DDIM(), AdamsBashforth(2), AdamsBashforth(3), DPMSolverMultistep(), UniPC(3), GradientEstimation(), GaussianAdams(),
    GaussianAdams(0.5), GaussianAdams(predictor=2, corrector=0), GaussianAdams(8.0, corrector=0, coordinate="index"), DPMSolver(2),
    SASolver(tau=0.0, lower_order_early=True), GaussianAdams(2.0, lower_order_early=True),
    GaussianAdams(2.0, lower_order_final=True),
)  # fmt: skip
GRIDS = 4  # by RMSE, and as many by the median


def our_grids(task: Problem) -> list[Grid]:
    rule = spacings.ByRule(policy.usual_std(task.schedule), side_of(task))
    ends: dict[str, spacings.Ends] = {
        e.title: e for e in (spacings.WholeRange(), spacings.SkipLast(), rule)
    }
    ends["2 times the rule's"] = wide_rule(rule)
    return [
        Grid(f"{spacing.call}, {name}", spacing, kind)
        for spacing in our_spacings(task.schedule)
        for name, kind in ends.items()
    ]


def wide_rule(rule: spacings.ByRule) -> spacings.ByRule:
    """The last level twice as high, the first where it is."""
    return replace(rule, data_std=2 * rule.data_std, side=max(rule.side // 2, 1))


def side_of(task: Problem) -> int:
    return round(task.start[0].numel() ** 0.5)


def on_grid(task: Problem, nfe: int, solvers: Sequence[Solver], grid: Grid) -> list[Choice]:
    """The solvers that can run there, each with as many steps as ``nfe`` pays for."""
    found = list[Choice]()
    for solver in solvers:
        n = next((n for n in range(nfe, 0, -1) if solver.nfe(n) <= nfe), 0)
        with suppress(ValueError):  # 0 steps, or levels that cannot be told apart
            points = levels_of(task.schedule, n, grid.spacing, grid.ends).on(task.path)
            plan = plan_of(solver, points)
            if plan is not None:
                found.append(Choice(solver.call, grid.title, plan, points))
    return found


@lru_cache(maxsize=100_000)
def levels_of(
    schedule: NoiseSchedule, n: int, spacing: spacings.Spacing, ends: spacings.Ends
) -> Points:
    return spacings.space(schedule, n, spacing, ends=ends)


def our_choices(seeds: Seeds, nfe: int) -> list[Choice]:
    """All solvers on the best grids."""
    first = seeds.part(0, ROUNDS[0][0])
    grids = best_grids(first, nfe, our_grids(seeds.task))
    return [c for grid in grids for c in on_grid(seeds.task, nfe, our_solvers(), grid)]


def best_grids(seeds: Seeds, nfe: int, grids: Sequence[Grid]) -> list[Grid]:
    """GRIDS by the best scout's RMSE, and as many by its median."""
    scores = dict[Grid, tuple[float, float]]()
    for grid in grids:
        errors = [e for e in play(on_grid(seeds.task, nfe, SCOUTS, grid), seeds) if e is not None]
        if errors:
            scores[grid] = min(map(size, errors)), min(map(median, errors))
    ranks = [sorted(scores, key=lambda grid: scores[grid][k])[:GRIDS] for k in (0, 1)]
    return list(dict.fromkeys(grid for rank in ranks for grid in rank))


def play(choices: Sequence[Choice], seeds: Seeds) -> list[Tensor | None]:
    """Errors per seed, None where a run does not stay finite. Runs on one grid share their calls."""
    together = (list(some) for _, some in groupby(choices, key=lambda choice: choice.spacing))
    return [errors for some in together for errors in _play(some, seeds)]


def _play(choices: Sequence[Choice], seeds: Seeds) -> Iterator[Tensor | None]:
    task = seeds.task
    top = task.path.at(task.schedule.kappa_max).sigma
    programs = [c.plan.walk(State((task.start * (c.points[0].sigma / top),))) for c in choices]
    for state in drive_together(programs, Run(task.denoise, finite=False)):
        errors = rmse(state.x.double(), seeds.end)
        yield errors if math.isfinite(size(errors)) else None


def ours(answers: dict[str, Tensor], nfes: Sequence[int]) -> Iterator[Winner]:
    for name, end in answers.items():
        seeds = Seeds(task_of(name, len(end)), end)
        left = seeds.part(CHOSEN_BY)
        for nfe in nfes:
            yield winner(OURS, nfe, our_choices(seeds, nfe), play, seeds)
            yield auto(left, nfe)


def auto(seeds: Seeds, nfe: int) -> Winner:
    """What needs no choosing."""
    task = seeds.task
    cfg = cfg_of(task.name)
    choice = policy.choose(task.schedule, nfe, guided=cfg > 0, cfg=cfg, side=side_of(task))
    points = choice.points(task.schedule, choice.steps).on(task.path)
    pair = Choice(choice.solver.call, choice.spacing.title, choice.solver.plan(points), points)
    (errors,) = play([pair], seeds)
    return judged(AUTO, nfe, pair, errors, task.name, 1)
