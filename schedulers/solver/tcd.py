r"""γ-sampling of trajectory-consistency models (TCD, Hyper-SD): a step beyond the next level, and noise back up to it.

    x_s = α_s·D + σ_s·ε ,  ε = (x − αD)/σ ,  s = (1 − γ)·t'        the network's jump along its trajectory
    x'  = (α'/α_s)·x_s + α'·√(κ'² − κ_s²)·z                        back up to t' (Zheng et al. 2024, alg. 4)

γ = 0 is DDIM; γ = 1 jumps to the end of the table and is LCM but for the little ε that is left there. t counts the timesteps that the
network was distilled on; SIGMAS do not say them, so they are looked up.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from ..noise_schedule import ScaledLinearVP
from ..path import Flow, Path, Point
from ..points import Points
from ..settings import knob
from .base import Solver
from .formula import LinearStep, linear_plan
from .plan import Plan

TABLE = ScaledLinearVP()
ROUNDED = 1e-3  # of a timestep: what SIGMAS in float32 may lack


@dataclass(frozen=True)
class TCD(Solver):
    """γ-sampling: each step jumps past the next level, to (1 − γ) of its time, and is noised back up to it.

    x' = α'·(D + κ_s·ε) + α'·√(κ'² − κ_s²)·z. γ = 0 is DDIM, γ = 1 nearly LCM. For networks distilled by TCD (whose authors take γ
    larger with more steps) or Hyper-SD (smaller). On an ordinary model the spread of the result is too small at any number of steps.
    """

    title: ClassVar[str] = "TCD (gamma-sampling)"
    aliases: ClassVar[tuple[str, ...]] = (
        "TCD", "TCDScheduler", "SamplerTCD", "Hyper-SD", "Hyper SDXL", "gamma sampling", "strategic stochastic sampling",
        "trajectory consistency", "scheduler",
    )  # fmt: skip
    paper: ClassVar[str] = (
        "Zheng et al. 2024 (TCD, arXiv 2402.19159), alg. 4; Ren et al. 2024 (Hyper-SD, 2404.13686)"
    )
    equals: ClassVar[str] = "diffusers TCDScheduler, whose eta is γ"
    gamma: float = knob(
        0.3,
        "γ: 0 deterministic, 1 noised afresh at every step. TCD 0.3, Hyper-SD 1.",
        low=0.0,
        high=1.0,
        step=0.01,
    )
    time: str = knob(
        "timestep", "What γ takes a share of: whole timesteps of Stable Diffusion's table, or σ of SIGMAS. On flow always σ.",
        options=("timestep", "sigma"),
    )  # fmt: skip

    @property
    def order(self) -> int:
        return 0 if self.gamma else 1

    @property
    def stochastic(self) -> bool:
        return self.gamma > 0

    def plan(self, points: Points) -> Plan:
        self._check(points)
        return linear_plan(self, points, lambda p, q: self._step(points.path, p, q))

    def _step(self, path: Path, p: Point, q: Point) -> LinearStep:
        beyond = min(self._beyond(path, q), q.kappa)
        kept = q.alpha * beyond if beyond else 0.0
        noise = q.alpha * math.sqrt(max(q.kappa**2 - beyond**2, 0.0))
        return LinearStep(kept / p.sigma, q.alpha - p.alpha * kept / p.sigma, noise)

    def _beyond(self, path: Path, q: Point) -> float:
        """κ at s."""
        if not self.gamma or q.sigma == 0:
            return q.kappa
        if self.time == "sigma" or path == Flow():
            return path.host.on((1 - self.gamma) * path.host.at(q.kappa).sigma).kappa
        t = float(TABLE.time(q.kappa))
        return float(TABLE.kappa(math.floor((1 - self.gamma) * t + ROUNDED)))
