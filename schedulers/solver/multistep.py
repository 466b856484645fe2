"""Multistep exponential solvers: D extrapolated from earlier steps (see ``weights.py``)."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..points import Points
from ..settings import knob
from .base import Solver, regular
from .build import Builder, Combo, total
from .plan import Plan
from .runge_kutta import data_step, exponential_step
from .weights import data_weights, moments

COORDINATE_HELP = (
    "The variable in which past predictions are extrapolated: λ = log(α/σ), σ, −log σ, or the step's index. "
    "λ is the usual one; which errs least depends on the model and the steps."
)
COORDINATE = ("lambda", "log_sigma", "sigma", "index")
START_HELP = (
    "How the history begins: 'ramp' with low orders (order 2 overall at most), 'single_step' with a "
    "method of the same order, which costs more evaluations."
)
#: Single-step methods that start a history, by order.
STARTERS = {2: "res_2s", 3: "res_3s"}


@dataclass(frozen=True)
class DPMSolverMultistep(Solver):
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
        "published: ComfyUI dpmpp_2m (off flow), dpmpp_2m_sde (eta), dpmpp_3m_sde but for its second step, "
        "diffusers DPMSolverMultistep midpoint and order 3; exact, order 2: diffusers 'heun', ComfyUI "
        "dpmpp_2m_sde_heun, and with log_sigma res_multistep"
    )
    max_order: int = knob(2, "Predictions that are combined: 1 is DDIM.", low=1, high=3)
    weights: str = knob("published", "Whose weights; see above.", options=("published", "exact"))
    eta: float = knob(0.0, "Noise strength: 0 ODE, 1 reverse SDE.", low=0.0, high=1.0, step=0.001)
    coordinate: str = knob("lambda", COORDINATE_HELP + " Only for 'exact'.", options=COORDINATE)
    start: str = knob("ramp", START_HELP, options=("ramp", "single_step"))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.eta > 0 and self.start == "single_step":
            raise ValueError("DPMSolverMultistep: start 'single_step' is for the ODE (eta 0)")

    @property
    def order(self) -> int:  # type: ignore[override]
        if self.eta > 0:
            return 1
        capped = self.start == "ramp" or self.weights == "published" or self.coordinate == "index"
        return min(self.max_order, 2) if capped else self.max_order

    @property
    def stochastic(self) -> bool:
        return self.eta > 0

    @classmethod
    def variants(cls) -> tuple[Solver, ...]:
        published = [cls(n) for n in (2, 1, 3)]
        exact = [cls(n, "exact", coordinate=c) for c in COORDINATE for n in (2, 3)]
        started = [cls(n, "exact", start="single_step") for n in (2, 3)]
        noisy = [cls(n, w, 1.0) for n in (1, 2, 3) for w in ("published", "exact")]
        return (*published, *exact, *started, *noisy, cls(2, eta=0.5))

    def nfe(self, steps: int) -> int:
        extra = 0
        if self.start == "single_step" and self.max_order > 1:
            extra = (self.max_order - 1) * min(self.max_order - 1, steps - 1)
        return steps + extra

    @property
    def path_invariant(self) -> bool:  # type: ignore[override]
        return self.coordinate in ("lambda", "index")

    def plan(self, points: Points) -> Plan:
        self._check(points)
        build = Builder(self, points)
        x = build.start
        known: list[tuple[int, Combo]] = []
        for i, (p, q) in enumerate(points.steps):
            starting = self.start == "single_step" and len(known) < self.max_order - 1
            if starting and regular(p, q):
                x, d = exponential_step(build, x, p, q, i, STARTERS[self.max_order])
                known = [(i, d), *known]
                continue
            x, d = build.advance(x, p, i)
            known = [(i, d), *known][: self.max_order]
            weights = self._weights(points, i, [k for k, _ in known])
            x = data_step(build, i, x, [d for _, d in known], weights, self.eta)
        return build.finish(x)

    def _weights(self, points: Points, i: int, levels: list[int]) -> np.ndarray:
        if self.weights == "published" and len(levels) > 1 and regular(points[i], points[i + 1]):
            return published_weights(points, i, levels, self.eta)
        return data_weights(points, i, levels, self.coordinate, self.eta)


def published_weights(points: Points, i: int, levels: list[int], eta: float) -> np.ndarray:
    """DPM-Solver++'s own weights: E₀·(D + d/2) for 2M; E₀D + E₁d₁ + ½E₂d₂ for 3M, with divided
    differences d in units of h. A level at pure noise is infinitely far back and drops out."""
    h = points[i + 1].lam - points[i].lam
    e = moments((1 + eta) * h, 3)
    r = [(points[a].lam - points[b].lam) / h for a, b in itertools.pairwise(levels)]
    first = np.array([1.0, -1.0, 0.0]) / r[0]
    if len(levels) == 2 or math.isinf(r[-1]):
        return (np.array([e[0], 0, 0]) + e[0] / 2 * first)[: len(levels)]
    second = np.array([0.0, 1.0, -1.0]) / r[1]
    curve = (first - second) / (r[0] + r[1])
    return np.array([e[0], 0, 0]) + e[1] * (first + r[0] * curve) + e[2] / 2 * curve


@dataclass(frozen=True)
class UniPC(Solver):
    """UniPC: an exponential multistep predictor, and a corrector that reuses the next evaluation.

    'exact' solves the moment conditions; bh1 and bh2 are the published variants, which replace the
    weight of the lowest-order systems by ½ with B(h) = h or e^h − 1.
    """

    title: ClassVar[str] = "UniPC"
    aliases: ClassVar[tuple[str, ...]] = (
        "uni_pc", "uni_pc_bh2", "UniPCMultistepScheduler", "predictor corrector", "scheduler",
    )  # fmt: skip
    paper: ClassVar[str] = "Zhao et al. 2023 (arXiv 2302.04867)"
    equals: ClassVar[str] = (
        "diffusers UniPCMultistep and ComfyUI uni_pc, uni_pc_bh2 (those lower the order in the last steps; "
        "ComfyUI's stops at σ = 0.001)"
    )
    max_order: int = knob(2, "Order of the predictor.", low=1, high=4)
    variant: str = knob("bh2", "Which weights.", options=("bh2", "bh1", "exact"))
    corrector: bool = knob(True, "Correct each step with the next evaluation, at no cost.")

    @property
    def order(self) -> int:  # type: ignore[override]
        return min(self.max_order + 1, 3) if self.corrector else min(self.max_order, 2)

    @classmethod
    def variants(cls) -> tuple[Solver, ...]:
        exact = [cls(n, "exact", c) for n in (1, 2, 3, 4) for c in (True, False)]
        return (cls(), cls(2, "bh1"), cls(3, "bh2"), cls(3, "bh1"), cls(2, "bh2", False), *exact)

    def plan(self, points: Points) -> Plan:
        self._check(points)
        build = Builder(self, points)
        x = build.start
        known: list[tuple[int, Combo]] = []
        for i, (p, _) in enumerate(points.steps):
            x, d = build.advance(x, p, i)
            if i and self.corrector and regular(points[i - 1], p):
                x = x + p.alpha * self._correction(points, i - 1, (i, d), known)
            known = [(i, d), *known][: self.max_order]
            weights = self._predictor(points, i, [k for k, _ in known])
            x = data_step(build, i, x, [d for _, d in known], weights, 0.0)
        return build.finish(x)

    def _predictor(self, points: Points, i: int, levels: list[int]) -> np.ndarray:
        exact = data_weights(points, i, levels)
        if self.variant == "exact" or len(levels) != 2 or not regular(points[i], points[i + 1]):
            return exact
        h = points[i + 1].lam - points[i].lam
        r = (points[levels[0]].lam - points[levels[1]].lam) / h
        half = self._b(h) / 2 / r
        return np.array([moments(h, 1)[0] + half, -half])

    def _correction(
        self, points: Points, i: int, new: tuple[int, Combo], known: list[tuple[int, Combo]]
    ) -> Combo:
        """(corrector − predictor) for the step i → i + 1, in units of α': the x-parts are equal, so the
        corrected state is the predicted one plus a combination of predictions."""
        levels = [k for k, _ in known]
        if self.variant != "exact" and len(levels) == 1:
            h = points[i + 1].lam - points[i].lam
            half = self._b(h) / 2
            weights = np.array([half, moments(h, 1)[0] - half])
        else:
            weights = data_weights(points, i, [new[0], *levels])
        before = np.array([0.0, *self._predictor(points, i, levels)])
        return total(weights - before, [d for _, d in (new, *known)])

    def _b(self, h: float) -> float:
        return h if self.variant == "bh1" else -math.expm1(-h)


@dataclass(frozen=True)
class SASolver(Solver):
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
        "ComfyUI sa_solver, sa_solver_pece (which lower the order before 0 and ask τ at the arriving σ); "
        "diffusers SASolverScheduler (which changes the second order)"
    )
    predictor: int = knob(3, "Order of the predictor.", low=1, high=4)
    corrector: int = knob(4, "Order of the corrector; 0 for none.", low=0, high=4)
    tau: float = knob(1.0, "Noise strength τ: 0 ODE, 1 reverse SDE.", low=0.0, high=1.0, step=0.001)
    noise_from: float = knob(
        0.0, "Noise only at or above this σ.", low=0.0, high=1e5, step=0.001, advanced=True
    )
    noise_to: float = knob(
        1e5, "Noise only at or below this σ.", low=0.0, high=1e5, step=0.01, advanced=True
    )
    pece: bool = knob(False, "Evaluate again after each correction.")

    @property
    def order(self) -> int:  # type: ignore[override]
        if self.tau > 0:
            return 1
        return min(max(self.predictor, self.corrector), 3 if self.corrector > 1 else 2)

    @property
    def stochastic(self) -> bool:
        return self.tau > 0

    @classmethod
    def variants(cls) -> tuple[Solver, ...]:
        still = [cls(p, c, 0.0) for p, c in ((2, 0), (2, 2), (3, 4))]
        return (
            cls(),
            cls(2, 2),
            cls(1, 0),
            cls(2, 2, pece=True),
            *still,
            cls(2, 3, 0.0, pece=True),
        )

    def nfe(self, steps: int) -> int:
        return 2 * steps - 1 if self.pece and self.corrector else steps

    def plan(self, points: Points) -> Plan:
        self._check(points)
        build = Builder(self, points)
        x = build.start
        known: list[tuple[int, Combo]] = []
        predicted = np.zeros(0)
        for i in range(len(points) - 1):
            if i and self.corrector and regular(points[i - 1], points[i]):
                x, d = self._correct(build, x, i, known, predicted)
            else:
                x, d = build.advance(x, points[i], i)
            known = [(i, d), *known][: max(self.predictor, self.corrector)]
            eta = self._eta(points, i)
            used = known[: self.predictor]
            predicted = data_weights(points, i, [k for k, _ in used], eta=eta)
            x = data_step(build, i, x, [d for _, d in used], predicted, eta)
        return build.finish(x)

    def _eta(self, points: Points, i: int) -> float:
        return self.tau**2 if self.noise_from <= points.host_sigma(i) <= self.noise_to else 0.0

    def _correct(
        self,
        build: Builder,
        x: Combo,
        i: int,
        known: list[tuple[int, Combo]],
        predicted: np.ndarray,
    ) -> tuple[Combo, Combo]:
        """Evaluate at the prediction of level i and correct it: same x and noise, other weights on D."""
        points, p = build.points, build.points[i]
        anchor, d = build.advance(x, p, i)
        used = [(i, d), *known[: self.corrector - 1]]
        weights = data_weights(points, i - 1, [k for k, _ in used], eta=self._eta(points, i - 1))
        change = total(weights, [v for _, v in used])
        change = change - total(predicted, [v for _, v in known[: len(predicted)]])
        corrected = anchor + p.alpha * change
        if self.pece:
            return build.advance(corrected, p, i)
        return corrected, d
