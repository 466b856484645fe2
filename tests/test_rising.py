"""Levels that rise, or start tiny: no solver errs more than twice as much as Euler there."""

import math
from functools import cache

import pytest
import torch

from sampling_kit.schedulers.noise_schedule import EDM, RectifiedFlowSchedule, ScaledLinearVP
from sampling_kit.schedulers.points import Points
from sampling_kit.schedulers.solver import ALL, Euler, Run, UniPC
from sampling_kit.schedulers.solver.rising import Trial
from sampling_kit.schedulers.solver.selection import variants
from sampling_kit.schedulers.spacing import Karras, Trailing, space

#: Deviations of the data in each direction, small ones included: latents have them.
WIDTHS = torch.logspace(-2, 0.3, 24, dtype=torch.float64)[None]
SCHEDULES = {
    "edm": (EDM(), Karras()),
    "vp": (ScaledLinearVP(), Trailing()),
    "flow": (RectifiedFlowSchedule(), Trailing()),
}


@cache
def rising(name, steps):
    """The schedule's levels turned round as FlipSigmas does: 1e-4 for 0, and no pure noise."""
    schedule, spacing = SCHEDULES[name]
    up = space(schedule, steps, spacing).kappas[::-1]
    host = schedule.path.host
    end = up[-1] if math.isfinite(up[-1]) else host.on((1 + host.at(up[-2]).sigma) / 2).kappa
    return Points(schedule.path, (host.on(1e-4).kappa, *up[1:-1], end))


def error(solver, points):
    """Root mean square over the directions, relative to the state there."""
    host = points.path.host

    def denoise(x, sigma):
        p = host.on(sigma)
        return 0.3 + WIDTHS**2 / (WIDTHS**2 + p.kappa**2) * (x / p.alpha - 0.3)

    def exact(kappa):
        return host.at(kappa).alpha * (0.3 + (WIDTHS**2 + kappa**2).sqrt())

    start, end = points.kappas[0], points.kappas[-1]
    x = solver.solve(points, Run(denoise), exact(start))
    size = host.at(end).alpha * (WIDTHS**2 + end**2).sqrt()
    return float(((x - exact(end)) / size).square().mean().sqrt())


@pytest.mark.parametrize("steps", [8, 10, 20, 50])
@pytest.mark.parametrize("name", list(SCHEDULES))
def test_no_deterministic_solver_errs_more_than_twice_as_much_as_euler(name, steps):
    points = rising(name, steps)
    solvers = [s for kind in ALL if kind.planned for s in variants(kind) if not s.stochastic]
    assert len(solvers) > 90
    euler = error(Euler(), points)
    worse = {repr(s): e / euler for s in solvers if not (e := error(s, points)) <= 2 * euler}
    assert worse == {}


def test_a_fine_rising_run_keeps_its_order():
    """Once the steps are short nothing is lowered: the error falls as h³ (UniPC of order 2, corrected: 2 to 3)."""
    runs = [
        Points(EDM().path, tuple(0.1 * 1.5 ** (i * 8 / n) for i in range(n + 1)))
        for n in (16, 32, 64)
    ]
    errors = [error(UniPC(3, "exact"), points) for points in runs]
    assert errors[0] / errors[1] > 5 and errors[1] / errors[2] > 5


@pytest.mark.parametrize(
    ("variant", "ratio", "corrected"),
    [("exact", 3.7, True), ("exact", 4.0, False), ("bh2", 2.9, True), ("bh2", 3.5, False)],
)
def test_the_corrector_in_lambda_acts_while_it_helps(variant, ratio, corrected):
    """R < 3, in the docstring of ``rising.py``: with two values the corrector is bh2's or E₁'s."""
    a = math.log(ratio)
    excess = {"exact": 2 * ((ratio - 1) / a - 1) * ratio / (ratio - 1), "bh2": ratio}
    assert (excess[variant] < 3) is corrected
    points = Points(EDM().path, (1e-4, 1e-4 * ratio, 2e-4 * ratio))
    rows = UniPC(1, variant).plan(points).stages
    assert any(len(row.d) > 1 for row in rows) is corrected


def test_euler_s_error_is_the_formula_s():
    trial = Trial(Points(EDM().path, (0.1, 0.4)), 0)
    x, d = trial.value(trial.state(0)), trial.value(trial.prediction(0))
    euler = x + (0.4 - 0.1) / 0.1 * (x - d)
    error = trial.deviation(0.4) - euler
    assert trial.holds(euler - 0.99 * error) and not trial.holds(euler - 1.01 * error)
    assert (error > 0).all()
