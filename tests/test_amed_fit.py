"""AMED's predictors, tables and solver, and EPD's directions, on analytic denoisers."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from sampling_kit.schedulers.denoiser import Mixture
from sampling_kit.schedulers.fit.amed_fit import Amed, interval_loss, train
from sampling_kit.schedulers.fit.amed_predictors import Bottleneck, Constants, FeaturePredictor
from sampling_kit.schedulers.fit.learned_amed import (
    LearnedAMED,
    amed_table,
    directions_table,
    plugin_plan,
)
from sampling_kit.schedulers.fit.problem import Problem, rmse
from sampling_kit.schedulers.fit.run_fit import run_fit
from sampling_kit.schedulers.noise import PerImageNoise
from sampling_kit.schedulers.path import VE, VP
from sampling_kit.schedulers.points import Points
from sampling_kit.schedulers.solver import AMED, AdamsBashforth, DPMSolver, DPMSolverMultistep
from sampling_kit.schedulers.solver.fitted import table_of
from sampling_kit.schedulers.solver.run import Run

POINTS = Points(VE(), (20.0, 4.0, 0.8, 0.1, 0.0))


@pytest.fixture(scope="module")
def mixture() -> Mixture:
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(4, 3, 4, 4, generator=generator, dtype=torch.float64)
    basis = torch.linalg.qr(torch.randn(4, 48, 3, generator=generator, dtype=torch.float64))[0].mT
    variances = torch.tensor([4.0, 1.0, 0.5]).double().expand(4, 3)
    return Mixture(VE(), means, torch.full((4,), 0.1).double(), basis, variances)


def field(mixture: Mixture):
    def denoise(x: Tensor, sigma: float | Tensor, rows: Tensor) -> Tensor:
        if isinstance(sigma, Tensor) and len(sigma) == 1:
            sigma = sigma.expand(len(x))
        return mixture(x, sigma)

    return denoise


@pytest.fixture(scope="module")
def problem(mixture) -> Problem:
    x = PerImageNoise(3)(0, torch.empty(48, 3, 4, 4)).double() * 20
    kept: dict[float, Tensor] = {20.0: x}

    def at(kappa: float) -> Tensor:
        """From the nearest level above that is known, in 30 steps."""
        if kappa not in kept:
            p = min(k for k in kept if k > kappa)
            levels = torch.linspace(math.log(p), math.log(kappa), 31).double().exp().tolist()
            plan = DPMSolver(2).plan(Points(VE(), (p, *levels[1:-1], kappa)))
            kept[kappa] = plan.solve(Run(lambda y, s: mixture(y, s)), kept[p])
        return kept[kappa]

    for kappa in POINTS.kappas[1:4]:
        at(kappa)
    end = mixture(at(0.1), 0.1)

    def states(kappa: float, rows: Tensor) -> Tensor:
        return at(kappa)[rows] * VP().at(kappa).alpha

    rows = torch.arange(48)
    return Problem(VE(), field(mixture), 20.0, x, end, rows[:32], rows[32:], states)


def start_rmse(problem: Problem, table) -> float:
    return float(problem.errors(table, problem.held).square().mean().sqrt())


def test_predictors_begin_at_dpm_solver_2():
    for predictor in (Constants(3), FeaturePredictor()):
        found = predictor(1, 4.0, 0.8, torch.randn(5, 64), 5)
        torch.testing.assert_close(found, torch.tensor([0.5, 1.0, 1.0]).expand(5, 3))
    assert sum(p.numel() for p in FeaturePredictor().parameters()) < 9000


def test_table_and_directions_are_amed(problem):
    numbers = [(0.4, 1.1, 0.95), (0.6, 0.9, 1.0), (0.5, 1.0, 1.05), (0.5, 1.0, 1.0)]
    table = amed_table(POINTS, numbers)
    solver = AMED("0.4, 0.6, 0.5", "1.1, 0.9, 1.0", "0.95, 1.0, 1.05")
    rows = problem.held[:4]
    expected = solver.plan(POINTS).solve(
        Run(lambda x, s: problem.field(x, s, rows)), problem.start[rows]
    )
    torch.testing.assert_close(problem.run(table, rows), expected)
    one = directions_table(POINTS, [[0.5]] * 3)
    halves = amed_table(POINTS, [(0.5, 1.0, 1.0)] * 4)
    torch.testing.assert_close(problem.run(one, rows), problem.run(halves, rows))
    two = directions_table(POINTS, [[0.3, 0.7]] * 3)
    assert (two.nfe, one.nfe) == (10, 7) and two.points(VE()).kappas == POINTS.kappas


def test_training_by_intervals_helps(problem):
    constants = Constants(3)
    losses = train(problem, POINTS, constants, rate=0.05, rounds=5)
    assert losses[-1] < 0.7 * losses[0]
    numbers = constants.limited(constants.raw).detach().tolist()
    before = start_rmse(problem, amed_table(POINTS, [(0.5, 1.0, 1.0)] * 4))
    after = start_rmse(problem, amed_table(POINTS, [*numbers, (0.5, 1.0, 1.0)]))
    assert after < 0.8 * before
    with pytest.raises(ValueError, match="record them"):
        train(replace(problem, states=None), POINTS, constants)


def test_the_gradient_is_that_of_differences(problem):
    constants = Constants(3).double()
    with torch.no_grad():
        constants.raw += 0.3
    rows = problem.train[:4]
    loss = lambda: interval_loss(problem, constants, 1, 4.0, 0.8, rows)  # noqa: E731
    found = torch.autograd.grad(loss(), constants.raw)[0][1]
    for i in range(3):
        values = []
        for by in (1e-5, -1e-5):
            with torch.no_grad():
                constants.raw[1, i] += by
                values.append(float(loss()))
                constants.raw[1, i] -= by
        slope = (values[0] - values[1]) / 2e-5
        assert float(found[i]) == pytest.approx(slope, rel=1e-3)


def test_the_solver_without_a_reason_to_differ_is_the_table(problem):
    """Constants as the predictor: the same end as the table's, for every image of a batch; also as a plug-in."""
    constants = Constants(3)
    with torch.no_grad():
        constants.raw += torch.tensor([0.4, -0.5, 0.3])
    numbers = [*constants.limited(constants.raw).detach().double().tolist(), (0.5, 1.0, 1.0)]
    rows = problem.held[:3]
    denoise = lambda x, s: problem.field(x, s, rows)  # noqa: E731
    solver = LearnedAMED(constants)
    found = solver.solve(POINTS, Run(denoise), problem.start[rows])
    torch.testing.assert_close(found, problem.run(amed_table(POINTS, numbers), rows))
    for base in (AdamsBashforth(3), DPMSolverMultistep(2)):
        solver = LearnedAMED(constants, base=base)
        found = solver.solve(POINTS, Run(denoise), problem.start[rows])
        table = table_of(plugin_plan(base, POINTS, numbers))
        torch.testing.assert_close(found, problem.run(table, rows))
        assert table.nfe == 7 == solver.nfe(4)
    with pytest.raises(ValueError, match="one evaluation per step"):
        plugin_plan(DPMSolver(2), POINTS, numbers)


def test_the_plugin_with_halves_is_its_base(problem):
    """r = ½ and c = a = 1: the base solver on the levels with their geometric means between them."""
    base, rows = AdamsBashforth(3), problem.held[:3]
    table = table_of(plugin_plan(base, POINTS, [(0.5, 1.0, 1.0)] * 4))
    levels = (20.0, (20 * 4) ** 0.5, 4.0, 3.2**0.5, 0.8, 0.08**0.5, 0.1, 0.0)
    plain = table_of(base.plan(Points(VE(), levels)))
    torch.testing.assert_close(problem.run(table, rows), problem.run(plain, rows))


class Net(nn.Module):
    """A denoiser with a bottleneck."""

    def __init__(self, mixture: Mixture) -> None:
        super().__init__()
        self.mixture, self.middle = mixture, nn.Conv2d(3, 6, 3, padding=1)

    def forward(self, x: Tensor, sigma: float) -> Tensor:
        self.middle(x.float())
        return self.mixture(x, sigma)


def test_features_reach_the_predictor_per_image(problem, mixture):
    torch.manual_seed(0)
    net = Net(mixture)
    predictor = FeaturePredictor()
    nn.init.normal_(predictor.out.weight)
    x = problem.start[problem.held[:3]]
    with Bottleneck(net.middle) as features:
        solver = LearnedAMED(predictor, features)
        together = solver.solve(POINTS, Run(net), x)
        alone = solver.solve(POINTS, Run(net), x[1:2])
    # the features are float32 and round differently in another batch
    torch.testing.assert_close(together[1:2], alone, rtol=1e-5, atol=1e-6)
    without = LearnedAMED(predictor).solve(POINTS, Run(net), x)
    assert rmse(together - without).min() > 1e-6
    assert not net.middle._forward_hooks


def test_first_weights_come_from_the_seed_alone():
    """Not from torch's own generator: else a trained predictor would depend on what ran before it."""
    made = []
    for before, seed in ((1, 0), (2, 0), (2, 3)):
        torch.manual_seed(before)
        made.append(FeaturePredictor(seed=seed).state_dict()["seen.0.weight"])
    assert torch.equal(made[0], made[1]) and not torch.equal(made[0], made[2])
    assert 0.9 / 8 < made[0].abs().max() <= 1 / 8


def test_the_network_learns(problem, mixture):
    net = Net(mixture)
    seen = replace(
        problem, field=lambda x, s, rows: (net.middle(x.float()), field(mixture)(x, s, rows))[1]
    )
    predictor = FeaturePredictor()
    with Bottleneck(net.middle) as features:
        losses = train(seen, POINTS, predictor, rounds=5, features=features)
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.some(1)
@pytest.mark.parametrize(("directions", "nfe"), [(1, 7), (2, 7)])
def test_a_fit_as_a_method(problem, directions, nfe):
    start = table_of(
        AdamsBashforth(2).plan(Points(VE(), (20.0, 9.0, 4.0, 1.5, 0.8, 0.3, 0.1, 0.0)))
    )
    settings = Amed(directions=directions, rounds=2, iterations=20, every=10, batch=16)
    looks: list[int] = []
    state = run_fit(problem, start, settings, lambda s: looks.append(s.iteration))
    assert state.table.nfe <= nfe and looks[0] == 0
    assert state.after["rmse"] <= state.before["rmse"] == pytest.approx(start_rmse(problem, start))
    assert start_rmse(problem, state.table) == pytest.approx(state.after["rmse"])
    with pytest.raises(ValueError, match="evaluations or more"):
        run_fit(problem, table_of(AdamsBashforth(1).plan(Points(VE(), (20.0, 0.0)))), settings)
