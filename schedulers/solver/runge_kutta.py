"""Runge–Kutta methods: classical ones on σ or λ, and exponential ones that solve the linear part exactly."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from ..path import Point
from ..points import Points
from ..settings import knob
from .base import Solver, regular
from .ddim import ddim_step
from .formula import Builder, Combo, total
from .plan import Plan
from .weights import data_weights, exponential_row, moments


@dataclass(frozen=True)
class Tableau:
    """A Butcher tableau: order, stage positions c, rows of a (below the diagonal), weights b."""

    order: int
    c: tuple[float, ...]
    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]


TABLEAUX: dict[str, Tableau] = {
    "heun": Tableau(2, (0, 1), ((), (1,)), (1 / 2, 1 / 2)),
    "midpoint": Tableau(2, (0, 1 / 2), ((), (1 / 2,)), (0, 1)),
    "ralston2": Tableau(2, (0, 2 / 3), ((), (2 / 3,)), (1 / 4, 3 / 4)),
    "heun3": Tableau(3, (0, 1 / 3, 2 / 3), ((), (1 / 3,), (0, 2 / 3)), (1 / 4, 0, 3 / 4)),
    # the propagating stages of Bogacki–Shampine 3(2) are Ralston's third-order method
    "bogacki_shampine": Tableau(
        3, (0, 1 / 2, 3 / 4), ((), (1 / 2,), (0, 3 / 4)), (2 / 9, 1 / 3, 4 / 9)
    ),
    "rk4": Tableau(
        4,
        (0, 1 / 2, 1 / 2, 1),
        ((), (1 / 2,), (0, 1 / 2), (0, 0, 1)),
        (1 / 6, 1 / 3, 1 / 3, 1 / 6),
    ),
    "dormand_prince": Tableau(
        5,
        (0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1),
        (
            (),
            (1 / 5,),
            (3 / 40, 9 / 40),
            (44 / 45, -56 / 15, 32 / 9),
            (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
            (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
        ),
        (35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
    ),
}


def data_step(
    build: Builder, i: int, x: Combo, values: Sequence[Combo], weights: Iterable[float], eta: float
) -> Combo:
    """x' = (σ'/σ)e^{−ηh}·x + α'·Σ w·D + σ'√(1 − e^{−2ηh})·z from level i; h may be infinite."""
    kept, size = exponential_row(build.points, i, eta)
    drift = kept * x + build.points[i + 1].alpha * total(weights, values)
    return drift + size * build.draw() if size else drift


def sigma_step(
    build: Builder, x: Combo, p: Point, q: Point, step: int, tableau: Tableau
) -> tuple[Combo, Combo]:
    """(next state, velocity at p) of a step on dx/dσ = (x − D)/σ, host coordinates, σ' > 0."""
    x, d = build.advance(x, p, step)
    return sigma_stages(build, x, d, p, q, step, tableau), (x - d) / p.sigma


def sigma_stages(
    build: Builder, x: Combo, d: Combo, p: Point, q: Point, step: int, tableau: Tableau
) -> Combo:
    """The state after a step of :func:`sigma_step` from x with prediction d."""
    path, width = build.points.path, q.sigma - p.sigma
    slopes = [(x - d) / p.sigma]
    for c, weights in zip(tableau.c[1:], tableau.a[1:], strict=True):
        at = q if c == 1 else path.on(p.sigma + c * width)  # p + (q − p) is 0 for q far below p
        y = x + width * total(weights, slopes)
        slopes.append((y - build.evaluate(y, at, step)) / at.sigma)
    return x + width * total(tableau.b, slopes)


def lambda_step(
    build: Builder, x: Combo, p: Point, q: Point, step: int, tableau: Tableau
) -> tuple[Combo, Combo]:
    """(next state, slope at p) of a step on dy/dλ = D − y, y = x/α; needs a finite h."""
    path, h = build.points.path, q.lam - p.lam
    x, d = build.advance(x, p, step)
    start = x / p.alpha
    slopes = [d - start]
    for c, weights in zip(tableau.c[1:], tableau.a[1:], strict=True):
        at = path.at(p.kappa * math.exp(-c * h))
        y = start + h * total(weights, slopes)
        slopes.append(build.evaluate(at.alpha * y, at, step) - y)
    return q.alpha * (start + h * total(tableau.b, slopes)), slopes[0]


#: The state after step number i from x at p to q.
Take = Callable[[Builder, Combo, Point, Point, int], Combo]


def single_steps(
    solver: Solver, points: Points, take: Take, regular: Callable[[Point, Point], bool]
) -> Plan:
    """The plan of steps by ``take``; DDIM's where they are not ``regular``, or err too much on rising levels."""
    build = Builder(solver, points)
    x = build.start
    for i, (p, q) in enumerate(points.steps):

        def step(at: Builder, x: Combo, p: Point = p, q: Point = q, i: int = i) -> Combo:
            return take(at, x, p, q, i)

        if regular(p, q) and build.may(step, x, i):
            x = step(build, x)
        else:
            x, d = build.advance(x, p, i)
            x = build.take(ddim_step(p, q), x, d)
    return build.finish(x)


@dataclass(frozen=True)
class RungeKutta(Solver):
    """A classical Runge–Kutta method with fixed steps, on dx/dσ = (x − D)/σ or on dy/dλ = D − y.

    The last step, to 0, and a step from pure noise are DDIM's. Many evaluations per step: for
    reference runs and comparison rather than for few steps.
    """

    title: ClassVar[str] = "Runge-Kutta"
    aliases: ClassVar[tuple[str, ...]] = (
        "runge kutta", "RK4", "midpoint", "ralston", "bogacki shampine", "bosh3", "dormand prince", "dopri5", "heun3",
    )  # fmt: skip
    paper: ClassVar[str] = "Hairer, Nørsett & Wanner, Solving ODEs I, ch. II; Dormand & Prince 1980"
    equals: ClassVar[str] = (
        "heun on sigma: ComfyUI heun; rk4, dopri5 as in torchdiffeq (fixed steps)"
    )
    method: str = knob("rk4", "The tableau.", options=tuple(TABLEAUX))
    variable: str = knob(
        "sigma", "Integrate over σ or over λ = log(α/σ).", options=("sigma", "lambda")
    )

    @property
    def order(self) -> int:
        return TABLEAUX[self.method].order

    def nfe(self, steps: int) -> int:
        return (steps - 1) * len(TABLEAUX[self.method].c) + 1

    def plan(self, points: Points) -> Plan:
        self._check(points)
        grid = points.host if self.variable == "sigma" else points
        take = sigma_step if self.variable == "sigma" else lambda_step
        tableau = TABLEAUX[self.method]
        return single_steps(
            self,
            grid,
            lambda build, x, p, q, i: take(build, x, p, q, i, tableau)[0],
            lambda p, q: q.sigma > 0 and (self.variable == "sigma" or p.alpha > 0),
        ).on(points.path)


# ------------------------------------------------------------------ exponential integrators


@dataclass(frozen=True)
class Exponential:
    """Coefficients of one exponential Runge–Kutta step of size h (data prediction, or noise).

    Stage k at λ + c_k·h: y_k = e^{−c_k h}·y + Σ_j a_kj·D_j; then y' = e^{−h}·y + Σ_j b_j·D_j.
    """

    c: tuple[float, ...]
    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]


def two_stage(h: float, c: float, last: float) -> Exponential:
    """Order 2 with the second stage at c and b₂ = ``last``."""
    e0 = moments(h, 1)[0]
    return Exponential((0, c), ((), (moments(c * h, 1)[0],)), (e0 - last, last))


def three_stage(h: float, c2: float, c3: float, gamma: float) -> Exponential:
    """Order 3 (Hochbruck & Ostermann 2005, eq. 5.9): b₂ = γb₃, b₃ = E₁/(γc₂ + c₃).

    γ = (3c₃² − 2c₃)/(c₂(2 − 3c₂)); at c₃ = 2/3 it vanishes, which is DPM-Solver++(3S).
    """
    e2, e3, e = (moments(c * h, 2) for c in (c2, c3, 1.0))
    a32 = gamma * e2[1] + c3 / c2 * e3[1]
    b3 = e[1] / (gamma * c2 + c3)
    b = (e[0] - (1 + gamma) * b3, gamma * b3, b3)
    return Exponential((0, c2, c3), ((), (e2[0],), (e3[0] - a32, a32)), b)


def four_stage(h: float, krogstad: bool) -> Exponential:
    """Order 4: Krogstad 2005, or Cox & Matthews 2002 (eq. 26-29); same final weights."""
    half, e = moments(h / 2, 2), moments(h, 3)
    b = (e[0] - 3 * e[1] + 2 * e[2], 2 * e[1] - 2 * e[2], 2 * e[1] - 2 * e[2], 2 * e[2] - e[1])
    if krogstad:
        third = (half[0] - 2 * half[1], 2 * half[1])
        fourth = (e[0] - 2 * e[1], 0.0, 2 * e[1])
    else:
        third = (0.0, half[0])
        fourth = (half[0] * math.expm1(-h / 2), 0.0, 2 * half[0])
    return Exponential((0, 0.5, 0.5, 1), ((), (half[0],), third, fourth), b)


#: name → (order, stages, coefficients for a step h)
EXPONENTIAL: dict[str, tuple[int, int, Callable[[float], Exponential]]] = {
    "exp_heun": (2, 2, lambda h: two_stage(h, 1.0, moments(h, 2)[1])),
    "res_2s": (2, 2, lambda h: two_stage(h, 0.5, 2 * moments(h, 2)[1])),
    "dpmpp_2s": (2, 2, lambda h: two_stage(h, 0.5, moments(h, 1)[0])),
    "res_3s": (3, 3, lambda h: three_stage(h, 0.5, 1.0, 4.0)),
    "dpmpp_3s": (3, 3, lambda h: three_stage(h, 1 / 3, 2 / 3, 0.0)),
    "krogstad": (4, 4, lambda h: four_stage(h, True)),
    "cox_matthews": (4, 4, lambda h: four_stage(h, False)),
}


def exponential_step(
    build: Builder, x: Combo, p: Point, q: Point, step: int, name: str
) -> tuple[Combo, Combo]:
    """(next state, D at p) of an exponential step; needs a finite h."""
    x, d = build.advance(x, p, step)
    return exponential_stages(build, x, d, p, q, step, name), d


def exponential_stages(
    build: Builder, x: Combo, d: Combo, p: Point, q: Point, step: int, name: str
) -> Combo:
    """The state after a step of :func:`exponential_step` from x with prediction d."""
    path, h = build.points.path, q.lam - p.lam
    table = EXPONENTIAL[name][2](h)
    values = [d]
    for c, weights in zip(table.c[1:], table.a[1:], strict=True):
        at = path.at(p.kappa * math.exp(-c * h))
        y = at.sigma / p.sigma * x + at.alpha * total(weights, values)
        values.append(build.evaluate(y, at, step))
    return q.sigma / p.sigma * x + q.alpha * total(table.b, values)


@dataclass(frozen=True)
class ExponentialRungeKutta(Solver):
    """Exponential Runge–Kutta: the linear part exactly, D by stages of order 2, 3 or 4.

    Works in λ with D as the unknown, so the same on every path. The last step, to 0, and a step from
    pure noise are DDIM's.
    """

    title: ClassVar[str] = "Exponential Runge-Kutta"
    aliases: ClassVar[tuple[str, ...]] = (
        "ETD", "RES", "res_2s", "res_3s", "exp_heun_2_x0", "krogstad", "cox matthews", "etdrk4", "RES4LYF",
    )  # fmt: skip
    paper: ClassVar[str] = (
        "Hochbruck & Ostermann 2005; Krogstad 2005; Cox & Matthews 2002; Zhang et al. 2023 (RES)"
    )
    equals: ClassVar[str] = (
        "exp_heun: ComfyUI exp_heun_2_x0; dpmpp_2s, dpmpp_3s: DPM-Solver++ single step"
    )
    method: str = knob("res_2s", "Which coefficients.", options=tuple(EXPONENTIAL))

    @property
    def order(self) -> int:
        return EXPONENTIAL[self.method][0]

    def nfe(self, steps: int) -> int:
        return (steps - 1) * EXPONENTIAL[self.method][1] + 1

    def plan(self, points: Points) -> Plan:
        self._check(points)
        return single_steps(
            self,
            points,
            lambda build, x, p, q, i: exponential_step(build, x, p, q, i, self.method)[0],
            regular,
        )


# --------------------------------------------------------------------- DPM-Solver, single step


@dataclass(frozen=True)
class DPMSolver(Solver):
    """DPM-Solver and DPM-Solver++, single step, of order 1, 2 or 3; with η > 0 SEEDS.

    '++' extrapolates x0, 'original' the noise. Stages lie at λ + h/2 (order 2), λ + h/3 and λ + 2h/3
    (order 3). With η > 0 ('++' only) a step solves the reverse SDE of noise strength η exactly for
    constant D, and the stages share their noise through the Ornstein–Uhlenbeck decomposition.
    """

    title: ClassVar[str] = "DPM-Solver (single step)"
    aliases: ClassVar[tuple[str, ...]] = (
        "dpm_2", "dpmpp_2s", "DPM++ 2S", "DPM++ SDE", "seeds_2", "seeds_3", "SEEDS", "DPMSolverSinglestepScheduler",
        "KDPM2DiscreteScheduler", "scheduler",
    )  # fmt: skip
    paper: ClassVar[str] = (
        "Lu et al. 2022 (arXiv 2206.00927; 2211.01095); Gonzalez et al. 2023 (SEEDS, 2305.14267)"
    )
    equals: ClassVar[str] = (
        "original order 2: ComfyUI dpm_2 (off flow), diffusers KDPM2Discrete; ++ with eta: ComfyUI "
        "seeds_2 (phi_1), seeds_3"
    )
    max_order: int = knob(2, "Order, and evaluations per step.", low=1, high=3)
    form: str = knob(
        "++", "Extrapolate x0 (++) or the noise (original).", options=("++", "original")
    )
    eta: float = knob(
        0.0, "Noise strength (++ only): 0 ODE, 1 reverse SDE.", low=0.0, high=1.0, step=0.001
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.eta > 0 and self.form != "++":
            raise ValueError(
                f"{self.title}: eta above 0 needs the form '++' (SDE-DPM-Solver++, SEEDS)"
            )

    @property
    def order(self) -> int:
        return min(self.max_order, 2) if self.eta > 0 else self.max_order

    @property
    def stochastic(self) -> bool:
        return self.eta > 0

    def nfe(self, steps: int) -> int:
        return (steps - 1) * self.max_order + 1

    def plan(self, points: Points) -> Plan:
        self._check(points)
        build = Builder(self, points)
        x = build.start
        for i, (p, q) in enumerate(points.steps):

            def step(at: Builder, x: Combo, p: Point = p, q: Point = q, i: int = i) -> Combo:
                stages = STAGES[self.max_order]
                if self.form == "++":
                    return seeds_step(at, x, p, q, i, stages, self.eta)
                return noise_step(at, x, p, q, i, stages)

            if regular(p, q) and build.may(step, x, i):
                x = step(build, x)
            else:
                x, d = build.advance(x, p, i)
                x = data_step(build, i, x, [d], data_weights(points, i, [i]), self.eta)
        return build.finish(x)


#: Stage positions of DPM-Solver-1, -2 and -3.
STAGES = {1: (0.0,), 2: (0.0, 1 / 2), 3: (0.0, 1 / 3, 2 / 3)}


def stage_weights(f: Callable[[float, int], float], c: tuple[float, ...], k: int) -> list[float]:
    """Weights of the known values for stage k (or, at k = len(c), for the step) of DPM-Solver.

    f(position, j) is the j-th moment of the kernel up to ``position``. The value is held (order 1),
    then extrapolated from the newest stage: v(u) = v_0 + (u/c_j)·(v_j − v_0); DPM-Solver-2's final
    weight takes half the zeroth moment for the first one, as published.
    """
    at = 1.0 if k == len(c) else c[k]
    newest = k - 1
    if newest == 0:
        return [f(at, 0)]
    slope = f(at, 0) / (2 * c[1]) if len(c) == 2 else at * f(at, 1) / c[newest]
    weights = [0.0] * k
    weights[newest] = slope
    weights[0] += f(at, 0) - slope
    return weights


def seeds_step(
    build: Builder, x: Combo, p: Point, q: Point, step: int, c: tuple[float, ...], eta: float
) -> Combo:
    """DPM-Solver++ single step with noise strength η (SEEDS); η = 0 is the ODE.

    x_k = (σ_k/σ)e^{−ηc_k h}·x + α_k·Σ a_kj·D_j + n_k, the weights those of H = (1 + η)h, and the noise
    an Ornstein–Uhlenbeck path: n_k/σ_k = e^{−ηΔ}·n_{k−1}/σ_{k−1} + √(1 − e^{−2ηΔ})·z with Δ = (c_k − c_{k−1})h.
    """
    path, h = build.points.path, q.lam - p.lam
    x, d = build.advance(x, p, step)
    values, carried, before = [d], Combo(), 0.0

    def moment(position: float, j: int) -> float:
        return float(moments((1 + eta) * position * h, 2)[j])

    for k in range(1, len(c) + 1):
        position = 1.0 if k == len(c) else c[k]
        at = q if k == len(c) else path.at(p.kappa * math.exp(-position * h))
        weights = stage_weights(moment, c, k)
        drift = at.sigma / p.sigma * math.exp(-eta * position * h) * x
        drift = drift + at.alpha * total(weights, values)
        y, gap = drift, (position - before) * h
        if eta:
            y = y + at.sigma * (
                math.exp(-eta * gap) * carried
                + math.sqrt(-math.expm1(-2 * eta * gap)) * build.draw()
            )
        if k == len(c):
            return y
        if eta:
            anchor, d = build.advance(y, at, step)
            carried, before = (anchor - drift) / at.sigma, position
        else:
            d = build.evaluate(y, at, step)
        values.append(d)
    raise AssertionError("a step has at least one stage")


def noise_step(
    build: Builder, x: Combo, p: Point, q: Point, step: int, c: tuple[float, ...]
) -> Combo:
    """DPM-Solver-1, -2 or -3: x_k = (α_k/α)·x − σ_k·Σ f_kj·ε_j with moments of e^{h−u}."""
    path, h = build.points.path, q.lam - p.lam
    x, d = build.advance(x, p, step)
    values = [(x - p.alpha * d) / p.sigma]

    def moment(position: float, j: int) -> float:
        return growth(position * h)[j]

    for k in range(1, len(c) + 1):
        at = q if k == len(c) else path.at(p.kappa * math.exp(-c[k] * h))
        weights = stage_weights(moment, c, k)
        y = at.alpha / p.alpha * x - at.sigma * total(weights, values)
        if k == len(c):
            return y
        d = build.evaluate(y, at, step)
        values.append((y - at.alpha * d) / at.sigma)
    raise AssertionError("a step has at least one stage")


def growth(h: float) -> tuple[float, float]:
    """F_0, F_1 with F_k = ∫₀ʰ e^{h−u}(u/h)^k du; F_k = e^h·∫₀ʰ e^{−u}(u/h)^k du."""
    f0 = math.expm1(h)
    return f0, f0 / h - 1 if h > 1e-3 else h / 2 + h * h / 6 + h**3 / 24
