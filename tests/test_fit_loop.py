"""The loop of a forward fit: its budget, its stops and starts, what it refuses."""

import dataclasses
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from forward_cases import QUICK, normal, pictures, start, vectors

from sampling_kit.schedulers.fit import bands, forward
from sampling_kit.schedulers.fit.forward import Forward
from sampling_kit.schedulers.fit.run_fit import LEAST_JUDGES, run_fit
from sampling_kit.schedulers.fit.table_numbers import moved
from sampling_kit.schedulers.path import Flow
from sampling_kit.schedulers.solver.fitted import FittedSolver

# ---- the loop


def by_jacobian(state):
    """The moves with equations of their own, after each of which a state is kept."""
    return [r.kind for r in state.records if r.kind != forward.AGAIN]


def test_it_never_loses_and_reports_what_it_did():
    problem = vectors()
    seen = []
    state = run_fit(problem, start(), QUICK, progress=seen.append)
    assert seen[-1] is state and len(seen) == 1 + len(by_jacobian(state))
    errors = [s.after["rmse"] for s in seen]
    assert max(errors) == errors[0]
    assert state.evaluations == problem.evaluations == state.records[-1].evaluations
    found = problem.errors(state.table, problem.held)
    assert np.allclose(found, state.errors, atol=1e-12)


def test_a_perfect_start_stays_and_stops_early():
    problem = vectors(teacher=start())
    state = run_fit(problem, start(), dataclasses.replace(QUICK, numbers=20))
    assert state.table == start() and len(by_jacobian(state)) == 3


def test_the_budget_is_kept():
    for budget in (700, 1500, 3000):
        problem = vectors()
        state = run_fit(problem, start(), dataclasses.replace(QUICK, numbers=9, budget=budget))
        assert state.evaluations <= max(budget, 40)
        assert problem.evaluations == state.evaluations


def test_images_are_those_that_the_budget_pays_for():
    for budget, again in ((2000, 0), (4000, 0), (8000, 2)):  # equations used again may save some
        problem = vectors(n=90)
        state = run_fit(problem, start(), Forward(numbers=2, budget=budget, again=again))
        least = 0.7 if again else 0.85
        assert len(by_jacobian(state)) == 2 and least * budget < state.evaluations <= budget
    problem = vectors(n=90)
    few = Forward(numbers=2, budget=100)
    assert forward.affordable(problem, few.begin(problem, start()), few) == forward.LEAST


def test_a_large_budget_pays_for_all_trajectories_and_no_more():
    """At two evaluations per run 10 000 pay for thousands: more than the setting allows."""
    problem = vectors()
    settings = Forward(numbers=1, bands=0)
    begun = settings.begin(problem, start(2))
    assert forward.affordable(problem, begun, settings) == len(problem.train)
    state = run_fit(problem, start(2), Forward(numbers=1, bands=0, budget=10**7))
    assert state.after["rmse"] < state.before["rmse"]


def test_cost_is_what_a_move_costs():
    for kind, problem in (("numbers", vectors()), ("bands", pictures(start(40)))):
        for again in (0, 2):
            problem.evaluations = 0
            settings = dataclasses.replace(QUICK, images=3, again=again)
            state = settings.begin(problem, start())
            expected = forward.cost(kind, problem, state.table, settings)
            after = forward.MOVES[kind](problem, state, settings)
            spent, whole = problem.evaluations - state.evaluations, kind == "bands" or not again
            # less where using the equations again gained nothing, more where a move is shortened
            k, held = state.table.nfe, len(problem.held)
            more = len(after.records) * k * (held + max(held // 3, LEAST_JUDGES))
            assert spent <= expected + more
            assert spent >= expected if whole else len(after.records) > 1


def test_a_move_that_goes_too_far_goes_half_of_its_way_or_a_quarter():
    """Numbers and bands; not where the budget has nothing left for it, and where no part gains it is given up."""
    problem, settings = pictures(start(40)), replace(QUICK, budget=10**6)
    begun = settings.begin(problem, start())
    good = forward.move_numbers(problem, begun, replace(settings, again=0))
    assert good.records[-1].taken
    for times, part in ((2.6, 0.5), (5.0, 0.25), (-2.0, None)):
        change = times * good.change
        table = moved(begun.start, settings.window, change)
        after = forward.judged(problem, begun, [(1.0, table, change)], settings, "numbers")
        assert after.records[-1].taken == (part is not None)
        if part:
            assert np.allclose(after.change, part * change) and after.table != table
            assert after.after["rmse"] < begun.after["rmse"]
            assert after.table == moved(begun.start, settings.window, part * change)
    few = replace(settings, budget=1)
    far = moved(begun.start, settings.window, 2.6 * good.change), 2.6 * good.change
    assert not forward.judged(problem, begun, [(1.0, *far)], few, "numbers").records[-1].taken
    mixed = forward.move_bands(problem, good, settings)
    assert mixed.records[-1].taken
    double = replace(
        mixed.table, mix=tuple(m and replace(m, x=2.6 * m.x, d=2.6 * m.d) for m in mixed.table.mix)
    )
    after = forward.judged(problem, good, [(1.0, double, good.change)], settings, "bands")
    assert after.records[-1].taken and after.table.mix[-1] != double.mix[-1]


class Stopped(Exception):
    pass


@pytest.mark.some(2)
@pytest.mark.parametrize("kept", [1, 2, 4])  # moves
def test_a_stopped_fit_goes_on_bit_for_bit(kept, tmp_path):
    settings = Forward(numbers=3, bands=2, images=4, budget=10**6)
    make = lambda: pictures(start(40))  # noqa: E731
    whole = run_fit(make(), start(4), settings)
    file = tmp_path / "state.safetensors"

    def progress(state):
        forward.save(file, state)
        if len(by_jacobian(state)) == kept:
            raise Stopped

    with pytest.raises(Stopped):
        run_fit(make(), start(4), settings, progress)
    state = forward.load(file)
    assert len(by_jacobian(state)) == kept
    again = run_fit(make(), start(4), settings, state=state)
    assert again.table == whole.table and again.records == whole.records
    assert np.array_equal(again.errors, whole.errors)


def test_a_move_that_failed_is_kept_and_read(tmp_path):
    """Its error is infinite, which JSON has no number for."""
    state = Forward().begin(pictures(start(40)), start(4))
    failed = forward.MoveRecord("numbers", 9, np.inf, np.inf, 0.1, False)
    forward.save(tmp_path / "state", replace(state, records=(failed,)))
    assert forward.load(tmp_path / "state").records == (failed,)


def test_it_stops_in_the_middle_of_a_move():
    calls = 0

    def check():
        nonlocal calls
        calls += 1
        if calls > 20:
            raise Stopped

    problem = vectors()
    problem.check = check
    with pytest.raises(Stopped):
        run_fit(problem, start(), QUICK)
    assert calls == 21


def test_it_is_the_same_twice_and_in_any_batches():
    tables = []
    for batch in (64, 64, 5):
        problem = vectors()
        problem.batch = batch
        tables.append(run_fit(problem, start(), dataclasses.replace(QUICK, numbers=2)).table)
    assert tables[0] == tables[1]
    assert tables[2].x == pytest.approx(tables[0].x, rel=1e-6, abs=1e-9)


def test_a_start_that_fails_is_refused():
    problem = vectors()
    problem.field = lambda x, s, rows: x * math.nan
    with pytest.raises(ValueError, match="from another solver"):
        run_fit(problem, start(), QUICK)


def test_a_candidate_that_fails_is_passed_over():
    """A field that breaks beyond its range: the fit keeps what works."""
    problem = vectors()
    field, limit = problem.field, 1.05 * float(problem.start.abs().max())
    problem.field = lambda x, s, rows: field(x, s, rows) if x.abs().max() < limit else x * math.nan
    wild = dataclasses.replace(QUICK, probe=0.4)
    state = run_fit(problem, start(), wild)
    assert math.isfinite(state.after["rmse"]) and np.isfinite(state.matrix).all()


def test_one_outlier_does_not_rule():
    """A held-out end that no solver reaches must not keep the others from gaining."""
    problem = vectors()
    problem.end = problem.end.clone()
    problem.end[[2, 20]] += 30.0
    state = run_fit(problem, start(), QUICK)
    assert state.after["median"] < 0.5 * state.before["median"]


def test_video_latents():
    problem = pictures(start(40))
    video = lambda x: x.reshape(-1, 3, 2, 4, 8)  # noqa: E731
    flat = problem.field
    problem.field = lambda x, s, rows: video(flat(x.reshape(-1, 3, 8, 8), s, rows))
    problem.start, problem.end = video(problem.start), video(problem.end)
    state = run_fit(problem, start(3), Forward(numbers=1, bands=1, images=4))
    assert by_jacobian(state) == ["numbers", "bands"]
    assert state.after["rmse"] < state.before["rmse"]
    fitted = FittedSolver(state.table)
    assert fitted.plan(fitted.points(Flow())).nfe == 3


def test_many_channels_are_not_mixed():
    rings, c = bands.Rings.of(4, 4), bands.MIXED + 2
    x = [normal(3, c, 4, 4, seed=s) for s in range(3)]
    products = rings.products(torch.cat([rings.spectrum(t) for t in x]))
    eye = [np.broadcast_to(np.eye(c), (len(products), c, c))] * 2
    for rows in bands.band_equations(rings, products, eye, 2).solve(1e-3):
        assert rows.shape[1:] == (5, c, c)
        assert not (rows * (1 - np.eye(c))).any() and rows.any()
