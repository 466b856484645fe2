"""The two sides of ``benchmarks.lead``: all pairs that each brings, and the one it is judged by.

A side chooses its pair of solver and levels for a problem and a number of evaluations by the RMSE over some seeds, and is judged by
others. Peers come with their own lists: ComfyUI's samplers with its schedulers, in ComfyUI's Python, with the penultimate level
left out where KSampler leaves it out; diffusers' schedulers with the levels that their options give.
"""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor

from sampling_kit.schedulers import policy
from sampling_kit.schedulers import spacing as spacings
from sampling_kit.schedulers.noise_schedule import EDM, NoiseSchedule, RectifiedFlowSchedule
from sampling_kit.schedulers.path import VE
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
    Solver,
    UniPC,
)
from sampling_kit.schedulers.solver.run import Run, drive_together
from sampling_kit.schedulers.solver.selection import variants
from sampling_kit.schedulers.solver.state import State

from . import peers, problems
from .drawn import PREFIX
from .drawn import problem as drawn_problem
from .policy import cfg_of
from .problems import Contestant, Denoise, Problem, median, rmse

Levels = dict[str, Callable[[int], Sequence[float]]]  # name → σ of n steps, the last 0
COMFY, DIFFUSERS, OURS = "ComfyUI", "diffusers", "ours"


@dataclass(frozen=True)
class Winner:
    """The pair that a side chose, over the seeds that it was not chosen by. ``tried``: pairs that ran."""

    problem: str
    side: str
    nfe: int
    solver: str
    spacing: str
    rmse: float
    median: float
    tried: int


def task_of(name: str, count: int) -> Problem:
    return drawn_problem(name, count) if name.startswith(PREFIX) else problems.problem(name, count)


def first(task: Problem, chosen: int) -> Problem:
    return replace(task, start=task.start[:chosen])


def rest(task: Problem, chosen: int) -> Problem:
    return replace(task, start=task.start[chosen:])


def size(errors: Tensor) -> float:
    found = float(errors.square().mean().sqrt())
    return found if math.isfinite(found) else math.inf


# ---- peers


@dataclass(frozen=True)
class Pair:
    """A peer's sampler on levels of its own."""

    contestant: Contestant
    spacing: str
    points: Points

    def error(self, task: Problem, end: Tensor, most: int) -> Tensor | None:
        """Per seed; None where it fails or takes more than ``most`` evaluations."""
        calls = 0

        def counted(x: Tensor, sigma: float) -> Tensor:
            nonlocal calls
            calls += 1
            return task.denoise(x, sigma)

        top = task.path.at(task.schedule.kappa_max).sigma
        begun = replace(task, start=task.start * (self.points.sigmas()[0] / top))
        try:
            last = self.contestant.play(begun, self.points, counted)
        except Exception:  # somebody else's code: it does not run there
            return None
        errors = rmse(last.double(), end)
        return errors if calls <= most and math.isfinite(size(errors)) else None


def pairs(
    contestants: Sequence[Contestant], levels: Callable[[Contestant], Levels], task: Problem, nfe: int
) -> Iterator[Pair]:  # fmt: skip
    """Each contestant with as many steps as ``nfe`` pays for; one less where a spacing gives one more than asked."""
    for contestant in contestants:
        if contestant.path not in ("", task.path.name):
            continue
        steps = contestant.steps(nfe)
        for name, levels_at in levels(contestant).items():
            for n in range(steps, max(steps - 2, 0), -1):
                sigmas = levels_at(n)
                if len(sigmas) > 1 and contestant.nfe(len(sigmas) - 1) <= nfe:
                    yield Pair(contestant, name, Points.from_sigmas(task.path, sigmas))
                    break


def winner(side: str, found: Iterator[Pair], task: Problem, end: Tensor, nfe: int, chosen: int) -> Winner:  # fmt: skip
    best, least, tried = None, math.inf, 0
    few = first(task, chosen)
    for pair in found:
        errors = pair.error(few, end[:chosen], nfe)
        tried += errors is not None
        if errors is not None and size(errors) < least:
            best, least = pair, size(errors)
    if best is None:
        raise ValueError(f"{task.name}: no pair of {side} runs with {nfe} evaluations")
    errors = best.error(rest(task, chosen), end[chosen:], nfe)
    wide = math.inf if errors is None else size(errors)
    middle = math.inf if errors is None else median(errors)
    return Winner(task.name, side, nfe, best.contestant.name, best.spacing, wide, middle, tried)


def comfy_levels(schedule: NoiseSchedule, contestant: Contestant) -> Levels:
    samplers = importlib.import_module("comfy.samplers")
    sampling = peers.model_sampling(schedule)
    left_out = contestant.name.split()[0] in samplers.KSampler.DISCARD_PENULTIMATE_SIGMA_SAMPLERS

    def of(name: str, n: int) -> Sequence[float]:
        sigmas = samplers.calculate_sigmas(sampling, name, n + left_out).tolist()
        return [*sigmas[:-2], sigmas[-1]] if left_out else sigmas

    return {name: partial(of, name) for name in samplers.SCHEDULER_NAMES}


def report(path: str) -> None:
    """Inside ComfyUI's Python: read the task, print the winners as JSON."""
    torch.set_num_threads(1)
    importlib.import_module("comfy.options").enable_args_parsing()
    task = torch.load(path, weights_only=True)
    contestants = peers.comfy_contestants()
    rows = []
    for name, end in task["answers"].items():
        problem = task_of(name, len(end))
        for nfe in task["nfes"]:
            found = pairs(contestants, partial(comfy_levels, problem.schedule), problem, nfe)
            rows.append(winner(COMFY, found, problem, end, nfe, task["chosen"]))
    print(json.dumps([asdict(row) for row in rows]))


def comfy(answers: dict[str, Tensor], nfes: Sequence[int], chosen: int) -> list[Winner]:
    task = dict(answers=answers, nfes=list(nfes), chosen=chosen)
    return [Winner(**row) for row in peers.in_comfyui("lead_sides", task)]


KINDS = ("karras", "exponential", "beta")


def _for_each(levels: Levels, _: Contestant) -> Levels:
    return levels


def diffusers_levels(schedule: NoiseSchedule, _: Contestant) -> Levels:
    """What set_timesteps of diffusers' own schedulers makes, by its options."""
    from diffusers import (
        DPMSolverMultistepScheduler,
        EDMDPMSolverMultistepScheduler,
        FlowMatchEulerDiscreteScheduler,
    )

    if isinstance(schedule, EDM):
        ends = dict(sigma_min=schedule.sigma_min, sigma_max=schedule.sigma_max)
        makers = {
            kind: partial(EDMDPMSolverMultistepScheduler, sigma_schedule=kind, **ends)
            for kind in KINDS[:2]
        }
    elif isinstance(schedule, RectifiedFlowSchedule):
        flow = partial(FlowMatchEulerDiscreteScheduler, shift=schedule.shift)
        makers = {"flow": flow} | {
            kind: partial(flow, **{f"use_{kind}_sigmas": True}) for kind in KINDS
        }
    else:
        table = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
        make = partial(DPMSolverMultistepScheduler, **table)
        makers = {
            name: partial(make, timestep_spacing=name)
            for name in ("linspace", "leading", "trailing")
        } | {kind: partial(make, **{f"use_{kind}_sigmas": True}) for kind in (*KINDS, "lu")}
        makers["lu"] = partial(make, use_lu_lambdas=True)
    return {name: partial(_sigmas, maker) for name, maker in makers.items()}


@lru_cache(maxsize=1024)
def _sigmas(make: Callable[[], Any], n: int) -> Sequence[float]:
    scheduler = make()
    scheduler.set_timesteps(n)
    found: list[float] = scheduler.sigmas.double().tolist()
    return found


def diffusers(answers: dict[str, Tensor], nfes: Sequence[int], chosen: int) -> Iterator[Winner]:
    for name, end in answers.items():
        task = task_of(name, len(end))
        recipes = peers.ON_VE if isinstance(task.path, VE) else peers.ON_FLOW
        contestants = [r.contestant(task.path.name) for r in recipes]
        levels = diffusers_levels(task.schedule, contestants[0])
        for nfe in nfes:
            found = pairs(contestants, partial(_for_each, levels), task, nfe)
            yield winner(DIFFUSERS, found, task, end, nfe, chosen)


# ---- ours


#: Runge–Kutta methods and solvers that are others in other clothes: none is first anywhere in docs/solvers.md up to 20 evaluations.
LEFT_OUT = (RungeKutta, HeunEDM, Restart, TCD, Invertible, AMED, RectifiedFlow, Euler)


@lru_cache(maxsize=1)
def our_solvers() -> tuple[Solver, ...]:
    """Every deterministic variant of one evaluation a step, and single-step methods of DPM-Solver and exponential Runge–Kutta."""
    still = (v for kind in ALL if kind not in LEFT_OUT for v in variants(kind) if not v.stochastic)
    return tuple(v for v in still if v.planned)


def our_spacings(schedule: NoiseSchedule) -> tuple[spacings.Spacing, ...]:
    std = policy.usual_std(schedule)
    shares = tuple(spacings.NoiseShare(scale * std, 0.5) for scale in (1.0, 2.5, 5.0, 10.0))
    others = (spacings.Karras(), spacings.Exponential(), spacings.KLOptimal(), spacings.Trailing(), spacings.HostTable())  # fmt: skip
    return (*shares, *others)


@lru_cache(maxsize=200_000)
def plan_of(solver: Solver, points: Points) -> Plan | None:
    try:
        return solver.plan(points)
    except ValueError:
        return None


Choice = tuple[str, str, Plan, Points]  # solver, spacing and ends
Grid = tuple[str, spacings.Spacing, spacings.Ends]
#: They try every grid; all solvers then try the best GRIDS of those.
SCOUTS: tuple[Solver, ...] = (
    DDIM(), AdamsBashforth(2), AdamsBashforth(3), DPMSolverMultistep(), UniPC(3), GradientEstimation(), GaussianAdams(),
    GaussianAdams(0.5), GaussianAdams(predictor=2, corrector=0), GaussianAdams(8.0, corrector=0, coordinate="index"), DPMSolver(2),
)  # fmt: skip
GRIDS = 6


def our_grids(task: Problem) -> list[Grid]:
    rule = spacings.ByRule(policy.usual_std(task.schedule), side_of(task))
    ends = (spacings.WholeRange(), spacings.SkipLast(), rule, wide_rule(rule))
    return [
        (f"{spacing.call}, {name}", spacing, kind)
        for spacing in our_spacings(task.schedule)
        for kind, name in zip(
            ends, (*(e.title for e in ends[:3]), "2 times the rule's"), strict=True
        )
    ]


def wide_rule(rule: spacings.ByRule) -> spacings.ByRule:
    """The last level twice as high, the first where it is."""
    return replace(rule, data_std=2 * rule.data_std, side=max(rule.side // 2, 1))


def side_of(task: Problem) -> int:
    return round(task.start[0].numel() ** 0.5)


def on_grid(task: Problem, nfe: int, solvers: Sequence[Solver], grid: Grid) -> list[Choice]:
    """The solvers that can run there, each with as many steps as ``nfe`` pays for."""
    found = list[Choice]()
    title, spacing, ends = grid
    for solver in solvers:
        n = next((n for n in range(nfe, 0, -1) if solver.nfe(n) <= nfe), 0)
        with suppress(ValueError):  # 0 steps, or levels that cannot be told apart
            points = levels_of(task.schedule, n, spacing, ends).on(task.path)
            plan = plan_of(solver, points)
            if plan is not None:
                found.append((solver.call, title, plan, points))
    return found


@lru_cache(maxsize=100_000)
def levels_of(
    schedule: NoiseSchedule, n: int, spacing: spacings.Spacing, ends: spacings.Ends
) -> Points:
    return spacings.space(schedule, n, spacing, ends=ends)


def our_best(task: Problem, end: Tensor, nfe: int) -> tuple[Choice, int]:
    """The best pair, and how many ran."""
    tried = list[tuple[float, Choice, Grid]]()

    def play(solvers: Sequence[Solver], grids: Sequence[Grid]) -> None:
        for grid in grids:
            choices = on_grid(task, nfe, solvers, grid)
            for choice, errors in zip(choices, our_errors(task, end, choices), strict=True):
                tried.append((size(errors), choice, grid))

    play(SCOUTS, our_grids(task))
    order = sorted(tried, key=lambda entry: entry[0])
    play(our_solvers(), list(dict.fromkeys(grid for _, _, grid in order))[:GRIDS])
    return min(tried, key=lambda entry: entry[0])[1], len(tried)


def our_errors(task: Problem, end: Tensor, choices: Sequence[Choice]) -> list[Tensor]:
    """Per seed, infinite where a run does not stay finite. Runs that stand at one level share a call."""
    top = task.path.at(task.schedule.kappa_max).sigma
    programs = [
        plan.walk(State((task.start * (points[0].sigma / top),))) for _, _, plan, points in choices
    ]
    done = drive_together(programs, Run(task.denoise, finite=False))
    return [rmse(state.x.double(), end).nan_to_num(math.inf, math.inf) for state in done]


def ours(answers: dict[str, Tensor], nfes: Sequence[int], chosen: int) -> Iterator[Winner]:
    for name, end in answers.items():
        task = task_of(name, len(end))
        left = rest(task, chosen)
        for nfe in nfes:
            best, tried = our_best(first(task, chosen), end[:chosen], nfe)
            (errors,) = our_errors(left, end[chosen:], [best])
            yield Winner(
                task.name, OURS, nfe, best[0], best[1], size(errors), median(errors), tried
            )
            yield auto(task, left, end[chosen:], nfe)


AUTO = "auto"


def auto(task: Problem, left: Problem, end: Tensor, nfe: int) -> Winner:
    """What needs no choosing."""
    cfg = cfg_of(task.name)
    choice = policy.choose(task.schedule, nfe, guided=cfg > 0, cfg=cfg, side=side_of(task))
    points = choice.points(task.schedule, choice.steps).on(task.path)
    (errors,) = our_errors(left, end, [("", "", choice.solver.plan(points), points)])
    return Winner(task.name, AUTO, nfe, choice.solver.call, choice.spacing.title, size(errors), median(errors), 1)  # fmt: skip


__all__ = ["AUTO", "COMFY", "DIFFUSERS", "OURS", "Denoise", "Winner", "comfy", "diffusers", "ours", "task_of"]  # fmt: skip
