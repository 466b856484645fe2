r"""AMED and EPD: where in a step to take the direction, and how far to go along it, learned from a teacher.

A trajectory that lies in a plane has a direction inside a step that leads to its end, when scaled; in more dimensions
none may (a helix). Trajectories of diffusion models nearly lie in a plane, so AMED (Zhou et al. 2024, arXiv 2312.00094)
learns where in the step to take the direction. In y = x/α, from κ to κ', with d = (y − D)/κ,

    τ = κ'^r·κ^{1−r} ,   m = y + (τ − κ)·d ,   y' = y + c·(κ' − κ)·(m − D(m, a·τ))/τ ,

with r, c, a either three constants per step (then the solver is a table) or a small network's answer to
the levels and to features of the model seen at κ (then it is :class:`LearnedAMED`, which is none). As a plug-in,
any solver with one evaluation per step visits τ between its own levels instead, and its step from there is
scaled by c. EPD (Zhu et al. 2025, arXiv 2507.14797) averages K directions of one step.

Each interval is trained by itself, from the teacher's state to the teacher's next one: a gradient goes through
one evaluation only. :class:`Amed` then fits the table's end as ``gradient`` does.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path as File
from typing import ClassVar

import torch
from torch import Tensor

from ..path import VE
from ..points import Points
from ..settings import knob
from ..solver.fitted import Table
from .amed_predictors import Constants, Features, Predictor
from .ends import from_noise
from .gradient import Gradient, GradientState
from .learned_amed import amed_table, directions_table
from .problem import Problem, summary
from .run_fit import held_errors, relative
from .run_through import gradient_ready, on_path


def train(
    problem: Problem,
    points: Points,
    predictor: Predictor,
    *,
    rate: float = 0.005,
    batch: int = 16,
    rounds: int = 1,
    features: Features | None = None,
    seed: int = 0,
    report: Callable[[float], None] | None = None,
) -> list[float]:
    """Fit the predictor to the teacher's states (``problem.states``), every interval by itself; mean loss per
    round. ``rate`` is Adam's, ``batch`` at most ``problem.batch``; ``report`` gets the share that is done, 0 to 1. Raises
    ValueError where the states were not kept."""
    if problem.states is None:
        raise ValueError("AMED learns from the teacher's states on the way: record them")
    with torch.inference_mode(False), torch.enable_grad():
        copy = gradient_ready(problem)
        optimizer = torch.optim.Adam(predictor.parameters(), rate)
        losses = []
        for turn in range(rounds):
            generator = torch.Generator().manual_seed((seed + turn) % 2**64)
            order = problem.train[torch.randperm(len(problem.train), generator=generator)]
            parts = []
            batches = order.split(min(batch, problem.batch))
            for n, rows in enumerate(batches):
                if report is not None:
                    report((turn + n / len(batches)) / rounds)
                for i, (p, q) in enumerate(pairs(points)):
                    optimizer.zero_grad()
                    loss = interval_loss(copy, predictor, i, p, q, rows, features)
                    loss.backward()
                    for weight in predictor.parameters():
                        if weight.grad is not None:
                            weight.grad.nan_to_num_(0.0, 0.0, 0.0)
                    optimizer.step()
                    parts.append(float(loss.detach()))
            losses.append(sum(parts) / len(parts))
            problem.evaluations = copy.evaluations
    return losses


def pairs(points: Points) -> list[tuple[float, float]]:
    """The steps that AMED takes: all but the last one, to 0."""
    return [(p, q) for p, q in zip(points.kappas, points.kappas[1:], strict=False) if q > 0]


def interval_loss(
    problem: Problem,
    predictor: Predictor,
    step: int,
    p: float,
    q: float,
    rows: Tensor,
    features: Features | None = None,
) -> Tensor:
    """Mean square difference, on VP, to the teacher's state at κ = q after one step from its state at p."""
    assert problem.states is not None
    shrunk = lambda k: 1 / math.hypot(1, k)  # noqa: E731  VP's α: states of problems are VP's
    y = problem.states(p, rows).to(problem.start.dtype) / shrunk(p)
    with torch.no_grad():
        d = problem.denoise(y * shrunk(p), p, rows)
        seen = features(len(rows)) if features is not None else None
    r, c, a = predictor(step, p, q, seen, len(rows)).double().unbind(-1)
    wide = (-1, *[1] * (y.ndim - 1))
    tau = (math.log(p) + r * (math.log(q) - math.log(p))).exp()
    fit_to = lambda v: v.reshape(wide).to(y)  # noqa: E731
    middle = y + fit_to((tau - p) / p) * (y - d)
    level = a * tau  # that the network gets
    moves = [on_path(k, problem.path) for k in level.unbind()]
    sigma, scale = (torch.stack(values) for values in zip(*moves, strict=True))
    lift = scale * (1 / (1 + level * level).sqrt())  # from y to the path's x there
    if problem.check is not None:
        problem.check()
    problem.evaluations += len(rows)
    d = problem.field(middle * fit_to(lift), sigma.to(y), rows)  # type: ignore[arg-type]
    after = y + fit_to(c * (q - p) / tau) * (middle - d)
    teacher = problem.states(q, rows).to(y)
    return (after * shrunk(q) - teacher).square().mean()


# ------------------------------------------------------------------------------------------- fits


@dataclass(frozen=True)
class Amed(Gradient):
    """AMED's table: per step the place of one direction, its scale and the level told, trained interval by
    interval where the teacher's states are known; then the end of the run. More directions per step is EPD."""

    title: ClassVar[str] = "AMED / EPD"
    directions: int = knob(1, "Directions per step, EPD's K; 1 is AMED.", low=1, high=8)
    rounds: int = knob(2, "Times through the trajectories, per interval.", low=0, high=1000)
    rate: float = knob(0.02, "Adam's rate for r, c and a.", low=0.0, high=1.0)

    def begin(self, problem: Problem, table: Table) -> GradientState:
        return super().begin(problem, trained_start(problem, table, self))

    def load(self, file: File, problem: Problem, table: Table) -> GradientState:
        return super().load(file, problem, trained_start(problem, table, self))

    def finish(self, problem: Problem, table: Table, state: GradientState) -> GradientState:
        """With the errors of ``table`` as those before; ``table`` itself where it is better."""
        with torch.no_grad():
            before = summary(held_errors(problem, table))
        first = state.records[0]._replace(rmse=before["rmse"], median=before["median"])
        if relative(state.after, before) > 1:
            return replace(state, table=table, records=(first,))
        return replace(state, records=(first, *state.records))


def trained_start(problem: Problem, table: Table, settings: Amed) -> Table:
    """The table before the end is fitted. Raises ValueError where there are too few evaluations for one step."""
    per_step = settings.directions + 1
    steps = (table.nfe - 1) // per_step
    if steps < 1:
        raise ValueError(
            f"{settings.directions} directions per step need {per_step + 1} evaluations or more, "
            f"not {table.nfe}"
        )
    high, low = min(table.levels[0], 80.0), table.levels[-1]
    levels = [high * (low / high) ** (i / steps) for i in range(steps + 1)]
    points = Points(VE(), (*levels, table.end))
    if settings.directions > 1:
        k = settings.directions
        places = [[(j + 1) / (k + 1) for j in range(k)]] * steps
        trained = directions_table(points, places)
    else:
        constants = Constants(steps)
        if problem.states is not None and settings.rounds:
            train(
                problem, points, constants, rate=settings.rate, batch=settings.batch,
                rounds=settings.rounds, seed=settings.seed,
            )  # fmt: skip
        numbers = constants.limited(constants.raw).detach().tolist()
        trained = amed_table(points, [*numbers, (0.5, 1.0, 1.0)])
    return from_noise(trained, table.start)
