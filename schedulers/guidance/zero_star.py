"""CFG-Zero*."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ..per_image import dot, ratio
from ..settings import knob
from .base import UNCOND, Call, Scaled, curve_knob
from .curve import Curve
from .level import Level


@dataclass(frozen=True)
class CFGZeroStar(Scaled):
    """CFG-Zero*: the unconditional velocity is scaled to fit the conditional one, and the first steps rest.

    On the flow's velocity v = (x − D)/t, x in flow's coordinates: v = (1 − w)·s·v_u + w·v_c with
    s = ⟨v_c, v_u⟩/‖v_u‖² per image, and v = 0 on the first ``zero_steps`` steps (x stays where it is).
    Made for flow; other models are brought to flow's coordinates. With 8 steps or fewer set
    zero_steps = 0: a step that rests is a step lost. So too where a run starts below pure noise (img2img, the second
    part of a run of its own): the rule rests at the start of every list of levels.
    Where a wrapper reports another level, and both answers move by δ, CFG moves by δ and this rule by
    (1 + (w − 1)(1 − s))·δ and s's change: more than CFG by as much as s is below 1, whatever s is taken from.
    """

    guides: ClassVar[bool] = True
    title: ClassVar[str] = "CFG-Zero*"
    aliases: ClassVar[tuple[str, ...]] = ("cfg zero star", "CFGZeroStar", "zero init")
    paper: ClassVar[str] = "Fan et al. 2025 (arXiv 2503.18886)"
    needs: ClassVar[frozenset[str]] = frozenset({UNCOND})
    scale: float = knob(4.0, "w: 1 is off.", low=0.0, high=100.0, step=0.01)
    zero_steps: int = knob(1, "Steps at the start with v = 0.", low=0, high=1000)
    curve: Curve = curve_knob()

    def rests(self, at: Level) -> bool:
        """Whether v = 0 here."""
        early = at.step is not None and at.step < self.zero_steps
        return early and self.stepped(at).scale != 1 and self.curve(at) != 0

    def active(self, at: Level) -> bool:
        return self.rests(at) or super().active(at)

    def branches(self, at: Level) -> frozenset[str]:
        return frozenset() if self.rests(at) else super().branches(at)

    def apply(self, d: Tensor, call: Call) -> Tensor:
        if self.rests(call.level):
            return call.x_flow  # D = x − t·v
        w, x = self.weight(call.level), call.x_flow
        cond, uncond = x - d, x - call[UNCOND]  # t·v
        fit = ratio(dot(cond, uncond), dot(uncond, uncond))
        return x - uncond * fit * (1 - w) - cond * w
