"""Adaptive steps against the exact transport, SciPy and the published formulas; batches; errors."""

import logging
import math

import numpy as np
import pytest
import torch
from product import each
from scipy.integrate import solve_ivp

from sampling_kit.schedulers.denoiser import Gaussian, Mixture
from sampling_kit.schedulers.path import VE, VP, Flow
from sampling_kit.schedulers.points import LARGEST_KAPPA, Points
from sampling_kit.schedulers.solver import Adaptive, DPMSolver, Progress, State
from sampling_kit.schedulers.solver.adaptive import GAINS, PAIRS, D, X
from sampling_kit.schedulers.solver.run import Run

MEAN = torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64)
STD = torch.tensor([0.5, 1.5, 0.8], dtype=torch.float64)
MEANS = torch.tensor([[1.0, 0.5], [-1.5, 1.0], [0.2, -1.2]], dtype=torch.float64)
STDS = torch.tensor([0.5, 0.7, 0.6], dtype=torch.float64)
MANY = dict(max_evaluations=100_000)
every_pair = pytest.mark.parametrize("method", PAIRS)
on_hosts = pytest.mark.parametrize("path", [VE(), Flow()], ids=lambda p: p.name)


def start(points, batch=3, seed=0):
    p, z = points[0], torch.randn(batch, 3, generator=torch.Generator().manual_seed(seed)).double()
    return p.alpha * MEAN + (p.alpha**2 * STD**2 + p.sigma**2).sqrt() * z


def transported(points, x):
    p, q = points[0], points[-1]
    oracle = Gaussian(points.path, MEAN, STD)
    return oracle.transport(x, (p.alpha, p.sigma), (q.alpha, q.sigma))


def counting(denoise):
    levels = []

    def counted(x, sigma):
        levels.append(sigma)
        return denoise(x, sigma)

    return counted, levels


# --------------------------------------------------------------------------- the error and its price


def exact_mixture(path, points, x):
    """By an adaptive method of order 8 in λ."""
    d = Mixture(VE(), MEANS, STDS)

    def slope(lam, y):
        y = torch.tensor(y.reshape(-1, 2))
        return (d(y, math.exp(-lam)) - y).numpy().ravel()

    ends = [-math.log(points.kappas[i]) for i in (0, -1)]
    y = (x / points[0].alpha).numpy().ravel()
    end = solve_ivp(slope, ends, y, method="DOP853", rtol=1e-12, atol=1e-12).y[:, -1]
    return points[-1].alpha * torch.tensor(end.reshape(-1, 2))


@pytest.mark.some(3)
@each(method=PAIRS, path=[VP(), VE(), Flow()], data=["gaussian", "mixture"])
def test_the_error_falls_with_the_tolerance(method, data, path):
    """A hundredth of the tolerance: between 1/8 and 1/3000 of the error, and never more than 30 tolerances."""
    points = Points(path, (20.0, 0.05))
    if PAIRS[method].variable == "sigma":
        points = points.host
    if data == "gaussian":
        oracle, x = Gaussian(points.path, MEAN, STD), start(points)
        exact = transported(points, x)
    else:
        oracle = Mixture(points.path, MEANS, STDS)
        x = points[0].sigma * start(points)[:, :2] / points[0].sigma
        exact = exact_mixture(path, points, x)
    tolerances = (1e-2, 1e-4)
    errors = [
        float(
            (Adaptive(method, t, t / 5, **MANY).integrate(points, Run(oracle), x).x - exact)
            .abs()
            .max()
        )
        for t in tolerances
    ]
    assert errors[0] < 30 * tolerances[0] and errors[1] < 30 * tolerances[1]
    assert 8 < errors[0] / errors[1] < 3000


@each(method=PAIRS, control=GAINS)
def test_reported_evaluations_are_those_made(method, control):
    points = Points(VE(), (20.0, 1.0, 0.05, 0.0))
    oracle, levels = counting(Gaussian(VE(), MEAN, STD))
    solver = Adaptive(method, 1e-2, 1e-3, control=control)
    report = solver.integrate(points, Run(oracle), start(points, 1))
    (run,) = report.runs
    assert run.evaluations == len(levels) == report.nfe
    stages = {2: 2, 3: 3, 5: 6}[solver.order]
    tries = run.accepted + run.rejected
    if solver.pair.closing:  # every trial costs its stages; its first is the last of the one before
        assert len(levels) == 1 + stages * tries
    else:  # after a rejection D is known
        assert len(levels) == 1 + (stages - 1) * tries + run.accepted
    assert run.levels[-1] == 0.05 and list(run.levels) == sorted(run.levels, reverse=True)


@pytest.mark.parametrize("tolerance", [1e-3, 1e-5, 1e-7])
@on_hosts
def test_dopri5_is_as_good_as_scipy(path, tolerance):
    """The same ODE at the same tolerance: NFE at most 1.3 times theirs, error at most 10 times."""
    points = Points(path, (20.0, 0.05)).host
    oracle, x = Gaussian(path, MEAN, STD), start(points, 1)
    exact = transported(points, x)

    def slope(sigma, y):
        y = torch.tensor(y)[None]
        return ((y - oracle(y, sigma)) / sigma)[0].numpy()

    ends = points[0].sigma, points[-1].sigma
    theirs = solve_ivp(slope, ends, x[0].numpy(), rtol=tolerance, atol=tolerance / 5)
    ours = Adaptive("dopri5", tolerance, tolerance / 5, **MANY).integrate(points, Run(oracle), x)
    assert ours.nfe <= 1.3 * theirs.nfev
    error = np.abs(theirs.y[:, -1] - exact[0].numpy()).max()
    assert float((ours.x - exact).abs().max()) < 10 * error + 1e-12


# ----------------------------------------------------------------------------------------- formulas


def by_hand(order, x, sigma, to, denoise):
    """(low, high) of DPM-Solver-12 and -23 in σ = e^{−t} on VE, from the paper (eq. 3.7, alg. 1-2)."""
    t, h = -math.log(sigma), math.log(sigma / to)
    at = lambda r: math.exp(-(t + r * h))  # noqa: E731
    eps = lambda y, s: (y - denoise(y, s)) / s  # noqa: E731
    e0 = eps(x, sigma)
    if order == 2:
        e1 = eps(x - at(0.5) * math.expm1(h / 2) * e0, at(0.5))
        return x - to * math.expm1(h) * e0, x - to * math.expm1(h) * e1
    e1 = eps(x - at(1 / 3) * math.expm1(h / 3) * e0, at(1 / 3))
    low = x - to * math.expm1(h) * (e0 + 1.5 * (e1 - e0))
    phi = math.expm1(2 * h / 3) / (2 * h / 3) - 1
    u = x - at(2 / 3) * (math.expm1(2 * h / 3) * e0 + 2 * phi * (e1 - e0))
    e2 = eps(u, at(2 / 3))
    high = x - to * (math.expm1(h) * e0 + 1.5 * (math.expm1(h) / h - 1) * (e2 - e0))
    return low, high


def value(formula, x, d):
    return sum(w * (x if kind == "x" else d[k]) for (kind, k), w in formula.terms.items())


@pytest.mark.parametrize("order", [2, 3])
def test_dpm_solver_pairs_are_the_published_ones(order):
    path, sigma, to = VE(), 5.0, 2.0
    oracle = Mixture(path, MEANS, STDS)
    x = start(Points(path, (sigma, to)))[:, :2]
    pair = PAIRS[f"dpm_solver_{order - 1}{order}"]
    asked, high, gap = pair.trial(path, path.at(sigma), path.at(to))
    d = [oracle(x, sigma)]
    for at, formula in asked:
        d.append(oracle(value(formula, x, d), at.sigma))
    low, expected = by_hand(order, x, sigma, to, oracle)
    assert torch.allclose(value(high, x, d), expected, rtol=1e-12)
    assert torch.allclose(value(high - gap, x, d), low, rtol=1e-12)


@pytest.mark.parametrize(("name", "form"), [("dpm_solver", "original"), ("dpmpp", "++")])
@pytest.mark.parametrize("order", [2, 3])
@on_hosts
def test_accepted_steps_are_those_of_the_single_step_solver(name, form, order, path):
    """DPMSolver over the accepted levels gives the same state."""
    points = Points(path, (20.0, 0.05, 0.0))
    oracle, x = Mixture(path, MEANS, STDS), start(points, 1)[:, :2]
    report = Adaptive(f"{name}_{order - 1}{order}").integrate(points, Run(oracle), x)
    taken = Points(path, (20.0, *report.runs[0].levels, 0.0))
    assert len(taken) > 6
    again = DPMSolver(order, form).plan(taken).solve(Run(oracle), x)
    assert torch.allclose(report.x, again, rtol=1e-12, atol=1e-12)


@every_pair
def test_both_results_of_a_pair_carry_constant_data(method):
    """x = α·x0 with D = x0 stays α'·x0, and so do all stages."""
    path, pair = Flow(), PAIRS[method]
    p, q = path.at(3.0), path.at(1.0)
    asked, high, gap = pair.trial(path, p, q)
    for at, formula in [*asked, (q, high), (q, high - gap)]:
        assert value(formula, p.alpha, [1.0] * 9) == pytest.approx(at.alpha, rel=1e-12)
    assert X.terms and D.terms


# ------------------------------------------------------------------------------- ends and directions


@pytest.mark.some(2)
@pytest.mark.parametrize("method", [m for m in PAIRS if PAIRS[m].variable == "lambda"])
@pytest.mark.parametrize("path", [VP(), Flow()], ids=lambda p: p.name)
def test_pure_noise_is_left_by_a_step_to_the_largest_level(method, path):
    points = Points(path, (math.inf, 0.05, 0.0))
    oracle, levels = counting(Gaussian(path, MEAN, STD))
    x = start(Points(path, (math.inf, 1.0)))
    end = Adaptive(method, 1e-4, 1e-5, **MANY).integrate(points, Run(oracle), x).x
    assert levels[:2] == [1.0, pytest.approx(path.at(LARGEST_KAPPA).sigma)]
    bottom = Points(path, (math.inf, 0.05))
    exact = Gaussian(path, MEAN, STD)(transported(bottom, x), bottom[-1].sigma)
    assert torch.allclose(end, exact, atol=1e-3)


@pytest.mark.parametrize("method", ["dopri5", "bosh3"])
def test_flow_starts_at_t_1_without_more_ado_in_sigma(method):
    points = Points(Flow(), (math.inf, 0.05))
    oracle, levels = counting(Gaussian(Flow(), MEAN, STD))
    x = start(points)
    end = Adaptive(method, 1e-5, 1e-6).integrate(points, Run(oracle), x).x
    assert levels[0] == 1.0 and levels[1] < 1.0
    assert torch.allclose(end, transported(points, x), atol=1e-4)


@every_pair
def test_only_the_ends_count(method):
    oracle = Gaussian(VE(), MEAN, STD)
    runs = [Points(VE(), k) for k in ((20.0, 0.05, 0.0), (20.0, 9.0, 8.9, 0.3, 0.05, 0.0))]
    few, many = (Adaptive(method).solve(p, Run(oracle), start(runs[0])) for p in runs)
    assert torch.equal(few, many)


@every_pair
def test_one_level_and_0_is_d(method):
    oracle, points = Gaussian(VE(), MEAN, STD), Points(VE(), (3.0, 0.0))
    denoise, levels = counting(oracle)
    x = start(points)
    assert torch.equal(Adaptive(method).solve(points, Run(denoise), x), oracle(x, 3.0))
    assert levels == [3.0]


@pytest.mark.some(3)
@each(method=PAIRS, path=[VE(), Flow()])
def test_up_and_down_again(method, path):
    """Inversion, on flow up to pure noise."""
    top = math.inf if path == Flow() else 20.0
    up, down = Points(path, (0.05, top)), Points(path, (top, 0.05))
    oracle, x = Gaussian(path, MEAN, STD), start(up)
    solver = Adaptive(method, 1e-4, 1e-5, **MANY)
    there = solver.solve(up, Run(oracle), x)
    assert torch.allclose(there, transported(up, x), rtol=1e-2, atol=1e-2)
    assert torch.allclose(solver.solve(down, Run(oracle), there), x, atol=1e-2)


# ------------------------------------------------------------------------------- batches and callers


@each(method=PAIRS, shape=[(7,), (3, 4, 4), (2, 3, 4, 4)])
def test_every_image_has_its_own_steps(method, shape):
    """In float32, images of very different size; each bit-equal to a run of its own."""
    points = Points(VE(), (20.0, 0.05, 0.0))
    oracle = Gaussian(VE(), torch.full(shape, 0.3), torch.full(shape, 0.7))
    x = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    x = x * torch.tensor([1.0, 20.0, 200.0]).reshape(-1, *(1,) * len(shape))
    report = Adaptive(method).integrate(points, Run(oracle), x)
    assert report.x.dtype == torch.float32
    assert len({run.levels for run in report.runs}) > 1
    for i in range(3):
        alone = Adaptive(method).integrate(points, Run(oracle), x[i : i + 1])
        assert torch.equal(alone.x[0], report.x[i]) and alone.runs[0] == report.runs[i]


def test_the_denoiser_always_sees_the_whole_batch():
    """What a host holds per image must meet that image: here each has a mean of its own."""
    means, points = torch.tensor([[-2.0], [0.0], [5.0]]), Points(VE(), (20.0, 0.05, 0.0))
    x = 20 * torch.randn(3, 4, generator=torch.Generator().manual_seed(1))
    denoise = lambda y, s: means + (y - means) / (1 + s * s)  # noqa: E731
    end = Adaptive().solve(points, Run(denoise), x)
    for i in range(3):
        alone = Adaptive().solve(
            points, Run(Gaussian(VE(), means[i].expand(4), torch.ones(4))), x[i : i + 1]
        )
        assert torch.allclose(end[i], alone[0], atol=1e-5)


@every_pair
def test_together_the_worst_image_sets_the_steps(method):
    points = Points(VE(), (20.0, 0.05))
    oracle, levels = counting(Gaussian(VE(), MEAN, STD))
    x = start(points, 4)
    report = Adaptive(method, 1e-3, 1e-4, together=True).integrate(points, Run(oracle), x)
    assert len(levels) == report.nfe == report.runs[3].evaluations
    assert torch.allclose(report.x, transported(points, x), atol=0.02)


@each(method=PAIRS, together=[False, True])
def test_callback_once_per_accepted_step_and_progress_by_levels_passed(method, together):
    points = Points(VE(), (20.0, 5.0, 2.0, 1.0, 0.5, 0.05, 0.0))
    oracle, seen, checks = Gaussian(VE(), MEAN, STD), [], []
    denoise, levels = counting(oracle)
    solver = Adaptive(method, together=together)
    x = start(points, 2)
    report = solver.integrate(
        points, Run(denoise, callback=seen.append, check=lambda: checks.append(1)), x
    )
    assert len(checks) == len(levels)
    accepted = report.runs[0].accepted if together else sum(r.accepted for r in report.runs)
    assert len(seen) == accepted + 1
    steps = [p.step for p in seen]
    assert steps == sorted(steps) and steps[0] == 0 and steps[-1] == 5
    assert all(isinstance(p, Progress) and p.steps == 6 for p in seen)
    assert all(p.x.shape == p.denoised.shape == x.shape for p in seen)
    for p in seen[: report.runs[0].accepted]:  # image 0's steps: its state and its D
        assert torch.allclose(p.denoised[0], oracle(p.x, p.sigma)[0], rtol=1e-12, atol=1e-12)
    assert torch.equal(x, start(points, 2))


def test_a_run_in_parts_equals_one_within_the_tolerance():
    points = Points(Flow(), (math.inf, 2.0, 0.5, 0.05, 0.0))
    oracle, x, seen = Gaussian(Flow(), MEAN, STD), start(points), []
    solver = Adaptive(rtol=1e-4, atol=1e-5, **MANY)
    half = solver.advance(points, Run(oracle, callback=seen.append), State((x,)), level=2)
    end = solver.advance(points, Run(oracle, callback=seen.append), half)
    assert torch.allclose(end.x, solver.solve(points, Run(oracle), x), atol=1e-3)
    assert seen[0].step == 0 and seen[-1].step == 3 and {p.steps for p in seen} == {4}


def test_a_run_logs_what_it_took(caplog):
    points = Points(VE(), (20.0, 0.05, 0.0))
    with caplog.at_level(logging.INFO, "sampling_kit.schedulers.solver.adaptive"):
        Adaptive().solve(points, Run(Gaussian(VE(), MEAN, STD)), start(points, 2))
    assert len(caplog.messages) == 2
    assert caplog.messages[1].startswith("dpm_solver_23, image 1: ")
    assert "evaluations" in caplog.text and "rejected" in caplog.text


# --------------------------------------------------------------------------------------------- errors


@each(method=PAIRS, bad=[math.nan, math.inf])
def test_a_non_finite_prediction_is_named(method, bad):
    points = Points(VE(), (20.0, 0.05))

    def denoise(x, sigma):
        return (x * bad if sigma < 1 else 0 * x).half()

    with pytest.raises(FloatingPointError, match=r"evaluation \d+ .*σ = 0\.\d+, float16.*bfloat16"):
        Adaptive(method).solve(points, Run(denoise), start(points))


def test_an_image_is_not_blamed_for_its_mates():
    """Rows that are not looked at may hold anything."""
    points, calls = Points(VE(), (20.0, 0.05)), []

    def denoise(x, sigma):
        calls.append(sigma)
        d = x / (1 + sigma**2)
        if len(calls) in (2, 3):  # image 0's first step
            d[1] = math.nan
        return d

    assert torch.isfinite(
        Adaptive("dpm_solver_23").solve(points, Run(denoise), start(points, 2))
    ).all()


def test_too_many_evaluations_and_too_small_steps_are_errors_with_a_way_out():
    points, oracle = Points(VE(), (20.0, 0.05)), Gaussian(VE(), MEAN, STD)
    with pytest.raises(
        RuntimeError, match=r"dopri5.*20 evaluations were spent at σ = .*raise rtol"
    ):
        Adaptive("dopri5", 1e-6, 1e-8, max_evaluations=20).solve(points, Run(oracle), start(points))

    def rough(x, sigma):  # no step is small enough below σ = 10
        return torch.full_like(x, 0.0 if sigma > 10 else 1e9 * math.sin(1e12 * sigma))

    with pytest.raises(RuntimeError, match=r"the step became too small.*raise rtol"):
        Adaptive("dpm_solver_12").solve(points, Run(rough), start(points))


def test_bad_runs_are_refused():
    oracle = Gaussian(VE(), MEAN, STD)
    with pytest.raises(ValueError, match="cannot start at noise level exactly 0"):
        Adaptive().solve(Points(VE(), (0.0, 1.0)), Run(oracle), torch.ones(1, 3))
    with pytest.raises(ValueError, match=r"points\.host"):
        Adaptive("dopri5").integrate(Points(VP(), (2.0, 1.0)), Run(oracle), torch.ones(1, 3))
    with pytest.raises(ValueError, match=r"returned shape \(1, 2\)"):
        Adaptive().solve(Points(VE(), (2.0, 1.0)), Run(lambda x, s: x[:, :2]), torch.ones(1, 3))
    with pytest.raises(ValueError, match=r"[Aa]daptive.*: rtol"):
        Adaptive(rtol=-1.0)
