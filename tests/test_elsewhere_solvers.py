"""Equality of the solver families with diffusers, state by state, in float64.

Both sides get the same exact denoiser, the same noise levels in float64 and the same noise, so only the
algorithms are compared: every state agrees to a relative 1e-9, far below the 1e-5 that float32 allows.
Where diffusers differs, the test says why in a line and undoes it, or asserts that it does differ.

diffusers ends a table at 0 or at a positive level ("open"), where it has no special last step.
"""

import itertools
import math

import numpy as np
import pytest
import torch
from product import each

from sampling_kit.schedulers.denoiser import Gaussian
from sampling_kit.schedulers.path import VE, VP, Flow
from sampling_kit.schedulers.points import Points
from sampling_kit.schedulers.solver import (
    DEIS,
    AdamsBashforth,
    DPMSolver,
    DPMSolverMultistep,
    EulerAncestral,
    ExponentialRungeKutta,
    HeunEDM,
    SASolver,
    UniPC,
)
from sampling_kit.schedulers.solver.run import Run

diffusers = pytest.importorskip("diffusers")
from diffusers.schedulers import (  # noqa: E402
    scheduling_dpmsolver_multistep,
    scheduling_dpmsolver_singlestep,
    scheduling_euler_ancestral_discrete,
    scheduling_sasolver,
)

#: Images are [C, H, W] = [2, 1, 3]: diffusers' UniPC wants batches of more than two dimensions.
MEAN = torch.tensor([0.3, -1.0, 2.0, 0.0, 1.0, -0.5], dtype=torch.float64).reshape(2, 1, 3)
STD = torch.tensor([0.5, 1.5, 0.8, 1.0, 0.2, 0.05], dtype=torch.float64).reshape(2, 1, 3)
X = torch.randn(2, 2, 1, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
TOLERANCE = 1e-9
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array:DeprecationWarning"),  # numpy 2
    pytest.mark.filterwarnings("ignore:`algorithm_types=dpmsolver`:FutureWarning"),
]
ON, ENDS, LOWERED = [VP(), Flow()], ["0", "open"], [False, True]
on_vp_and_flow = pytest.mark.parametrize("path", ON, ids=lambda p: p.name)
N = 11


def grid(path, end="0", top=12.0, n=N):
    """n uneven steps (Karras, ρ = 7) from κ = ``top`` to 0.05, the last one to 0 unless ``end`` is 'open'."""
    count = n + (end == "open")
    kappas = np.linspace(top ** (1 / 7), 0.05 ** (1 / 7), count) ** 7
    return Points(path, (*kappas, 0.0) if end == "0" else tuple(kappas))


class Wide:
    """torch, as a module sees it that would round every state to float32."""

    float32 = torch.float64

    def __getattr__(self, name):
        return getattr(torch, name)


def draw(position, like=X):
    """The k-th draw of a run, the same for both sides."""
    generator = torch.Generator().manual_seed(position)
    return torch.randn(like.shape, generator=generator, dtype=torch.float64)


def our_states(solver, points, x=X):
    """Every state the denoiser saw, and the last one."""
    seen, oracle = [], Gaussian(points.path, MEAN, STD)

    def denoise(x, sigma):
        seen.append(x)
        return oracle(x, sigma)

    end = solver.plan(points).solve(Run(denoise, draw), x)
    return [*seen, end]


def loaded(scheduler, points, sigmas=None):
    """A diffusers scheduler about to run over exactly our points (or over ``sigmas`` if given)."""
    host = points.path if points.path == Flow() else points.host.path
    sigmas = points.on(host).sigmas() if sigmas is None else sigmas
    scheduler.set_timesteps(len(sigmas) - 1)
    scheduler.sigmas = torch.tensor(sigmas, dtype=torch.float64)
    scheduler.timesteps = torch.arange(len(sigmas) - 1, 0, -1).double()
    scheduler.num_inference_steps = len(sigmas) - 1
    scheduler.set_begin_index(0)
    scheduler.is_scale_input_called = True
    return scheduler


def their_states(scheduler, points, told=None, before=None, x=X, **step):
    """[x, …] of their loop; ``told``: the κ the network is told, when not the points'."""
    path, states = points.path, [x]
    oracle = Gaussian(path, MEAN, STD)
    for i, (t, kappa) in enumerate(zip(scheduler.timesteps, told or points.kappas, strict=False)):
        if before is not None:
            before(i)
        p = path.at(kappa)
        out = oracle(x, p.sigma)
        if scheduler.config.prediction_type == "epsilon":
            out = (x - p.alpha * out) / p.sigma
        noise = {"variance_noise": draw(i + 1)} if "variance_noise" in step else {}
        x = scheduler.step(out, t, x, **step | noise).prev_sample
        states.append(x)
    return states


def gaps(ours, theirs):
    """Relative distance of each state; the lists must be equally long."""
    pairs = zip(ours, theirs, strict=True)
    return [float((a - b).abs().max() / b.abs().max()) for a, b in pairs]


def assert_equal(ours, theirs):
    assert theirs[-1].dtype == torch.float64
    assert max(found := gaps(ours, theirs)) < TOLERANCE, found


def assert_equal_until(first, ours, theirs):
    """Equal before state ``first`` and clearly different at it."""
    found = gaps(ours, theirs)
    assert max(found[:first]) < TOLERANCE < 1e-5 < found[first], found


# --------------------------------------------------------------------------- DPM-Solver++ multistep


def dpm_multistep(monkeypatch, points, end, lower=False, **options):
    monkeypatch.setattr(scheduling_dpmsolver_multistep, "torch", Wide())
    final = "zero" if end == "0" else "sigma_min"
    flow = points.path == Flow()
    return loaded(
        diffusers.DPMSolverMultistepScheduler(
            prediction_type="sample",
            lower_order_final=lower,  # below 15 steps; ours in any number
            final_sigmas_type=final,
            use_flow_sigmas=flow,
            **options,
        ),
        points,
    )


@each(case=itertools.product([1, 2, 3], ENDS, LOWERED), path=ON)
def test_dpm_multistep_equals_diffusers(case, path, monkeypatch):
    order, end, lower = case
    points = grid(path, end)
    theirs = dpm_multistep(monkeypatch, points, end, lower, solver_order=order)
    ours = DPMSolverMultistep(order, "published", lower_order_final=lower)
    assert_equal(our_states(ours, points), their_states(theirs, points))


@on_vp_and_flow
def test_dpm_multistep_heun_is_our_exact_second_order(path, monkeypatch):
    points = grid(path)
    theirs = dpm_multistep(monkeypatch, points, "0", solver_order=2, solver_type="heun")
    assert_equal(our_states(DPMSolverMultistep(2, "exact"), points), their_states(theirs, points))


@each(
    case=itertools.product(
        [(1, "published", "midpoint"), (2, "published", "midpoint"), (2, "exact", "heun")], ENDS
    ),
    lower=LOWERED,
    path=ON,
)
def test_sde_dpm_multistep_equals_diffusers(case, lower, path, monkeypatch):
    (order, weights, kind), end = case
    points = grid(path, end)
    options = dict(algorithm_type="sde-dpmsolver++", solver_order=order, solver_type=kind)
    theirs = dpm_multistep(monkeypatch, points, end, lower, **options)
    ours = DPMSolverMultistep(order, weights, eta=1.0, lower_order_final=lower)
    assert_equal(our_states(ours, points), their_states(theirs, points, variance_noise=None))


@on_vp_and_flow
def test_sde_3m_of_diffusers_has_a_wrong_sign(path, monkeypatch):
    """Its weight of D2 is φ − ½ for φ + ½, off by α', so it does not vanish with the step; put right, equal."""
    points = grid(path)
    options = dict(algorithm_type="sde-dpmsolver++", solver_order=3)
    ours = our_states(DPMSolverMultistep(3, "published", eta=1.0), points)
    theirs = dpm_multistep(monkeypatch, points, "0", **options)
    assert_equal_until(3, ours, their_states(theirs, points, variance_noise=None))

    theirs = dpm_multistep(monkeypatch, points, "0", **options)
    wrong = theirs.multistep_dpm_solver_third_order_update

    def right(outputs, **kwargs):
        i = theirs.step_index
        lam = [points[i + k].lam for k in (-2, -1, 0, 1)]
        r1, r0 = (lam[1] - lam[0]) / (lam[3] - lam[2]), (lam[2] - lam[1]) / (lam[3] - lam[2])
        newest, before, first = outputs[-1], outputs[-2], outputs[-3]
        curve = ((newest - before) / r0 - (before - first) / r1) / (r0 + r1)
        return wrong(outputs, **kwargs) + points[i + 1].alpha * curve

    monkeypatch.setattr(theirs, "multistep_dpm_solver_third_order_update", right)
    assert_equal(ours, their_states(theirs, points, variance_noise=None))


# -------------------------------------------------------------------------- DPM-Solver, single step


def interleaved(path, order, end):
    """(our points, theirs): diffusers takes its stages from the table, so every step is cut in λ."""
    points = grid(path, end, n=5)
    kappas = [points.kappas[0]]
    for a, b in zip(points.kappas, points.kappas[1:], strict=False):
        inner = [a * (b / a) ** (k / order) for k in range(1, order)] if b else []
        kappas += [*inner, b]
    return points, Points(path, tuple(kappas))


def dpm_singlestep(monkeypatch, points, end, order, form):
    monkeypatch.setattr(scheduling_dpmsolver_singlestep, "torch", Wide())
    options = dict(
        prediction_type="sample",
        solver_order=order,
        algorithm_type={"++": "dpmsolver++", "original": "dpmsolver"}[form],
        final_sigmas_type="zero" if end == "0" else "sigma_min",
        lower_order_final=end == "0",
        use_flow_sigmas=points.path == Flow(),
    )
    theirs = loaded(diffusers.DPMSolverSinglestepScheduler(**options), points)
    whole = (len(points) - 1) // order
    theirs.order_list = [*range(1, order + 1)] * whole + [1] * (len(points) - 1 - whole * order)
    return theirs


@each(
    case=[  # theirs refuses 0 in the original form
        *itertools.product([1, 2, 3], ["++"], ENDS),
        *itertools.product([1, 2, 3], ["original"], ["open"]),
    ],
    path=ON,
)
def test_dpm_singlestep_equals_diffusers(case, path, monkeypatch):
    """Stages too. At order 3 theirs takes 2S's rule for its second stage; the paper's is its 'heun' one."""
    order, form, end = case
    points, cut = interleaved(path, order, end)
    theirs = dpm_singlestep(monkeypatch, cut, end, order, form)
    ours = our_states(DPMSolver(order, form), points)

    def as_published(i):
        stage = order == 3 and theirs.order_list[i] == 2
        theirs.register_to_config(solver_type="heun" if stage else "midpoint")

    assert_equal(ours, their_states(theirs, cut, before=as_published))
    if order == 3:
        theirs = dpm_singlestep(monkeypatch, cut, end, order, form)
        assert_equal_until(2, ours, their_states(theirs, cut))


@pytest.mark.parametrize("order", [2, 3])
@on_vp_and_flow
def test_single_step_dpm_is_one_method_by_two_names(path, order):
    points = grid(path)
    ours = our_states(ExponentialRungeKutta(f"dpmpp_{order}s"), points)
    assert_equal(ours, our_states(DPMSolver(order, "++"), points))


# --------------------------------------------------------------------------------------------- UniPC


@each(
    case=itertools.product([1, 2, 3], [("0", True), ("open", False), ("open", True)]),
    variant=["bh1", "bh2"],
    corrector=[True, False],
    path=ON,
)
def test_unipc_equals_diffusers(case, path, variant, corrector):
    order, (end, lower) = case
    points = grid(path, end)
    theirs = loaded(unipc(points, order, variant, corrector, lower), points)
    ours = UniPC(order, variant, corrector, lower_order_final=lower)
    assert_equal(our_states(ours, points), their_states(theirs, points))


@pytest.mark.parametrize("variant", ["bh1", "bh2"])
def test_unipc_3_of_diffusers_must_lower_its_order_to_reach_0(variant):
    """In full order its step to 0 has no solution; ours is D there, so lowering is a choice."""
    points = grid(VP())
    with pytest.raises(torch.linalg.LinAlgError):
        their_states(loaded(unipc(points, 3, variant, True, False), points), points)
    theirs = loaded(unipc(points, 3, variant, True, True), points)
    assert_equal_until(N - 1, our_states(UniPC(3, variant), points), their_states(theirs, points))


def unipc(points, order, variant, corrector, lower_order_final):
    return diffusers.UniPCMultistepScheduler(
        prediction_type="sample",
        solver_order=order,
        solver_type=variant,
        disable_corrector=[] if corrector else list(range(N + 1)),
        lower_order_final=lower_order_final,
        use_flow_sigmas=points.path == Flow(),
    )


# ------------------------------------------------------------- on σ: Heun, midpoint, LMS, ancestral


def doubled(values):
    """a b b c c … z z, as the two-stage schedulers write their tables."""
    return [values[0], *(v for v in values[1:] for _ in (0, 1))]


def test_heun_equals_diffusers():
    points = grid(VE(), top=14.6)
    table = doubled(points.sigmas())
    theirs = loaded(diffusers.HeunDiscreteScheduler(prediction_type="sample"), points, table)
    ours = our_states(HeunEDM(), points, x=14 * X)
    assert_equal(ours, their_states(theirs, points, told=told_of(points), x=14 * X))


def told_of(points):
    """κ of each evaluation of a two-stage method that evaluates at both ends of a step."""
    pairs = zip(points.kappas, points.kappas[1:], strict=False)
    return [k for a, b in pairs for k in ([a, b] if b else [a])]


def test_kdpm2_equals_diffusers():
    """Its midpoint lies in log σ, which makes it DPM-Solver-2 exactly."""
    points = grid(VE(), top=14.6)
    table = points.sigmas()
    middles = [math.sqrt(a * b) for a, b in itertools.pairwise(table)]
    theirs = diffusers.KDPM2DiscreteScheduler()
    loaded(theirs, points, doubled(table))
    between = [table[0], *(m for m in middles for _ in (0, 1))]
    theirs.sigmas_interpol = torch.tensor(between, dtype=torch.float64)
    told = [k for a, m in zip(table, middles, strict=False) for k in ([a, m] if m else [a])]
    ours = our_states(DPMSolver(2, "original"), points, x=14 * X)
    assert_equal(ours, their_states(theirs, points, told=told, x=14 * X))


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_lms_equals_diffusers(order):
    points = grid(VE(), "open", top=14.6)
    theirs = loaded(diffusers.LMSDiscreteScheduler(prediction_type="sample"), points)
    ours = our_states(AdamsBashforth(order, "variable", "sigma"), points, x=14 * X)
    assert_equal(ours, their_states(theirs, points, x=14 * X, order=order))


@pytest.mark.parametrize("order", [2, 3, 4])
def test_lms_of_diffusers_extrapolates_to_0(order):
    """Its last step, to 0, extrapolates velocities; ours (and k-diffusion's) ends on D."""
    points = grid(VE(), top=14.6)
    theirs = loaded(diffusers.LMSDiscreteScheduler(prediction_type="sample"), points)
    ours = our_states(AdamsBashforth(order, "variable", "sigma"), points, x=14 * X)
    assert_equal_until(N, ours, their_states(theirs, points, x=14 * X, order=order))


def test_euler_ancestral_equals_diffusers(monkeypatch):
    module, position = scheduling_euler_ancestral_discrete, iter(range(1, 100))
    monkeypatch.setattr(module, "torch", Wide())
    monkeypatch.setattr(module, "randn_tensor", lambda *_, **__: draw(next(position)))
    points = grid(VE(), top=14.6)
    theirs = loaded(diffusers.EulerAncestralDiscreteScheduler(), points)
    ours = our_states(EulerAncestral(), points, x=14 * X)
    assert_equal(ours, their_states(theirs, points, x=14 * X))


# ----------------------------------------------------------------------------------- DEIS, SA-Solver


@each(case=itertools.product([1, 2, 3], LOWERED), path=ON)
def test_deis_equals_diffusers(case, path):
    """logrho is the polynomial in λ. Its table cannot end at 0: log 0 would make it NaN."""
    order, lower = case
    points = grid(path, "open")
    theirs = diffusers.DEISMultistepScheduler(
        prediction_type="sample",
        solver_order=order,
        lower_order_final=lower,
        use_flow_sigmas=path == Flow(),
    )
    theirs = loaded(theirs, points)
    ours = DEIS(order, "lambda", lower_order_final=lower)
    assert_equal(our_states(ours, points), their_states(theirs, points))


def sa_solver(monkeypatch, points, predictor, corrector, tau, lower=False):
    position = iter(range(1, 100))
    monkeypatch.setattr(scheduling_sasolver, "randn_tensor", lambda *_, **__: draw(next(position)))
    theirs = diffusers.SASolverScheduler(
        prediction_type="sample",
        predictor_order=predictor,
        corrector_order=corrector,
        tau_func=lambda t: torch.tensor(tau, dtype=torch.float64),
        lower_order_final=lower,
        use_flow_sigmas=points.path == Flow(),
    )
    return loaded(theirs, points)


def without_its_second_order(theirs, monkeypatch):
    """Theirs replaces ∫(λ − λ_0)e^… by h²/2 at order 2 only, start-up included; take that back."""
    published = theirs.get_coefficients_fn

    def exact(order, start, end, nodes, tau):
        weights, k, h = published(order, start, end, nodes, tau), 1 + tau**2, end - start
        if order == 2:
            term = (h**2 / 2 - (h * k - 1 + (-k * h).exp()) / k**2) / (nodes[0] - nodes[1])
            term = term * (k * end).exp()
            weights = [weights[0] - term, weights[1] + term]
        return weights

    monkeypatch.setattr(theirs, "get_coefficients_fn", exact)
    return theirs


@pytest.mark.some(8)
@each(
    case=itertools.product([(1, 1), (2, 1), (1, 2), (2, 2), (3, 3), (3, 4)], [0.0, 0.6, 1.0]),
    lower=LOWERED,
    path=ON,
)
def test_sa_solver_equals_diffusers(case, path, lower, monkeypatch):
    (predictor, corrector), tau = case
    points = grid(path, "open")
    ours = our_states(SASolver(predictor, corrector, tau, lower_order_final=lower), points)
    theirs = sa_solver(monkeypatch, points, predictor, corrector, tau, lower)
    theirs = without_its_second_order(theirs, monkeypatch)
    assert_equal(ours, their_states(theirs, points))
    if (predictor, corrector) == (1, 1):  # has no second order
        theirs = sa_solver(monkeypatch, points, predictor, corrector, tau, lower)
        assert_equal(ours, their_states(theirs, points))


def test_sa_solver_of_diffusers_changes_the_second_order(monkeypatch):
    """See without_its_second_order; at the first step that knows two predictions they part."""
    points = grid(VP(), "open")
    for predictor, corrector in ((2, 1), (3, 3), (1, 2)):
        theirs = sa_solver(monkeypatch, points, predictor, corrector, 1.0)
        ours = our_states(SASolver(predictor, corrector, 1.0), points)
        assert_equal_until(2, ours, their_states(theirs, points))
