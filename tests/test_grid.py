"""Fitted steps: shortest paths against brute force, levels where the ODE bends, never worse than a fixed spacing."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
import torch
from contracts import starts_at_pure_noise

from sampling_kit.schedulers.denoiser import Mixture
from sampling_kit.schedulers.fit.grid import (
    Course,
    curvature,
    error_of,
    fit_steps,
    gits,
    jump_costs,
    oss,
    search,
    shortest,
    steps_for,
)
from sampling_kit.schedulers.fit.problem import rmse
from sampling_kit.schedulers.fit.trajectories import Origin, record
from sampling_kit.schedulers.noise_schedule import EDM, RectifiedFlowSchedule
from sampling_kit.schedulers.path import VE, Flow
from sampling_kit.schedulers.points import Points
from sampling_kit.schedulers.solver import (
    AMED,
    DDIM,
    DDPM,
    Adaptive,
    DPMSolverMultistep,
    HeunEDM,
)
from sampling_kit.schedulers.solver.run import Run
from sampling_kit.schedulers.spacing import UniformLambda, space

SHAPE = (1, 1, 4)
BEND, WIDTH = 0.7, 0.15  # κ, in log κ


def bending(x, sigma, rows):
    """D that depends on the noise level alone and changes around κ = BEND only."""
    gate = 1 / (1 + math.exp((math.log(sigma) - math.log(BEND)) / WIDTH)) if sigma > 0 else 1.0
    return gate * torch.tensor([1.0, -2.0, 0.5, 1.5], dtype=x.dtype).expand_as(x)


def narrow(path):
    """One Gaussian of deviation 0.05: the ODE bends around κ = 0.05, where no fixed spacing expects it."""
    model = Mixture(path, torch.zeros(1, *SHAPE).double(), torch.tensor([0.05]).double())
    return lambda x, sigma, rows: model(x, sigma)


def mixture(path):
    means = (
        torch.tensor([[1.0, 0, 0, 0], [-1.0, 1, 0, 0], [0, -1, 1.5, 0]]).double().reshape(3, *SHAPE)
    )
    model = Mixture(path, means, torch.full((3,), 0.2).double())
    return lambda x, sigma, rows: model(x, sigma)


def recorded(tmp_path, field, schedule=None, levels=24, count=12, train=6):
    schedule = schedule or EDM()
    path = schedule.path.host
    points = space(schedule, levels, UniformLambda()).on(path)
    top = path.at(points.kappas[0]).sigma
    teacher = DPMSolverMultistep(3)
    facts = dict(substeps=4, floor=schedule.kappa_min, dtype="float64")
    origin = Origin(path.name, points.kappas, SHAPE, 3, top, repr(teacher), **facts)
    found = record(tmp_path, origin, teacher, field, count)
    return found, found.problem(field, train, count - train, batch=16), schedule


@pytest.mark.parametrize("gamma", [0.8, 1.0, 1.3])
def test_shortest_path_is_the_best_of_all_paths(gamma):
    generator = np.random.default_rng(0)
    costs = np.where(np.triu(np.ones((8, 8)), 1) > 0, generator.random((8, 8)), np.inf)
    for jumps in range(1, 8):
        paths = [(0, *inner, 7) for inner in itertools.combinations(range(1, 7), jumps - 1)]
        price = lambda p: sum(  # noqa: E731
            gamma**k * costs[i, j] for k, (i, j) in enumerate(itertools.pairwise(p))
        )
        assert price(shortest(costs, jumps, gamma)) == pytest.approx(min(map(price, paths)))


def test_more_steps_than_levels_is_an_error():
    with pytest.raises(ValueError, match="9 steps: 8 recorded levels allow 1 to 7; record more"):
        shortest(np.zeros((8, 8)), 9)


def test_costs_are_those_of_ddim_runs(tmp_path):
    field = mixture(VE())
    found, task, _ = recorded(tmp_path, field, levels=7, count=10, train=9)
    course = Course(found, task.train)
    costs, kappas = jump_costs(course), course.kappas
    for i, j in ((0, 1), (0, 7), (2, 5), (6, 7)):
        plan = DDIM().plan(Points(VE(), (kappas[i], kappas[j])))
        end = plan.solve(Run(lambda x, s: field(x, s, None)), found.x(i, task.train))
        assert costs[i, j] == pytest.approx(
            float(rmse(end - found.x(j, task.train)).mean()), rel=1e-6
        )
    assert np.isinf(costs[3, 3]) and np.isinf(costs[4, 2])


def test_two_jumps_of_oss_are_the_best_two_for_every_image(tmp_path):
    field = mixture(VE())
    found, task, _ = recorded(tmp_path, field, levels=12, count=4, train=3)
    for row in task.train:
        course = Course(found, row[None])
        (kappas,) = oss(course, task, 2).values()
        runs = {k: Points(VE(), (course.kappas[0], k, 0.0)) for k in course.kappas[1:-1]}
        ends = {k: error_of(task, DDIM(), points, row[None]) for k, points in runs.items()}
        assert kappas[1] == min(ends, key=ends.get)


def test_levels_go_where_the_ode_bends(tmp_path):
    found, task, _ = recorded(tmp_path, bending, levels=60)
    course = Course(found, task.train)
    near = lambda k: abs(math.log(k / BEND)) < 6 * WIDTH  # noqa: E731
    uniform = [k for k in course.kappas[1:-1] if near(k)]
    assert len(uniform) < 0.25 * len(course.kappas)
    for kappas in (*curvature(course, 8).values(), *gits(course, 8).values()):
        assert len(kappas) == 9 and kappas[0] == course.kappas[0] and kappas[-1] == 0
        assert sum(map(near, kappas[1:-1])) >= 6
    even = curvature(course, 8, orders=(1,))["curvature 1/1"]
    first = [float(bending(torch.zeros(SHAPE), k, None)[0, 0, 0]) for k in even]
    assert max(b - a for a, b in itertools.pairwise(first)) < 1.15 / 8


def test_search_lowers_the_error_within_its_budget(tmp_path):
    _, task, schedule = recorded(tmp_path, narrow(VE()))
    points = space(schedule, 5, UniformLambda()).on(VE())
    before, spent = error_of(task, DDIM(), points, task.train), task.evaluations
    kappas = search(task, DDIM(), points, task.train, 1200, schedule.kappa_min)
    assert task.evaluations - spent <= 1200 + 2 * 5 * len(task.train)
    after = error_of(task, DDIM(), Points(VE(), tuple(kappas)), task.train)
    assert after < 0.5 * before
    assert (kappas[0], kappas[-1], len(kappas)) == (points.kappas[0], 0.0, 6)


@pytest.mark.some(3)
@pytest.mark.parametrize(
    "solver", [DDIM(), DPMSolverMultistep(), HeunEDM(), AMED()], ids=lambda s: s.title
)
@pytest.mark.parametrize("schedule", [EDM(), RectifiedFlowSchedule(3.0)], ids=["VE", "flow"])
def test_never_worse_than_the_best_fixed_spacing(solver, schedule, tmp_path):
    if schedule.path == Flow() and not starts_at_pure_noise(solver):
        pytest.skip("cannot start at pure noise")
    field = mixture(schedule.path.host)
    found, task, schedule = recorded(tmp_path, field, schedule)
    told = []
    result = fit_steps(
        task,
        found,
        solver,
        5,
        schedule,
        budget=600,
        samples=3,
        report=lambda name, error: told.append(error),
    )
    assert result.best.rmse <= result.best_fixed.rmse
    assert result.best.rmse == error_of(task, solver, result.best.points, task.held)
    assert solver.nfe(len(result.best.points) - 1) <= 5
    assert told[-1] == result.best.rmse
    assert any(c.fitted for c in result.candidates)
    assert json.dumps(result.payload(), allow_nan=False)
    assert result.best.name in result.text()


def test_a_fit_gains_where_the_ode_bends_and_says_so(tmp_path):
    found, task, schedule = recorded(tmp_path, narrow(VE()), levels=40)
    result = fit_steps(task, found, DDIM(), 6, schedule)
    assert result.best.fitted and result.best.rmse < 0.7 * result.best_fixed.rmse
    assert "times the error of" in result.text()


def test_without_methods_the_best_fixed_spacing(tmp_path):
    found, task, schedule = recorded(tmp_path, mixture(VE()), levels=8, count=3, train=1)
    result = fit_steps(task, found, DDIM(), 4, schedule, methods=())
    assert not result.best.fitted and "no fit was better" in result.text()
    assert result.evaluations == 4 * 2 * len(result.candidates)


def test_steps_that_evaluations_pay_for():
    assert [steps_for(HeunEDM(), n) for n in (1, 3, 4, 5)] == [1, 2, 2, 3]
    assert steps_for(DDIM(), 7) == 7


def test_errors_say_what_to_do(tmp_path):
    found, task, schedule = recorded(tmp_path, mixture(VE()), levels=8, count=3, train=1)
    with pytest.raises(ValueError, match="DDPM draws noise"):
        fit_steps(task, found, DDPM(), 4, schedule)
    with pytest.raises(ValueError, match="chooses its own steps"):
        fit_steps(task, found, Adaptive(), 4, schedule)
    with pytest.raises(ValueError, match="'magic' is none of gits, oss"):
        fit_steps(task, found, DDIM(), 4, schedule, methods=["magic"])


def test_a_new_spacing_is_tried(monkeypatch):
    from sampling_kit.schedulers import spacing as spacings
    from sampling_kit.schedulers.fit import grid

    monkeypatch.setitem(spacings.ALL, "my_spacing", spacings.Trailing)
    assert grid.fixed_spacings().keys() - grid.FIXED.keys() == {"my spacing"}
    assert set(grid.SETTINGS) <= set(spacings.ALL)
