"""Which of its candidates a fit keeps: held-out trajectories made so that each rule is needed."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from sampling_kit.schedulers.denoiser.analytic import Gaussian
from sampling_kit.schedulers.fit import forward
from sampling_kit.schedulers.fit.amed_fit import Amed
from sampling_kit.schedulers.fit.compare import training_free
from sampling_kit.schedulers.fit.forward import Forward
from sampling_kit.schedulers.fit.gradient import Gradient
from sampling_kit.schedulers.fit.problem import Problem
from sampling_kit.schedulers.fit.run_fit import run_fit
from sampling_kit.schedulers.noise_schedule import EDM
from sampling_kit.schedulers.path import VE
from sampling_kit.schedulers.points import Points
from sampling_kit.schedulers.solver import DDIM, AdamsBashforth, DPMSolverMultistep
from sampling_kit.schedulers.solver.fitted import table_of

TOP = 80.0
TRAIN, HELD = torch.arange(16), torch.arange(16, 24)
START = table_of(DPMSolverMultistep().plan(Points(VE(), (*np.geomspace(TOP, 0.05, 4), 0.0))))


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def problem(shape=(12,)):
    """Gaussian data of many sizes, exact ends."""
    std = torch.logspace(-1.5, 0.5, shape[-1]).double()
    oracle = Gaussian(VE(), normal(*shape, seed=3), std)

    def field(x, sigma, rows):
        return oracle(x, sigma)

    x = normal(24, *shape) * TOP
    ends = oracle.transport(x, (1.0, TOP), (1.0, 0.0))
    return Problem(VE(), field, TOP, x, ends, TRAIN, HELD)


def with_outlier(task, others, outlier):
    """The held-out ends put at start + share·(exact − start): the last one's share is ``outlier``."""
    landed = task.run(START, HELD)
    share = torch.full((len(HELD),), others).double()
    share[-1] = outlier
    ends = task.end.clone()
    ends[HELD] = landed + share.reshape(-1, *(1,) * (landed.ndim - 1)) * (ends[HELD] - landed)
    return replace(task, end=ends, evaluations=0)


def not_worse(state):
    """In RMSE and in median."""
    return all(state.after[k] <= state.before[k] for k in ("rmse", "median"))


def tempted(state, gains, loses):
    """Whether some move that was not taken is better in one measure and worse in the other."""
    return any(
        getattr(r, gains) < state.before[gains] and getattr(r, loses) > state.before[loses]
        for r in state.records
        if not r.taken
    )


def test_forward_is_never_worse_than_its_start_even_if_most_images_gain():
    """One end lies far behind the start: what brings seven images nearer takes the RMSE up."""
    task = with_outlier(problem(), 1.0, -100.0)
    state = run_fit(task, START, Forward(numbers=3, bands=0, images=16, budget=10**6))
    assert tempted(state, "median", "rmse")
    assert state.after["rmse"] <= state.before["rmse"]


def test_forward_gains_where_it_may():
    """The same without the outlier, so that the test above does not pass by standing still."""
    state = run_fit(problem(), START, Forward(numbers=3, bands=0, images=16, budget=10**6))
    assert state.after["rmse"] < 0.8 * state.before["rmse"]


@pytest.mark.parametrize(
    ("others", "outlier", "gains", "loses"),
    [(-0.02, 100.0, "rmse", "median"), (1.0, -100.0, "median", "rmse")],
    ids=["most images lose", "the RMSE loses"],
)
def test_gradient_is_never_worse_than_its_start_in_rmse_and_in_median(
    others, outlier, gains, loses
):
    task = with_outlier(problem(), others, outlier)
    settings = Gradient(iterations=20, batch=16, every=5, level_rate=0.02, weight_rate=0.01)
    state = run_fit(task, START, settings)
    assert tempted(state, gains, loses)
    assert not_worse(state)


@pytest.mark.parametrize(("scale", "shape"), [(0.05, 1.0), (1.0, 1.0), (0.3, 0.5), (0.3, 0.0)])
def test_weights_of_the_least_squares_are_those_of_the_loss(scale, shape):
    """Σ ρ(e) and ½Σ w·e² have the same slope: w = ρ'(e)/e; ρ is pseudo-Huber at shape 1 and Cauchy at 0."""
    errors = torch.tensor([1e-3, 0.05, 0.3, 2.0, 40.0]).double().requires_grad_()
    square = (errors / scale) ** 2
    kinds = {
        1.0: (1 + square).sqrt() - 1,
        0.5: 3 * ((1 + square / 1.5) ** 0.25 - 1),
        0.0: (1 + square / 2).log(),
    }
    loss = scale**2 * kinds[shape]
    (slope,) = torch.autograd.grad(loss.sum(), errors)
    expected = (slope / errors).detach()
    assert torch.allclose(forward.trusted(errors.detach(), scale, shape), expected, rtol=1e-9)
    mean = float(loss.mean().detach()) / scale**2
    assert forward.score(errors.detach().numpy(), scale, shape) == pytest.approx(mean, rel=1e-9)


def test_a_fit_by_logarithms_leaves_outliers_alone():
    """Three of the fitted ends lie on the other side of the start's: with the Cauchy loss the held-out ones come nearer."""
    task = problem()
    landed, ends = task.run(START, TRAIN[:3]), task.end.clone()
    ends[:3] = landed - 3 * (ends[:3] - landed)
    task = replace(task, end=ends, evaluations=0)
    plain = Forward(numbers=2, bands=0, images=16, budget=10**6, again=0)
    alike = replace(plain, huber=0.5, shape=0.0)
    errors = [run_fit(task, START, way).after["median"] for way in (plain, alike)]
    assert errors[1] < 0.8 * errors[0]
    assert repr(plain) == repr(replace(plain, shape=0.5))  # kept fits are found again


def test_the_best_pair_survives_a_first_round_that_misleads():
    """Four rows end where the third-best pair's run does: it wins the first round, and only that."""
    task, solvers = problem(), [DDIM(), AdamsBashforth(2)]
    rows = torch.cat([HELD[:4], TRAIN])
    third = training_free(task, EDM(), 5, rows, solvers, first=len(rows))[2]
    ends = task.end.clone()
    ends[HELD[:4]] = task.run(third.table, HELD[:4])
    task = replace(task, end=ends)
    found = training_free(task, EDM(), 5, rows, solvers)
    whole = training_free(task, EDM(), 5, rows, solvers, first=len(rows))
    first = training_free(task, EDM(), 5, HELD[:4], solvers)
    assert first[0].name == third.name
    assert (found[0].name, found[0].points) == (whole[0].name, whole[0].points)
    assert found[0].name != third.name
    assert 12 <= len(found) < len(whole)


@pytest.mark.parametrize(
    "way",
    [
        Forward(numbers=3, bands=0, images=8, budget=10**6),
        Gradient(iterations=12, batch=8, every=3, level_rate=0.02, weight_rate=0.01),
        Amed(iterations=12, batch=8, every=3, rounds=0),
    ],
    ids=lambda way: way.title,
)
def test_a_fit_that_was_stopped_goes_on_from_its_file(way, tmp_path):
    """Any way to fit, bit for bit, without doing anything twice; and what it spent is counted."""
    file, states = tmp_path / "state.safetensors", []

    def stop(state):
        states.append(state)
        if len(states) == 3:
            raise KeyboardInterrupt

    whole, parts = problem(), problem()
    seen, after = [], []
    expected = run_fit(whole, START, way, seen.append)
    with pytest.raises(KeyboardInterrupt):
        run_fit(parts, START, way, stop, file=file)
    end = run_fit(problem(), START, way, after.append, file=file)
    assert end.table == expected.table and end.records == expected.records
    assert len(states) + len(after) == len(seen) > 3
    assert after[-1].table == seen[-1].table
    assert whole.evaluations >= seen[-1].evaluations > seen[0].evaluations
