"""Ground truth for every solver in ALL: order, marginals, end points, invariances, resuming.

The oracle is a Gaussian with unequal deviations and a shifted mean, whose denoiser, trajectories and
marginals are known in closed form on every path. Nothing here is specific to one solver: a new class
in ``solver.ALL`` is tested by being there.
"""

import dataclasses
import math

import numpy as np
import pytest
import torch
from contracts import exact_for_constant, path_invariant, shift_invariant, starts_at_pure_noise
from product import each
from scipy.integrate import solve_ivp

from sampling_kit.benchmarks.solver_table import curved
from sampling_kit.schedulers import noise_schedule as schedules
from sampling_kit.schedulers import spacing as spacings
from sampling_kit.schedulers.denoiser import Gaussian, Mixture
from sampling_kit.schedulers.noise import PerImageNoise
from sampling_kit.schedulers.path import VE, VP, Flow, SubVP, rescale
from sampling_kit.schedulers.points import Points
from sampling_kit.schedulers.prediction import KINDS, Prediction
from sampling_kit.schedulers.solver import (
    ALL,
    AMED,
    DDIM,
    DDPM,
    Adaptive,
    Euler,
    EulerMaruyama,
    HeunEDM,
    Restart,
)
from sampling_kit.schedulers.solver.run import Run, drive
from sampling_kit.schedulers.solver.selection import variants
from sampling_kit.schedulers.solver.state import State

MEAN = torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64)
STD = torch.tensor([0.5, 1.5, 0.8], dtype=torch.float64)
PATHS = [VP(), VE(), Flow(), SubVP()]
EVERY_VARIANT = [variant for solver in ALL for variant in variants(solver)]
#: Those that are tables; what the others do depends on the data.
PLANNED = [s for s in EVERY_VARIANT if s.planned]
STILL = [s for s in EVERY_VARIANT if not s.stochastic]
ODE = [s for s in PLANNED if not s.stochastic]
NOISY = [s for s in PLANNED if s.stochastic]
#: Whose steps are those of the points.
STEPPING = [s for s in EVERY_VARIANT if not isinstance(s, Adaptive)]
#: Whose variance must converge to the marginal's (LCM's does not, by design: order 0).
SDE = [s for s in NOISY if s.order and getattr(s, "noise", 1.0) == 1.0]
ids = dict(ids=repr)
on_every_path = pytest.mark.parametrize("path", PATHS, ids=lambda p: p.name)


def go(solver, points, denoise, x, noise=None, callback=None, check=None):
    """A run in the coordinates of ``points.path``, planned or not."""
    if solver.planned:
        return solver.plan(points).solve(Run(denoise, noise, callback, check), x)
    if starts_at_pure_noise(solver):
        return drive(
            solver.walk(points, State((x,)), noise), Run(denoise, callback=callback, check=check)
        ).x
    host = points.path.host  # works in σ there

    def hosted(y, sigma):
        point, c = rescale(host.on(sigma), points.path)
        return denoise(c * y, point.sigma)

    factors = [rescale(points[i], host)[1] for i in (0, -1)]
    return solver.solve(points, Run(hosted, noise, callback, check), factors[0] * x) / factors[1]


def geometric(path, top, bottom, n):
    return Points(path, tuple(np.geomspace(top, bottom, n + 1)))


def start(points, batch=64, seed=0):
    """Exact samples of the oracle's marginal at the first level."""
    p = points[0]
    z = torch.randn(batch, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return p.alpha * MEAN + (p.alpha**2 * STD**2 + p.sigma**2).sqrt() * z


def error(solver, points):
    """Largest distance to the exact trajectory at the last level."""
    oracle = Gaussian(points.path, MEAN, STD)
    x = start(points)
    p, q = points[0], points[-1]
    exact = oracle.transport(x, (p.alpha, p.sigma), (q.alpha, q.sigma))
    return (solver.plan(points).solve(Run(oracle), x) - exact).abs().max().item()


#: A curved field in which every start-up error shows: three Gaussians, κ from 3 to 0.1, uneven steps.
CURVED = (
    torch.tensor([[1.0, 0.5], [-1.5, 1.0], [0.2, -1.2]], dtype=torch.float64),
    torch.tensor([0.5, 0.7, 0.6], dtype=torch.float64),
)
FROM = 3 * torch.randn(16, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def uneven(path, n):
    u = np.linspace(0, 1, n + 1)
    u = u + 0.15 * np.sin(np.pi * u) ** 2 * u
    return Points(path, tuple(3 * (0.1 / 3) ** u))


@pytest.fixture(scope="module")
def exact_end():
    """y at κ = 0.1 of the trajectories from FROM, by an adaptive method of order 8."""
    d = Mixture(VE(), *CURVED)

    def slope(lam, y):
        y = torch.tensor(y.reshape(-1, 2))
        return (d(y, math.exp(-lam)) - y).numpy().ravel()

    ends = (-math.log(3), -math.log(0.1))
    end = solve_ivp(slope, ends, FROM.numpy().ravel(), method="DOP853", rtol=1e-13, atol=1e-13)
    return torch.tensor(end.y[:, -1].reshape(-1, 2))


#: Numbers of steps at which each order is past its start and above round-off.
PAIRS = {1: (96, 192), 2: (96, 192), 3: (384, 768), 4: (64, 128), 5: (48, 96)}


@each(solver=ODE, path=PATHS[:3])
def test_order_of_convergence(solver, path, exact_end):
    def denoise(x, sigma):
        return torch.from_numpy(curved(x.numpy(), sigma, path.on(sigma).alpha))

    errors = []
    for n in PAIRS[solver.order]:
        points = uneven(path, n)
        y = solver.plan(points).solve(Run(denoise), points[0].alpha * FROM) / points[-1].alpha
        errors.append((y - exact_end).square().mean().sqrt().item())
    assert math.log2(errors[0] / errors[1]) == pytest.approx(solver.order, abs=0.25)


@pytest.mark.parametrize(
    ("solver", "limit"), [(Euler(), 0.12), (DDIM(), 0.12), (HeunEDM(), 0.012)], **ids
)
def test_low_step_error(solver, limit):
    assert error(solver, geometric(VE(), 80.0, 0.05, 40)) < 2 * limit
    assert error(solver, geometric(VE(), 80.0, 0.05, 80)) < limit


@each(by=type, solver=STILL, path=PATHS)
def test_constant_prediction_is_solved_exactly_in_any_number_of_steps(solver, path):
    """x = α·x0 + σ·ε with fixed x0 and ε is the trajectory; every plan must stay on it."""
    x0, eps = MEAN, torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    if not exact_for_constant(solver):
        return
    for n in (1, 2, 5):
        points = geometric(path, 30.0, 0.2, n)
        p, q = points[0], points[-1]
        end = go(solver, points, lambda x, s: x0.expand_as(x), (p.alpha * x0 + p.sigma * eps)[None])
        assert torch.allclose(end[0], q.alpha * x0 + q.sigma * eps, rtol=1e-9, atol=1e-9)


# ------------------------------------------------------------------- marginals, without Monte Carlo


def spread(solver, points, deviation, every_step=False):
    """Variance of the state for x0 ~ N(0, deviation²), exactly.

    The run is linear in x_T and in each noise draw, so it is run once on the vector of their
    coefficients: coordinate 0 is x_T in units of its deviation, coordinate k the k-th draw.
    """
    p = points[0]
    oracle = Gaussian(points.path, torch.zeros(1, dtype=torch.float64), deviation)
    plan = solver.plan(points)
    draws = sum(stage.noise != 0 for stage in plan.stages)
    x = torch.zeros(draws + 1, 1, dtype=torch.float64)
    x[0] = math.sqrt(p.alpha**2 * deviation**2 + p.sigma**2)

    def noise(position, like):
        return torch.eye(draws + 1, dtype=torch.float64)[:, position : position + 1]

    seen = []
    end = plan.solve(
        Run(oracle, noise, lambda s: seen.append((s.sigma, s.x.square().sum().item()))), x
    )
    return seen if every_step else end.square().sum().item()


EXACT_FOR_A_POINT = [
    s
    for s in NOISY
    if not isinstance(s, EulerMaruyama)
    and getattr(s, "variance", "small") == "small"
    and getattr(s, "noise", 1.0) == 1.0
]


@each(solver=EXACT_FOR_A_POINT, path=PATHS)
def test_a_point_mass_keeps_its_exact_deviation_at_every_step(solver, path):
    """For data at one point the noise of the state must be exactly σ' after each step, at any N."""
    for n in (1, 3, 10):
        for sigma, variance in spread(solver, geometric(path, 50.0, 0.02, n), 0.0, every_step=True):
            assert variance == pytest.approx(sigma**2, rel=1e-9)


@each(solver=[s for s in EXACT_FOR_A_POINT if starts_at_pure_noise(s)], path=[VP(), Flow()])
def test_a_point_mass_keeps_its_deviation_from_pure_noise_too(solver, path):
    points = Points(path, (math.inf, 5.0, 1.0, 0.2, 0.05))
    for sigma, variance in spread(solver, points, 0.0, every_step=True):
        assert variance == pytest.approx(sigma**2, rel=1e-9)


@on_every_path
def test_analytic_variance_is_exact_for_gaussian_data_at_every_step(path):
    solver, points = DDPM(variance="analytic", data_std=0.6), geometric(path, 50.0, 0.02, 6)
    exact = [p.alpha**2 * 0.36 + p.sigma**2 for p, _ in points.steps]
    for (_, variance), expected in zip(spread(solver, points, 0.6, True), exact, strict=True):
        assert variance == pytest.approx(expected, rel=1e-9)


def test_large_variance_is_exact_for_white_noise_on_vp():
    for sigma, variance in spread(
        DDPM(variance="large"), geometric(VP(), 50.0, 0.02, 7), 1.0, every_step=True
    ):
        assert sigma > 0
        assert variance == pytest.approx(1.0, rel=1e-9)


@each(solver=SDE, path=PATHS)
def test_stochastic_marginals_converge(solver, path):
    """For Gaussian data the variance tends to α²c² + σ² like 1/N; small and large err on either side."""
    points = [geometric(path, 80.0, 0.05, n) for n in (100, 200)]
    q = points[0][-1]
    exact = q.alpha**2 * 0.6**2 + q.sigma**2
    coarse, fine = (abs(spread(solver, p, 0.6) - exact) / exact for p in points)
    assert fine < 0.12
    assert fine < max(0.65 * coarse, 1e-3)


@on_every_path
@pytest.mark.parametrize("solver", [Euler(churn=30.0), HeunEDM(churn=30.0)], **ids)
def test_churn_keeps_the_marginals(solver, path):
    points = geometric(path, 80.0, 0.05, 400)
    q = points[-1]
    exact = q.alpha**2 * 0.6**2 + q.sigma**2
    assert spread(solver, points, 0.6) == pytest.approx(
        exact, rel=0.06 if solver.order == 1 else 0.002
    )


@pytest.mark.parametrize("path", [VP(), Flow()], ids=lambda p: p.name)
def test_mean_of_a_stochastic_run(path):
    points = geometric(path, 200.0, 0.01, 300)
    oracle, p = Gaussian(path, MEAN, STD), points[0]
    x = (p.alpha * MEAN + p.sigma * 0)[None]
    end = DDPM().plan(points).solve(Run(oracle, lambda position, like: torch.zeros_like(like)), x)
    assert torch.allclose(end[0], points[-1].alpha * MEAN, atol=1e-9)


def test_eta_to_zero_is_continuous():
    points = geometric(VE(), 80.0, 0.05, 20)
    oracle, x = Gaussian(VE(), MEAN, STD), start(points, 4)
    still = DDIM().plan(points).solve(Run(oracle), x)
    for eta in (1e-2, 1e-4):
        moved = DDIM(eta=eta).plan(points).solve(Run(oracle, PerImageNoise(0)), x)
        assert (moved - still).abs().max() < 30 * eta


# ------------------------------------------------------------------------------- ends and finiteness

SCHEDULES = [
    *(schedules.ALL[n]() for n in ("vp_scaled_linear", "sub_vp", "ve_edm", "rectified_flow")),
    schedules.LinearVP(zero_snr=True),
]


@each(solver=EVERY_VARIANT, schedule=SCHEDULES)
def test_every_small_run_is_finite_and_ends_at_a_prediction(solver, schedule):
    """As ComfyUI runs it: float32, levels through SIGMAS, in host coordinates."""
    host = schedule.path.host
    oracle = Gaussian(host, MEAN.float(), STD.float())
    for n in (1, 2, 3, 4, 6, 12) if solver in STEPPING else (1, 2, 12):
        sigmas = torch.tensor(spacings.space(schedule, n, spacings.Trailing()).sigmas()).tolist()
        points = Points.from_sigmas(schedule.path, sigmas)
        last = []
        x = sigmas[0] * torch.randn(2, 3, generator=torch.Generator().manual_seed(n))

        def denoise(x, sigma, last=last):
            last.append(oracle(x, sigma))
            return last[-1]

        end = solver.solve(points, Run(denoise, PerImageNoise(1)), x)
        assert torch.isfinite(end).all()
        if not solver.planned:
            assert torch.allclose(end, last[-1], atol=1e-6)  # each image's last D is its own
            assert len(last) == solver.nfe(n) or solver not in STEPPING
            continue
        plan = solver.plan(points).on(host)
        clip = getattr(solver, "clip_x0", 0) or math.inf
        assert torch.equal(end, last[-1].clamp(-clip, clip))
        assert len(last) == plan.nfe
        if plan.start.alpha > 0:  # else fewer: a step from pure noise takes one evaluation only
            assert plan.nfe == solver.nfe(n) or isinstance(solver, Restart)


@each(by=type, solver=STEPPING)
def test_float32_follows_float64_from_a_very_high_level(solver):
    """σ from 4518 (zero terminal SNR as ComfyUI writes it) in many steps: no blow-up, no cancellation."""
    schedule = schedules.ScaledLinearVP(zero_snr=True)
    sigmas = torch.tensor(spacings.space(schedule, 60, spacings.Karras()).sigmas()).tolist()
    points = Points.from_sigmas(VP(), sigmas)
    x = sigmas[0] * start(Points(VE(), (1.0, 0.5)), 4)
    ends = [
        solver.solve(points, Run(Gaussian(VE(), MEAN.to(t), STD.to(t)), PerImageNoise(0)), x.to(t))
        for t in (torch.float32, torch.float64)
    ]
    assert (ends[0] - ends[1]).abs().max() < 0.02


@each(by=type, solver=EVERY_VARIANT)
def test_a_run_may_start_at_pure_noise_where_alpha_is_zero(solver):
    points = spacings.space(schedules.LinearVP(zero_snr=True), 5, spacings.Trailing())
    assert points[0].alpha == 0
    if not starts_at_pure_noise(solver):
        with pytest.raises(ValueError, match="pure noise"):
            go(solver, points, Gaussian(VP(), MEAN, STD), start(points))
        return
    end = go(solver, points, Gaussian(VP(), MEAN, STD), start(points), PerImageNoise(0))
    assert torch.isfinite(end).all()


# --------------------------------------------------------------------------------------- invariances


PLAIN = [
    s
    for s in EVERY_VARIANT
    if not getattr(s, "clip_x0", 0)
    and getattr(s, "variance", "small") == "small"
    and (s.planned or path_invariant(s))  # else they run in host coordinates only
]


@each(by=type, solver=PLAIN)
def test_path_invariance(solver):
    """Same κ, same noise: y = x/α is the same on every path, or on all whose SIGMAS are κ."""
    same = PATHS if path_invariant(solver) else [VE(), VP(), SubVP()]
    ends = []
    for path in same:
        points = geometric(path, 60.0, 0.05, 9)
        p, q = points[0], points[-1]
        x = p.alpha * start(geometric(VE(), 60.0, 0.05, 9), 64 if solver.planned else 4)
        ends.append(go(solver, points, Gaussian(path, MEAN, STD), x, PerImageNoise(3)) / q.alpha)
    limit = 1e-9 if solver.planned else 1e-6  # an estimated error is a small difference
    for other in ends[1:]:
        assert torch.allclose(ends[0], other, rtol=limit, atol=limit / 10)


@each(by=type, solver=PLANNED, path=PATHS)
def test_a_plan_means_the_same_in_other_coordinates(solver, path):
    points = geometric(path, 60.0, 0.05, 6)
    plan = solver.plan(points)
    x = start(points)
    here = plan.solve(Run(Gaussian(path, MEAN, STD), PerImageNoise(3)), x)
    for target in PATHS:
        p, q = target.at(60.0), target.at(0.05)
        c, c_end = p.sigma / points[0].sigma, q.alpha / points[-1].alpha
        there = plan.on(target).solve(Run(Gaussian(target, MEAN, STD), PerImageNoise(3)), c * x)
        assert torch.allclose(there, c_end * here, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_prediction_invariance(kind):
    """A network of any prediction kind gives the same run."""
    path = VP()
    points = geometric(path, 60.0, 0.05, 9)
    oracle, prediction = Gaussian(path, MEAN, STD), Prediction(kind)

    def network(x, sigma):
        point = path.on(sigma)
        out = prediction.from_x0(oracle(x, sigma), x, point.alpha, sigma)
        return prediction.to_x0(out, x, point.alpha, sigma)

    for solver in (HeunEDM(), DDPM()):
        plan, x = solver.plan(points), start(points)
        a, b = (plan.solve(Run(d, PerImageNoise(0)), x) for d in (oracle, network))
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-9)


@each(by=type, solver=EVERY_VARIANT)
def test_an_image_does_not_depend_on_its_batch(solver):
    points = geometric(VE(), 20.0, 0.05, 8)
    oracle, noise = Gaussian(VE(), MEAN.float(), STD.float()), PerImageNoise(7)
    x = 20 * noise(0, torch.empty(3, 3))
    whole = solver.solve(points, Run(oracle, noise), x)
    for i in range(3):
        alone = solver.solve(points, Run(oracle, PerImageNoise(7 + i)), x[i : i + 1])
        assert torch.equal(whole[i : i + 1], alone)
    assert torch.equal(whole, solver.solve(points, Run(oracle, noise), x))


# -------------------------------------------------------------------------------------- plans as data


@each(by=type, solver=[s for s in PLANNED if shift_invariant(s)], path=PATHS)
def test_weights_reproduce_noise_free_data(solver, path):
    """If x = α·x0 and D = x0 everywhere, every stage must form α'·x0: Σ w_x·α + Σ w_D = α'."""
    plan = solver.plan(geometric(path, 60.0, 0.05, 4))
    anchors, history = [plan.start.alpha], []
    for stage in plan.stages:
        total = sum(w * a for w, a in zip(stage.x, anchors, strict=False)) + sum(
            stage.d[: len(history)]
        )
        assert total == pytest.approx(stage.at.alpha, rel=1e-9)
        anchors = [total, *anchors] if stage.commit else anchors
        history = [1.0, *history] if stage.evaluate else history


@each(by=type, solver=STEPPING)
def test_callback_once_per_step_and_check_before_every_evaluation(solver):
    points = geometric(VE(), 20.0, 0.05, 6)
    steps, checks, calls = [], [], []
    oracle = Gaussian(VE(), MEAN, STD)

    def denoise(x, sigma):
        calls.append(sigma)
        assert len(checks) == len(calls)
        return oracle(x, sigma)

    solver.solve(
        points,
        Run(denoise, PerImageNoise(0), steps.append, lambda: checks.append(1)),
        start(points),
    )
    assert [s.step for s in steps] == list(range(6))
    assert all(s.steps == 6 for s in steps)
    assert not solver.planned or len(checks) == solver.plan(points).nfe


def test_a_check_that_raises_stops_before_the_next_evaluation():
    calls = []

    def check():
        if len(calls) == 3:
            raise KeyboardInterrupt

    def denoise(x, sigma):
        calls.append(sigma)
        return x

    with pytest.raises(KeyboardInterrupt):
        Euler().plan(geometric(VE(), 20.0, 0.05, 10)).solve(
            Run(denoise, check=check), torch.ones(1, 3)
        )
    assert len(calls) == 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_non_finite_prediction_is_named(dtype):
    def denoise(x, sigma):
        return (x * math.nan if sigma < 1 else x).to(dtype)

    with pytest.raises(
        FloatingPointError,
        match=r"step 2-3 of 6, evaluation 4 \(σ = 0.99.*" + str(dtype)[6:] + ".*float16",
    ):
        Euler().plan(Points(VE(), (20.0, 8.0, 3.0, 0.99, 0.3, 0.1, 0.0))).solve(
            Run(denoise), torch.ones(2, 3)
        )


def test_amed_takes_direction_scale_and_told_level_as_given():
    """One step written out: τ = σ'^r σ^(1−r), D told a·τ, the step scaled by c."""
    seen = []

    def denoise(x, sigma):
        seen.append(sigma)
        return 0.5 * x

    x = torch.tensor([[2.0]], dtype=torch.float64)
    solver = AMED(positions="0.25, 0.5", scales="1.1", levels="0.9")
    end = solver.plan(Points(VE(), (4.0, 1.0))).solve(Run(denoise), x)
    tau = 1.0**0.25 * 4.0**0.75
    middle = x + (tau - 4) * (x - 0.5 * x) / 4
    assert seen == pytest.approx([4.0, 0.9 * tau])
    assert torch.allclose(end, x + 1.1 * (1 - 4) * (0.5 * middle) / tau)


@pytest.mark.parametrize("bad", ["", "a", "1.5", "0.5, nan"])
def test_amed_refuses_what_is_not_a_position(bad):
    with pytest.raises(ValueError, match=r"AMED\.positions"):
        AMED(positions=bad)


def test_bad_runs_are_refused_with_a_way_out():
    rising = geometric(VE(), 0.05, 20.0, 4)
    with pytest.raises(ValueError, match=r"DDPM draws noise.*must fall.*deterministic"):
        DDPM().plan(rising)
    with pytest.raises(ValueError, match="cannot start at noise level exactly 0"):
        Euler().plan(Points(VE(), (0.0, 1.0)))
    with pytest.raises(ValueError, match="pass a noise source"):
        DDPM().plan(geometric(VE(), 9.0, 1.0, 2)).solve(Run(lambda x, s: x), torch.ones(1, 3))
    with pytest.raises(ValueError, match=r"returned shape \(1, 2\)"):
        Euler().plan(geometric(VE(), 9.0, 1.0, 2)).solve(
            Run(lambda x, s: x[:, :2]), torch.ones(1, 3)
        )
    with pytest.raises(ValueError, match="pure noise"):
        HeunEDM().plan(Points(VP(), (math.inf, 1.0, 0.0)))


@each(by=type, solver=STILL)
def test_deterministic_solvers_run_upwards_and_back(solver):
    down = geometric(VE(), 20.0, 0.05, 100)
    up = Points(VE(), tuple(reversed(down.kappas)))
    oracle, x = Gaussian(VE(), MEAN, STD), start(down, 4)
    if isinstance(solver, Adaptive):
        solver = dataclasses.replace(solver, rtol=1e-3, atol=1e-4)
    there = solver.solve(down, Run(oracle), x)
    assert torch.allclose(solver.solve(up, Run(oracle), there), x, rtol=0.1, atol=0.1)


def test_clipping_limits_every_prediction():
    points = geometric(VE(), 20.0, 0.05, 6)
    seen = []
    plan = DDPM(clip_x0=0.25).plan(points)
    plan.solve(Run(Gaussian(VE(), MEAN, STD), PerImageNoise(0), seen.append), start(points))
    assert max(s.denoised.abs().max() for s in seen) == 0.25


def test_latents_of_any_number_of_dimensions():
    points = geometric(VE(), 20.0, 0.05, 3)
    for shape in [(1, 7), (2, 3, 5), (2, 3, 4, 4), (1, 4, 3, 4, 4)]:
        x = torch.ones(shape)
        assert (
            DDPM().plan(points).solve(Run(lambda x, s: 0.5 * x, PerImageNoise(0)), x).shape
            == x.shape
        )
