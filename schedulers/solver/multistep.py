"""Multistep methods: the step they share, and the families that extrapolate D (see ``weights.py``)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..noise_schedule import Array
from ..path import Point
from ..points import Points
from ..settings import knob
from .base import Solver, regular
from .formula import Builder, Combo, total
from .plan import Plan
from .runge_kutta import EXPONENTIAL, TABLEAUX, data_step, exponential_stages
from .tableau_solver import exponential_tableau_stages
from .weights import data_weights, moments, positions

COORDINATES = ("lambda", "log_sigma", "sigma", "index")
#: Single-step methods that start a history, by order.
STARTERS = {2: "res_2s", 3: "res_3s", 4: "krogstad"}
FIFTH = "dormand_prince"  # beyond: a tableau, in α/σ
MOST_NODES = 6


def coordinate_knob(first: str = "lambda", note: str = "") -> Any:
    """The variable of the polynomial."""
    return knob(
        first,
        "The variable in which past predictions are extrapolated: λ = log(α/σ), σ, −log σ, or the step's "
        "index. λ is the usual one; which errs least depends on the model and the steps." + note,
        options=(first, *(name for name in COORDINATES if name != first)),
    )


def start_knob() -> Any:
    """How a history begins."""
    return knob(
        "ramp",
        "How the history begins: 'ramp' with low orders, which limits the order overall; 'single_step' "
        "with a single-step method of the same order, which costs more evaluations and needs a run "
        "without noise.",
        options=("ramp", "single_step"),
    )


def lower_order_knob() -> Any:
    """diffusers' lower_order_final, without its limit to fewer than 15 steps."""
    return knob(
        False,
        "Combine no more predictions than there are steps left: steadier in few steps, order 2 at most.",
    )


def lower_order_early_knob(where: str = "where the last levels lie far apart.") -> Any:
    """ComfyUI's sa_solver ends so. ``where`` it is steadier."""
    return knob(
        False,
        "As lower_order_final, one step earlier: the last step above 0 combines one prediction, the one before it two. "
        f"Steadier still {where}",
    )


class Multistep(Solver):
    """One evaluation per step, combined with those of earlier steps.

    A step evaluates D, corrects the state with it (predictor–corrector families), and moves on: by a
    single-step method while the history starts, then by weights on the newest values. Steps from pure
    noise and to 0 are DDIM's. A family says how many values it combines and, where they are not
    those of D in λ, their weights, the values and the move.
    """

    #: Knobs, as they are for a family without them.
    max_order: int
    coordinate: str = "lambda"
    start: str = "ramp"
    lower_order_final: bool = False
    lower_order_early: bool = False
    pece: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.start == "single_step" and self.stochastic:
            raise ValueError(
                f"{self.name_shown}: start = 'single_step' is for a run without noise: choose "
                "'ramp', or noise strength 0"
            )

    def nodes(self, left: int = MOST_NODES) -> tuple[int, int]:
        """How many values (predictor, corrector) combine at most with ``left`` steps to go; 0: none."""
        return min(self.max_order, left), 0

    @property
    def second_order(self) -> bool:
        """Whether the weights keep the order at 2, whatever the number of values."""
        return self.coordinate == "index" or self.lower_order_final or self.lower_order_early

    @property
    def order(self) -> int:
        """A corrector sees the predictor's error times h. A single step of order p costs the whole run
        no more than h^{p+1}: the ramp's first one has p = 1, or 2 if it is corrected."""
        if self.stochastic:
            return 1
        predictor, corrector = self.nodes()
        limits = [min(predictor + 1, corrector) if corrector else predictor]
        if self.second_order:
            limits.append(2)
        if self.start == "ramp":
            limits.append(3 if corrector > 1 else 2)
        elif self.memory > 1:
            limits.append(min(self.memory, 5) + 1)
        return min(limits)

    @property
    def memory(self) -> int:
        """Values kept: the predictor's, or the corrector's but for the newest."""
        predictor, corrector = self.nodes()
        return max(predictor, corrector - 1)

    @property
    def singles(self) -> int:
        """Steps by the single-step method at the start."""
        return self.memory - 1 if self.start == "single_step" else 0

    def nfe(self, steps: int) -> int:
        singles = min(self.singles, steps - 1)
        again = steps - 1 - singles if self.pece and self.nodes()[1] else 0
        return steps + again + (singles * (self._start_stages() - 1) if singles else 0)

    def plan(self, points: Points) -> Plan:
        self._check(points)
        grid = self._grid(points)
        build = Builder(self, grid)
        x, singles = build.start, self.singles
        past: list[tuple[int, Combo]] = []
        predicted: Array | None = None
        for i, (p, q) in enumerate(grid.steps):
            x, d = build.advance(x, p, i)
            if predicted is not None:
                x, d = self._correct(build, x, d, i, past, predicted)
            past = [(i, self._value(p, x, d)), *past][: self.memory]
            predicted = None
            if singles and q.sigma > 0 and self._startable(p) and self._start_holds(build, x, d, i):
                singles -= 1
                x = self._start(build, x, d, i)
            elif not regular(p, q):
                x = data_step(build, i, x, [d], [1.0], self._eta(grid, i))
            else:
                used = past[: self._highest(build, x, i, past)]
                predicted = self._weights(grid, i, [k for k, _ in used])
                x = self._move(build, i, x, [v for _, v in used], predicted)
        return build.finish(x).on(points.path)

    def _left(self, grid: Points, i: int) -> int:
        """Steps to go, step i → i + 1 included, if they limit the order."""
        left = len(grid) - 1 - i
        if self.lower_order_early:
            return max(left - (grid[-1].sigma == 0), 1)
        return left if self.lower_order_final else MOST_NODES

    def _correct(
        self,
        build: Builder,
        x: Combo,
        d: Combo,
        i: int,
        past: list[tuple[int, Combo]],
        predicted: Array,
    ) -> tuple[Combo, Combo]:
        """x at level i with other weights on D in the step that led there; its x and noise stay."""
        most = self._correcting(build.points, i - 1, past)
        count = build.highest(
            most,
            lambda alone, n: alone.holds(self._corrected(alone, x, d, i, past, predicted, n), i),
        )
        if not count:
            return x, d
        x = self._corrected(build, x, d, i, past, predicted, count)
        return build.advance(x, build.points[i], i) if self.pece else (x, d)

    def _corrected(
        self,
        build: Builder,
        x: Combo,
        d: Combo,
        i: int,
        past: list[tuple[int, Combo]],
        predicted: Array,
        count: int,
    ) -> Combo:
        """x at level i by ``count`` values, d the newest."""
        used = [(i, d), *past][:count]
        weights = self._weights(build.points, i - 1, [k for k, _ in used])
        change = total(weights, [v for _, v in used])
        change = change - total(predicted, [v for _, v in past[: len(predicted)]])
        return x + build.points[i].alpha * change

    def _correcting(self, grid: Points, i: int, past: list[tuple[int, Combo]]) -> int:
        """How many values correct step i → i + 1 at most."""
        left = self._left(grid, i)
        most = left if self.lower_order_early else MOST_NODES + 1
        return min(self.nodes(left)[1], 1 + len(past), most)

    def _highest(self, build: Builder, x: Combo, i: int, past: list[tuple[int, Combo]]) -> int:
        """How many of the ``past`` values step i → i + 1 from x combines (see ``rising.py``)."""
        grid = build.points
        most = min(self.nodes(self._left(grid, i))[0], len(past))

        def holds(alone: Builder, count: int) -> bool:
            used = past[:count]
            weights = self._weights(grid, i, [k for k, _ in used])
            y = self._move(alone, i, x, [v for _, v in used], weights)
            return alone.holds(y, i + 1) or self._mended(alone, y, i, past, weights)

        return max(1, build.highest(most, holds))

    def _mended(
        self, build: Builder, y: Combo, i: int, past: list[tuple[int, Combo]], predicted: Array
    ) -> bool:
        """Whether y after step i → i + 1 holds once it is corrected."""
        if i + 2 >= len(build.points):
            return False
        x, d = build.advance(y, build.points[i + 1], i + 1)
        most = self._correcting(build.points, i, past)
        count = build.highest(
            most,
            lambda at, n: at.holds(self._corrected(at, x, d, i + 1, past, predicted, n), i + 1),
        )
        return count > 0

    def _start_holds(self, build: Builder, x: Combo, d: Combo, i: int) -> bool:
        """Whether the single-step method may take step i → i + 1."""
        return build.may(lambda alone, y: self._start(alone, y, d, i), x, i)

    # What families change.

    def _grid(self, points: Points) -> Points:
        """The points in the coordinates of the method."""
        return points

    def _eta(self, points: Points, i: int) -> float:
        """Noise strength η of step i → i + 1."""
        return 0.0

    def _value(self, p: Point, x: Combo, d: Combo) -> Combo:
        """What is extrapolated, at state x with prediction d."""
        return d

    def _weights(self, points: Points, i: int, levels: list[int]) -> Array:
        """Weights of the values at ``levels``, newest first, in step i → i + 1; i + 1 is a corrector's."""
        return data_weights(points, i, levels, self.coordinate, self._eta(points, i))

    def _move(
        self, build: Builder, i: int, x: Combo, values: Sequence[Combo], weights: Array
    ) -> Combo:
        """The state after step i → i + 1."""
        return data_step(build, i, x, values, weights, self._eta(build.points, i))

    def _startable(self, p: Point) -> bool:
        """Whether the single-step method can start at p."""
        return p.alpha > 0

    def _start(self, build: Builder, x: Combo, d: Combo, i: int) -> Combo:
        """The state after step i → i + 1 by the single-step method."""
        p, q = build.points[i], build.points[i + 1]
        if self.memory in STARTERS:
            return exponential_stages(build, x, d, p, q, i, STARTERS[self.memory])
        return exponential_tableau_stages(build, x, d, p, q, i, TABLEAUX[FIFTH])

    def _start_stages(self) -> int:
        """Evaluations of one step of the single-step method."""
        if self.memory in STARTERS:
            return EXPONENTIAL[STARTERS[self.memory]][1]
        return len(TABLEAUX[FIFTH].c)


@dataclass(frozen=True)
class DPMSolverMultistep(Multistep):
    """DPM-Solver++ multistep (2M, 3M) and its SDE form: one evaluation per step.

    'exact' integrates the polynomial through the last predictions exactly, which gives the stated
    order. 'published' uses the papers' weights; its third order is second (a factor 2 is missing), but
    it damps the extrapolation and errs less at ten steps and fewer.
    """

    title: ClassVar[str] = "DPM-Solver++ (multistep)"
    aliases: ClassVar[tuple[str, ...]] = (
        "dpmpp_2m", "dpmpp_3m", "dpmpp_2m_sde", "dpmpp_3m_sde", "DPM++ 2M", "DPM++ 3M", "DPM++ 2M SDE", "res_multistep",
        "RES multistep", "DPMSolverMultistepScheduler", "scheduler",
    )  # fmt: skip
    paper: ClassVar[str] = "Lu et al. 2022 (arXiv 2211.01095), alg. 2; Zhang et al. 2023 (RES)"
    equals: ClassVar[str] = (
        "published: ComfyUI dpmpp_2m (on flow with log_sigma), dpmpp_2m_sde (eta), dpmpp_3m_sde but for its "
        "second step, diffusers DPMSolverMultistep midpoint and order 3, below 15 steps with "
        "lower_order_final; exact, order 2: diffusers 'heun', ComfyUI dpmpp_2m_sde_heun, and with "
        "log_sigma res_multistep"
    )
    max_order: int = knob(2, "Predictions that are combined: 1 is DDIM.", low=1, high=3)
    weights: str = knob("published", "Whose weights; see above.", options=("published", "exact"))
    eta: float = knob(0.0, "Noise strength: 0 ODE, 1 reverse SDE.", low=0.0, high=1.0, step=0.001)
    coordinate: str = coordinate_knob()
    start: str = start_knob()
    lower_order_final: bool = lower_order_knob()
    lower_order_early: bool = lower_order_early_knob()

    @property
    def second_order(self) -> bool:
        return self.weights == "published" or super().second_order

    @property
    def stochastic(self) -> bool:
        return self.eta > 0

    def _eta(self, points: Points, i: int) -> float:
        return self.eta

    def _weights(self, points: Points, i: int, levels: list[int]) -> Array:
        if self.weights == "published" and len(levels) > 1:
            return published_weights(points, i, levels, self.coordinate, self.eta)
        return super()._weights(points, i, levels)


def published_weights(
    points: Points, i: int, levels: list[int], name: str = "lambda", eta: float = 0.0
) -> Array:
    """DPM-Solver++'s own weights: E₀·(D + d/2) for 2M; E₀D + E₁d₁ + ½E₂d₂ for 3M, with divided
    differences d in units of the step. A level infinitely far back drops out."""
    e = moments((1 + eta) * (points[i + 1].lam - points[i].lam), 3)
    now, *past = positions(points, i, levels, name)
    r = np.diff([-t for t in (now, *past)])
    first = np.array([1.0, -1.0, 0.0]) / r[0]
    if len(levels) == 2 or math.isinf(past[-1]):
        return (np.array([e[0], 0, 0]) + e[0] / 2 * first)[: len(levels)]
    second = np.array([0.0, 1.0, -1.0]) / r[1]
    curve = (first - second) / (r[0] + r[1])
    return np.array([e[0], 0, 0]) + e[1] * (first + r[0] * curve) + e[2] / 2 * curve


@dataclass(frozen=True)
class UniPC(Multistep):
    """UniPC: an exponential multistep predictor, and a corrector that reuses the next evaluation.

    'exact' solves the moment conditions; bh1 and bh2 are the published variants, which replace the
    weight of the lowest-order systems by ½ with B(h) = h or e^h − 1. η > 0 takes the moments of (1 + η)h and adds the SDE's
    noise: stochastic UniPC, with 'exact' SA-Solver at τ² = η. Orders above 3 lose in few steps: the errors of orders 2 to 6
    ('exact', VE of docs/solvers.md) are 0.019, 0.016, 0.11, 0.52, 2.6 in 10 steps and 0.0025, 0.0014, 0.0015, 0.049, 1.2 in 20;
    take 5 and 6, with start 'single_step', for reference runs of 50 steps and more.
    """

    title: ClassVar[str] = "UniPC"
    aliases: ClassVar[tuple[str, ...]] = (
        "uni_pc", "uni_pc_bh2", "UniPCMultistepScheduler", "predictor corrector", "scheduler",
    )  # fmt: skip
    paper: ClassVar[str] = "Zhao et al. 2023 (arXiv 2302.04867)"
    equals: ClassVar[str] = (
        "with lower_order_final diffusers UniPCMultistep, and with order 3 ComfyUI uni_pc, uni_pc_bh2 "
        "(which stop at σ = 0.001)"
    )
    max_order: int = knob(2, "Order of the predictor.", low=1, high=6)
    variant: str = knob("bh2", "Which weights.", options=("bh2", "bh1", "exact"))
    corrector: bool = knob(True, "Correct each step with the next evaluation, at no cost.")
    coordinate: str = coordinate_knob()
    start: str = start_knob()
    lower_order_final: bool = lower_order_knob()
    eta: float = knob(0.0, "Noise strength: 0 ODE, 1 reverse SDE.", low=0.0, high=1.0, step=0.001)
    lower_order_early: bool = lower_order_early_knob()

    def nodes(self, left: int = MOST_NODES) -> tuple[int, int]:
        used = min(self.max_order, left)
        return used, used + 1 if self.corrector else 0

    @property
    def stochastic(self) -> bool:
        return self.eta > 0

    def _eta(self, points: Points, i: int) -> float:
        return self.eta

    def _weights(self, points: Points, i: int, levels: list[int]) -> Array:
        """Of two nodes the one that is not level i, at τ, has E₁/τ: bh1 and bh2 write B/2 for E₁."""
        if self.variant == "exact" or len(levels) != 2:
            return super()._weights(points, i, levels)
        h = (1 + self.eta) * (points[i + 1].lam - points[i].lam)
        half = (h if self.variant == "bh1" else -math.expm1(-h)) / 2
        (other,) = [half / t for t in positions(points, i, levels, self.coordinate) if t]
        rest = moments(h, 1)[0] - other
        return np.array([rest if k == i else other for k in levels])


@dataclass(frozen=True)
class SASolver(Multistep):
    """SA-Solver: stochastic Adams predictor and corrector on the exact exponential weights.

    Noise of strength τ² is added where σ lies in the given window. PECE evaluates again after the
    correction (two evaluations per step).
    """

    title: ClassVar[str] = "SA-Solver"
    aliases: ClassVar[tuple[str, ...]] = (
        "sa_solver",
        "sa_solver_pece",
        "SASolverScheduler",
        "scheduler",
    )
    paper: ClassVar[str] = "Xue et al. 2023 (arXiv 2309.05019), alg. 1 and 2"
    equals: ClassVar[str] = (
        "ComfyUI sa_solver, sa_solver_pece (with lower_order_early; they ask τ at the arriving σ); "
        "diffusers SASolverScheduler (which changes the second order)"
    )
    predictor: int = knob(3, "Order of the predictor.", low=1, high=6)
    corrector: int = knob(4, "Order of the corrector; 0 for none.", low=0, high=6)
    tau: float = knob(1.0, "Noise strength τ: 0 ODE, 1 reverse SDE.", low=0.0, high=1.0, step=0.001)
    noise_from: float = knob(
        0.0, "Noise only at or above this σ.", low=0.0, high=1e5, step=0.001, advanced=True
    )
    noise_to: float = knob(
        1e5, "Noise only at or below this σ.", low=0.0, high=1e5, step=0.01, advanced=True
    )
    pece: bool = knob(False, "Evaluate again after each correction.")
    coordinate: str = coordinate_knob()
    start: str = start_knob()
    lower_order_final: bool = lower_order_knob()
    lower_order_early: bool = lower_order_early_knob()

    def nodes(self, left: int = MOST_NODES) -> tuple[int, int]:
        return min(self.predictor, left), min(self.corrector, left + 1)

    @property
    def stochastic(self) -> bool:
        return self.tau > 0

    def _eta(self, points: Points, i: int) -> float:
        return self.tau**2 if self.noise_from <= points.host_sigma(i) <= self.noise_to else 0.0
