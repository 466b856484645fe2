r"""Runge–Kutta methods whose tableau somebody writes: fixed steps, or steps by an embedded pair.

The ODE in three coordinates (``variable``):

    sigma        dx/dσ = (x − D)/σ, x and σ as in SIGMAS        as k-diffusion's samplers
    lambda       dy/dλ = D − y, y = x/α, λ = log(α/σ)
    exponential  d(x/σ)/d(α/σ) = D, since x = α·D + σ·ε with D and ε constant is a straight line in it

In the last one the linear part is exact, as in exponential integrators: a method is exact for constant D, Euler's is
DDIM, and a step from pure noise (α/σ = 0) is as any other. The last step, to 0, is DDIM's in all three.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from ..path import Point
from ..points import Points
from .adaptive import Adaptive, Pair, Trial, X, by_lambda, by_sigma
from .base import Solver
from .formula import Builder, Combo, total
from .plan import Plan
from .runge_kutta import Tableau, lambda_step, sigma_step, single_steps

VARIABLES = ("sigma", "lambda", "exponential")


def exponential_tableau_step(
    build: Builder, x: Combo, p: Point, q: Point, step: int, tableau: Tableau
) -> tuple[Combo, Combo]:
    """(next state, D at p) of a step on dz/ds = D, z = x/σ, s = α/σ; needs σ' > 0."""
    x, d = build.advance(x, p, step)
    return exponential_tableau_stages(build, x, d, p, q, step, tableau), d


def exponential_tableau_stages(
    build: Builder, x: Combo, d: Combo, p: Point, q: Point, step: int, tableau: Tableau
) -> Combo:
    """The state after a step of :func:`exponential_tableau_step` from x with prediction d."""
    path, start = build.points.path, p.alpha / p.sigma
    width = q.alpha / q.sigma - start
    values = [d]
    for c, weights in zip(tableau.c[1:], tableau.a[1:], strict=True):
        s = start + c * width
        at = q if c == 1 else path.at(1 / s if s else math.inf)
        y = at.sigma * (x / p.sigma + width * total(weights, values))
        values.append(build.evaluate(y, at, step))
    return q.sigma * (x / p.sigma + width * total(tableau.b, values))


Step = Callable[[Builder, Combo, Point, Point, int, Tableau], tuple[Combo, Combo]]
STEPS: dict[str, Step] = {
    "sigma": sigma_step,
    "lambda": lambda_step,
    "exponential": exponential_tableau_step,
}


@dataclass(frozen=True)
class TableauSolver(Solver):
    """A Runge–Kutta method by its numbers (see the module).

    ``low``: weights of an embedded pair, which a run with fixed steps does not use.
    """

    title: ClassVar[str] = "Tableau"
    paper: ClassVar[str] = "Butcher 1963; Hairer, Nørsett & Wanner, Solving ODEs I, ch. II"
    tableau: Tableau = Tableau(1, (0,), ((),), (1,))
    variable: str = "sigma"
    name: str = ""
    low: tuple[float, ...] = ()

    @property
    def order(self) -> int:
        return self.tableau.order

    def nfe(self, steps: int) -> int:
        return (steps - 1) * len(self.tableau.c) + 1

    def plan(self, points: Points) -> Plan:
        self._check(points)
        grid = points.host if self.variable == "sigma" else points
        take = STEPS[self.variable]
        return single_steps(
            self,
            grid,
            lambda build, x, p, q, i: take(build, x, p, q, i, self.tableau)[0],
            lambda p, q: q.sigma > 0 and (self.variable != "lambda" or p.alpha > 0),
        ).on(points.path)


def by_data_line(trial: Trial, p: Point, q: Point, tableau: Tableau) -> Combo:
    return exponential_tableau_step(trial, X, p, q, 0, tableau)[0]


TRIALS = {"sigma": by_sigma, "lambda": by_lambda, "exponential": by_data_line}


@dataclass(frozen=True)
class AdaptiveTableau(Adaptive):
    """:class:`Adaptive` with an embedded pair by its numbers: ``low`` are the weights that are compared with ``b``.

    ``error_order``: the difference of the two results goes as the step to this power.
    """

    title: ClassVar[str] = "Tableau, adaptive"
    tableau: Tableau = Tableau(1, (0,), ((),), (1,))
    variable: str = "sigma"
    name: str = ""
    low: tuple[float, ...] = ()
    error_order: int = 1

    @property
    def order(self) -> int:
        return self.tableau.order

    @property
    def called(self) -> str:
        return self.name or "tableau"

    @property
    def pair(self) -> Pair:
        t = self.tableau
        closing = len(t.c) > 1 and t.c[-1] == 1 and (*t.a[-1], 0.0) == t.b
        low = Tableau(self.error_order - 1, t.c, t.a, self.low)
        variable = "sigma" if self.variable == "sigma" else "lambda"
        return Pair(self.error_order, variable, TRIALS[self.variable], t, low, closing)
