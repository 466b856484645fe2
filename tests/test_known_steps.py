"""Single facts about steps, weights and levels, each against its published formula or a sum done by hand."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from product import each
from scipy.integrate import quad

from sampling_kit.schedulers.denoiser import Gaussian
from sampling_kit.schedulers.guidance.curve import Interval
from sampling_kit.schedulers.guidance.level import Ladder
from sampling_kit.schedulers.noise_schedule import ScaledLinearVP
from sampling_kit.schedulers.path import VE, VP, Flow
from sampling_kit.schedulers.points import Points
from sampling_kit.schedulers.prediction import Prediction
from sampling_kit.schedulers.sample import noised
from sampling_kit.schedulers.solver import (
    AdamsBashforth,
    Adaptive,
    DPMSolver,
    Euler,
    GradientEstimation,
    HeunEDM,
    Restart,
    SASolver,
)
from sampling_kit.schedulers.solver.plan import Plan, Stage
from sampling_kit.schedulers.solver.run import Run
from sampling_kit.schedulers.solver.runge_kutta import EXPONENTIAL, TABLEAUX

both_paths = pytest.mark.parametrize("path", [VE(), Flow()], ids=lambda p: p.name)


def states(solver, points, denoise, x, noise=None):
    """x at the level of every step, and at the end."""
    seen = []
    end = solver.plan(points).solve(Run(denoise, noise, lambda p: seen.append(p.x.clone())), x)
    return [*seen, end]


# ------------------------------------------------------------------------------- weights and stages


@pytest.mark.some(12)
@pytest.mark.parametrize("order", [1, 2, 3, 4, 5, 6])
@pytest.mark.parametrize("power", [0, 2, 3, 5])
def test_constant_weights_integrate_powers(order, power):
    """Adams–Bashforth of order n on equal steps is exact for v = σ^k, k < n, once it has n velocities."""
    sigmas = np.linspace(2.0, 1.0, 9)
    points = Points(VE(), tuple(sigmas))
    x = states(
        AdamsBashforth(order), points, lambda x, s: x - s * s**power, torch.ones(1, 1).double()
    )
    exact = np.diff(sigmas ** (power + 1)) / (power + 1)
    steps = np.array([float(b - a) for a, b in pairwise(x)])[order - 1 :]
    near = np.abs(steps - exact[order - 1 :]).max()
    assert (near < 1e-12) == (power < order)


@pytest.mark.parametrize("gamma", [1.0, 1.5, 2.0])
def test_gradient_estimation_is_the_paper_s(gamma):
    """Permenter & Yuan 2024: x' = x + (σ' − σ)·(γ·v + (1 − γ)·v₋), Euler at first."""
    sigmas, before = (5.0, 3.0, 1.5, 0.6), None
    denoise = lambda x, s: torch.tanh(x) / (1 + s)  # noqa: E731
    x = torch.linspace(-4, 4, 5).double()[None]
    end = GradientEstimation(gamma).plan(Points(VE(), sigmas)).solve(Run(denoise), x)
    for here, there in pairwise(sigmas):
        v = (x - denoise(x, here)) / here
        x = x + (there - here) * (v if before is None else gamma * v + (1 - gamma) * before)
        before = v
    assert torch.allclose(end, x, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", TABLEAUX)
def test_tableaux_meet_the_order_conditions(name):
    """Hairer, Nørsett & Wanner, table II.2.1, up to order 4; of order 5 the quadrature."""
    tableau = TABLEAUX[name]
    b, c = np.array(tableau.b), np.array(tableau.c, float)
    a = np.zeros((len(b), len(b)))
    for i, row in enumerate(tableau.a):
        a[i, : len(row)] = row
    assert a.sum(1) == pytest.approx(c)
    conditions = {
        1: [(b.sum(), 1)],
        2: [(b @ c, 1 / 2)],
        3: [(b @ c**2, 1 / 3), (b @ a @ c, 1 / 6)],
        4: [
            (b @ c**3, 1 / 4),
            (b @ (c * (a @ c)), 1 / 8),
            (b @ a @ c**2, 1 / 12),
            (b @ a @ a @ c, 1 / 24),
        ],
        5: [(b @ c**4, 1 / 5)],
    }
    for order in range(1, tableau.order + 1):
        for value, wanted in conditions[order]:
            assert value == pytest.approx(wanted, abs=1e-12), order


@each(name=EXPONENTIAL, h=[0.01, 0.7, 4.0])
def test_exponential_methods_meet_the_order_conditions(name, h):
    """Σ b = ∫₀ʰ e^{u−h} du, and Σ b·c = ∫₀ʰ e^{u−h}·u/h du but for DPM-Solver-2, whose order is not stiff
    (Hochbruck & Ostermann 2005, table 2); every stage begins with the exact ∫₀^{ch}."""
    table = EXPONENTIAL[name][2](h)
    b, c = np.array(table.b), np.array(table.c, float)
    assert b.sum() == pytest.approx(quad(lambda u: math.exp(u - h), 0, h)[0], rel=1e-10)
    if name != "dpmpp_2s":
        first = quad(lambda u: math.exp(u - h) * u / h, 0, h)[0]
        assert b @ c == pytest.approx(first, rel=1e-10)
    for row, at in zip(table.a[1:], c[1:], strict=True):
        assert sum(row) == pytest.approx(-math.expm1(-at * h), rel=1e-10)


def test_moves_pair_only_what_is_one_difference():
    """x₀ and D₀ are used twice as x₀ − β·D₀, with another β: one tensor in place of two would be wrong."""
    at = [VE().at(s) for s in (3.0, 2.0, 1.5, 1.0)]
    rows = [
        ((1.0,), ()),
        ((1.0,), (0.5,)),
        ((1.0, 0.2), (0.3, -0.1)),
        ((1.0, 0, 0.3), (0.3, 0, -0.3)),
    ]
    stages = [Stage(i, p, x, d, evaluate=i < 3) for i, (p, (x, d)) in enumerate(zip(at, rows, strict=True))]  # fmt: skip
    denoise = lambda x, s: torch.cos(s * x)  # noqa: E731
    start = torch.linspace(-1, 1, 5).double()[None]
    x, d = [start], [denoise(start, 3.0)]
    x.insert(0, x[0] + 0.5 * d[0])
    d.insert(0, denoise(x[0], 2.0))
    x.insert(0, x[0] + 0.2 * x[1] + 0.3 * d[0] - 0.1 * d[1])
    d.insert(0, denoise(x[0], 1.5))
    expected = x[0] + 0.3 * x[2] + 0.3 * d[0] - 0.3 * d[2]
    plan = Plan("by hand", VE(), at[0], tuple(stages), 1)
    assert torch.allclose(plan.solve(Run(denoise), start), expected, rtol=0, atol=1e-12)


def test_the_tolerance_is_in_units_of_the_state():
    """DPM-Solver-23 works in λ, so x/√(α² + σ²) is the same on every path, and the same steps are accepted."""
    mean, std = torch.tensor([0.3, -1.0]).double(), torch.tensor([0.5, 1.5]).double()
    found = []
    for path in (VP(), VE(), Flow()):
        points = Points(path, (50.0, 0.02))
        size = math.hypot(points[0].alpha, points[0].sigma)
        x = torch.tensor([[1.0, -2.0]]).double() * size
        report = Adaptive(rtol=0.05, atol=0.01).integrate(points, Run(Gaussian(path, mean, std)), x)
        found.append(report.runs[0].levels)
    assert len(found[0]) > 3
    assert found[1] == pytest.approx(found[0], rel=1e-6)
    assert found[2] == pytest.approx(found[0], rel=1e-6)


def test_steps_are_accepted_and_sized_by_their_errors():
    """Lu et al. 2022, app. C: the root mean square of (high − low)/max(atol, rtol·max(|x'|, |x|)) is at most 1 in
    an accepted step, here DPM-Solver-2 against 1 on VP. ARKODE's PI controller: h'/h = safety·E^{−0.8/k}·E₋^{0.31/k}."""
    oracle = Gaussian(VP(), torch.tensor([0.3, -1.0]).double(), torch.tensor([0.5, 1.5]).double())
    rtol, atol, rejected, smooth = 0.05, 0.01, 0, 0
    for first_step, safety in ((0.02, 0.6), (0.5, 1.0)):
        x = torch.tensor([[1.0, -2.0]]).double()
        solver = Adaptive("dpm_solver_12", rtol, atol, first_step=first_step, safety=safety)
        (found,) = solver.integrate(Points(VP(), (50.0, 0.02)), Run(oracle), x).runs
        errors, before = [], x
        for step in pairwise((50.0, *found.levels)):
            low, high = (
                DPMSolver(n, "original").plan(Points(VP(), step)).solve(Run(oracle), x)
                for n in (1, 2)
            )
            allowed = (rtol * torch.maximum(low.abs(), before.abs())).clamp(min=atol)
            errors.append(float(((high - low) / allowed).square().mean().sqrt()))
            x, before = high, low
        assert max(errors) <= 1
        rejected, smooth = rejected + found.rejected, smooth + (not found.rejected)
        if not found.rejected:
            sizes = np.diff(np.log((50.0, *found.levels)))[:-1]  # the last one is what was left
            factors = [
                a**-0.4 * b**0.155 for b, a in pairwise([errors[0], *errors[: len(sizes) - 1]])
            ]
            expected = np.clip(safety * np.array(factors), 0.2, 10)
            assert sizes[1:] / sizes[:-1] == pytest.approx(expected[: len(sizes) - 1], rel=1e-6)
            assert len(sizes) > 5
    assert rejected and smooth  # both rules were seen at work


# --------------------------------------------------------------------------------------------- noise


@both_paths
@pytest.mark.parametrize(
    "solver",
    [Restart(1, 0.2, 0.7), Restart(3, 0.1, 0.8), Euler(20.0), HeunEDM(20.0)],
    ids=["restart", "3 restarts", "Euler", "Heun"],
)
def test_restart_returns_to_the_variance_of_its_level(solver, path):
    """Data at 0 and every draw along an axis of its own: the length of x is the deviation of the state,
    which must be σ at each level, exactly, since D = 0 makes every step exact."""
    sigmas = (0.95, 0.8, 0.7, 0.5, 0.3, 0.2, 0.1, 0.05)
    points = Points.from_sigmas(path, sigmas)
    axes = torch.eye(64).double()
    start = axes[:1] * sigmas[0]
    end = solver.plan(points).solve(
        Run(lambda x, s: torch.zeros_like(x), lambda k, like: axes[k : k + 1]), start
    )
    assert float(end.norm()) == pytest.approx(sigmas[-1], rel=1e-9)
    assert int((end.abs() > 1e-12).sum()) > 1


def test_churn_keeps_to_its_window():
    """EDM's S_tmin and S_tmax: the network is told (1 + γ)·σ inside, σ outside."""
    sigmas = (10.0, 5.0, 3.0, 1.0, 0.5, 0.2)
    for solver in (Euler(100.0, 1.0, 5.0), HeunEDM(100.0, 1.0, 5.0)):
        told = []

        def denoise(x, sigma, told=told):
            told.append(sigma)
            return torch.zeros_like(x)

        solver.plan(Points(VE(), sigmas)).solve(Run(denoise, lambda k, x: x * 0), torch.ones(1, 2))
        first = told if isinstance(solver, Euler) else told[::2]
        raised = [s * (math.sqrt(2) if 1 <= s <= 5 else 1) for s in sigmas[:-1]]
        assert first == pytest.approx(raised)


def test_sa_solver_draws_inside_its_window_only():
    sigmas = (10.0, 5.0, 3.0, 1.0, 0.5, 0.1)
    drawn, now = [], []

    def denoise(x, sigma):
        now.append(sigma)
        return 0.5 * x / (1 + sigma**2)

    def noise(position, like):
        drawn.append(now[-1])
        return torch.ones_like(like)

    solver = SASolver(noise_from=1.0, noise_to=5.0)
    solver.plan(Points(VE(), sigmas)).solve(Run(denoise, noise), torch.ones(1, 2).double())
    assert drawn == [5.0, 3.0, 1.0]


@pytest.mark.parametrize("path", [VP(), VE(), Flow()], ids=lambda p: p.name)
def test_a_run_starts_as_comfyui_s(path):
    """comfy/model_sampling.py, noise_scaling of EPS (x0 + σ·ε, or √(1 + σ²)·ε at the largest level) and of CONST
    ((1 − σ)·x0 + σ·ε)."""
    latent, noise = torch.tensor([[2.0]]).double(), torch.tensor([[3.0]]).double()
    at = lambda sigma, top: float(noised(path, sigma, latent, noise, top))  # noqa: E731
    if path == Flow():
        assert at(0.25, False) == at(0.25, True) == pytest.approx(0.75 * 2 + 0.25 * 3)
    else:
        assert at(0.25, False) == pytest.approx(2 + 0.25 * 3)
        assert at(4.0, True) == pytest.approx(2 + 17**0.5 * 3)


# -------------------------------------------------------------------------------------------- levels


@both_paths
@pytest.mark.parametrize("kappa", [0.1, 1.0, 14.0])
def test_v_is_read_from_a_host_s_state_at_the_same_level_on_vp(path, kappa):
    """v = α·ε − σ·x0 with α² + σ² = 1 and the same σ/α, whatever coordinates the state is in."""
    x0, eps = torch.tensor([[0.7, -2.0]]).double(), torch.tensor([[1.5, 0.4]]).double()
    at, vp = path.at(kappa), VP().at(kappa)
    x, v = at.alpha * x0 + at.sigma * eps, vp.alpha * eps - vp.sigma * x0
    for sigma in (at.sigma, torch.tensor([at.sigma]).double()):
        assert torch.allclose(Prediction("v").read(v, x, path, sigma), x0, atol=1e-12)
        assert torch.allclose(Prediction("v").write(x0, x, path, sigma), v, atol=1e-12)


def test_the_snr_shift_divides_the_signal_to_noise_ratio():
    """CogVideoX's snr_shift_scale: α²/σ² of every timestep over the shift."""
    plain, shifted = ScaledLinearVP(), ScaledLinearVP(snr_shift=3.0)
    ratio = lambda s: s.alpha_bar / (1 - s.alpha_bar)  # noqa: E731
    assert ratio(plain) / ratio(shifted) == pytest.approx(3.0)


def test_pure_noise_lies_above_every_other_level():
    sigmas = Points(VP(), (math.inf, 1e4, 1.0, 0.0)).sigmas()
    assert sigmas[0] > 1.5 * sigmas[1] and sigmas[1:] == pytest.approx([1e4, 1.0, 0.0])


def test_an_interval_is_open_below_and_closed_above():
    """Kynkäänniemi et al. 2024: σ_low < σ ≤ σ_high, also where SIGMAS holds the limits in float32."""
    curve, ladder = Interval(sigma_low=0.3, sigma_high=0.7), Ladder.make(VE(), ())
    given = [float(np.float32(s)) for s in (0.2, 0.3, 0.31, 0.7, 0.71)]
    assert [curve(ladder.at(s)) for s in given] == [0, 0, 1, 1, 0]
    assert [curve(ladder.at(s)) for s in (0.3, 0.7)] == [0, 1]
