"""A SAMPLER whose model is told other noise levels, without ComfyUI; see ``comfy/reported.py``."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from .guider import Guider
from .sampler import Callback


@dataclass(frozen=True)
class Reported:
    """The SAMPLER ``inner`` with ``report`` between it and the model; the rules of the guider take σ itself."""

    inner: Any
    report: Callable[[float], float]

    def sample(
        self, guider: Guider, sigmas: list[float], noise: Tensor, latent: Tensor,
        callback: Callback | None, seed: int,
    ) -> Tensor:  # fmt: skip
        told, outer = copy.copy(guider), guider.report
        told.report = self.report if outer is None else lambda sigma: outer(self.report(sigma))
        out: Tensor = self.inner.sample(told, sigmas, noise, latent, callback, seed)
        return out


def reported(sampler: Any, report: Callable[[float], float]) -> Reported:
    """SAMPLER that does what ``sampler`` does, with the model told ``report(σ)`` at σ."""
    return Reported(sampler, report)
