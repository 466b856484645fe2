r"""Paths: how data and noise are mixed, x = α·x0 + σ·ε, and nothing about steps.

A path is a curve in the (α, σ) plane. Every curve used in practice meets each noise-to-data ratio
κ = σ/α ∈ [0, ∞] once, so κ (or λ = log(α/σ) = −log κ) names a point on any of them:

====================  ==========================  =====================
path                  relation                    α as a function of κ
====================  ==========================  =====================
variance preserving   α² + σ² = 1                 1/√(1 + κ²)
variance exploding    α = 1                       1
rectified flow        α + σ = 1                   1/(1 + κ)
sub-VP                σ = 1 − α²                  (√(κ² + 4) − κ)/2
====================  ==========================  =====================

In y = x/α all of them are the same problem, dy/dκ = (y − D)/κ (Karras et al. 2022, eq. 4): a path
only changes coordinates. Everything here is float64 on the CPU; κ = ∞ (pure noise: flow at t = 1,
zero terminal SNR) is an ordinary value with α = 0, σ = 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor


@dataclass(frozen=True)
class Point:
    """One noise level on some path: x = alpha·x0 + sigma·ε. Python floats, alpha, sigma ≥ 0."""

    alpha: float
    sigma: float

    @property
    def kappa(self) -> float:
        """κ = σ/α, the noise level in variance-exploding units; ∞ for pure noise."""
        return math.inf if self.alpha == 0 else self.sigma / self.alpha

    @property
    def lam(self) -> float:
        """λ = log(α/σ), half the log signal-to-noise ratio; ±∞ at the ends."""
        if self.alpha == 0:
            return -math.inf
        return math.inf if self.sigma == 0 else math.log(self.alpha / self.sigma)


@dataclass(frozen=True)
class Path:
    """A mixing rule. Subclasses give α(κ) and α(σ); the rest follows."""

    name: ClassVar[str] = ""

    def at(self, kappa: float) -> Point:
        """The point with noise-to-data ratio ``kappa`` ∈ [0, ∞]."""
        raise NotImplementedError

    def alpha(self, sigma: Tensor) -> Tensor:
        """α where this path has the given σ (any float tensor; for Python floats use :meth:`on`).

        On VP and sub-VP, σ rounded to float32 near pure noise says little about α: pass float64, or
        keep the state in variance-exploding coordinates as ComfyUI does.
        """
        raise NotImplementedError

    def on(self, sigma: float) -> Point:
        """The point with noise level ``sigma`` in this path's own coordinates."""
        return _on(self, sigma)

    @property
    def host(self) -> Path:
        """The path whose σ stands in ComfyUI's SIGMAS and whose coordinates its latents are in."""
        return VE()


@lru_cache(maxsize=4096)  # a run asks for the same few levels again and again
def _on(path: Path, sigma: float) -> Point:
    return Point(float(path.alpha(torch.tensor(sigma, dtype=torch.float64))), sigma)


@dataclass(frozen=True)
class VP(Path):
    """Variance preserving, α² + σ² = 1: DDPM, DDIM, Stable Diffusion, CogVideoX."""

    name: ClassVar[str] = "VP"

    def at(self, kappa: float) -> Point:
        if math.isinf(kappa):
            return Point(0.0, 1.0)
        alpha = 1 / math.hypot(1, kappa)
        return Point(alpha, alpha * kappa)

    def alpha(self, sigma: Tensor) -> Tensor:
        return ((1 - sigma) * (1 + sigma)).clamp(min=0).sqrt()


@dataclass(frozen=True)
class SubVP(Path):
    """sub-VP, σ = 1 − α² (Song et al. 2021, sec. 3.4): VP's signal with less noise."""

    name: ClassVar[str] = "sub-VP"

    def at(self, kappa: float) -> Point:
        if math.isinf(kappa):
            return Point(0.0, 1.0)
        alpha = 2 / (math.hypot(kappa, 2) + kappa)
        return Point(alpha, alpha * kappa)

    def alpha(self, sigma: Tensor) -> Tensor:
        return (1 - sigma).clamp(min=0).sqrt()


@dataclass(frozen=True)
class VE(Path):
    """Variance exploding, α = 1: NCSN, EDM, and ComfyUI's state for every model that is not flow."""

    name: ClassVar[str] = "VE"

    def at(self, kappa: float) -> Point:
        if math.isinf(kappa):
            raise ValueError(
                "a variance-exploding state cannot hold pure noise: σ would be infinite"
            )
        return Point(1.0, kappa)

    def alpha(self, sigma: Tensor) -> Tensor:
        return torch.ones_like(sigma)


@dataclass(frozen=True)
class Flow(Path):
    """Rectified flow, α = 1 − t, σ = t (Liu et al. 2023; Lipman et al. 2023): SD3, Flux, Wan."""

    name: ClassVar[str] = "flow"

    def at(self, kappa: float) -> Point:
        if math.isinf(kappa):
            return Point(0.0, 1.0)
        return Point(1 / (1 + kappa), kappa / (1 + kappa))

    def alpha(self, sigma: Tensor) -> Tensor:
        return (1 - sigma).clamp(min=0)

    @property
    def host(self) -> Path:
        return self


PATHS: tuple[type[Path], ...] = (VP, SubVP, VE, Flow)


def rescale(point: Point, target: Path) -> tuple[Point, float]:
    """The same noise level on another path, and the factor c with x_target = c·x.

    Both coordinates describe the same mixture, so (α, σ)_target = c·(α, σ); the larger of the two is
    divided, which keeps c finite at both ends.
    """
    other = target.at(point.kappa)
    if point.alpha >= point.sigma:
        return other, other.alpha / point.alpha
    return other, other.sigma / point.sigma


def coefficients(
    path: Path, sigma: float | Tensor, like: Tensor
) -> tuple[float | Tensor, float | Tensor]:
    """(α, σ) to multiply ``like`` [B, …] with, from a float or from one σ per image [B].

    A float stays a float (computed in float64); a tensor is shaped [B, 1, …] in like's dtype.
    """
    if not isinstance(sigma, Tensor):
        point = path.on(float(sigma))
        return point.alpha, point.sigma
    shape = (-1,) + (1,) * (like.ndim - 1)
    alpha = path.alpha(sigma)
    return alpha.reshape(shape).to(like.dtype), sigma.reshape(shape).to(like.dtype)
