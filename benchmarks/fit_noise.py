"""A learned amount of noise per step on top of a fit, as AdaSDE has it (arXiv 2510.23285), chosen from evaluations alone.

Before every evaluation but the first, the state goes down to κ/(1 + γ) and fresh noise lifts it back to κ, where the network is
asked as before: an amount γ moves the step before it, and no level that a fit has found. AdaSDE lifts the state above its level
instead, which is the same with the levels named anew. All γ are found by coordinate search over AMOUNTS on CHOSEN trajectories: once by the
Fréchet distance of ends to exact ends, once by the RMSE (AdaSDE's own loss but for its last step).

Noise can only add to the RMSE of ends to those of the ODE. So what counts is the Fréchet distance, and it is unfair to noise where
both sides share their seeds: then the chance of the sample is the same on both, and noise undoes that. "Apart" is therefore from
the ends of one half of the seeds to the exact ends of the other half, both ways.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sampling_kit.schedulers.fit.problem import Problem
from sampling_kit.schedulers.measure.metrics import frechet
from sampling_kit.schedulers.noise import PerImageNoise
from sampling_kit.schedulers.path import VP
from sampling_kit.schedulers.solver import Run
from sampling_kit.schedulers.solver.fitted import Table, ddim
from sampling_kit.schedulers.solver.plan import Plan, Stage

from .fit_gain import DISTANCES, fit_of, judged, shown
from .fit_rivals import stored_pair
from .fit_tasks import Task

#: γ that are tried for every step; AdaSDE's own end at .001 and below, and begin at .005.
AMOUNTS = (0.0, 0.003, 0.01, 0.05, 0.2)
CHOSEN, SWEEPS = 256, 2
Amounts = tuple[float, ...]


def noise(task: Task, nfe: int, seeds: int) -> dict[str, Any]:
    """The exact ends, the pair, the fit, the fit with the same noise in every step, and with what each search chose."""
    fit, at = fit_of(task, nfe).table, task.judges(seeds)
    pair = stored_pair(task, nfe, "best", "rmse").table(at)
    ends = {"exact": at.end, "pair": at.run(pair, at.held), "fit": at.run(fit, at.held)}
    amounts: dict[str, Amounts] = {f"γ {g:g}": (g,) * (nfe - 1) for g in AMOUNTS[1:]}
    amounts |= searched(task, task.many(CHOSEN), fit)
    ends |= {name: ran(at, noisy(fit, each)) for name, each in amounts.items()}
    far = distances({name: task.features(each) for name, each in ends.items()})
    found = {name: shown(judged(at, each)) | far[name] for name, each in ends.items()}
    for name, chosen in amounts.items():
        found[name]["amounts"] = chosen
    return found


def searched(task: Task, many: Problem, fit: Table) -> dict[str, Amounts]:
    """The amounts that are best by distance, and by RMSE."""
    none = (0.0,) * (fit.nfe - 1)
    run = cache(lambda amounts: ran(many, noisy(fit, amounts)))
    exact = task.features(many.end)

    def apart(amounts: Amounts) -> float:
        return crossed(task.features(run(amounts)), exact, halves(len(exact)))

    def off(amounts: Amounts) -> float:
        return shown(judged(many, run(amounts)))["rmse"]

    return {"by distance": search(none, apart), "by RMSE": search(none, off)}


def search(begin: Amounts, by: Callable[[Amounts], float]) -> Amounts:
    """The best amounts by coordinate search, the last step first."""
    best, seen = begin, cache(by)
    for _ in range(SWEEPS):
        before = best
        for i in reversed(range(len(best))):
            best = min(((*best[:i], g, *best[i + 1 :]) for g in AMOUNTS), key=seen)
        if best == before:
            break
    return best


# ------------------------------------------------------------------------------------------- plans


def noisy(table: Table, amounts: Sequence[float]) -> Plan:
    """The table as a plan on VP, with γ = ``amounts`` [K − 1] of fresh noise before every evaluation but the first."""
    plan = table.plan("Table with noise")
    stages = list(plan.stages)
    for i, gamma in enumerate(amounts, 1):
        if gamma:
            stages[i] = lifted(stages[i], table.levels[i - 1], table.levels[i], gamma)
    return replace(plan, stages=tuple(stages))


def lifted(stage: Stage, p: float, q: float, gamma: float) -> Stage:
    """The row from level p to q, which now ends at q/(1 + γ), where DDIM's step would, and is lifted to q by noise."""
    low = q / (1 + gamma)
    (x0, d0), (x1, d1) = ddim(p, q), ddim(p, low)
    here = VP().at(q).alpha
    scale = here / VP().at(low).alpha
    d = stage.d or (0.0,)
    return replace(
        stage,
        x=tuple(scale * (w + x1 - x0) for w in stage.x),
        d=(scale * (d[0] + d1 - d0), *(scale * w for w in d[1:])),
        mix=stage.mix and stage.mix.scaled([scale], scale),
        noise=here * math.sqrt(q * q - low * low),
    )


def ran(problem: Problem, plan: Plan, seed: int = 1) -> Tensor:
    """Where the plan ends from all starts [n, …]; every picture has noise of its own."""
    rows = problem.held
    draw = PerImageNoise(seed, tuple(rows.tolist()))
    run = Run(lambda x, sigma: problem.call(x, sigma, rows), noise=draw)
    return plan.on(problem.path).solve(run, problem.start[rows])


# --------------------------------------------------------------------------------------- distances


def halves(count: int) -> tuple[Tensor, Tensor]:
    return torch.arange(count // 2), torch.arange(count // 2, 2 * (count // 2))


def crossed(mine: Tensor, exact: Tensor, rows: Sequence[Tensor]) -> float:
    """Fréchet distance of features [n, F] of one part of the seeds to the exact ones of the other, mean of both ways."""
    a, b = rows
    return (frechet(mine[a], exact[b]) + frechet(mine[b], exact[a])) / 2


def distances(looks: Mapping[str, Tensor]) -> dict[str, dict[str, Any]]:
    """Fréchet distances of the features by name [n, F] to those named exact, of the same seeds and apart; how much more than
    the fit's, with 95 % intervals over seeds."""
    exact, parts = looks["exact"], halves(len(looks["exact"]))
    ways: dict[str, Callable[[Tensor, Sequence[Tensor]], float]] = {
        "same": lambda mine, rows: frechet(
            mine[torch.cat(tuple(rows))], exact[torch.cat(tuple(rows))]
        ),
        "apart": lambda mine, rows: crossed(mine, exact, rows),
    }
    generator = torch.Generator().manual_seed(0)
    drawn = [
        tuple(part[torch.randint(len(part), part.shape, generator=generator)] for part in parts)
        for _ in range(DISTANCES)
    ]
    found: dict[str, dict[str, Any]] = {name: {} for name in looks}
    for way, far in ways.items():
        theirs = [far(looks["fit"], rows) for rows in (parts, *drawn)]
        for name, mine in looks.items():
            value = far(mine, parts)
            more = [far(mine, rows) - fit for rows, fit in zip(drawn, theirs[1:], strict=True)]
            low, high = map(float, np.quantile(more, (0.025, 0.975)))
            found[name][way] = dict(value=value, more=value - theirs[0], low=low, high=high)
    return found
