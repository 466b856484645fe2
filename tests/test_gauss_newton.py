"""Equations of a fit that are used again after a step, and what a fit takes in memory."""

import numpy as np
import pytest
import torch
from forward_cases import normal, pictures, start, vectors

from sampling_kit.benchmarks.fit_memory import compare
from sampling_kit.schedulers.fit.forward import AGAIN, Forward, spread_of
from sampling_kit.schedulers.fit.gauss_newton import ends_off, measured
from sampling_kit.schedulers.fit.memory import fit_memory, fitted_numbers
from sampling_kit.schedulers.fit.run_fit import run_fit
from sampling_kit.schedulers.fit.table_numbers import moved, names
from sampling_kit.schedulers.solver import AdamsBashforth


def test_equations_agree_with_the_step_that_was_taken():
    """The secant condition, and nothing changes across the step."""
    problem, table, rows = vectors(), start(4), torch.arange(3)
    zero = np.zeros(len(names(table, 3)))
    equations = measured(problem, table, zero, rows, 3, 0.02)
    old, slopes, spread = equations.off, equations.slopes.clone(), spread_of(table, 3)
    step = 0.02 * normal(len(zero), seed=4).numpy()
    off = ends_off(problem, moved(table, 3, step), rows)
    equations.step_to(step, off, spread)
    reached = old + torch.einsum("p,pbn->bn", torch.from_numpy(step), equations.slopes)
    assert torch.allclose(reached, off, rtol=0, atol=1e-10)
    across = normal(len(zero), seed=5)
    inverse = torch.from_numpy(step / spread**2)
    across -= inverse * (across @ torch.from_numpy(step)) / (inverse @ torch.from_numpy(step))
    change = torch.einsum("p,pbn->bn", across, equations.slopes - slopes)
    weighted = float((across * inverse).sum())
    missed = off - old - torch.einsum("p,pbn->bn", torch.from_numpy(step), slopes)
    expected = missed * weighted / float(inverse @ torch.from_numpy(step))
    assert torch.allclose(change, expected, rtol=0, atol=1e-9)


def test_using_equations_again_gains_at_a_fraction_of_their_price():
    ends = {}
    for again in (0, 2):
        problem, table = pictures(start(60)), start(4, AdamsBashforth(2))
        settings = Forward(numbers=1, bands=0, images=6, budget=10**6, again=again)
        state = run_fit(problem, table, settings)
        ends[again] = state.after["rmse"], problem.evaluations, state.records
    (one, price, _), (more, spent, records) = ends[0], ends[2]
    assert more < 0.95 * one and spent < 2 * price, (
        "two moves, judged and shortened, for less than the first"
    )
    assert [r.kind for r in records][:2] == ["numbers", AGAIN]
    assert sum(r.kind == "numbers" for r in records) == 1


def test_a_fit_never_spends_more_than_its_budget():
    for budget in (500, 1500, 3000):
        problem = pictures(start(60))
        state = run_fit(problem, start(4), Forward(numbers=5, budget=budget))
        assert problem.evaluations <= budget and len(state.records) > (budget > 500)


@pytest.mark.full
def test_memory_is_what_the_formula_says():
    """Two sizes, each in a process of its own."""
    found = compare((64, 128), images=8, nfe=4)
    assert 0.75 < found["ratio"] < 1.25
    assert fitted_numbers(4) == len(names(start(4), 4))
    assert fit_memory(2, 10, 4, 8, 20, 4, 2).host == 2 * fit_memory(1, 10, 4, 8, 20, 4, 2).host
