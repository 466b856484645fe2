"""Classifier-free guidance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ..settings import knob
from .base import UNCOND, Rule


@dataclass(frozen=True)
class CFG(Rule):
    """Classifier-free guidance: away from the unconditional (or negative) prediction by a scale.

    D = D_u + w·(D_c − D_u) (Ho & Salimans 2022 with w = 1 + their scale). 1 is off and costs no
    second network call.
    """

    title: ClassVar[str] = "CFG"
    aliases: ClassVar[tuple[str, ...]] = ("cfg", "classifier-free guidance", "guidance scale")
    scale: float = knob(
        4.0, "w: 1 is off, larger follows the condition more.", low=0.0, high=100.0, step=0.01
    )

    def branches(self, sigma: float) -> frozenset[str]:
        return frozenset({UNCOND}) if self.scale != 1 else frozenset()

    def apply(self, d: Tensor, x: Tensor, sigma: float, preds: Mapping[str, Tensor]) -> Tensor:
        uncond = preds[UNCOND]
        return uncond + (d - uncond) * self.scale
