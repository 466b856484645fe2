"""The cases of ``host/test_core_samplers.py``: solvers of ours beside the core's samplers, and the core's ways."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from sampling_kit.schedulers.path import VP, Flow, Point
from sampling_kit.schedulers.points import Points
from sampling_kit.schedulers.solver import (
    DDPM,
    DEIS,
    ERSDE,
    LCM,
    AdamsBashforth,
    DPMSolver,
    DPMSolverMultistep,
    Euler,
    EulerAncestral,
    ExponentialRungeKutta,
    GradientEstimation,
    HeunEDM,
    SASolver,
    Solver,
    UniPC,
)
from sampling_kit.schedulers.solver.weights import data_weights, lagrange

TOLERANCE = {"float64": 1e-9, "float32": 1e-5}
PATHS = {"EPS": VP(), "FLOW": Flow()}
N = 11
ENDS = ("0", "open")  # "open": to a positive level, where no sampler has a special last step
MEAN = torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64).reshape(3, 1, 1)
STD = torch.tensor([0.5, 1.5, 0.8], dtype=torch.float64).reshape(3, 1, 1)


def draw(position: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(position)
    return torch.randn(2, 3, 1, 1, generator=generator, dtype=torch.float64)


def sigmas(model: str, end: str) -> list[float]:
    """N uneven steps (Karras, ρ = 7 in κ), from σ = 14.6 on EPS and 0.98 on FLOW."""
    top, count = {"EPS": 14.6, "FLOW": 49.0}[model], N + (end == "open")
    kappas = np.linspace(top ** (1 / 7), 0.05 ** (1 / 7), count) ** 7
    levels = [PATHS[model].host.at(float(k)).sigma for k in kappas]
    return levels if end == "open" else [*levels, 0.0]


# ------------------------------------------------------------------- core's ways, as changes to ours


class HeunStart(DPMSolverMultistep):
    """3M whose second step is exact 2M ('heun'); ours is 'midpoint', as in the paper and in diffusers."""

    def _weights(self, points: Points, i: int, levels: list[int]) -> Any:
        if len(levels) == 2:
            return data_weights(points, i, levels, eta=self.eta)
        return super()._weights(points, i, levels)


class LeftSums(ERSDE):
    """Integrals as sums over the left ends of 200 equal pieces in κ; ours are exact to round-off."""

    def _coefficients(self, p: Point, q: Point) -> tuple[float, tuple[float, float]]:
        a, b = q.kappa, p.kappa
        u = a + np.arange(200) * (b - a) / 200
        phi = lambda k: k * (np.exp(k**0.3) + 10)  # noqa: E731
        ratio, width = phi(a) / phi(u), (b - a) / 200
        first = a - b + float(ratio.sum()) * width
        second = (a - b) ** 2 / 2 + float((ratio * (u - b)).sum()) * width
        return float(phi(a) / phi(b)), (first, second)


class FittedTime(DEIS):
    """tAB in the VP time fitted to σ from 0.002 to 80 and t from 0.001, whatever the model's, summed over
    10000 points with both ends; ours has the standard VP time and exact integrals."""

    def _weights(self, points: Points, i: int, levels: list[int]) -> np.ndarray:
        if len(levels) == 1:
            return super()._weights(points, i, levels)
        low, high = np.log1p(0.002**2), np.log1p(80.0**2)
        slope = 2 * (low / 1e-3 - high) / (1e-3 - 1)
        first = high - slope / 2
        kappas = np.array([points.kappas[k] for k in (*levels, i + 1)])
        t = (np.sqrt(first**2 + 2 * slope * np.log1p(kappas**2)) - first) / slope
        at = np.linspace(t[0], t[-1], 10000)
        exponent = at**2 * slope / 2 + at * first  # log(1 + κ²)
        speed = (at * slope + first) / 2 * np.exp(exponent) / np.sqrt(np.expm1(exponent))  # dκ/dt
        return lagrange(t[:-1].tolist(), at) @ speed * (t[-1] - t[0]) / len(at)


class Misprinted(AdamsBashforth):
    """iPNDM-v's closed forms with a bracket and a sign amiss and one ratio of the wrong steps; with the
    three put right they are the variable Adams–Bashforth weights that ours solves for."""

    right = False

    def _weights(self, grid: Points, i: int, levels: list[int]) -> np.ndarray:
        s = [grid[k].sigma for k in range(i + 2)]
        h, h1, h2, h3 = (s[k + 1] - s[k] if k >= 0 else 1.0 for k in (i, i - 1, i - 2, i - 3))
        third, ratio = 1 - h / (3 * (h + h1)), h * (h + h1) / (h1 * (h1 + h2))
        curve = third / 2 * ratio if self.right else (1 - (1 - third) * ratio) / 2
        tail = (1 - h / (2 * (h + h1))) * h / (6 * (h + h1 + h2))
        jerk = third / 2 - tail if self.right else third / 2 + tail
        jerk = jerk * ratio * (h + h1 + h2) / (h1 + h2 + h3)
        curve, jerk = curve * (len(levels) > 2), jerk * (len(levels) > 3)
        a, b = h1 / h2, h1 * (h1 + h2) / (h2 * (h2 + h3))
        weights = [
            1 + h / h1 / 2 + curve + jerk,
            -h / h1 / 2 - (1 + a) * curve - (1 + a + b) * jerk,
            a * curve + (a + b * (1 + h2 / h3)) * jerk,
            -jerk * b * (h2 / h3 if self.right else h1 / h2),
        ]
        return h * np.array(weights[: len(levels)] if len(levels) > 1 else [1.0])


class PutRight(Misprinted):
    right = True


# --------------------------------------------------------------------------------------------- cases


@dataclass(frozen=True)
class Case:
    """A core sampler with options, and the solver of ours that it is."""

    sampler: str
    ours: Solver
    options: dict[str, Any] = field(default_factory=dict)
    models: Sequence[str] = ("EPS", "FLOW")
    ends: Sequence[str] = ENDS

    @property
    def name(self) -> str:
        return " ".join([self.sampler, *(f"{k}={v}" for k, v in self.options.items())])


@dataclass(frozen=True)
class Different(Case):
    """As ``ours`` up to state ``first``, and as ``theirs`` throughout (where that could be written)."""

    theirs: Solver | None = None
    first: int = 2
    tolerance: float = 0.0  # of ``theirs``, if the usual one is too tight


def tau(value: float, low: float = 0.0, high: float = 1e5) -> dict[str, Any]:
    return {"tau": [value, low, high]}


EPS = ("EPS",)
EQUAL = [
    Case("euler", Euler()),
    Case("heun", HeunEDM()),
    Case("lms", AdamsBashforth(4, "variable", "sigma")),
    Case("lcm", LCM()),
    *(Case("ipndm", AdamsBashforth(n), {"max_order": n}) for n in (2, 3, 4)),
    Case("ipndm_v", AdamsBashforth(2, "variable", "sigma"), {"max_order": 2}),
    *(Case("gradient_estimation", GradientEstimation(g), {"ge_gamma": g}) for g in (2.0, 1.5)),
    Case("res_multistep", DPMSolverMultistep(2, "exact", coordinate="log_sigma")),
    *(Case("dpmpp_2m_sde", DPMSolverMultistep(2, eta=e), {"eta": e}) for e in (1.0, 0.5, 0.0)),
    Case("dpmpp_2m_sde_heun", DPMSolverMultistep(2, "exact", eta=1.0)),
    Case("er_sde", ERSDE(1), {"max_stage": 1}),
    *(Case("seeds_2", DPMSolver(2, eta=e), {"eta": e}) for e in (1.0, 0.5, 0.0)),
    *(Case("seeds_3", DPMSolver(3, eta=e), {"eta": e}) for e in (1.0, 0.5, 0.0)),
    Case("exp_heun_2_x0", ExponentialRungeKutta("exp_heun")),
    *(Case("sa_solver", SASolver(tau=t), tau(t), ends=("open",)) for t in (0.0, 0.6, 1.0)),
    *(
        Case("sa_solver_pece", SASolver(tau=t, pece=True), tau(t), ends=("open",))
        for t in (0.0, 0.6, 1.0)
    ),
    Case(
        "sa_solver",
        SASolver(2, 2, tau=1.0),
        tau(1.0) | {"predictor_order": 2, "corrector_order": 2},
        ends=("open",),
    ),
    # on FLOW core's next ones take σ for κ, or are another method: see below
    Case("euler_ancestral", EulerAncestral(), models=EPS),
    Case("euler_ancestral", EulerAncestral(0.5), {"eta": 0.5}, models=EPS),
    Case("ddpm", DDPM(), models=EPS),
    Case("dpm_2", DPMSolver(2, "original"), models=EPS),
    Case("dpmpp_2m", DPMSolverMultistep(2, coordinate="log_sigma")),
    Case("unipc", UniPC(3, "bh1", lower_order_final=True), models=EPS),
    Case("unipc_bh2", UniPC(3, "bh2", lower_order_final=True), models=EPS),
]
DIFFERENT = [
    *(
        Different(
            "dpmpp_3m_sde",
            DPMSolverMultistep(3, eta=e),
            {"eta": e},
            theirs=HeunStart(3, eta=e),
        )
        for e in (0.0, 1.0)
    ),
    *(
        # its 200 points are float32 whatever the state is
        Different("er_sde", ERSDE(n), {"max_stage": n}, theirs=LeftSums(n), tolerance=1e-7)
        for n in (2, 3)
    ),
    *(Different("deis", DEIS(n), {"max_order": n}, EPS, theirs=FittedTime(n)) for n in (2, 3, 4)),
    *(
        Different(
            "ipndm_v",
            AdamsBashforth(n, "variable", "sigma"),
            {"max_order": n},
            theirs=Misprinted(n, "variable", "sigma"),
            first=3,
        )
        for n in (3, 4)
    ),
    # to 0, theirs lowers its orders on the way: predictor 2 to σ_{N−2}, 1 to σ_{N−1}, corrector alike
    *(
        Different(
            "sa_solver",
            SASolver(tau=t, lower_order_final=True),
            tau(t),
            ends=("0",),
            theirs=SASolver(tau=t, lower_order_early=True),
            first=N - 2,
        )
        for t in (0.0, 1.0)
    ),
    *(
        Different(
            "sa_solver_pece",
            SASolver(tau=t, pece=True, lower_order_final=True),
            tau(t),
            ends=("0",),
            theirs=SASolver(tau=t, pece=True, lower_order_early=True),
            first=2 * (N - 2) - 2,
        )
        for t in (0.0, 1.0)
    ),
]
#: Core samplers that take a flow model's σ for κ: right as a discretisation in another coordinate
#: (dpmpp_2m: −log σ, see above; dpm_2: velocity in σ), wrong where they add noise (ddpm is for VP only).
BLIND = [
    Different("dpmpp_2m", DPMSolverMultistep(2), models=("FLOW",), first=2),
    Different("dpm_2", DPMSolver(2, "original"), models=("FLOW",), first=1),
    Different("ddpm", DDPM(), models=("FLOW",), first=1),
]
#: Its own rule on flow: right marginals, but another split between old and fresh noise than DDPM's.
ANCESTRAL = Different("euler_ancestral", EulerAncestral(), models=("FLOW",), first=1)
#: Core asks for τ where a step arrives, ours where it leaves.
WINDOW = (0.3, 4.0)
WINDOWED = Case("sa_solver", SASolver(), tau(1.0, *WINDOW), EPS, ("open",))
ALL_CASES = [*EQUAL, *DIFFERENT, *BLIND, ANCESTRAL, WINDOWED]
Key = tuple[str, str, str, str]


def levels(case: Case, model: str, end: str) -> list[float]:
    """SIGMAS for core; for ours they end at 0.001 where its UniPC stops there in place of 0."""
    found = sigmas(model, end)
    return [*found[:-1], 0.001] if case.sampler.startswith("unipc") and end == "0" else found
