"""A few seeds that end far off: starts are chosen with them in sight, and no fit is kept that is worse there than what it began with."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from forward_cases import normal

from sampling_kit.schedulers.fit import compare, ends, grid, starts
from sampling_kit.schedulers.fit.forward import Forward
from sampling_kit.schedulers.fit.problem import Problem, summary
from sampling_kit.schedulers.fit.run_fit import run_fit
from sampling_kit.schedulers.fit.safeguard import safest
from sampling_kit.schedulers.fit.strata import sample
from sampling_kit.schedulers.noise_schedule import EDM
from sampling_kit.schedulers.path import VE
from sampling_kit.schedulers.points import Points
from sampling_kit.schedulers.solver import AdamsBashforth, GaussianAdams
from sampling_kit.schedulers.solver.fitted import table_of

#: Rows that are like no other: two of those to fit and three of those that judge in the end, none of those held out.
RARE = (0, 33, 81, 95, 110)
TRAIN, HELD, JUDGES = torch.arange(40), torch.arange(40, 72), torch.arange(72, 136)


def forked(far=25.0):
    """Data around 0 in most rows, around a far mean in a few: those are decided at high noise, the others at low."""
    x = normal(136, 12) * 80
    mean = torch.zeros(136, 1).double()
    mean[list(RARE)] = far
    width = torch.logspace(-1.5, 0.0, 12).double()

    def field(y, sigma, rows):
        here = mean[rows] * (1 / (1 + (sigma / 12) ** 4))  # seen below σ = 12 only: a fork
        return here + (y - here) * width**2 / (width**2 + sigma**2)

    problem = Problem(VE(), field, 80.0, x, torch.zeros_like(x), TRAIN, HELD)
    problem.end = problem.run(fine(), torch.arange(136))
    problem.evaluations = 0
    return problem


def fine():
    """What ends where the teacher does."""
    return table_of(AdamsBashforth(2).plan(Points(VE(), (*np.geomspace(80.0, 0.01, 120), 0.0))))


def judged(problem, table):
    return summary(problem.errors(table, JUDGES))["rmse"]


def test_a_sample_stands_for_all():
    errors = torch.tensor([0.1] * 64 + [3.0, 5.0, 4.0, 0.1, 6.0, 0.1, 0.1, 0.1]).double()
    rows = torch.arange(100, 172)
    for size in (2, 8, 16, 72):
        some = sample(rows, errors, size)
        assert len(some.rows) == size == len(set(some.rows.tolist()))
        for first in {2, min(8, size), size}:
            assert some.weights(first).sum() == pytest.approx(72)
    some = sample(rows, errors, 16)
    assert set(some.rows[list(some.hard)].tolist()) == {164, 165, 166, 168}
    assert some.mark(errors[some.rows - 100]) == pytest.approx(ends.mark(errors), rel=1e-6)
    plain = ends.mark(errors[:16])
    assert plain < 0.25 * ends.mark(errors)  # what sixteen rows as they come would say
    assert sample(rows[:1], errors[:1], 16).weights(1).tolist() == [1]


def test_a_start_is_chosen_with_the_rare_seeds_in_sight(monkeypatch):
    """No row of the first sixteen held-out ones is rare."""
    problem = forked()
    few = {name: grid.FIXED[name] for name in ("karras 7", "noise share", "uniform λ")}
    monkeypatch.setattr(grid, "FIXED", few)
    monkeypatch.setattr(compare, "STARTS", (AdamsBashforth(2), GaussianAdams()))
    pairs = compare.training_free(
        problem, EDM(), 6, HELD[:16], compare.STARTS, few, keep=5, first=2, by=ends.mark
    )  # fmt: skip
    chosen = starts.best_starts(problem, EDM(), 6)
    least = min(judged(problem, pair.table) for pair in pairs)
    assert judged(problem, pairs[0].table) > 1.3 * least
    assert judged(problem, chosen.pair.table) < 1.1 * least


def test_a_fit_that_gives_up_rare_seeds_is_not_kept():
    problem = forked(80.0)
    levels = (80.0, 40.0, 25.0, 17.0, 12.0, 9.0, 6.0, 3.0, 1.2, 0.3, 0.0)
    start = table_of(AdamsBashforth(3).plan(Points(VE(), levels)))
    fit = run_fit(problem, start, Forward(numbers=2, bands=0, images=12, budget=10**6)).table
    before, after = judged(problem, start), judged(problem, fit)
    held = [summary(problem.errors(table, HELD))["rmse"] for table in (start, fit)]
    assert after > 1.5 * before and held[1] < 0.1 * held[0]  # what is guarded against
    kept = safest(problem, start, fit, {}).kept
    assert kept.name != "fit" and judged(problem, kept.table) <= 1.05 * before
    assert summary(problem.errors(kept.table, HELD))["median"] <= 1.01 * median(problem, start)
    assert safest(problem, start, fit, {"pair": fine()}).kept == ("pair", fine())
    problem.train = TRAIN[34:]  # without the rare ones nothing tells
    assert safest(problem, start, fit, {}).kept == ("fit", fit)


def test_the_last_look_runs_every_table_once():
    """What it says of the held-out trajectories is a part of what it ran, for the pair that is the start too."""
    problem = forked()
    start = table_of(AdamsBashforth(2).plan(Points(VE(), (80.0, 20.0, 5.0, 1.0, 0.2, 0.0))))
    problem.evaluations = 0
    look = safest(problem, start, fine(), {"pair": start})
    assert look.kept == ("fit", fine())
    assert problem.evaluations == 72 * (start.nfe + fine().nfe)
    for name, table in (("start", start), ("pair", start), ("fit", fine())):
        assert look.held[name] == pytest.approx(summary(problem.errors(table, HELD)))


def median(problem, table):
    return summary(problem.errors(table, HELD))["median"]
