"""Levels that rise, or start tiny: no solver errs more than twice as much as Euler there."""

import math
from functools import cache

import pytest
import torch

from sampling_kit.schedulers.noise_schedule import EDM, RectifiedFlowSchedule, ScaledLinearVP
from sampling_kit.schedulers.points import Points
from sampling_kit.schedulers.solver import ALL, Euler, GaussianAdams, Run, RungeKutta, UniPC
from sampling_kit.schedulers.solver.rising import ALLOWED, Trial
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


@pytest.mark.some(1)
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


@pytest.mark.parametrize("variant", ["exact", "bh2"])
def test_the_corrector_in_lambda_acts_while_it_helps(variant):
    """R grows with κ'/κ (the docstring of ``rising.py``): from somewhere between 2 and 100 nothing is corrected."""
    corrected = []
    for ratio in (2, 100):
        points = Points(EDM().path, (1e-4, 1e-4 * ratio, 2e-4 * ratio))
        rows = UniPC(1, variant).plan(points).stages
        corrected.append(any(len(row.d) > 1 for row in rows))
    assert corrected == [True, False]


def test_the_trial_follows_the_run_that_is_planned():
    """Its states are those of the plan on Gaussian data, and Euler's share is that of Euler's plan."""
    points = rising("vp", 8)
    trial = Trial(points)
    widths = torch.from_numpy(trial.widths)[None]
    deviation = lambda kappa: (widths**2 + kappa**2).sqrt()  # noqa: E731

    def denoise(x, sigma):
        p = points.path.host.on(sigma)
        return widths**2 / deviation(p.kappa) ** 2 * x / p.alpha

    def share(solver):
        start, end = (points.path.host.at(points.kappas[i]) for i in (0, -1))
        y = solver.solve(points, Run(denoise), start.alpha * deviation(start.kappa)) / end.alpha
        return (y / deviation(end.kappa) - 1).abs().max().item()

    assert share(Euler()) == pytest.approx(trial.euler[-1], rel=1e-9)
    assert 0 < share(UniPC(3, "exact")) <= ALLOWED * trial.euler[-1] * (1 + 1e-6)


def test_the_way_up_keeps_what_suits_the_data():
    """Orders that only other deviations would suffer from are kept: on the way up, of data of deviation 0.8."""
    points = Points(EDM().path, tuple(0.03 * (14.6 / 0.03) ** (i / 20) for i in range(21)))
    width = torch.full((1, 4), 0.8, dtype=torch.float64)

    def lost(solver):
        def denoise(x, sigma):
            return width**2 / (width**2 + sigma**2) * x

        start, end = ((width**2 + points.kappas[i] ** 2).sqrt() for i in (0, -1))
        return (solver.solve(points, Run(denoise), start) / end - 1).abs().max().item()

    euler = lost(Euler())
    assert lost(GaussianAdams(0.8)) < 1e-9
    assert lost(GaussianAdams()) < euler / 100
    assert lost(RungeKutta("heun", "lambda")) < euler / 2
