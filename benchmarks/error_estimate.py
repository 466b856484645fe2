"""The error that a run estimates of itself (``schedulers/measure/run_error.py``) beside the true one.

    python -m benchmarks.error_estimate [--problems mixture hsc network-cfg2 …] [--seeds 8] [--write]

Every solver of SOLVERS runs over the levels of "auto" and over those usual elsewhere, with each number of evaluations of NFES.
"rank" is Spearman's correlation of estimate and true error over solvers, levels, evaluations and seeds together; "of one pair" the
mean and the least over evaluations and seeds of one solver and spacing. "true ÷ estimate" is the median, and from the 10th to the
90th percentile. "halved" says what is left of the error (median of RMSE over seeds) with as many more evaluations as the report
says, interpolated between the numbers measured. ``--write`` puts the table into docs/quality.md.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from sampling_kit.schedulers import policy
from sampling_kit.schedulers import spacing as spacings
from sampling_kit.schedulers.measure.run_error import RunError, more
from sampling_kit.schedulers.points import Points
from sampling_kit.schedulers.solver import (
    AdamsBashforth,
    DPMSolverMultistep,
    Euler,
    GaussianAdams,
    GradientEstimation,
    HeunEDM,
    Solver,
    UniPC,
)
from sampling_kit.schedulers.solver.run import Run
from sampling_kit.schedulers.text_table import markdown_table

from . import galaxies, pages
from .policy import Bench, bench
from .problems import rmse

PROBLEMS = ("mixture", "mixture-flow", "postcards")
NFES = (4, 5, 6, 8, 10, 15, 20, 30)
SOLVERS: tuple[Solver, ...] = (
    Euler(),
    DPMSolverMultistep(),
    UniPC(),
    AdamsBashforth(3),
    GradientEstimation(),
    GaussianAdams(),
    HeunEDM(),
)
MARKS = pages.marks("estimate")


@dataclass(frozen=True)
class Pair:
    """One solver and spacing: ``nfe`` [N], ``estimate`` and ``error`` [N, seeds]."""

    order: int
    nfe: np.ndarray
    estimate: np.ndarray
    error: np.ndarray


def measure(at: Bench) -> Iterator[Pair]:
    for solver in SOLVERS:
        for levels in of_spacings(at):
            rows = [row for n in NFES if (row := _run(at, solver, levels, n))]
            if rows:
                nfe, estimate, error = zip(*rows, strict=True)
                yield Pair(solver.order, np.array(nfe), np.array(estimate), np.array(error))


def of_spacings(at: Bench) -> tuple[spacings.Spacing, ...]:
    usual = (
        spacings.Linspace() if at.task.schedule.kappa_max > policy.PURE_NOISE else spacings.Karras()
    )
    return policy.Auto(side=at.side), usual


def _run(
    at: Bench, solver: Solver, spacing: spacings.Spacing, nfe: int
) -> tuple[int, Sequence[float], Sequence[float]] | None:
    """(evaluations, estimate and error of every seed)."""
    task, steps = at.task, next(n for n in range(nfe, 0, -1) if solver.nfe(n) <= nfe)
    levels = spacings.space(task.schedule, steps, spacing)
    guess = RunError.of(
        solver, task.schedule.path, levels.sigmas(), policy.usual_std(task.schedule)
    )
    points = Points.from_sigmas(task.path, levels.sigmas())
    top = task.path.at(task.schedule.kappa_max)
    x = task.start[at.skip :] * (points[0].sigma / top.sigma)
    end = solver.solve(points, Run(guess.watching(task.denoise)), x)
    facts = guess.facts()
    if facts is None:
        return None
    errors: list[float] = rmse(end.double(), at.end[at.skip :]).tolist()
    return guess.count, list(facts.images), errors


def ranks(values: np.ndarray) -> np.ndarray:
    order = values.ravel().argsort()
    places = np.empty(order.size)
    places[order] = np.arange(order.size)
    return places


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's (no two values are equal)."""
    return float(np.corrcoef(ranks(a), ranks(b))[0, 1])


def left(pair: Pair) -> list[float]:
    """What is left of the error with ``more`` evaluations; [] where that was not measured."""
    size = np.log(np.sqrt(np.square(pair.error).mean(1)))
    logs = np.log(pair.nfe)
    wanted = [math.log(n + more(int(n), pair.order)) for n in pair.nfe]
    return [
        math.exp(np.interp(w, logs, size) - s)
        for w, s in zip(wanted, size, strict=True)
        if w <= logs[-1]
    ]


def row(name: str, pairs: Sequence[Pair]) -> list[str]:
    estimate = np.concatenate([p.estimate.ravel() for p in pairs])
    error = np.concatenate([p.error.ravel() for p in pairs])
    each = [rank_correlation(p.estimate, p.error) for p in pairs]
    low, middle, high = np.quantile(error / estimate, (0.1, 0.5, 0.9))
    halved = np.median([share for p in pairs for share in left(p)])
    return [
        name,
        str(error.size),
        f"{rank_correlation(estimate, error):.2f}",
        f"{np.mean(each):.2f}, {min(each):.2f}",
        f"{middle:.2f} ({low:.2f} to {high:.2f})",
        f"{halved:.2f}",
    ]


COLUMNS = ("problem", "runs", "rank", "of one pair", "true ÷ estimate", "halved")


def table(names: Sequence[str], seeds: int) -> str:
    rows, every = [], list[Pair]()
    for name in names:
        try:
            pairs = list(measure(bench(name, seeds)))
        except galaxies.Missing as missing:
            print(f"{name} is left out: {missing}")
            continue
        rows.append(row(name, pairs))
        every += pairs
    rows.append(row("all", every))
    return markdown_table(COLUMNS, rows)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--problems", nargs="+", default=PROBLEMS)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--write", action="store_true", help="write docs/quality.md")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    text = table(options.problems, options.seeds)
    print(text)
    if options.write:
        pages.write(pages.QUALITY, MARKS, text)


if __name__ == "__main__":
    main()
