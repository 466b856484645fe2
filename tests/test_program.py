"""A plan made ready to run does what its table says, in few kernels, and can be taken in parts."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from product import each

from sampling_kit.schedulers.denoiser.analytic import Gaussian
from sampling_kit.schedulers.noise import PerImageNoise
from sampling_kit.schedulers.path import VE, VP, Flow
from sampling_kit.schedulers.points import Points
from sampling_kit.schedulers.solver import ALL, DDPM, State
from sampling_kit.schedulers.solver.adams import DEIS, AdamsBashforth
from sampling_kit.schedulers.solver.base import host_plan
from sampling_kit.schedulers.solver.euler import Euler
from sampling_kit.schedulers.solver.multistep import DPMSolverMultistep, UniPC
from sampling_kit.schedulers.solver.restart import Restart
from sampling_kit.schedulers.solver.run import Run
from sampling_kit.schedulers.solver.selection import variants

PLANNED = [s for cls in ALL if cls.planned for s in variants(cls)]
MEAN, STD = torch.tensor([0.5, -1.0, 2.0]).double(), torch.tensor([0.6, 0.8, 0.7]).double()


def levels(path, n, top=20.0, bottom=0.05):
    return Points(path, (*np.geomspace(top, bottom, n), 0.0))


def by_the_table(plan, denoise, x, noise):
    """The plan's table read literally: Σ x_j·anchor_j + Σ d_j·D_j + noise·z."""
    anchors, history, draws = [x], [], 0
    for stage in plan.stages:
        y = torch.zeros_like(x)
        for w, t in [*zip(stage.x, anchors), *zip(stage.d, history)]:  # noqa: B905
            y = y + w * t
        if stage.noise:
            draws += 1
            y = y + stage.noise * noise(draws, x)
        anchors = [y, *anchors] if stage.commit else anchors
        if stage.evaluate:
            d = denoise(y, stage.sigma)
            history = [d.clamp(-plan.clip_x0, plan.clip_x0) if plan.clip_x0 else d, *history]
    return anchors[0]


@pytest.mark.some(10)
@each(by=type, solver=PLANNED, host=[VE(), Flow()])
def test_the_moves_are_the_table(solver, host):
    points = levels(host, 9)
    plan, oracle, noise = host_plan(solver, points), Gaussian(host, MEAN, STD), PerImageNoise(3)
    x = points[0].alpha * MEAN + points[0].sigma * noise(0, torch.empty(4, 3)).double()
    table = by_the_table(plan, oracle, x, noise)
    # a solver that extrapolates far amplifies rounding; nothing here does by more than 1e5
    assert torch.allclose(plan.solve(Run(oracle, noise), x), table, rtol=1e-10, atol=1e-10)


@pytest.mark.some(10)
@each(by=type, solver=PLANNED)
def test_a_run_split_anywhere_is_bit_equal(solver):
    """Stopped before any stage: the state holds all that the rest needs, and the start is not changed."""
    points = levels(Flow(), 5)
    oracle, plan, noise = Gaussian(Flow(), MEAN, STD), solver.plan(points), PerImageNoise(5)
    x = points[0].alpha * MEAN + points[0].sigma * noise(0, torch.empty(2, 3)).double()
    before = x.clone()
    whole = plan.solve(Run(oracle, noise), x)
    for cut in range(len(plan.stages) + 1):
        state = plan.advance(Run(oracle, noise), State((x,)), until=cut)
        assert torch.equal(plan.advance(Run(oracle, noise), state).anchors[0], whole)
    assert torch.equal(x, before)


@pytest.mark.some(10)
@each(by=type, solver=PLANNED)
def test_a_run_in_parts_is_the_run(solver):
    """Stopped at any level and gone on with: the same bits, and x belongs to that level."""
    points = levels(Flow(), 5, 9.0)
    oracle, noise = Gaussian(Flow(), MEAN, STD), PerImageNoise(5)
    x = points[0].alpha * MEAN + points[0].sigma * noise(0, torch.empty(2, 3)).double()
    whole = solver.solve(points, Run(oracle, noise), x)
    for level in range(1, 6):
        state = solver.advance(points, Run(oracle, noise), State((x,)), level=level)
        part = Points(Flow(), points.kappas[: level + 1])
        looks_ahead = isinstance(solver, Restart) or any(
            getattr(solver, knob, False)
            for knob in ("churn", "lower_order_final", "lower_order_early")
        )
        if not looks_ahead:  # then a plan for the first levels is the first part of the whole
            assert torch.allclose(state.x, solver.solve(part, Run(oracle, noise), x), atol=1e-12)
        assert torch.equal(state.moved(state.x).x, state.x)
        assert torch.equal(solver.advance(points, Run(oracle, noise), state).x, whole)
        once_more = solver.advance(points, Run(oracle, noise), state, level=level)
        assert torch.equal(solver.advance(points, Run(oracle, noise), once_more).x, whole)


def test_churned_levels_hand_out_the_state_before_the_noise():
    points = Points(VE(), (9.0, 3.0, 1.0, 0.0))
    solver, noise = Euler(churn=0.9), PerImageNoise(1)
    x = 9 * noise(0, torch.empty(1, 3)).double()
    state = solver.advance(points, Run(Gaussian(VE(), MEAN, STD), noise), State((x,)), level=1)
    added = 1.0 * math.sqrt((3 * 1.3) ** 2 - 3**2) * noise(2, x)
    assert torch.allclose(state.y - state.x, added, atol=1e-12)
    shifted = state.moved(state.x + 1)
    assert torch.allclose(shifted.y - state.y, torch.ones(1, 3).double())
    assert torch.equal(shifted.x, state.x + 1)


def test_an_edit_between_the_parts_is_used_and_the_history_kept():
    points = levels(VE(), 6)
    solver, oracle = DPMSolverMultistep(2), Gaussian(VE(), MEAN, STD)
    x = torch.full((1, 3), 15.0).double()
    state = solver.advance(points, Run(oracle), State((x,)), level=3)
    edited = solver.advance(points, Run(oracle), state.moved(state.x + 0.1)).x
    afresh = solver.solve(Points(VE(), points.kappas[3:]), Run(oracle), state.x + 0.1)
    assert not torch.allclose(edited, afresh, atol=1e-5)
    assert not torch.allclose(edited, solver.solve(points, Run(oracle), x), atol=1e-5)


@pytest.mark.parametrize(
    ("host", "solver", "kernels"),
    [
        (VE(), Euler(), 1),
        (VE(), DPMSolverMultistep(2), 2),
        (Flow(), DPMSolverMultistep(3, "exact"), 3),
        (Flow(), UniPC(2), 3),
        (VE(), UniPC(3), 4),
        (VE(), DEIS(3), 4),
        (Flow(), DEIS(3), 5),
        (Flow(), AdamsBashforth(3), 4),
    ],
    ids=repr,
)
def test_kernels_of_a_step(host, solver, kernels):
    """k tensors whose weights add up to 1 take k − 1; ε or the velocity is kept, not found anew."""
    kinds = ("lerp", "lerp_", "add", "add_", "sub", "mul")
    asked, counts = [], []

    class Counted(torch.Tensor):
        @classmethod
        def __torch_function__(cls, function, types, args=(), kwargs=None):
            asked.extend([function.__name__] * (function.__name__ in kinds))
            return super().__torch_function__(function, types, args, kwargs or {})

    d = torch.ones(1, 3).as_subclass(Counted)

    def denoise(x, sigma):
        counts.append(len(asked))
        return d

    solver.plan(levels(host, 24)).solve(Run(denoise), d.clone())
    steps = {b - a for a, b in pairwise(counts[10:21])}
    assert steps == {kernels}


@pytest.mark.parametrize(
    ("broken", "named"), [(0, "0"), (1, "1"), (4, "4-7"), (6, "4-7"), (9, "8-11")]
)
def test_a_non_finite_prediction_is_found_soon(broken, named):
    """Checked at evaluations 1, 2, 4, 8, every eighth after that, and the last."""
    points = levels(VE(), 12)
    calls = []

    def denoise(x, sigma):
        calls.append(sigma)
        return x * math.nan if len(calls) == broken + 1 else x

    with pytest.raises(FloatingPointError, match=rf"at step {named} of 12, evaluation \d+ \(σ"):
        Euler().plan(points).solve(Run(denoise), torch.ones(1, 3))


@pytest.mark.some(10)
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@each(by=type, solver=PLANNED)
def test_no_synchronisation_inside_a_run(solver):
    points = levels(VP(), 8).host
    plan = host_plan(solver, points)
    x, left = torch.randn(2, 4, 8, 8, device="cuda"), plan.nfe

    def denoise(y, sigma):
        nonlocal left
        left -= 1
        torch.cuda.set_sync_debug_mode("error" if left else "default")
        return 0.5 * y

    try:
        assert torch.isfinite(plan.solve(Run(denoise, PerImageNoise(0)), x)).all()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_stochastic_plan_without_noise_is_refused():
    with pytest.raises(ValueError, match="noise source"):
        DDPM().plan(levels(VE(), 3)).solve(Run(lambda x, s: x), torch.ones(1, 3))
