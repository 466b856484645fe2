"""AMED's network, fitted to recorded trajectories and judged by where its runs end; and its file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path as File
from typing import Any

import torch
from torch import Tensor

from ..path import VP, rescale
from ..points import Points
from ..solver.base import Solver
from ..solver.run import Run
from ..store import LARGEST_TABLES, Format
from .amed_fit import train
from .amed_predictors import FeaturePredictor, Features
from .learned_amed import LearnedAMED
from .problem import Problem, rmse, summary
from .run_fit import Attempt, best_attempt

FORMAT = Format(
    "sampling_kit_amed",
    "AMED predictor",
    diverged="its training diverged",
    largest=LARGEST_TABLES,
)


@dataclass(frozen=True)
class Learned:
    """A predictor, and the RMSE of every held-out run before it was trained and after."""

    predictor: FeaturePredictor
    before: Tensor
    after: Tensor


def learn(
    problem: Problem,
    points: Points,
    *,
    base: Solver | None = None,
    features: Features | None = None,
    rounds: int = 8,
    rate: float = 0.005,
    batch: int = 16,
    seed: int = 0,
    report: Callable[[float], None] | None = None,
) -> Learned:
    """A predictor for runs on these points, which may start below the problem's start: x is then taken as pure
    noise and scaled. Not worse than an untrained one on the held-out trajectories (RMSE): else it is that.

    Raises ValueError for points that ``base`` cannot take, or where the teacher's states were not kept.
    """
    fresh, trained = FeaturePredictor(seed=seed), FeaturePredictor(seed=seed)
    trained.load_state_dict(fresh.state_dict())

    def ends(predictor: FeaturePredictor) -> Tensor:
        return run_errors(problem, points, LearnedAMED(predictor, features, base))

    before = ends(fresh)
    train(
        problem, points, trained,
        rate=rate, batch=batch, rounds=rounds, features=features, seed=seed, report=report,
    )  # fmt: skip
    after = ends(trained)
    marks = [summary(errors)["rmse"] for errors in (before, after)]
    if best_attempt([Attempt(trained, after.cpu().double().numpy(), marks[1])], marks[0]) is None:
        return Learned(fresh, before, before)
    return Learned(trained, before, after)


def run_errors(problem: Problem, points: Points, solver: LearnedAMED) -> Tensor:
    """RMSE to the teacher's end of every held-out trajectory, each run by itself [B]."""
    first = points.kappas[0]
    if first > problem.kappa * (1 + 1e-6):
        raise ValueError(
            f"the run starts at σ/α = {first:.4g}, the trajectories at {problem.kappa:.4g}"
        )
    ratio = VP().at(first).sigma / VP().at(problem.kappa).sigma
    lift = rescale(VP().at(first), problem.path)[1]
    errors = []
    with torch.no_grad():
        for row in problem.held.split(1):
            x = problem.begin(row) * ratio * lift
            call = lambda y, sigma, row=row: problem.call(y, sigma, row)  # noqa: E731
            end = solver.solve(points.on(problem.path), Run(call), x)
            errors.append(rmse(end - problem.target(row)))
    return torch.cat(errors)


def save(file: File, predictor: FeaturePredictor, facts: Mapping[str, Any]) -> None:
    """Write the weights and ``facts``. Raises ValueError for weights that are not finite."""
    FORMAT.write(file, predictor.state_dict(), facts)


def load(file: File) -> tuple[FeaturePredictor, dict[str, Any]]:
    """(predictor, facts). Raises BadFile saying what is wrong with the file."""
    predictor = FeaturePredictor()
    with FORMAT.opened(file) as stored:
        predictor.load_state_dict(stored.tensors())
        return predictor, stored.facts
