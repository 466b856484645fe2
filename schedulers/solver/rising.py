r"""Order on rising levels: a step combines only as much as errs no more than twice Euler's step.

On the way up, from data to noise, a step multiplies what it starts from by κ'/κ = e^{|h|}, and with it every
error of an extrapolated D. At small noise D moves as κ² (Tweedie: D = y + κ²·∇log p), but a polynomial in λ sees
a straight line in log κ. Where data are much wider than κ (D = s − κ²/2s, y = s + κ²/2s), the corrector that
interpolates D in λ adds, with a = |h|, E₁·(e^{2a} − 1) in place of −(e^a − 1)², and as D is asked at the predicted state it adds 2e^a/(e^a + 1) times
that:

    R = 2·((e^a − 1)/a − 1)·e^a/(e^a − 1) times too much        (bh2: R = e^a)

Twice Euler's error is reached at R = 3, that is κ'/κ = 3.83 (bh2: 3); at κ'/κ = 1000 R is 290 (bh2: 1000).
The same sum tells for every family, order and ratio of steps what a step does: take Gaussian data of deviation s,
whose trajectories are known,

    y = N = √(s² + κ²),    D = s²/N,    error of Euler's step  N' − (s² + κκ')/N > 0

(never 0, N is convex), give the step its exact history, and compare. s ≫ κ is the case above. The largest order is
taken whose error is, for every s, at most twice Euler's for that s or a tenth of Euler's largest (relative to N': for
s ≪ κ both are nothing). The rule depends on the levels alone. As the steps shrink every consistent order passes, so
the order of convergence stays. On falling levels errors shrink by κ'/κ, and nothing is lowered.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import numpy as np

from ..noise_schedule import Array
from ..points import Points
from .formula import Builder, Combo
from .plan import Plan

#: Deviations s, from far below to far above the levels of a step.
WIDTHS, BEYOND = 33, 30.0
#: A step may err this many times as much as Euler's for the same s, or this share of Euler's largest over all s,
#: relative to the state.
ALLOWED, SMALL = 2.0, 0.1
#: What rounding may add to an error, relative to the state.
ROUNDING = 1e-12


class Trial:
    """Step i → i + 1 on Gaussian data of many deviations, with exact history."""

    def __init__(self, points: Points, i: int) -> None:
        self.points, self.i = points, i
        start, end = points.kappas[i : i + 2]
        self.widths = np.geomspace(start / BEYOND, end * BEYOND, WIDTHS)
        self.arrived: Array | None = None

    def arrive(self, x: Array) -> None:
        """The state at the end of the step is x [widths], not the exact one."""
        self.arrived = x

    def state(self, level: int) -> Combo:
        """The state at a level, as a quantity of :meth:`value`."""
        return Combo({("x", level): 1.0})

    def prediction(self, level: int) -> Combo:
        """D at a level, as a quantity of :meth:`value`."""
        return Combo({("d", level): 1.0})

    def value(self, combo: Combo) -> Array:
        """[widths]: a combination of exact states and predictions, numbered by level."""
        out = np.zeros(WIDTHS)
        for (kind, level), weight in combo.terms.items():
            at = self.points[level]
            if level > self.i and self.arrived is not None:
                y = self.arrived / at.alpha
            else:
                y = self.deviation(at.kappa)
            out += weight * (at.alpha * y if kind == "x" else self.denoise(y, at.kappa))
        return out

    def denoise(self, y: Array, kappa: float) -> Array:
        """D at y = x/α."""
        return self.widths**2 / (self.widths**2 + kappa**2) * y

    def deviation(self, kappa: float) -> Array:
        """N, which is also the y of the trajectory that is followed."""
        return np.sqrt(self.widths**2 + kappa**2)

    def holds(self, x: Array) -> bool:
        """Whether x at the end of the step errs little enough beside Euler's, for every deviation."""
        error = np.abs(x / self.points[self.i + 1].alpha - self._end)
        return bool((error <= self._limit).all())

    @cached_property
    def _end(self) -> Array:
        return self.deviation(self.points.kappas[self.i + 1])

    @cached_property
    def _limit(self) -> Array:
        a, b = self.points.kappas[self.i : self.i + 2]
        euler = (self.widths**2 + a * b) / self.deviation(a)
        error = np.abs(self._end - euler) * (1 + 1e-9)
        small = SMALL * (error / self._end).max() + ROUNDING
        return np.maximum(ALLOWED * error, small * self._end)


def highest(points: Points, i: int, most: int, step: Callable[[Trial, int], Combo]) -> int:
    """The most values, up to ``most``, that step i → i + 1 may combine, 0 for none; on falling levels ``most``.

    ``step(trial, count)`` writes the state after the step.
    """
    if not points.rising:
        return most
    trial = Trial(points, i)
    counts = range(most, 0, -1)
    return next((n for n in counts if trial.holds(trial.value(step(trial, n)))), 0)


def correctable(
    points: Points,
    i: int,
    most: int,
    predicted: Callable[[Trial], Combo],
    corrected: Callable[[Trial, int], Combo],
) -> int:
    """As :func:`highest` for a corrector of step i → i + 1, D at the predicted state among its values."""
    if not points.rising:
        return most
    trial = Trial(points, i)
    trial.arrive(trial.value(predicted(trial)))
    counts = range(most, 0, -1)
    return next((n for n in counts if trial.holds(trial.value(corrected(trial, n)))), 0)


def step_holds(build: Builder, i: int, take: Callable[[Builder, Combo], Combo]) -> bool:
    """Whether a single step by ``take(builder, start)`` may be taken."""
    points = build.points
    if not points.rising:
        return True
    alone = Builder(build.solver, Points(points.path, points.kappas[i : i + 2]))
    trial = Trial(points, i)
    return trial.holds(run(alone.finish(take(alone, alone.start)), trial))


def run(plan: Plan, trial: Trial) -> Array:
    """[widths]: the result of a plan on the trial's data."""
    anchors = [plan.start.alpha * trial.deviation(plan.start.kappa)]
    history: list[Array] = []
    for stage in plan.stages:
        y = sum(w * v for w, v in zip(stage.x, anchors, strict=False))
        y = np.asarray(y + sum(w * v for w, v in zip(stage.d, history, strict=False)))
        if stage.commit:
            anchors.insert(0, y)
        if stage.evaluate:
            label = stage.noise_label or stage.at
            history.insert(0, trial.denoise(y / stage.at.alpha, label.kappa))
    return anchors[0]
