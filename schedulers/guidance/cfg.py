"""Classifier-free guidance, and CFG++ as the weight that it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ..settings import knob
from .base import UNCOND, Call, Scaled, away, curve_knob
from .curve import Curve
from .level import Level


@dataclass(frozen=True)
class CFG(Scaled):
    """Classifier-free guidance: away from the unconditional (or negative) prediction by a scale.

    D = D_u + w·(D_c − D_u) (Ho & Salimans 2022 with w = 1 + their scale). 1 is off and costs no
    second network call; 0 is D_u. For any other w the guided D is in general not the denoiser of
    p_c^w·p_u^(1−w): that density's noised form has another one.
    """

    guides: ClassVar[bool] = True
    title: ClassVar[str] = "CFG"
    aliases: ClassVar[tuple[str, ...]] = ("cfg", "classifier-free guidance", "guidance scale")
    paper: ClassVar[str] = "Ho & Salimans 2022 (arXiv 2207.12598)"
    needs: ClassVar[frozenset[str]] = frozenset({UNCOND})
    scale: float = knob(
        4.0, "w: 1 is off, larger follows the condition more.", low=0.0, high=100.0, step=0.01
    )
    curve: Curve = curve_knob()

    def apply(self, d: Tensor, call: Call) -> Tensor:
        return away(d, call[UNCOND], self.weight(call.level))


@dataclass(frozen=True)
class CFGPlusPlus(Scaled):
    r"""CFG++ as a weight that follows the steps, w = λ/(1 − κ'/κ), for every solver and path.

    CFG++ steps to α'·(D_u + λΔ) + σ'·ε_u with Δ = D_c − D_u: it renoises with the unconditional noise.
    In y = x/α a DDIM step with D = D_u + wΔ is y' = D + (κ'/κ)(y − D), which is the unconditional step
    plus w(1 − κ'/κ)Δ; CFG++ adds λΔ. So on DDIM and Euler, on any path and in any coordinates, the two
    are the same. Other solvers see this weight as a curve (multistep solvers keep the guided D in their
    history; with fresh noise a step is shorter than it looks). Strength grows with the number of steps.
    λ = 0 is the unconditional field; use the curve to switch it off.
    """

    guides: ClassVar[bool] = True
    title: ClassVar[str] = "CFG++"
    aliases: ClassVar[tuple[str, ...]] = ("cfg++", "cfg_pp", "euler_cfg_pp")
    paper: ClassVar[str] = "Chung et al. 2024 (arXiv 2406.08070)"
    needs: ClassVar[frozenset[str]] = frozenset({UNCOND})
    scale: float = knob(
        0.6, "λ: usually 0 to 1, where 1 renoises D_c with the unconditional noise.",
        low=0.0, high=10.0, step=0.01,
    )  # fmt: skip
    curve: Curve = curve_knob()

    @property
    def reads(self) -> frozenset[str]:
        return self.needs

    def full(self, at: Level) -> float:
        return self.scale / at.share(self.title)

    def apply(self, d: Tensor, call: Call) -> Tensor:
        return away(d, call[UNCOND], self.weight(call.level))
