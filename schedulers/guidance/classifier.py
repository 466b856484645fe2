"""Classifier guidance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..settings import knob, wire
from .base import Call, Scaled, curve_knob, gradient
from .curve import Curve
from .level import Level

#: classifier(x, σ) → logits [B, K] of p(class | x, σ), for x [B, …] in the host's coordinates (the
#: denoiser's); differentiable in x, and each image on its own.
Classifier = Callable[[Tensor, float], Tensor]


@dataclass(frozen=True)
class ClassifierGuidance(Scaled):
    r"""Classifier guidance: towards what a classifier of noisy pictures takes for a class.

    D ← D + s·(σ²/α)·∇_x log p(c | x, σ)^(1/τ), from D = (x + σ²·score)/α: right in the coordinates of any
    path (on flow it is v ← v − s·(σ/α)·∇). s = 1 with the model's own posterior turns the unconditional
    prediction into the conditional one. The temperature τ divides the logits. Costs one forward and
    backward pass of the classifier, none of the model; the classifier has to know the noise levels.
    At exactly α = 0 the formula is 0/0 and the rule is off.
    """

    title: ClassVar[str] = "Classifier"
    aliases: ClassVar[tuple[str, ...]] = ("classifier guidance", "noise-conditional classifier")
    paper: ClassVar[str] = "Dhariwal & Nichol 2021 (arXiv 2105.05233)"
    neutral: ClassVar[float] = 0.0
    scale: float = knob(1.0, "s: 0 is off.", low=0.0, high=1000.0, step=0.01)
    label: int = knob(0, "The class, from 0; −1: image i gets class i.", low=-1, high=100000)
    temperature: float = knob(1.0, "τ: divides the logits.", low=0.01, high=100.0, step=0.01)
    classifier: Classifier | None = wire("CLASSIFIER", "Noise-conditional classifier.")
    curve: Curve = curve_knob()

    def active(self, at: Level) -> bool:
        return at.point.alpha > 0 and super().active(at)

    def apply(self, d: Tensor, call: Call) -> Tensor:
        g = gradient(lambda x: self.log_probability(x, call.level.sigma), call.x)
        return d + g * (self.weight(call.level) * call.sigma**2 / call.alpha)

    def log_probability(self, x: Tensor, sigma: float) -> Tensor:
        """log p(class | x, σ) [B], each image for its own class."""
        if self.classifier is None:
            raise ValueError("Classifier guidance: connect a CLASSIFIER")
        logits = self.classifier(x, sigma) / self.temperature
        if self.label >= logits.shape[1]:
            raise ValueError(
                f"Classifier guidance: label = {self.label}, but the classifier knows {logits.shape[1]} classes"
            )
        index = torch.arange(len(x), device=x.device) % logits.shape[1]
        index = index if self.label < 0 else torch.full_like(index, self.label)
        return torch.log_softmax(logits, 1).gather(1, index[:, None])[:, 0]
