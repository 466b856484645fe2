"""The forward-only fit: its numbers and bands in exact cases, and that it gains."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from forward_cases import QUICK, normal, pictures, start, vectors

from sampling_kit.benchmarks import problems
from sampling_kit.schedulers.fit import bands, forward
from sampling_kit.schedulers.fit.ends import from_noise
from sampling_kit.schedulers.fit.forward import Forward
from sampling_kit.schedulers.fit.jacobian import each_column
from sampling_kit.schedulers.fit.problem import Problem
from sampling_kit.schedulers.fit.run_fit import run_fit
from sampling_kit.schedulers.fit.table_numbers import Name, mean_table, moved, names
from sampling_kit.schedulers.fit.track import tracked
from sampling_kit.schedulers.noise_schedule import EDM
from sampling_kit.schedulers.path import VE, VP, Flow, rescale
from sampling_kit.schedulers.points import Points
from sampling_kit.schedulers.solver import ALL, DDIM, AdamsBashforth, DPMSolverMultistep
from sampling_kit.schedulers.solver.band_mix import Mix, Spectra
from sampling_kit.schedulers.solver.fitted import table_of
from sampling_kit.schedulers.solver.selection import variants
from sampling_kit.schedulers.spacing import Karras, space

# ---- numbers


def test_the_start_is_the_solver_itself():
    problem = vectors()
    table = start()
    states = []
    run_fit(problem, table, dataclasses.replace(QUICK, numbers=0), states.append)
    assert [s.table for s in states] == [table]
    assert moved(table, 4, np.zeros(len(names(table, 4)))) == table
    assert states[0].before == states[0].after


def test_moved_levels_keep_ddim():
    """DDIM's numbers at other levels are DDIM's at those levels."""
    table = start(4, DDIM())
    change = np.array([0.3 if name.kind == "level" else 0.0 for name in names(table, 1)])
    found = moved(table, 1, change)
    kappas = (80.0, *(k * math.exp(0.3) for k in table.levels[1:]), 0.0)
    other = table_of(DDIM().plan(Points(VE(), kappas)))
    assert found.levels == pytest.approx(other.levels)
    assert found.x == pytest.approx(other.x, abs=1e-12)
    assert [row[0] for row in found.d] == pytest.approx([row[0] for row in other.d], abs=1e-12)


def test_levels_that_would_cross_are_no_table():
    table = start(4)
    change = [5.0 if name == Name("level", 2) else 0.0 for name in names(table, 2)]
    assert moved(table, 2, np.array(change)) is None


def columns(problem, table, change, rows, track, settings):
    """The Jacobian's columns in the order of their numbers."""
    made = each_column(problem, table, change, rows, track, settings.window, settings.probe)
    return [slope for _, slope in sorted(made, key=lambda pair: pair[0])]


def test_every_number_of_a_row_enters_where_it_says():
    """Columns of the Jacobian against whole runs, of a table told a first level below its start."""
    problem, table = vectors(), from_noise(start(4, top=40.0), 80.0)
    rows, window = torch.arange(3), 3
    course = tracked(problem, table, rows)
    assert torch.allclose(course.y[-1], problem.run(table, rows), rtol=0, atol=1e-12)
    zero = np.zeros(len(names(table, window)))
    settings = Forward(window=window, probe=1e-4)
    slopes = columns(problem, table, zero, rows, course, settings)
    for i, found in enumerate(slopes):
        step = zero.copy()
        step[i] = 1e-5
        ends = [problem.run(moved(table, window, sign * step), rows) for sign in (1, -1)]
        exact = (ends[0] - ends[1]) / 2e-5
        assert torch.allclose(found, exact, rtol=2e-3, atol=2e-3 * float(exact.abs().max()))


def test_perturbed_runs_share_their_calls():
    """As many as the problem's batch has room for, with the numbers of one at a time."""
    rows, settings, table = torch.arange(3), Forward(window=3), start(4)
    answers = []
    for batch in (3, 12):
        problem, calls = vectors(), []
        problem.batch, field = batch, problem.field
        problem.field = lambda x, s, r, f=field, c=calls: (c.append(r.tolist()), f(x, s, r))[1]
        course = tracked(problem, table, rows)
        zero = np.zeros(len(names(table, 3)))
        slopes = columns(problem, table, zero, rows, course, settings)
        answers.append((slopes, len(calls), problem.evaluations))
        assert all(call == rows.tolist() * (len(call) // 3) for call in calls)
        assert max(map(len, calls)) == batch
    (alone, many, spent), (together, few, same) = answers
    assert few < 0.6 * many and spent == same
    for a, b in zip(alone, together, strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-10 * float(a.abs().max()) / settings.probe)


def test_the_first_level_is_fitted_too():
    """Down, by as much as it gains; not above the start, and not where it is pure noise."""
    problem = vectors()
    state = run_fit(problem, start(3), QUICK)
    assert state.table.start == 80 and state.table.levels[0] < 60
    higher = [0.5 if name == Name("level", 0) else 0.0 for name in names(start(), 4)]
    assert moved(start(), 4, np.array(higher)) == start()
    noise = table_of(DPMSolverMultistep().plan(Points(Flow(), (math.inf, 4.0, 1.0, 0.0))))
    assert Name("level", 0) not in names(noise, 4) and Name("level", 1) in names(noise, 4)


def test_the_mean_of_two_fits():
    """Half of every change; of a table and itself the table; of fits that start apart an error."""
    a = from_noise(start(4, top=40.0), 80.0)
    change = 0.1 * normal(len(names(a, 4)), seed=2).numpy()
    b = moved(a, 4, change)
    found, half = mean_table(a, b), moved(a, 4, change / 2)
    assert found.levels == pytest.approx(half.levels) and found.x == pytest.approx(half.x)
    for row, wanted in zip(found.d, half.d, strict=True):
        assert row == pytest.approx(wanted, abs=1e-12)
    assert mean_table(a, a) == a
    eye = np.tile(np.eye(3), (1, 2, 1, 1))
    mixed = dataclasses.replace(a, mix=(Mix((0.0, 1.0), eye[:0], eye), None, None, None))
    assert np.array_equal(mean_table(a, mixed).mix[0].d, eye / 2)
    with pytest.raises(ValueError, match="different starts"):
        mean_table(a, start(4, top=40.0))


def test_a_larger_delta_lets_outliers_count():
    errors = np.array([0.1, 0.1, 0.1, 2.0])
    state = QUICK.begin(vectors(), start())
    state = dataclasses.replace(state, errors=errors)
    small, large = (forward.delta(state, Forward(huber=h)) for h in (1.0, 100.0))
    assert small == pytest.approx(0.1) and large == pytest.approx(10.0)
    share = lambda d: forward.score(errors[3:], d) / forward.score(errors, d) / 4  # noqa: E731
    assert share(small) < 0.96 < 0.99 < share(large)


def test_a_known_solver_is_found_again():
    """The ends are those of a table of the same levels with other weights: nothing remains."""
    true = start(4)
    wrong = moved(true, 2, np.array([0 if n.kind == "level" else 0.05 for n in names(true, 2)]))
    problem = vectors(teacher=true)
    state = run_fit(problem, wrong, dataclasses.replace(QUICK, numbers=8, window=2))
    assert state.after["rmse"] < 1e-3 * state.before["rmse"]


def test_the_last_row_is_exact_in_one_move():
    """A wrong weight of the last row enters linearly; nothing else is off."""
    true = start(3)
    d = [*true.d[:-1], (true.d[-1][0] + 0.2, 0.1)]
    problem = vectors(teacher=true)
    state = run_fit(
        problem, dataclasses.replace(true, d=tuple(d)), dataclasses.replace(QUICK, numbers=4)
    )
    assert state.after["rmse"] < 1e-2 * state.before["rmse"]


@pytest.mark.parametrize("path", [VP(), Flow()], ids=lambda p: p.name)
def test_the_path_does_not_matter(path):
    here, there = vectors(), vectors(path)
    c = rescale(VE().at(80.0), path)[1]
    there.start, there.end = here.start * c, here.end
    a, b = (run_fit(p, start(), dataclasses.replace(QUICK, numbers=2)) for p in (here, there))
    assert b.table.levels == pytest.approx(a.table.levels, rel=1e-5)
    assert b.table.x == pytest.approx(a.table.x, rel=1e-5, abs=1e-6)
    assert b.after["rmse"] == pytest.approx(a.after["rmse"], rel=1e-5)


@pytest.mark.some(5)
@pytest.mark.parametrize(
    "solver", [s for c in ALL if c.planned for s in variants(c)[:1] if not s.stochastic], ids=repr
)
def test_any_deterministic_solver_is_a_start(solver):
    problem = vectors(n=12)
    state = run_fit(problem, start(3, solver), dataclasses.replace(QUICK, numbers=1))
    assert state.after["rmse"] <= state.before["rmse"]


def hard_mixture(count=160):
    """The 192-dimensional mixture from σ = 80 down to 0.01."""
    denoise = problems.two_products(problems.mixture(VE()))
    x = 80.0 * normal(count, 192, seed=5)
    task = problems.Problem("mixture", VE(), EDM(sigma_min=0.01), denoise, x)
    rows = torch.arange(count)
    field = lambda x, s, rows: denoise(x, s)  # noqa: E731
    return Problem(VE(), field, 80.0, x, task.finer_run(60), rows[:64], rows[64:96], batch=500)


def near(problem, table, rows):
    """The share of runs that end within 10 % of the exact end."""
    exact = problem.end[rows]
    return float(
        (problem.errors(table, rows) < 0.1 * exact.square().mean(1).sqrt()).double().mean()
    )


def test_on_the_mixture_it_beats_dpm_solver():
    problem = hard_mixture()
    table = table_of(DPMSolverMultistep().plan(space(EDM(sigma_min=0.01), 5, Karras(7.0)).on(VE())))
    problem.evaluations = 96 * 20  # as if by a teacher of 20 evaluations
    state = run_fit(problem, table, Forward(numbers=12))
    others = torch.arange(96, 160)
    assert near(problem, table, others) <= 0.05
    assert near(problem, state.table, others) >= 0.6
    assert state.evaluations <= 10_000


# ---- bands


def test_spectra_products_are_those_of_pixels():
    """Parseval: summed over all rings, the products are the inner products of the pictures."""
    for shape in ((2, 3, 6, 8), (2, 3, 2, 5, 7)):
        x = normal(*shape)
        rings = bands.Rings.of(*shape[-2:])
        found = rings.products(rings.spectrum(x)).sum(0)
        flat = x.transpose(0, 1).flatten(1)
        assert np.allclose(found, (flat @ flat.T).numpy(), atol=1e-12)


def test_the_answer_to_a_filter_is_the_filter():
    m = normal(1, 5, 3, 3, seed=2).numpy()
    x = normal(4, 3, 16, 16)
    y = Mix(bands.KNOTS, np.zeros((0, 5, 3, 3)), m).apply([], [x], Spectra())
    rings = bands.Rings.of(16, 16)
    products = rings.products(torch.cat([rings.spectrum(x), rings.spectrum(y)]))
    found = bands.answer(rings, products, 3)
    expected = np.einsum("rb,bij->rij", rings.bands, m[0])
    assert np.abs(found - expected).max() < 0.05 * np.abs(expected).max()  # rings are not points


def test_bands_of_the_last_row_are_found_again():
    """Ends of a table whose last row has bands: one move finds them, since the end is linear in them."""
    true = start(3)
    d = 0.1 * normal(2, 5, 3, 3, seed=4).numpy()
    mixed = dataclasses.replace(true, mix=(None, None, Mix(bands.KNOTS, np.zeros((0, 5, 3, 3)), d)))
    problem = pictures(mixed)
    state = run_fit(problem, true, Forward(numbers=0, bands=3, images=4))
    assert state.after["rmse"] < 0.1 * state.before["rmse"]


def test_bands_gain_where_frequencies_differ():
    """Against the exact solution: what numbers alone reach, bands go below."""
    problem = pictures(start(60))
    table = start(4, AdamsBashforth(max_order=2, weights="constant"))
    plain = run_fit(problem, table, Forward(numbers=4, bands=0, images=6, budget=10**6))
    problem.evaluations = 0
    both = run_fit(problem, table, Forward(numbers=4, bands=2, images=6, budget=10**6))
    assert both.records[: len(plain.records)] == plain.records
    assert both.after["rmse"] < 0.7 * plain.after["rmse"]
    assert any(both.table.mix)
