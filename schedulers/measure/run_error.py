r"""How far a run ends from the exact ODE, estimated from its own predictions: no evaluation, one read at its end.

A plan is linear in its start and its predictions, and so is the same run with better weights. Step i → i + 1 of the run leads
from state x_i to x_{i+1}; the exponential integral of the cubic through the predictions on both sides (the embedded rule,
``solver/weights.py``) leads to φ(x_i). Their difference e_i is the step's error, but for one thing: D_{i+1} was found at
x_{i+1} and not at φ(x_i), so φ is off by α'·w·J·e_i with w the rule's weight of D_{i+1} and J the derivative of D. An error
goes on through the steps below it as the flow carries it. Both are those of Gaussian data of deviation s:

    J = α·s²/(α²s² + σ²),        δ_{i+1} = δ_i·√(α'²s² + σ'²)/√(α²s² + σ²) + e_i

and the end D(x) has the last δ times J, plus what D still changes below the last level: the run's last change of D, in the
proportion in which it would go on for such data. All of that is known before the run, so the whole estimate is one weight for
each prediction: c·x_0 + Σ c_k·D_k, summed up while the run goes on.

A constant brings it to the errors measured (``python -m benchmarks.error_estimate``), eight of ten within a factor of three. A
solver of higher order than the embedded rule errs less than it says. It knows nothing of the network's own error.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..noise_schedule import Array
from ..path import Path, Point
from ..points import Points
from ..solver import Plan, Solver
from ..solver.base import host_plan
from ..solver.run import Denoise
from ..solver.weights import data_weights

MOST = 256  # evaluations: with more, nobody asks whether they are enough
CALIBRATION = 1.2  # the geometric mean of true errors over estimates
LEAST = 0.2  # of 1 − α'·w·J
RATE = 2.0  # errors fall as N^−RATE between 4 and 30 evaluations, for solvers of order 2 and more


class Node(NamedTuple):
    """A state of the run that lies on its way, and D there, both as combinations of x_0, D_0, D_1, …; None: not asked."""

    at: Point
    x: Array
    d: Array | None


@lru_cache(maxsize=32)
def weights(solver: Solver, points: Points, data_std: float) -> tuple[float, ...] | None:
    """c of x_0, D_0, D_1, …; None where the run is not linear in them, draws noise, rises, or is too short or too long."""
    if not solver.planned or solver.stochastic or points.rising or len(points) < 3:
        return None
    if len(points) > MOST + 1:
        return None
    plan = host_plan(solver, points)
    if plan.nfe > MOST or plan.stochastic or any(stage.mix for stage in plan.stages):
        return None
    nodes = way(plan)
    kappas = [node.at.kappa for node in nodes]
    if len(nodes) < 2 or any(b >= a for a, b in pairwise(kappas)):
        return None
    error = _carried(nodes, Points(plan.path, tuple(kappas)), data_std)
    return tuple((CALIBRATION * _ended(nodes, error, data_std, points)).tolist())


def way(plan: Plan) -> list[Node]:
    """The committed states of a plan above 0, one a level."""
    unit = np.eye(plan.nfe + 1)
    anchors, history, nodes = [unit[0]], list[Array](), list[Node]()
    for stage in plan.stages:
        y = np.zeros(len(unit))
        for row, held in ((stage.x, anchors), (stage.d, history)):
            for w, combination in zip(row, held, strict=False):
                y = y + w * combination
        d = None
        if stage.commit:
            anchors.insert(0, y)
        if stage.evaluate:
            d = unit[len(history) + 1]
            history.insert(0, d)
        if stage.commit and stage.at.sigma > 0:
            if nodes and nodes[-1].at == stage.at:
                nodes.pop()
            nodes.append(Node(stage.at, y, d))
    return nodes


def _carried(nodes: Sequence[Node], levels: Points, s: float) -> Array:
    """δ at the last node."""
    error = np.zeros(len(nodes[0].x))
    for i, (here, there) in enumerate(pairwise(nodes)):
        p, q = here.at, there.at
        around = [k for k in range(max(i - 1, 0), min(i + 3, len(nodes))) if nodes[k].d is not None]
        if p.alpha == 0:  # x/σ is ∫D d(α/σ) from 0 on: the trapezoid
            rule = [0.5 if k in (i, i + 1) else 0.0 for k in around[::-1]]
        else:
            rule = data_weights(levels, i, around[::-1]).tolist()
        exact = q.sigma / p.sigma * here.x
        slope = 0.0
        for k, w in zip(around[::-1], rule, strict=True):
            d = nodes[k].d
            assert d is not None
            exact = exact + q.alpha * w * d
            if k == i + 1:
                slope = q.alpha * w * _derivative(q, s)
        step = (there.x - exact) / max(1 - slope, LEAST)
        error = error * _size(q, s) / _size(p, s) + step
    return error


def _ended(nodes: Sequence[Node], error: Array, s: float, points: Points) -> Array:
    """The error of D at 0, or of x at a last level above."""
    last, before = nodes[-1], nodes[-2]
    if points.kappas[-1] > 0 or last.d is None or before.d is None:
        return error
    near, far = (s / math.hypot(s, node.at.kappa) for node in (last, before))
    going_on = (1 - near) / (near - far)
    return error * _derivative(last.at, s) - going_on * (last.d - before.d)


def _size(p: Point, s: float) -> float:
    return math.hypot(p.alpha * s, p.sigma)


def _derivative(p: Point, s: float) -> float:
    """∂D/∂x of Gaussian data."""
    return p.alpha * s * s / _size(p, s) ** 2


@dataclass(frozen=True)
class Facts:
    """The estimated error, root mean square: of all images, and of each. So many ``more`` evaluations would halve it."""

    rms: float
    images: tuple[float, ...]
    more: int

    def __str__(self) -> str:
        evaluations = "evaluation" if self.more == 1 else "evaluations"
        return (
            f"estimated error {self.rms:.2g} (RMS to the exact end of this run's ODE, to a factor of 3): about "
            f"{self.more} more {evaluations} would halve it"
        )


@dataclass
class RunError:
    """The estimate of one run over SIGMAS: ``watching(denoise)`` in place of ``denoise``, and ``facts()`` at the end."""

    weights: tuple[float, ...] | None
    order: int = 1
    total: Tensor | None = None
    count: int = 0

    @classmethod
    def of(cls, solver: object, path: Path, sigmas: Sequence[float], data_std: float) -> RunError:
        """``solver``: of a whole run; a part of one is not estimated."""
        if not isinstance(solver, Solver) or len(sigmas) < 3:
            return cls(None)
        found = weights(solver, Points.from_sigmas(path, sigmas), data_std)
        return cls(found, solver.order)

    def watching(self, denoise: Denoise) -> Denoise:
        """The same denoiser, whose predictions are added up."""
        if self.weights is None:
            return denoise
        c = self.weights

        def watched(x: Tensor, sigma: float) -> Tensor:
            d = denoise(x, sigma)
            if self.total is None:
                self.total = x.to(torch.promote_types(x.dtype, torch.float32)) * c[0]
            self.count += 1
            if self.count < len(c):
                self.total.add_(d.detach(), alpha=c[self.count])
            return d

        return watched

    def facts(self) -> Facts | None:
        """None: no estimate. Reads from the device, once."""
        if self.weights is None or self.total is None or self.count != len(self.weights) - 1:
            return None
        each = self.total.flatten(1).square().mean(1).sqrt().tolist()
        whole = math.sqrt(sum(e * e for e in each) / len(each))
        if not math.isfinite(whole):
            return None
        return Facts(whole, tuple(each), more(self.count, self.order))


def more(evaluations: int, order: int) -> int:
    """How many more evaluations halve the error of a solver of this order."""
    rate = RATE if order > 1 else 1.0
    return max(math.ceil(evaluations * (2 ** (1 / rate) - 1) - 1e-9), 1)
