"""What the multistep families' knobs do: coordinate, start, lower order at the end, correction."""

import math
import re

import numpy as np
import pytest
import torch
from scipy.integrate import quad

from sampling_kit.schedulers.path import VE, VP, Flow
from sampling_kit.schedulers.points import Points
from sampling_kit.schedulers.solver import (
    DDIM,
    DEIS,
    AdamsBashforth,
    DPMSolverMultistep,
    GaussianAdams,
    SASolver,
    UniPC,
)
from sampling_kit.schedulers.solver.run import Run

UNEVEN = (5.0, 3.0, 1.9, 1.0, 0.8, 0.3, 0.1)
COORDINATES = ("lambda", "log_sigma", "sigma")


def coordinate_of(name, path, kappa):
    sigma = path.host.at(kappa).sigma
    return {"lambda": -math.log(kappa), "log_sigma": -math.log(sigma), "sigma": sigma}[name]


@pytest.mark.some(12)
@pytest.mark.parametrize("path", [VP(), Flow()], ids=lambda p: p.name)
@pytest.mark.parametrize("name", COORDINATES)
@pytest.mark.parametrize(
    "family",
    [
        lambda c: UniPC(2, "exact", coordinate=c),
        lambda c: UniPC(3, "exact", coordinate=c),
        lambda c: SASolver(2, 2, 0.0, coordinate=c),
        lambda c: SASolver(3, 4, 0.0, pece=True, coordinate=c),
    ],
    ids=["unipc2", "unipc3", "sa22", "sa34 pece"],
)
def test_data_linear_in_the_coordinate_is_solved_exactly(family, name, path):
    """D = 1 + 2c: the first step is exact once it is corrected, all others as predicted."""
    points = Points(path, UNEVEN)
    p, q = points[0], points[-1]
    h = q.lam - p.lam
    data = lambda kappa: 1 + 2 * coordinate_of(name, path, kappa)  # noqa: E731
    moved, _ = quad(lambda u: math.exp(u - h) * data(p.kappa * math.exp(-u)), 0, h, epsabs=1e-13)
    x = torch.full((1, 1), 0.7, dtype=torch.float64)

    def error(coordinate):
        def denoise(x, sigma):
            return torch.full_like(x, data(path.on(sigma).kappa))

        end = family(coordinate).plan(points).solve(Run(denoise), x).item()
        return abs(end - (q.sigma / p.sigma * 0.7 + q.alpha * moved))

    assert error(name) < 1e-9
    same = ("lambda", "log_sigma") if path == VP() else ()  # its host's σ is κ
    for other in (*COORDINATES, "index"):
        assert other == name or {other, name} == set(same) or error(other) > 1e-5


@pytest.mark.parametrize("weights", ["bh1", "bh2"])
@pytest.mark.parametrize("name", COORDINATES)
def test_published_second_order_takes_its_ratio_in_the_coordinate(weights, name):
    """B/2 in place of E₁: −B/2r on the older node, r the ratio of the steps in the coordinate; E₀ in all."""
    points = Points(Flow(), UNEVEN)
    newest, older = UniPC(2, weights, False, coordinate=name)._weights(points, 2, [2, 1])
    h = points[3].lam - points[2].lam
    b = h if weights == "bh1" else -math.expm1(-h)
    past, now, then = (coordinate_of(name, Flow(), k) for k in UNEVEN[1:4])
    assert older == pytest.approx(-b / 2 * (then - now) / (now - past), rel=1e-12)
    assert newest + older == pytest.approx(-math.expm1(-h), rel=1e-12)


#: Families without a corrector, and how many predictions each of the six steps combines.
LOWERED = [
    (DPMSolverMultistep(3, lower_order_final=True), [1, 2, 3, 3, 2, 1]),
    (UniPC(4, "exact", False, lower_order_final=True), [1, 2, 3, 3, 2, 1]),
    (SASolver(3, 0, lower_order_final=True), [1, 2, 3, 3, 2, 1]),
    (DPMSolverMultistep(3), [1, 2, 3, 3, 3, 3]),
    (GaussianAdams(corrector=0), [1, 2, 3, 3, 3, 3]),
    (GaussianAdams(corrector=0, lower_order_final=True), [1, 2, 3, 3, 2, 1]),
]
#: And above a last step to 0, one step earlier.
EARLY = [
    DPMSolverMultistep(3, lower_order_early=True),
    UniPC(4, "exact", False, lower_order_early=True),
    SASolver(3, 0, 0.0, lower_order_early=True),
    DEIS(3, lower_order_early=True),
    GaussianAdams(corrector=0, lower_order_early=True),
]


@pytest.mark.parametrize(("solver", "used"), LOWERED, ids=repr)
def test_lower_order_final_combines_no_more_than_the_steps_left(solver, used):
    plan = solver.plan(Points(VP(), UNEVEN))
    assert [int(np.count_nonzero(stage.d)) for stage in plan.stages[1:]] == used


@pytest.mark.parametrize("solver", EARLY, ids=repr)
def test_lower_order_early_does_not_count_the_step_to_0(solver):
    """The last step above 0 then is DDIM's, Gaussian Adams' that of one value."""
    plan, whole = (solver.plan(Points(VP(), (*UNEVEN, *end))) for end in ((0.0,), ()))
    used = [int(np.count_nonzero(np.abs(stage.d) > 1e-12)) for stage in plan.stages[1:]]
    assert used == [1, 2, 3, 3, 2, 1, 1]
    alone = GaussianAdams(corrector=0) if isinstance(solver, GaussianAdams) else DDIM()
    single = alone.plan(Points(VP(), UNEVEN[-2:])).stages[-1]
    for last in (plan.stages[-2], whole.stages[-1]):
        assert (last.x[0], last.d[0]) == pytest.approx((single.x[0], single.d[0]), rel=1e-12)


@pytest.mark.parametrize("kind", [SASolver, GaussianAdams], ids=lambda kind: kind.__name__)
def test_a_corrector_is_lowered_with_its_predictor(kind):
    """Values in the last step above 0: the predictor's one and those that corrected the state before."""
    points = Points(VP(), (*UNEVEN, 0.0))
    still = dict(tau=0.0) if kind is SASolver else {}
    for name, most in (("", 4), ("lower_order_final", 4), ("lower_order_early", 2)):
        solver = kind(predictor=1, corrector=4, **still, **({name: True} if name else {}))
        used = np.abs(solver.plan(points).stages[-2].d) > 1e-12
        assert int(np.count_nonzero(used)) == most, name


def test_a_start_by_single_steps_takes_and_counts_the_same_order():
    points = Points(VP(), (*UNEVEN, 0.0))
    for solver, singles, stages in (
        (DPMSolverMultistep(3, "exact", start="single_step"), 2, 3),
        (UniPC(4, start="single_step"), 3, 4),
        (SASolver(3, 4, 0.0, start="single_step"), 2, 3),
        (SASolver(2, 2, 0.0, pece=True, start="single_step"), 1, 2),
        (DEIS(4, start="single_step"), 3, 4),
        (AdamsBashforth(4, "variable", start="single_step"), 3, 4),
    ):
        plan = solver.plan(points)
        per_step = [sum(s.evaluate and s.step == i for s in plan.stages) for i in range(7)]
        later = [2] if getattr(solver, "pece", False) else [1]  # no correction of a single step
        assert per_step == [stages] * singles + [1] + later * (6 - singles)
        assert sum(per_step) == plan.nfe == solver.nfe(7)


def test_from_pure_noise_the_start_follows_the_first_step():
    """λ = −∞ there: the step is DDIM's, one evaluation, and its prediction is no node in λ."""
    points = Points(VP(), (math.inf, *UNEVEN, 0.0))
    plan = DPMSolverMultistep(3, "exact", start="single_step").plan(points)
    per_step = [sum(s.evaluate and s.step == i for s in plan.stages) for i in range(8)]
    assert per_step == [1, 3, 3, 1, 1, 1, 1, 1]


@pytest.mark.parametrize(("family", "noise"), [(DPMSolverMultistep, "eta"), (SASolver, "tau")])
def test_a_start_by_single_steps_is_refused_with_noise(family, noise):
    with pytest.raises(
        ValueError, match=rf"{re.escape(family.title)}.*single_step.*without noise.*ramp"
    ):
        family(**{noise: 0.5}, start="single_step")


@pytest.mark.parametrize("path", [VP(), VE(), Flow()], ids=lambda p: p.name)
def test_stochastic_unipc_is_sa_solver_with_exact_weights(path):
    """UniPC's corrector has one value more than its predictor, and η is SA-Solver's τ²."""
    points = Points(path, tuple(np.geomspace(8.0, 0.1, 9)))
    for order, tau in ((2, 1.0), (3, 0.7), (5, 0.5)):
        uni = UniPC(order, "exact", eta=tau**2).plan(points)
        sa = SASolver(order, order + 1, tau).plan(points)
        assert uni.stochastic and len(uni.stages) == len(sa.stages)
        for a, b in zip(uni.stages, sa.stages, strict=True):
            assert (*a.x, *a.d, a.noise) == pytest.approx((*b.x, *b.d, b.noise), rel=1e-12)
