"""What each solver promises, and how each guidance rule is turned off: facts that only tests read.

A new solver promises everything and a new rule is off at scale 0; an entry is needed for an exception.
Every spacing has an entry in ``LEVELS``: its formula, written from its source and not from its code.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import interpolate, special, stats

from sampling_kit.schedulers.fit.learned_amed import LearnedAMED
from sampling_kit.schedulers.guidance import (
    CFGPlusPlus,
    Compose,
    FrequencyDecoupled,
    RectifiedCFGPlusPlus,
    Rule,
)
from sampling_kit.schedulers.guidance.curve import Interval
from sampling_kit.schedulers.noise_schedule import NoiseSchedule
from sampling_kit.schedulers.path import Flow
from sampling_kit.schedulers.solver import (
    AMED,
    DDPM,
    TCD,
    AdamsBashforth,
    Adaptive,
    DPMSolverMultistep,
    GaussianAdams,
    GradientEstimation,
    HeunEDM,
    Idempotent,
    Invertible,
    Restart,
    RungeKutta,
    SASolver,
    Solver,
    UniPC,
)
from sampling_kit.schedulers.solver.fitted import FittedSolver

Promise = dict[type[Solver], Callable[[Any], bool]]


def never(solver):
    return False


def in_lambda(solver):
    return solver.variable == "lambda"


def extrapolates_on_every_path(solver):
    return solver.coordinate in ("lambda", "index")


#: Exceptions: solvers for which it holds with some settings only, or never.
PATH_INVARIANT: Promise = {
    AMED: never,
    AdamsBashforth: never,
    Adaptive: lambda s: s.pair.variable == "lambda",
    DDPM: lambda s: s.variance in ("small", "analytic"),
    DPMSolverMultistep: extrapolates_on_every_path,
    GaussianAdams: extrapolates_on_every_path,
    GradientEstimation: never,
    HeunEDM: never,
    Idempotent: never,
    Invertible: never,
    LearnedAMED: never,
    Restart: never,
    RungeKutta: in_lambda,
    SASolver: extrapolates_on_every_path,
    TCD: lambda s: not s.gamma,
    UniPC: extrapolates_on_every_path,
}
STARTS_AT_PURE_NOISE: Promise = {
    AMED: never,
    AdamsBashforth: never,
    Adaptive: lambda s: s.pair.variable == "lambda",
    GradientEstimation: never,
    HeunEDM: never,
    Invertible: never,
    LearnedAMED: never,
    Restart: never,
    RungeKutta: in_lambda,
}
EXACT_FOR_CONSTANT: Promise = {
    Adaptive: lambda s: s.method != "dopri5_lambda",
    FittedSolver: never,
    GaussianAdams: never,
    RungeKutta: lambda s: s.variable == "sigma",
}
SHIFT_INVARIANT: Promise = {
    FittedSolver: never,
    GaussianAdams: lambda s: s.residual == "mean",
}


def path_invariant(solver: Solver) -> bool:
    """Whether y = x/α is the same on every path; not where the solver works in σ as SIGMAS shows it,
    which on rectified flow is another variable, or in a path's own variance."""
    return holds(PATH_INVARIANT, solver)


def starts_at_pure_noise(solver: Solver) -> bool:
    """Whether a run on VP may start at α = 0; not where σ/α itself is the variable."""
    return holds(STARTS_AT_PURE_NOISE, solver)


def exact_for_constant(solver: Solver) -> bool:
    """Whether a step is exact when D is constant (exponential and Euler-type steps are)."""
    return holds(EXACT_FOR_CONSTANT, solver)


def shift_invariant(solver: Solver) -> bool:
    """Whether data moved by a constant move the result by it; not where they are taken to have mean 0."""
    return holds(SHIFT_INVARIANT, solver)


def holds(exceptions: Promise, solver: Solver) -> bool:
    exception = exceptions.get(type(solver))
    return exception is None or exception(solver)


#: Rules that another setting than scale = neutral turns off.
OFF: dict[type[Rule], Rule] = {
    CFGPlusPlus: CFGPlusPlus(curve=Interval(sigma_high=0.0)),
    Compose: Compose("1, -1", 0.0),
    FrequencyDecoupled: FrequencyDecoupled(1.0, 1.0),
    RectifiedCFGPlusPlus: RectifiedCFGPlusPlus(0.0),
}


def off(rule: type[Rule]) -> Rule:
    """A setting of the rule that changes nothing."""
    return OFF.get(rule) or rule(scale=rule.neutral)


Levels = Callable[[NoiseSchedule, int], np.ndarray]


def in_time(formula: Callable[[float, float, int], np.ndarray]) -> Levels:
    """κ at ``formula(t_max, t_min, n)`` times of the schedule."""
    return lambda schedule, n: schedule.kappa(formula(schedule.t_max, schedule.t_min, n))


def in_sigma(formula: Callable[[float, float, int], np.ndarray]) -> Levels:
    """κ at ``formula(σ_max, σ_min, n)``, the σ of SIGMAS: κ, but κ/(1 + κ) on rectified flow."""

    def levels(schedule: NoiseSchedule, n: int) -> np.ndarray:
        flow = schedule.path == Flow()
        ends = [1 / (1 + 1 / k) if flow else k for k in (schedule.kappa_max, schedule.kappa_min)]
        sigma = formula(*ends, n)
        with np.errstate(divide="ignore"):
            return sigma / (1 - sigma) if flow else sigma

    return levels


def trailing(high: float, low: float, n: int) -> np.ndarray:
    return high * np.arange(n, 0, -1) / n


#: Sabour et al. 2024, the authors' page: Stable Diffusion 1.5 in 10 steps; the last is the model's smallest level.
AYS_SD = (
    14.6146412293, 6.4745760956, 3.8636745985, 2.6946151520, 1.8841921177, 1.3943805092, 0.9642583904, 0.6523686016,
    0.3977456272, 0.1515232662, 0.0291671582,
)  # fmt: skip


def noise_share(first, last, n):
    """p = κ²/(κ² + 2²) at even quantiles of Beta(1/4, 1/4), by scipy; the noise end by 1 − p."""
    law = stats.beta(0.25, 0.25)
    data = 1 / (1 + np.array([first, last]) ** 2 / 4)
    low, high = law.cdf(data)
    data = law.ppf(np.linspace(low, high, n))
    with np.errstate(divide="ignore"):
        return 2 * np.sqrt((1 - data) / data)


def comfyui_table(schedule):
    """κ of ``sigmas`` of ModelSamplingContinuousEDM, and of ModelSamplingDiscreteFlow with its shift."""
    if not isinstance(schedule.path, Flow):
        return np.exp(np.linspace(np.log(schedule.kappa_min), np.log(schedule.kappa_max), 1000))
    t = np.arange(1, 1001) / 1000
    sigma = schedule.shift * t / (1 + (schedule.shift - 1) * t)
    with np.errstate(divide="ignore"):
        return sigma / (1 - sigma)


#: Levels of a spacing with its defaults, on schedules without a table of timesteps (with one they round,
#: which is compared with diffusers).
LEVELS: dict[str, Levels] = {
    "trailing": in_time(trailing),
    "leading": in_time(lambda high, low, n: low + (high - low) * np.arange(n - 1, -1, -1) / n),
    "linspace": in_time(np.linspace),
    "quadratic": in_time(lambda high, low, n: np.linspace(high**0.5, low**0.5, n) ** 2),
    "beta": in_time(
        lambda high, low, n: low + (high - low) * special.betaincinv(0.6, 0.6, np.arange(n, 0, -1) / n)
    ),
    "karras": in_sigma(lambda high, low, n: np.linspace(high ** (1 / 7), low ** (1 / 7), n) ** 7),
    "exponential": in_sigma(np.geomspace),
    "polyexponential": in_sigma(np.geomspace),
    "kl_optimal": in_sigma(lambda high, low, n: np.tan(np.linspace(np.arctan(high), np.arctan(low), n))),
    "uniform_lambda": lambda schedule, n: np.exp(
        np.linspace(np.log(schedule.kappa_max), np.log(schedule.kappa_min), n)
    ),
    "flow_shift": lambda schedule, n: 3 * in_time(trailing)(schedule, n),
    "explicit": lambda schedule, n: np.array(
        [14.61, 6.47, 3.86, 2.69, 1.88, 1.39, 0.96, 0.65, 0.40, 0.15, 0.03]
    ),
    "drawn": in_time(np.linspace),
    "named": lambda schedule, n: np.exp(
        interpolate.PchipInterpolator(np.arange(11), np.log(AYS_SD))(np.linspace(0, 10, n + 1)[:n])
    ),
    "noise_share": lambda schedule, n: noise_share(schedule.kappa_max, schedule.kappa_min, n),
    "host_table": lambda schedule, n: comfyui_table(schedule)[[-(1 + int(x * (1000 / n))) for x in range(n)]],
}  # fmt: skip
