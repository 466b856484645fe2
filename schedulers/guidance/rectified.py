"""Rectified-CFG++: a predictor step and guidance where it lands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ..settings import knob
from .base import COND, UNCOND, Call, Scaled, curve_knob
from .curve import Curve
from .level import Level, flow_time


@dataclass(frozen=True)
class RectifiedCFGPlusPlus(Scaled):
    r"""Rectified-CFG++: guidance is measured after a conditional predictor step, near the model's manifold.

    v = v_c(x, t) + λ_t·[v_c(x_m, t_m) − v_u(x_m, t_m)], λ_t = λ·(1 − t)^γ, x_m = x + (t_m − t)·v_c and t_m
    ``reach`` of the way to the next level; in flow's coordinates, to which other models are brought. With
    v = (x − D)/t it is D = D_c + λ_t·(t/t_m)·(D_c − D_u)(x_m). Three network calls per
    evaluation where CFG makes two. The released SD3 code has a constant λ_t and evaluates at nearly t.
    """

    guides: ClassVar[bool] = True
    title: ClassVar[str] = "Rectified-CFG++"
    aliases: ClassVar[tuple[str, ...]] = ("rectified cfg++", "predictor-corrector guidance")
    paper: ClassVar[str] = "Saini et al. 2025 (arXiv 2510.07631)"
    neutral: ClassVar[float] = 0.0
    scale: float = knob(4.0, "λ: 0 is off.", low=0.0, high=100.0, step=0.01)
    gamma: float = knob(0.0, "γ: 0 is a constant λ.", low=0.0, high=10.0, step=0.01)
    reach: float = knob(0.5, "Where in the step x_m lies.", low=0.0, high=0.95, step=0.01)
    curve: Curve = curve_knob()

    @property
    def reads(self) -> frozenset[str]:
        return frozenset({UNCOND}) if self.on else frozenset()

    def full(self, at: Level) -> float:
        return float(self.scale * (1 - at.time) ** self.gamma)

    def branches(self, at: Level) -> frozenset[str]:
        return frozenset()  # nothing but cond at x

    def apply(self, d: Tensor, call: Call) -> Tensor:
        at, x = call.level, call.x_flow
        middle = at.time + (flow_time(at.ahead(self.title)) - at.time) * self.reach
        point = call.path.at(middle / (1 - middle)) if middle < 1 else at.point
        ahead = (d + (x - d) * (middle / at.time)) * (point.alpha + point.sigma)
        preds = call.again(ahead, point.sigma, (COND, UNCOND))
        return d + (preds[COND] - preds[UNCOND]) * (self.weight(at) * at.time / middle)
