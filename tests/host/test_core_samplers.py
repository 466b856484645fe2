"""ComfyUI's samplers next to ours: the same exact denoiser, SIGMAS and noise, every state compared.

``core_samplers.py`` runs theirs; ours run here. In float64 a state must agree to a relative 1e-9, in
float32 to 1e-5, stages included. Where core differs, the reason is a line, and its way, written out as
a change to our solver, gives its numbers: nothing else differs.
"""

from __future__ import annotations

import itertools
import json
import math
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from core_sampler_cases import (
    ALL_CASES,
    ANCESTRAL,
    BLIND,
    DIFFERENT,
    EQUAL,
    MEAN,
    PATHS,
    STD,
    TOLERANCE,
    WINDOW,
    WINDOWED,
    Case,
    Key,
    N,
    PutRight,
    draw,
    levels,
    sigmas,
)

from sampling_kit.schedulers.denoiser import Gaussian
from sampling_kit.schedulers.path import VE, Point
from sampling_kit.schedulers.path import Path as NoisePath
from sampling_kit.schedulers.points import Points
from sampling_kit.schedulers.sample import sample
from sampling_kit.schedulers.solver import (
    AdamsBashforth,
    Adaptive,
    SASolver,
    Solver,
)
from sampling_kit.schedulers.solver.run import Run

pytestmark = pytest.mark.host


def start(model: str, end: str) -> torch.Tensor:
    return draw(0) * sigmas(model, end)[0]


def keys(case: Case) -> list[Key]:
    return [(case.name, m, e, d) for m in case.models for e in case.ends for d in TOLERANCE]


@pytest.fixture(scope="module")
def core(comfy: Any) -> dict[Key, list[torch.Tensor]]:
    """{(case, model, end, dtype): every state that the sampler's denoiser saw, and the result}."""
    asked = {key: case for case in ALL_CASES for key in keys(case)}
    cases = [
        dict(
            sampler=case.sampler,
            model=model,
            sigmas=sigmas(model, end),
            x=start(model, end).tolist(),
            dtype=dtype,
            options=case.options,
        )
        for (_, model, end, dtype), case in asked.items()
    ]
    answers = answers_of(comfy, cases)
    return {
        key: [torch.tensor(x, dtype=getattr(torch, key[3])) for x in states]
        for key, states in zip(asked, answers, strict=True)
    }


def answers_of(comfy: Any, cases: Sequence[dict[str, Any]]) -> list[Any]:
    """What ``core_samplers.py`` says to these cases."""
    draws = [draw(k).tolist() for k in range(1, 3 * N + 1)]
    request = dict(mean=MEAN.tolist(), std=STD.tolist(), draws=draws, cases=cases)
    ended = subprocess.run(
        [comfy.python, str(Path(__file__).with_name("core_samplers.py"))],
        input=json.dumps(request).encode(),
        capture_output=True,
        timeout=300,
        **comfy.setting,
    )
    assert ended.returncode == 0, ended.stderr.decode()[-4000:]
    return json.loads(ended.stdout)


def our_states(
    solver: Solver, case: Case, key: Key, path: NoisePath | None = None
) -> list[torch.Tensor]:
    """What the denoiser saw, and the result; ``path``: if not the model's own."""
    _, model, end, name = key
    dtype, host = getattr(torch, name), PATHS[model].host
    oracle, seen = Gaussian(host, MEAN.to(dtype), STD.to(dtype)), []

    def denoise(x: torch.Tensor, sigma: float) -> torch.Tensor:
        seen.append(x)
        return oracle(x, sigma)

    def noise(position: int, like: torch.Tensor) -> torch.Tensor:
        return draw(position).to(dtype)

    x = start(model, end).to(dtype)
    result = sample(solver, path or PATHS[model], Run(denoise, noise), x, levels(case, model, end))
    return [*seen, result]


def gaps(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> list[float]:
    """Relative distance of each state; the lists must be equally long."""
    pairs = zip(ours, theirs, strict=True)
    return [float((a - b).abs().max() / b.abs().max()) for a, b in pairs]


def of(cases: Sequence[Case]) -> Any:
    return pytest.mark.parametrize("case", cases, ids=lambda case: case.name)


@of(EQUAL)
def test_core_samplers_equal_ours(core, case):
    for key in keys(case):
        found = gaps(our_states(case.ours, case, key), core[key])
        assert max(found) < TOLERANCE[key[3]], (key, found)


@of(DIFFERENT)
def test_core_samplers_that_differ_do_so_in_what_is_said(core, case):
    for key in keys(case):
        limit = TOLERANCE[key[3]]
        found = gaps(our_states(case.ours, case, key), core[key])
        assert max(found[: case.first]) < limit, (key, found)
        if key[3] == "float64":
            assert found[case.first] > 1e-7, (key, found)
        if case.theirs is not None:
            found = gaps(our_states(case.theirs, case, key), core[key])
            assert max(found) < max(limit, case.tolerance), (key, found)


@of([case for case in DIFFERENT if case.sampler in ("er_sde", "deis")])
def test_what_core_s_quadrature_costs(core, case):
    """ER-SDE's left sums change a state by up to 1e-3, DEIS's time and sums by up to 1e-4."""
    for key in keys(case):
        found = gaps(our_states(case.ours, case, key), core[key])
        assert max(found) < {"er_sde": 1e-3, "deis": 1e-4}[case.sampler], (key, found)


@pytest.mark.parametrize("order", [3, 4])
def test_ipndm_v_with_its_misprints_put_right_is_ours(order):
    case = Case("ipndm_v", AdamsBashforth(order, "variable", "sigma"))
    for model in PATHS:
        key = (case.name, model, "0", "float64")
        theirs = our_states(PutRight(order, "variable", "sigma"), case, key)
        assert max(gaps(our_states(case.ours, case, key), theirs)) < 1e-9


@of(BLIND)
def test_samplers_that_take_sigma_of_a_flow_model_for_kappa(core, case):
    """Ours, told that the model is not a flow, gives the same numbers."""
    for key in keys(case):
        limit = TOLERANCE[key[3]]
        assert max(gaps(our_states(case.ours, case, key, VE()), core[key])) < limit, key
        found = gaps(our_states(case.ours, case, key), core[key])
        assert max(found[: case.first]) < limit and max(found[case.first :]) > 1e-2, (key, found)


def test_euler_ancestral_on_flow_is_another_rule(core):
    for key in keys(ANCESTRAL):
        found = gaps(our_states(ANCESTRAL.ours, ANCESTRAL, key), core[key])
        assert found[0] < 1e-5 and found[1] > 1e-2, (key, found)


def test_the_noise_window_of_sa_solver_is_one_step_off(core):
    """Noise goes into a step where core's window holds the level it arrives at: ours, the one it leaves."""
    (low, high), grid = WINDOW, sigmas("EPS", "open")
    leaving = [a for a, b in itertools.pairwise(grid) if low <= b <= high]
    assert 2 < len(leaving) < N
    shifted = SASolver(noise_from=leaving[-1] * 0.999, noise_to=leaving[0] * 1.001)
    same = SASolver(noise_from=low, noise_to=high)
    for key in keys(WINDOWED):
        assert max(gaps(our_states(shifted, WINDOWED, key), core[key])) < TOLERANCE[key[3]], key
        assert max(gaps(our_states(same, WINDOWED, key), core[key])) > 1e-2, key


class AsCore(Adaptive):
    """Core's dpm_adaptive: errors in units of σ, not of the state's deviation, and a step is accepted if it
    would not be cut by more than 0.81."""

    def _tolerance(
        self, low: torch.Tensor, at: Point, before: torch.Tensor, start: Point
    ) -> torch.Tensor:
        return (self.rtol * torch.maximum(low.abs(), before.abs())).clamp(min=self.atol)

    def _control(self, errors: Sequence[float]) -> tuple[bool, float]:
        factor = 1 + math.atan((1 / (errors[0] + 1e-8)) ** (1 / self.order) - 1)
        return factor >= 0.81, factor


@pytest.mark.parametrize("tolerance", [(0.05, 0.0078), (1e-3, 1e-4)], ids=str)
def test_dpm_adaptive_is_ours_with_core_s_norm_and_control(comfy, tolerance):
    """On EPS, for one image: the same steps. (It evaluates again what is known after a rejection, and takes
    one error for the batch; on FLOW it takes σ for κ.)"""
    grid, (rtol, atol) = sigmas("EPS", "open"), tolerance
    x = start("EPS", "open")[:1]
    about = dict(model="EPS", sigmas=grid, x=x.tolist(), dtype="float64")
    cases = [
        dict(
            sampler="dpm_adaptive",
            options=dict(order=k, rtol=rtol, atol=atol, h_init=0.05),
            **about,
        )
        for k in (2, 3)
    ]
    oracle, points = Gaussian(VE(), MEAN, STD), Points(VE(), tuple(grid))
    first = 0.05 / math.log(grid[0] / grid[-1])
    for order, states in zip((2, 3), answers_of(comfy, cases), strict=True):
        method = f"dpm_solver_{order - 1}{order}"
        solver = AsCore(method, rtol, atol, first_step=first)
        report = solver.integrate(points, Run(oracle), x)
        theirs = torch.tensor(states[-1], dtype=torch.float64)
        assert (
            float((report.x - theirs).abs().max() / theirs.abs().max()) < 1e-7
        )  # estimates cancel
        taken = report.runs[0]
        assert (len(states) - 1) == order * (taken.accepted + taken.rejected)
