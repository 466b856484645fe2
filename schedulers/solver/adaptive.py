"""Embedded pairs with step-size control: the tolerance is given, and the steps are found on the way.

A trial step gives two results, one of an order less; their difference estimates the error. If it is
within the tolerance the step is accepted, and its size decides the next step's. The formulas are those
of ``runge_kutta.py``: here a step is written over one interval at a time.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..noise import DrawNoise
from ..path import Path, Point
from ..points import Points, finite
from ..settings import knob
from .base import Solver
from .data_dependent import DataDependent
from .ddim import ddim_step
from .formula import Builder, Combo
from .run import Ask, Program, Progress, Read, Run, drive
from .runge_kutta import TABLEAUX, Tableau, lambda_step, noise_step, seeds_step, sigma_step
from .state import State

X, D = Combo({("x", 0): 1.0}), Combo({("d", 0): 1.0})


class Trial(Builder):
    """Collects what one step asks for: D_k at ``asked[k − 1]``, given x and D_0."""

    def __init__(self, path: Path) -> None:
        super().__init__(Solver(), Points(path, ()))
        self.asked: list[tuple[Point, Combo]] = []

    def advance(self, y: Combo, at: Point, step: int) -> tuple[Combo, Combo]:
        return y, D

    def evaluate(self, y: Combo, at: Point, step: int, noise_label: Point | None = None) -> Combo:
        self.asked.append((at, y))
        return Combo({("d", len(self.asked)): 1.0})


Step = Callable[[Trial, Point, Point, Any], Combo]


def by_sigma(trial: Trial, p: Point, q: Point, tableau: Tableau) -> Combo:
    return sigma_step(trial, X, p, q, 0, tableau)[0]


def by_lambda(trial: Trial, p: Point, q: Point, tableau: Tableau) -> Combo:
    return lambda_step(trial, X, p, q, 0, tableau)[0]


def by_noise(trial: Trial, p: Point, q: Point, c: tuple[float, ...]) -> Combo:
    return noise_step(trial, X, p, q, 0, c)


def by_data(trial: Trial, p: Point, q: Point, c: tuple[float, ...]) -> Combo:
    return seeds_step(trial, X, p, q, 0, c, 0.0)


@dataclass(frozen=True)
class Pair:
    """``step`` with the coefficients ``high``, of ``order``, and ``low``, of an order less on a subset of its
    evaluations. ``closing``: the last one is D at the result, which the next step starts with.
    """

    order: int
    variable: str
    step: Step
    high: Any
    low: Any
    closing: bool = False

    def trial(
        self, path: Path, p: Point, q: Point
    ) -> tuple[list[tuple[Point, Combo]], Combo, Combo]:
        """(states to evaluate, result, result − result of an order less) of a step from p to q."""
        trial = Trial(path)
        high = self.step(trial, p, q, self.high)
        return trial.asked, high, high - self.step(Trial(path), p, q, self.low)

    def coordinate(self, p: Point) -> float:
        return p.sigma if self.variable == "sigma" else p.lam

    def point(self, path: Path, coordinate: float) -> Point:
        return path.on(coordinate) if self.variable == "sigma" else path.at(math.exp(-coordinate))


def runge_kutta(name: str, variable: str, low: tuple[float, ...]) -> Pair:
    """A tableau closed by an evaluation at its result, with the weights of the lower order."""
    t = TABLEAUX[name]
    c, a = (*t.c, 1), (*t.a, t.b)
    step = by_sigma if variable == "sigma" else by_lambda
    pair = (Tableau(t.order, c, a, (*t.b, 0)), Tableau(t.order - 1, c, a, low))
    return Pair(t.order, variable, step, *pair, closing=True)


def dpm(step: Step, order: int) -> Pair:
    """DPM-Solver-12 and -23: the stages of the higher order serve the lower one."""
    c = {2: (0.0, 1 / 2), 3: (0.0, 1 / 3, 2 / 3)}[order]
    return Pair(order, "lambda", step, c, c[:-1])


BS32 = (7 / 24, 1 / 4, 1 / 3, 1 / 8)
DP54 = (5179 / 57600, 0, 7571 / 16695, 393 / 640, -92097 / 339200, 187 / 2100, 1 / 40)
PAIRS: dict[str, Pair] = {
    "dopri5": runge_kutta("dormand_prince", "sigma", DP54),
    "dopri5_lambda": runge_kutta("dormand_prince", "lambda", DP54),
    "bosh3": runge_kutta("bogacki_shampine", "sigma", BS32),
    "dpm_solver_12": dpm(by_noise, 2),
    "dpm_solver_23": dpm(by_noise, 3),
    "dpmpp_12": dpm(by_data, 2),
    "dpmpp_23": dpm(by_data, 3),
}

#: Exponents β of h' = h·safety·Π E_j^{−β_j/k}, E_0 the error of this step and E_1, E_2 of the two before:
#: the elementary controller, and the defaults of SUNDIALS ARKODE (after Söderlind; Kennedy & Carpenter 2003).
GAINS: dict[str, tuple[float, float, float]] = {
    "I": (1.0, 0.0, 0.0),
    "PI": (0.8, -0.31, 0.0),
    "PID": (0.58, -0.21, 0.10),
}
SHRINK, GROW = 0.2, 10.0
SMALLEST = 1e-9  # step, as a share of the run


@dataclass(frozen=True)
class Taken:
    """What an image took: evaluations, trial steps rejected, and κ of the levels that were stepped to."""

    evaluations: int
    rejected: int
    levels: tuple[float, ...]

    @property
    def accepted(self) -> int:
        return len(self.levels)


@dataclass(frozen=True)
class Report:
    """The end state [B, …] and one :class:`Taken` per image."""

    x: Tensor
    runs: tuple[Taken, ...]

    @property
    def nfe(self) -> int:
        """Evaluations of the image that took most."""
        return max((run.evaluations for run in self.runs), default=0)


@dataclass(frozen=True)
class Adaptive(DataDependent):
    """Solves the ODE to a tolerance: it chooses the steps, and of SIGMAS only the ends count.

    It runs from the first to the last positive level; if SIGMAS end in 0, a DDIM step (exactly D)
    follows, so that last positive level decides how finely it ends. Errors are relative to a state of
    unit variance, x/√(α² + σ²). Each image of a batch has its own steps, so it is what it would be alone;
    but every evaluation is for the whole batch, and a batch of B takes B times as long as its images
    would one by one (``together`` changes that). The decision on a step reads one number back from the
    device.
    """

    title: ClassVar[str] = "Adaptive Step Size"
    aliases: ClassVar[tuple[str, ...]] = (
        "dpm_adaptive", "DPM adaptive", "SamplerDPMAdaptative", "DPM-Solver-12", "DPM-Solver-23", "dopri5",
        "RK45", "bosh3", "tolerance", "ODE",
    )  # fmt: skip
    paper: ClassVar[str] = (
        "Lu et al. 2022 (arXiv 2206.00927), app. C; Dormand & Prince 1980; Söderlind 2003 (control)"
    )
    equals: ClassVar[str] = (
        "dpm_solver_23: ComfyUI and k-diffusion dpm_adaptive (by default rtol 0.05, atol 0.0078; which judge the error in σ units and the batch "
        "as a whole, and stop at the last positive level); dopri5: torchdiffeq dopri5, SciPy RK45"
    )
    method: str = knob(
        "dpm_solver_23",
        "The pair. dopri5, bosh3: Runge–Kutta in σ; dopri5_lambda: in log(α/σ); dpm_solver, dpmpp: exponential, "
        "in the noise or in x0. The digits are the orders.",
        options=tuple(PAIRS),
    )
    rtol: float = knob(
        0.01, "Error allowed per step, relative to the state.", low=0.0, high=1.0, step=1e-6
    )
    atol: float = knob(
        0.002, "Error allowed where the state is near 0.", low=1e-12, high=1.0, step=1e-6
    )
    together: bool = knob(
        False,
        "One step size for the whole batch, that of its worst image: cheaper, but an image then depends on "
        "the others. For networks that mix the images of a batch (AnimateDiff) it must be on.",
    )
    max_evaluations: int = knob(
        1000, "Stop with an error when an image needs more.", low=4, high=1000000
    )
    first_step: float = knob(
        0.05,
        "First trial step, as a share of the run.",
        low=1e-6,
        high=1.0,
        step=0.001,
        advanced=True,
    )
    safety: float = knob(
        0.9, "Factor on every new step size.", low=0.1, high=1.0, step=0.01, advanced=True
    )
    control: str = knob(
        "PI",
        "How many past errors decide a step size: 1, 2 or 3.",
        options=tuple(GAINS),
        advanced=True,
    )

    @property
    def pair(self) -> Pair:
        return PAIRS[self.method]

    @property
    def called(self) -> str:
        """What the log and errors call the pair."""
        return self.method

    @property
    def order(self) -> int:
        """Of the result; the tolerance, not the number of steps, decides the error."""
        return self.pair.order

    def nfe(self, steps: int) -> int:
        """At most; what a run took is in :meth:`integrate`'s report."""
        return self.max_evaluations

    def walk(
        self, points: Points, state: State, noise: DrawNoise | None = None, level: int | None = None
    ) -> Program[State]:
        """See the base class. A run in parts equals one in one go within the tolerance: each part starts
        anew with its first step."""
        done, steps = state.stage, len(points) - 1
        last = steps if level is None else level
        part = Points(points.path, points.kappas[done : last + 1])
        report = yield from self.integration(part, state.x, done, steps)
        for i, took in enumerate(report.runs[:1] if self.together else report.runs):
            who = "the batch" if self.together else f"image {i}"
            logging.getLogger(__name__).info(
                f"{self.called}, {who}: {took.evaluations} evaluations, {took.accepted} steps, "
                f"{took.rejected} rejected"
            )
        return State((report.x,), stage=max(done, last))

    def integrate(self, points: Points, run: Run, x: Tensor) -> Report:
        """The end of the run over ``points``, in their path's coordinates, and what it took.

        The callback comes once per accepted step; its ``step`` counts the levels of ``points`` that have
        been passed, over all images. Raises RuntimeError if the tolerance cannot be met.
        """
        return drive(self.integration(points, x), run)

    def integration(
        self, points: Points, x: Tensor, first: int = 0, steps: int | None = None
    ) -> Program[Report]:
        """The questions of :meth:`integrate`, whose step number ``first`` of ``steps`` this one begins with."""
        self._check(points)
        if self.pair.variable == "sigma" and points.path != points.path.host:
            raise ValueError(f"{self!r} works in σ as SIGMAS shows it: pass points.host")
        steps = len(points) - 1 if steps is None else steps
        return _Integration(self, points, x, first, steps).run()

    def _tolerance(self, low: Tensor, at: Point, before: Tensor, start: Point) -> Tensor:
        """Error allowed in the state at ``at`` (Lu et al., app. C): max(atol, rtol·max(|x'|, |x|)), where
        x' and x are the lower-order results of this step and the one before, in units of √(α² + σ²).
        """
        most = torch.maximum(low.abs() / _unit(at), before.abs() / _unit(start))
        return (self.rtol * most).clamp(min=self.atol) * _unit(at)

    def _control(self, errors: Sequence[float]) -> tuple[bool, float]:
        """(accept, factor on the step size) from the errors of this step and the two accepted before it."""
        k, accept = self.pair.order, errors[0] <= 1
        gains = GAINS[self.control] if accept else GAINS["I"]
        factor = self.safety
        for error, gain in zip(errors, gains, strict=True):
            factor *= max(error, 1e-10) ** (-gain / k)
        return accept, min(max(factor, SHRINK), GROW if accept else 1.0)


def _unit(p: Point) -> float:
    """Deviation of the state for data of unit variance."""
    return math.hypot(p.alpha, p.sigma)


class _Integration:
    """The program of :meth:`Adaptive.integration`.

    ``x`` and ``d`` hold every image's state and its newest D, each at its own level.
    """

    def __init__(self, solver: Adaptive, points: Points, x: Tensor, first: int, steps: int) -> None:
        self.solver, self.points, self.path = solver, points, points.path
        self.first, self.steps, self.count = first, steps, 0
        self.x, self.d = x, x
        batch = x.shape[0]
        self.groups = (
            [slice(0, batch)] if solver.together else [slice(i, i + 1) for i in range(batch)]
        )

    def run(self) -> Program[Report]:
        points = self.points
        if len(points) < 2 or not self.groups:
            return Report(self.x, ())
        # where all methods are regular: κ positive and (for λ) finite
        kappas = points.kappas if self.solver.pair.variable == "sigma" else finite(points.kappas)
        inside = [self.path.at(k) for k in kappas if k > 0]
        first, last = inside[0], inside[-1]
        everyone, final = slice(0, len(self.x)), len(self.groups) - 1
        self.d = yield from self._evaluate(0, self.x, points[0], everyone)
        if points[0] != first:
            yield from self._exact(0, points[0], first)
            self.d = yield from self._evaluate(0, self.x, first, everyone)
        yield Read()
        shared = self.count
        runs = []
        for i in range(len(self.groups)):
            runs.append((yield from self._steps(i, first, last)))
        if points[-1] != last:
            if first != last and not self.solver.pair.closing:
                self.d = yield from self._evaluate(final, self.x, last, everyone)
                shared += 1
            yield from self._exact(final, last, points[-1])
        runs = [replace(run, evaluations=run.evaluations + shared) for run in runs]
        return Report(self.x, tuple(runs * (len(self.x) if self.solver.together else 1)))

    def _exact(self, group: int, p: Point, q: Point) -> Program[None]:
        """DDIM's step for all images."""
        yield self._progress(group, p)
        step = ddim_step(p, q)
        self.x = step.x * self.x + step.d * self.d if step.x else step.d * self.d

    def _steps(self, group: int, p: Point, end: Point) -> Program[Taken]:
        """Bring one group of images from p to ``end``; D at p is known."""
        solver, pair, rows = self.solver, self.solver.pair, self.groups[group]
        u, last = pair.coordinate(p), pair.coordinate(end)
        h, whole = solver.first_step * (last - u), last - u
        before, start, errors = self.x[rows], p, [1.0, 1.0, 1.0]
        first, rejected, fresh = self.count, 0, True
        levels: list[float] = []
        while p != end:
            if not fresh:
                self._put(rows, d=(yield from self._evaluate(group, self.x[rows], p, rows)))
                fresh = True
            near = abs(last - u) <= abs(h) * (1 + 1e-9)
            q = end if near else pair.point(self.path, u + h)
            x, d = self.x[rows], [self.d[rows]]
            asked, high, gap = pair.trial(self.path, p, q)
            for at, formula in asked:
                y = _value(formula, x, d)
                d.append((yield from self._evaluate(group, y, at, rows)))
            result = y if pair.closing else _value(high, x, d)
            error = _value(gap, x, d)
            low = result - error
            error = (error / solver._tolerance(low, q, before, start)).flatten(1)
            (worst,) = yield Read((error.square().mean(1).sqrt().max(),))
            worst = worst if math.isfinite(worst) else math.inf
            if not levels:
                errors = [worst] * 3
            accept, factor = solver._control([worst, *errors[1:]])
            if accept:
                yield self._progress(group, p)
                self._put(rows, result, d[-1] if pair.closing else None)
                before, start, errors = low, q, [worst, worst, errors[1]]
                p, u, fresh = q, pair.coordinate(q), pair.closing
                levels.append(q.kappa)
            else:
                rejected += 1
            h *= factor
            if p != end and abs(h) < SMALLEST * abs(whole):
                raise self._failure("the step became too small", p, end)
            if p != end and self.count - first >= solver.max_evaluations:
                raise self._failure(f"{solver.max_evaluations} evaluations were spent", p, end)
        return Taken(self.count - first, rejected, tuple(levels))

    def _evaluate(self, group: int, y: Tensor, at: Point, rows: slice) -> Program[Tensor]:
        """D of a group, by a call for the whole batch: what a host holds per image (conditions, masks)
        stays with its image."""
        self.count += 1
        if len(y) < len(self.x):
            batch = self.x.clone()
            batch[rows] = y
            y = batch
        step = self._step(group, at)
        d: Tensor = yield y, Ask(at.sigma, step, self.steps, begins=False, images=rows, look=True)
        return d

    def _put(self, rows: slice, x: Tensor | None = None, d: Tensor | None = None) -> None:
        """Set rows of the states and predictions; tensors already shown to a callback stay as they are."""
        if x is not None:
            self.x = torch.cat([self.x[: rows.start], x, self.x[rows.stop :]])
        if d is not None:
            self.d = torch.cat([self.d[: rows.start], d, self.d[rows.stop :]])

    def _progress(self, group: int, p: Point) -> Progress:
        """A step of the group begins at p."""
        return Progress(self._step(group, p), self.steps, self.x, p.sigma, self.d)

    def _step(self, group: int, p: Point) -> int:
        """Which step of the run it is at p, over all images."""
        levels, steps = self.points.kappas, len(self.points) - 1
        sign = -1 if self.points.rising else 1
        passed = sum(sign * k >= sign * p.kappa for k in levels[1:])
        return self.first + min((group * steps + passed) // len(self.groups), steps - 1)

    def _failure(self, what: str, p: Point, end: Point) -> RuntimeError:
        solver = self.solver
        way_out = f"raise rtol = {solver.rtol:g} and atol = {solver.atol:g}, or max_evaluations"
        if self.x.dtype != torch.float64:
            way_out += " (float32 resolves errors down to about 1e-6)"
        return RuntimeError(
            f"Adaptive ({solver.called}): {what} at σ = {p.sigma:g} on the way to {end.sigma:g}: {way_out}"
        )


def _value(formula: Combo, x: Tensor, d: Sequence[Tensor]) -> Tensor:
    """The combination of x and D_0, D_1, …"""
    y = torch.zeros_like(x)
    for (kind, k), weight in formula.terms.items():
        if weight:
            y.add_(x if kind == "x" else d[k], alpha=weight)
    return y
