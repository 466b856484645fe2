"""Where a run begins and ends: levels, starts from noise, the search."""

import numpy as np
import pytest
import torch

from sampling_kit.schedulers.denoiser.analytic import Gaussian
from sampling_kit.schedulers.fit import ends
from sampling_kit.schedulers.fit.ends import Ends
from sampling_kit.schedulers.fit.problem import Problem
from sampling_kit.schedulers.path import VE, VP, Flow
from sampling_kit.schedulers.points import Points
from sampling_kit.schedulers.solver import AdamsBashforth
from sampling_kit.schedulers.solver.fitted import table_of


def problem(path=None):
    """Gaussian data of many sizes, of which a run from 80 sees nothing above 5; ends by a fine run."""
    path = path or VE()
    oracle = Gaussian(path, torch.zeros(8).double(), torch.logspace(-1, 0.5, 8).double())
    x = torch.randn(16, 8, generator=torch.Generator().manual_seed(0)).double()
    x = x * path.at(80.0).sigma
    rows = torch.arange(16)
    task = Problem(
        path, lambda y, s, r: oracle(y, s), 80.0, x, torch.zeros_like(x), rows[:8], rows[8:]
    )
    fine = ends.table(task, AdamsBashforth(2), 200, Ends(80.0, 0.003))
    task.end, task.evaluations = task.run(fine, rows), 0
    return task


@pytest.mark.parametrize("power", [0.0, 0.1, 0.5])
def test_levels_are_at_equal_steps_of_their_power(power):
    found = np.array(Ends(40.0, 0.1, power).levels(7))
    assert found[[0, -1]] == pytest.approx([40.0, 0.1])
    steps = np.diff(found**power if power else np.log(found))
    assert steps == pytest.approx(steps[0])


@pytest.mark.some(1)
@pytest.mark.parametrize("path", [VE(), VP(), Flow()], ids=lambda p: p.name)
def test_a_lower_start_takes_x_as_noise(path):
    """From 80 with the table = from 20 with the same noise scaled to 20."""
    task = problem(path)
    plain = table_of(AdamsBashforth(2).plan(Points(path, (20.0, 2.0, 0.2, 0.0))))
    low = Problem(
        path, task.field, 20.0, task.start / path.at(80.0).sigma * path.at(20.0).sigma, task.end,
        task.train, task.held,
    )  # fmt: skip
    found = task.run(ends.from_noise(plain, 80.0), task.held)
    torch.testing.assert_close(found, low.run(plain, task.held), rtol=1e-9, atol=1e-9)


def test_the_search_finds_better_ends():
    task, solver = problem(), AdamsBashforth(2)
    found = list(ends.search(task, solver, 5, Ends(80.0, 0.002), task.train))
    marks = [entry[0] for entry in found]
    assert marks == sorted(marks, reverse=True) and marks[-1] < 0.5 * marks[0]
    assert ends.mark(task.errors(found[-1][2], task.train)) == pytest.approx(marks[-1])
    assert found[0][2] == ends.table(task, solver, 5, Ends(80.0, 0.002))
    assert all(entry[1].high <= 80 for entry in found)


def test_the_search_keeps_to_its_runs():
    task = problem()
    list(ends.search(task, AdamsBashforth(2), 4, Ends(40.0, 0.05), task.train, most=5))
    assert task.evaluations <= 5 * 4 * len(task.train)


def test_a_run_cannot_begin_above_its_start():
    with pytest.raises(ValueError, match="start at σ/α = 80, below 100"):
        ends.table(problem(), AdamsBashforth(2), 4, Ends(100.0, 0.1))
