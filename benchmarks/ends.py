"""Where the first and the last level are worth most, beside the rule's (``ByRule`` in ``schedulers/spacing/run_ends.py``).

    python -m benchmarks.ends [--problems hsc postcards …] [--nfe 4 6 8] [--seeds 4] [--write]

For each spacing and number of evaluations the first level is tried at the schedule's largest and at parts of it, the last at the
rule's times FACTORS, and the better of SOLVERS counts. "rule ÷ best" is what the rule loses. Bands are the energies of three bands of
the spectrum, low, middle, high, against the exact ends', with the rule's ends, and the high one's with the best.

``--tail``: the error of a run as two parts. With ends at σ the body is how far the state at σ is from the exact one there, as the exact D
shows it; the tail is what the exact D at the exact state still lacks of the end. Their sizes say where an evaluation more would go.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sampling_kit.schedulers import policy
from sampling_kit.schedulers import spacing as spacings
from sampling_kit.schedulers.points import Points
from sampling_kit.schedulers.solver import AdamsBashforth, GaussianAdams, GradientEstimation
from sampling_kit.schedulers.solver.run import Run
from sampling_kit.schedulers.text_table import markdown_table

from . import galaxies, pages
from .policy import Bench, Score, bench
from .problems import rmse

PROBLEMS = ("mixture", "mixture-flow", "postcards", "hsc")
SOLVERS = (GaussianAdams(), GradientEstimation(), AdamsBashforth(3))
FACTORS, FIRSTS = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0), (1.0, 0.25)
MARKS, TAIL_MARKS = pages.marks("ends"), pages.marks("tail")


def of_spacings(std: float) -> tuple[spacings.Spacing, ...]:
    return (
        spacings.NoiseShare(2.5 * std, 0.5),
        spacings.KLOptimal(),
        spacings.Karras(),
        spacings.Exponential(),
        spacings.UniformLambda(),
    )


@dataclass(frozen=True)
class Found:
    """Ends (κ) and the better solver's score there."""

    first: float
    last: float
    score: Score


def rule(at: Bench, nfe: int) -> tuple[float, float]:
    std = policy.usual_std(at.task.schedule)
    return spacings.ByRule(std, at.side).range(at.task.schedule, nfe, nfe)


def found(
    at: Bench, spacing: spacings.Spacing, nfe: int, first: float, last: float
) -> Found | None:
    schedule = at.task.schedule
    levels = spacing.between(schedule, nfe, first, last).tolist()
    try:
        points = Points(schedule.path, (*levels, 0.0))
    except ValueError:  # levels that the spacing cannot tell apart
        return None
    scores = [s for s in (at.play("", solver, points) for solver in SOLVERS) if s]
    best = min(scores, key=lambda s: s.rmse, default=None)
    return None if best is None else Found(first, last, best)


def searched(at: Bench, spacing: spacings.Spacing, nfe: int) -> tuple[Found, Found]:
    """With the rule's ends, and with the best of those tried."""
    schedule = at.task.schedule
    first, last = rule(at, nfe)
    top = first if math.isinf(schedule.kappa_max) else schedule.kappa_max
    ruled = found(at, spacing, nfe, first, last)
    if ruled is None:
        raise ValueError(
            f"{at.task.name}: {spacing.title} cannot run between {first:g} and {last:g}"
        )
    tried = [ruled]
    for share in FIRSTS:
        for factor in FACTORS:
            low = max(last * factor, schedule.kappa_min)
            tried += filter(None, [found(at, spacing, nfe, max(top * share, 4 * low), low)])
    return ruled, min(tried, key=lambda f: f.score.rmse)


def rows(names: Sequence[str], nfes: Sequence[int], seeds: int) -> Iterator[list[str]]:
    for at in benches(names, seeds):
        std = policy.usual_std(at.task.schedule)
        for nfe in nfes:
            for spacing in of_spacings(std):
                ruled, best = searched(at, spacing, nfe)
                bands = " / ".join(f"{b:.2f}" for b in ruled.score.bands)
                high = f"{best.score.bands[-1]:.2f}" if best.score.bands else ""
                yield [
                    at.task.name,
                    str(nfe),
                    spacing.title,
                    f"{ruled.score.rmse:.4f}",
                    f"{ruled.score.rmse / best.score.rmse:.2f}",
                    f"{ruled.last / std:.3g}",
                    f"{best.last / std:.3g}",
                    bands,
                    high,
                ]


COLUMNS = (
    "problem",
    "NFE",
    "spacing",
    "rule: RMSE",
    "÷ best",
    "last level ÷ s",
    "best",
    "bands",
    "high, best",
)


def benches(names: Sequence[str], seeds: int) -> Iterator[Bench]:
    for name in names:
        try:
            yield bench(name, seeds)
        except galaxies.Missing as missing:
            print(f"{name} is left out: {missing}")


# ---- tail and body


def parts(at: Bench, nfe: int, last: float) -> tuple[float, float, float]:
    """(body, tail, whole error), RMSE over the seeds, of Gaussian Adams with its last level at κ = ``last``."""
    task, std = at.task, policy.usual_std(at.task.schedule)
    first, _ = rule(at, nfe)
    spacing = spacings.NoiseShare(2.5 * std, 0.5)
    levels = spacing.between(task.schedule, nfe, first, last).tolist()
    points = Points(task.path, (*levels, 0.0))
    top = task.path.at(task.schedule.kappa_max)
    x = task.start[at.skip :] * (points[0].sigma / top.sigma)
    end = GaussianAdams().solve(points, Run(task.denoise), x)
    exact = task.denoise(exact_state(at, points, x), points[-2].sigma)
    true = at.end[at.skip :]
    return _size(end, exact), _size(exact, true), _size(end, true)


def exact_state(at: Bench, points: Points, x: Tensor) -> Tensor:
    """At the last level above 0: the same way in many steps."""
    spacing = spacings.NoiseShare(2.5 * policy.usual_std(at.task.schedule), 0.5)
    fine = spacing.between(at.task.schedule, FINE, points.kappas[0], points.kappas[-2]).tolist()
    return GaussianAdams().solve(Points(at.task.path, tuple(fine)), Run(at.task.denoise), x)


FINE = 60


def _size(a: Tensor, b: Tensor) -> float:
    return float(rmse(a.double(), b.double()).square().mean().sqrt())


def tail_rows(names: Sequence[str], nfes: Sequence[int], seeds: int) -> Iterator[list[str]]:
    for at in benches(names, seeds):
        std = policy.usual_std(at.task.schedule)
        for nfe in nfes:
            _, ruled = rule(at, nfe)
            for factor in (0.25, 0.5, 1.0, 2.0):
                last = max(ruled * factor, at.task.schedule.kappa_min)
                body, tail, whole = parts(at, nfe, last)
                name = "the rule's" if factor == 1 else f"{factor:g} of it"
                yield [
                    at.task.name,
                    str(nfe),
                    f"{last / std:.3g} ({name})",
                    f"{body:.4f}",
                    f"{tail:.4f}",
                    f"{whole:.4f}",
                ]


TAIL_COLUMNS = ("problem", "NFE", "last level ÷ s", "body", "tail", "whole")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--problems", nargs="+", default=PROBLEMS)
    parser.add_argument("--nfe", nargs="+", type=int, default=(4, 6, 8))
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument(
        "--tail",
        action="store_true",
        help="the two parts of the error in place of the table of ends",
    )
    parser.add_argument("--write", action="store_true", help="write docs/quality.md")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    what, columns, marks = (
        (tail_rows, TAIL_COLUMNS, TAIL_MARKS) if options.tail else (rows, COLUMNS, MARKS)
    )
    text = markdown_table(columns, list(what(options.problems, options.nfe, options.seeds)))
    print(text)
    if options.write:
        pages.write(pages.QUALITY, marks, text)


if __name__ == "__main__":
    main()
