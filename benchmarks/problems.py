"""Problems with a known answer, and the contest that measures how near a sampler comes to it.

A problem is a denoiser, a start and a path. Its answer is where a far finer run ends: classic
Runge–Kutta in log σ, float64, from the same noise down to the schedule's smallest level, then D once.
A contestant is anything that goes from the start to an end over given points; it is charged for every
evaluation it makes. The error is the median over seeds of the RMSE to the answer: a mean would
mostly tell how many seeds ended in another basin.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sampling_kit.embedded import fits, postcards, trained
from sampling_kit.schedulers import spacing as spacings
from sampling_kit.schedulers.denoiser import Mixture
from sampling_kit.schedulers.denoiser.network import Network, load
from sampling_kit.schedulers.noise_schedule import (
    EDM,
    NoiseSchedule,
    RectifiedFlowSchedule,
    ScaledLinearVP,
)
from sampling_kit.schedulers.path import VE, Flow, Path
from sampling_kit.schedulers.points import Points
from sampling_kit.schedulers.solver import GaussianAdams
from sampling_kit.schedulers.solver.run import Run

from . import galaxies

Denoise = Callable[[Tensor, float], Tensor]
BUDGETS = (4, 5, 6, 8, 10, 15, 20, 30)
HOPELESS, EARLY = 4.0, 8
NETWORK_SEEDS = 256  # of the network's reference

#: What every contestant may choose from; "linspace" and "trailing" are the peers' own defaults.
SPACINGS: dict[str, spacings.Spacing] = {
    "karras 7": spacings.Karras(7.0),
    "karras 5": spacings.Karras(5.0),
    "karras 3": spacings.Karras(3.0),
    "exponential": spacings.Exponential(),
    "uniform λ": spacings.UniformLambda(),
    "linspace": spacings.Linspace(),
    "trailing": spacings.Trailing(),
}


@dataclass(frozen=True)
class Problem:
    """``denoise(x, σ)`` on ``path`` (VE or flow), from ``start`` [B, …] at the schedule's largest level.

    ``fine`` is the number of Runge–Kutta steps of the answer.
    """

    name: str
    path: Path
    schedule: NoiseSchedule
    denoise: Denoise
    start: Tensor
    fine: int = 400

    def points(self, spacing: str, n: int) -> Points:
        return spacings.space(self.schedule, n, SPACINGS[spacing]).on(self.path)

    def finer_run(self, steps: int) -> Tensor:
        """Runge–Kutta 4 on dx/d(log σ) = x − D, then D at the last level."""
        ends = Points(self.path, (self.schedule.kappa_max, self.schedule.kappa_min)).sigmas()
        at = np.geomspace(ends[0], ends[1], 2 * steps + 1).tolist()
        h, x = math.log(at[2] / at[0]), self.start
        for a, middle, b in zip(at[:-1:2], at[1::2], at[2::2], strict=True):
            k1 = x - self.denoise(x, a)
            y = x + h / 2 * k1
            k2 = y - self.denoise(y, middle)
            y = x + h / 2 * k2
            k3 = y - self.denoise(y, middle)
            y = x + h * k3
            x = x + h / 6 * (k1 + 2 * (k2 + k3) + y - self.denoise(y, b))
        return self.denoise(x, at[-1])


def rmse(x: Tensor, y: Tensor) -> Tensor:
    """Per image."""
    return (x - y).flatten(1).square().mean(1).sqrt()


def median(values: Tensor) -> float:
    return float(np.median(values.numpy()))


def gaussian_noise(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def mixture(path: Path) -> Mixture:
    """12 components of rank 6 in 192 dimensions over a floor of 0.1; the data's deviation is 0.8."""
    basis = torch.linalg.qr(gaussian_noise(12, 192, 6, seed=1))[0].mT
    variances = torch.tensor([25.0, 16.0, 12.0, 9.0, 6.0, 4.0]).double().expand(12, 6)
    means = 0.5 * gaussian_noise(12, 192, seed=2)
    return Mixture(path, means, torch.full((12,), 0.1).double(), basis, variances)


def postcard_mixture(path: Path) -> Mixture:
    """The embedded ``mixture`` model in small: one Gaussian of rank 6 per class of postcards."""
    pictures = np.stack([postcards.scenes(name, range(50), 24) for name in postcards.CLASSES])
    images = torch.from_numpy(pictures).permute(0, 1, 4, 2, 3).double() / 127.5 - 1
    return Mixture.fit(path, images, rank=6)


def two_products(mixture: Mixture) -> Denoise:
    """``mixture``, three times faster and in float64 only: it never forms x − αμ_k.

    With g_k = αc_k²/(α²c_k² + σ²) off the basis U_k and gain_k on it,
    D = Σ γ_k·[g_k·x + (1 − αg_k)·μ_k + U_kᵀ(gain_k − g_k)U_k(x − αμ_k)], and likewise
    log γ_k = const + αx·μ_k/s − |x|²/2s + ½|U_k(x − αμ_k)|²·(1/s − 1/s_in), s = α²c_k² + σ².
    """
    shape, means = mixture.means.shape, mixture.means
    (count, rank), floor = mixture.variances.shape, mixture.floor**2
    basis, variances = mixture.basis, mixture.variances + floor[:, None]
    directions = torch.cat([means, basis.flatten(0, 1)]).T.contiguous()
    centres, norms = torch.einsum("kd,krd->kr", means, basis), means.square().sum(1)
    log_weights, on_flow = mixture.weights.log(), isinstance(mixture.path, Flow)

    @lru_cache(maxsize=1024)
    def at(sigma: float) -> tuple[Any, ...]:
        """What depends on σ alone: contestants meet at the same levels."""
        alpha = 1 - sigma if on_flow else 1.0
        s_floor, s_in = alpha**2 * floor + sigma**2, alpha**2 * variances + sigma**2
        log_det = (shape[1] - rank) * s_floor.log() + s_in.log().sum(-1)
        bias = log_weights - (alpha**2 * norms / s_floor + log_det) / 2
        half = (1 / s_floor[:, None] - 1 / s_in) / 2
        g = alpha * floor / s_floor
        gain = alpha * variances / s_in - g[:, None]
        return alpha * centres, bias, alpha / s_floor, -0.5 / s_floor, half, g, 1 - alpha * g, gain

    def denoise(x: Tensor, sigma: float) -> Tensor:
        shifted, bias, slope, energy, half, g, rest, gain = at(sigma)
        flat = x.flatten(1)
        seen = flat @ directions
        inside = seen[:, count:].unflatten(1, (count, rank)) - shifted
        logits = torch.addcmul(bias, seen[:, :count], slope)
        logits += (inside * inside * half).sum(-1)
        logits.addcmul_((flat * flat).sum(1, keepdim=True), energy)
        gamma = torch.softmax(logits, 1)
        inside *= gamma[..., None] * gain
        weights = torch.cat([rest * gamma, inside.flatten(1)], 1)
        return torch.addmm(flat * (gamma @ g)[:, None], weights, directions.T).view_as(x)

    return denoise


@lru_cache(maxsize=1)
def network() -> Network:
    """The embedded network as it ships."""
    return load(trained.file("network"), VE(), Network)


@lru_cache(maxsize=8)
def network_problem(name: str, seeds: int | None = None) -> Problem:
    """Problem "network-cond", "network-cfg2", or with "-fast" in bfloat16, for the first ``seeds`` seeds."""
    _, guidance, *fast = name.split("-")
    rows = torch.arange(seeds or NETWORK_SEEDS)
    denoise = fits.field(network(), rows, fits.GUIDANCE[guidance], fast=bool(fast))

    @torch.no_grad()
    def call(x: Tensor, sigma: float) -> Tensor:
        parts = zip(x.float().split(32), rows.split(32), strict=True)
        return torch.cat([denoise(y, float(sigma), some) for y, some in parts]).to(x.dtype)

    return Problem(name, VE(), EDM(), call, fits.starts(rows).double())


@lru_cache(maxsize=8)
def problem(name: str, seeds: int | None = None) -> Problem:
    """One of PROBLEMS, with its own number of seeds or with ``seeds``."""
    sd, flow = ScaledLinearVP(), RectifiedFlowSchedule(3.0)  # σ 14.61 to 0.029; t 1 to 0.003
    if name == "mixture":
        start = sd.kappa_max * gaussian_noise(seeds or 24, 192)
        return Problem(name, VE(), sd, two_products(mixture(VE())), start)
    if name == "mixture-flow":
        start = gaussian_noise(seeds or 24, 192)
        return Problem(name, Flow(), flow, two_products(mixture(Flow())), start)
    if name == "postcards":
        start = sd.kappa_max * gaussian_noise(seeds or 8, 3, 24, 24)
        return Problem(name, VE(), sd, two_products(postcard_mixture(VE())), start)
    if name.startswith("network"):
        return network_problem(name, seeds)
    if name in galaxies.FILES:
        start = EDM().kappa_max * gaussian_noise(seeds or 32, 1, galaxies.SIDE, galaxies.SIDE)
        return Problem(name, VE(), EDM(), galaxies.denoiser(name), start)
    if name.removesuffix(ON_FLOW) in galaxies.FILES:
        return on_flow(name, galaxies.denoiser(name.removesuffix(ON_FLOW)), seeds or 32)
    raise ValueError(f"problem {name!r}: choose among {', '.join(PROBLEMS)}")


def on_flow(name: str, denoise: Denoise, seeds: int) -> Problem:
    """A galaxy network on rectified flow: D(x, t) is its own at x/(1 − t), κ = t/(1 − t). At t = 1 stands its largest level."""
    schedule = RectifiedFlowSchedule(3.0)
    start = gaussian_noise(seeds, 1, galaxies.SIDE, galaxies.SIDE)

    def call(x: Tensor, t: float) -> Tensor:
        kappa = min(t / max(1 - t, 1e-9), LARGEST)
        return denoise(x * (math.hypot(1, kappa) / math.hypot(1 - t, t)), kappa)

    return Problem(name, Flow(), schedule, call, start, fine=100)


ON_FLOW, LARGEST = "-flow", 140.0  # σ that the galaxy networks know
PROBLEMS = ("mixture", "mixture-flow", "postcards")


@dataclass(frozen=True)
class Answer:
    """Where a problem ends, and how far a run of half as many steps ends from it (median over seeds)."""

    end: Tensor
    uncertainty: float


def answer(name: str, seeds: int | None = None) -> Answer:
    """By Runge–Kutta; of galaxies, whose networks are slow and float32, by Gaussian Adams of 80 and 40 evaluations."""
    task = problem(name, seeds)
    if name in galaxies.FILES:
        end, half = (by_adams(task, steps) for steps in (80, 40))
        return Answer(end, median(rmse(half, end)))
    end = task.finer_run(task.fine)
    return Answer(end, median(rmse(task.finer_run(task.fine // 2), end)))


def by_adams(task: Problem, steps: int) -> Tensor:
    points = spacings.space(task.schedule, steps, spacings.Karras())
    return GaussianAdams().solve(points, Run(task.denoise), task.start)


@dataclass(frozen=True)
class Contestant:
    """``play(problem, points, denoise)`` ends at x0; ``nfe(n)`` is what n steps will cost.

    ``path`` names the only path it can run on, "" any.
    """

    name: str
    nfe: Callable[[int], int]
    play: Callable[[Problem, Points, Denoise], Tensor]
    path: str = ""
    plan_key: Callable[[Points], Hashable] | None = None

    def key(self, points: Points) -> Hashable:
        """Runs with one key are one run; by default one contestant on the same levels (1e-9)."""
        if self.plan_key:
            return self.plan_key(points)
        return self.name, tuple(round(s, 9) for s in points.sigmas())

    def steps(self, budget: int) -> int:
        """The most steps that ``budget`` evaluations pay for; 0 if none."""
        return next((n for n in range(budget, 0, -1) if self.nfe(n) <= budget), 0)


@dataclass(frozen=True)
class Result:
    """One run. ``error`` is infinite where the contestant failed, and ``failure`` says how."""

    problem: str
    side: str
    solver: str
    spacing: str
    steps: int
    nfe: int
    error: float
    failure: str = ""
    rms: float = math.inf  # root of the mean square over seeds


Pair = tuple[Contestant, str]  # and its spacing


def contest(
    side: str,
    contestants: Sequence[Contestant],
    answers: dict[str, Tensor],
    budgets: Sequence[int] = BUDGETS,
    seeds: int | None = None,
    spacings: Sequence[str] = tuple(SPACINGS),
    only: Sequence[Sequence[str]] | None = None,
) -> list[Result]:
    """Every contestant on every problem in ``answers``, with every spacing and budget; or ``only`` the
    [contestant, spacing] given.

    To save time, a pair of contestant and spacing that is HOPELESS times worse than the best of this
    contest at some budget above EARLY sits out the larger ones. (Without that rule the 72 best of the
    default problems are the same but one of ours, and the whole takes twice as long.)
    """
    results: list[Result] = []
    for name, end in answers.items():
        task = problem(name, seeds)
        pairs = [(c, s) for c in contestants if c.path in ("", task.path.name) for s in spacings]
        if only is not None:
            pairs = [(c, s) for c, s in pairs if [c.name, s] in [list(pair) for pair in only]]
        results += _play_all(side, task, end, pairs, sorted(budgets))
    return results


def _play_all(
    side: str, task: Problem, end: Tensor, pairs: list[Pair], budgets: Sequence[int]
) -> list[Result]:
    results: list[Result] = []
    seen: set[Hashable] = set()
    points_at = cache(task.points)
    for budget in budgets:
        errors: dict[Pair, float] = {}
        for contestant, spacing in pairs:
            n = contestant.steps(budget)
            points = points_at(spacing, n) if n else None
            key = points and contestant.key(points)
            if points and key not in seen:
                seen.add(key)
                results.append(_play(side, task, end, contestant, spacing, points))
                errors[contestant, spacing] = results[-1].error
        if budget > EARLY:
            best = min((r.error for r in results), default=math.inf)
            pairs = [p for p in pairs if errors.get(p, 0.0) <= HOPELESS * best]
    return results


def _play(
    side: str, task: Problem, end: Tensor, contestant: Contestant, spacing: str, points: Points
) -> Result:
    calls, failure, error, rms = 0, "", math.inf, math.inf

    def counted(x: Tensor, sigma: float) -> Tensor:
        nonlocal calls
        calls += 1
        return task.denoise(x, sigma)

    try:
        last = contestant.play(task, points, counted)
        errors = rmse(last.double(), end)
        error, rms = median(errors), float(errors.square().mean().sqrt())
    except Exception as exception:  # somebody else's code: a failure is a result
        failure = f"{type(exception).__name__}: {exception}"
    if not failure and not math.isfinite(error):
        failure, error = "not finite", math.inf
    steps = len(points) - 1
    return Result(task.name, side, contestant.name, spacing, steps, calls, error, failure, rms)
