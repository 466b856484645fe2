"""Colours of noise: how neighbouring values of a start hang together. Each value keeps the variance 1 in expectation.

Models are trained on white noise, in which all wavelengths are equally strong. More strength at long wavelengths moves the
composition and its light from seed to seed; more at short ones makes texture. A colour is linear in the draws, so mixing two
seeds and colouring commute. The axes of a colour are the last two of a latent (each frame of a video for itself), the last
one of a sound [B, C, L].
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor

from ..settings import Settings, knob

#: (number, shape of one image) → further white draws [B, …], independent of all others.
More = Callable[[int, tuple[int, ...]], Tensor]


def axes_of(x: Tensor) -> int:
    """How many of the last axes of a latent [B, C, …] are places; 0: there is none."""
    return min(max(x.ndim - 2, 0), 2)


@dataclass(frozen=True)
class Colour(Settings):
    """Base class. ``apply`` turns white noise [B, …] into noise of the same shape."""

    def apply(self, z: Tensor, more: More) -> Tensor:
        raise NotImplementedError


@dataclass(frozen=True)
class White(Colour):
    """What models are trained on."""

    title: ClassVar[str] = "white"

    def apply(self, z: Tensor, more: More) -> Tensor:
        return z


@dataclass(frozen=True)
class Coloured(Colour):
    """Power ∝ 1/fᵖ in the spatial frequency f: y = F⁻¹(g·F z) with g = f^(−p/2)/√(mean of f^(−p)).

    By Parseval the variance of every value is the mean of g² over all frequencies, which is 1. The frequency 0 gets the
    weight of the lowest other one. Power laws of noise: Timmer & König 1995 (A&A 300, 707).
    """

    title: ClassVar[str] = "coloured"
    aliases: ClassVar[tuple[str, ...]] = (
        "pink noise",
        "brown noise",
        "blue noise",
        "power noise",
        "1/f",
    )
    exponent: float = knob(
        1.0, "p of 1/fᵖ: 0 white, 1 pink, 2 brown, −1 blue.", low=-4.0, high=4.0, step=0.05
    )  # fmt: skip

    def apply(self, z: Tensor, more: More) -> Tensor:
        if self.exponent == 0 or axes_of(z) == 0:
            return z
        sizes = tuple(z.shape[-axes_of(z) :])
        dims = tuple(range(-len(sizes), 0))
        gain = power_gain(sizes, self.exponent)
        spectrum = torch.fft.rfftn(z.float(), dim=dims) * gain[..., : sizes[-1] // 2 + 1]
        return torch.fft.irfftn(spectrum, s=sizes, dim=dims).to(z.dtype)


@lru_cache(maxsize=8)
def power_gain(sizes: tuple[int, ...], exponent: float) -> Tensor:
    """g at every frequency of a grid; its mean square is 1."""
    square = torch.zeros(())
    for size in sizes:
        square = square[..., None] + torch.fft.fftfreq(size, dtype=torch.float64) ** 2
    if not (square > 0).any():
        return torch.ones(sizes)
    square = torch.where(square > 0, square, square[square > 0].min())
    gain = square ** (-exponent / 4)
    return (gain / gain.square().mean().sqrt()).float()


@dataclass(frozen=True)
class Pyramid(Colour):
    """White noise with draws of 1/2, 1/4, … of its resolution added: y = Σ dᵏ·U_k z_k / √(Σ d²ᵏ).

    U_k is linear interpolation, each value of it divided by the root of the sum of its squared weights, so that it has
    variance 1 too. After Whitaker 2023, "Multi-resolution noise for diffusion model training".
    """

    title: ClassVar[str] = "pyramid"
    aliases: ClassVar[tuple[str, ...]] = (
        "pyramid noise",
        "multires noise",
        "multi-resolution noise",
    )
    discount: float = knob(
        0.5, "d: how strong each level is beside the one above it.", low=0.0, high=1.0, step=0.01
    )
    levels: int = knob(6, "Halvings at most; they end at 1 value.", low=1, high=16)

    def apply(self, z: Tensor, more: More) -> Tensor:
        places = axes_of(z)
        sizes, y, power = tuple(z.shape[z.ndim - places :]), z.clone(), 1.0
        for k in range(1, self.levels + 1):
            if places == 0 or not self.discount or max(sizes) == 1:
                break
            sizes = tuple(math.ceil(size / 2) for size in sizes)
            weight = self.discount**k
            level = more(k, (*z.shape[1 : z.ndim - places], *sizes)).to(z)
            for axis, (small, size) in enumerate(
                zip(sizes, z.shape[z.ndim - places :], strict=True)
            ):
                dim = z.ndim - places + axis
                level = torch.movedim(
                    torch.movedim(level, dim, -1) @ spread(small, size).to(z).T, -1, dim
                )
            y += weight * level
            power += weight * weight
        return y / math.sqrt(power)


@lru_cache(maxsize=64)
def spread(small: int, size: int) -> Tensor:
    """Linear interpolation [size, small] between pixel centres, held at the edges, with rows of norm 1."""
    place = ((torch.arange(size) + 0.5) * small / size - 0.5).clamp(0, small - 1)
    weights = (1 - (place[:, None] - torch.arange(small)[None]).abs()).clamp(min=0)
    return weights / weights.square().sum(1, keepdim=True).sqrt()


@dataclass(frozen=True)
class Offset(Colour):
    """White noise with one more draw per channel, added to all its values: y = (z + s·c)/√(1 + s²).

    It moves the mean of each channel, the light of the picture. After Guttenberg 2023, "Diffusion with offset noise".
    """

    title: ClassVar[str] = "offset"
    aliases: ClassVar[tuple[str, ...]] = ("offset noise", "brightness")
    strength: float = knob(0.1, "s: deviation of the offset beside that of the noise.", low=0.0, high=10.0, step=0.01)  # fmt: skip

    def apply(self, z: Tensor, more: More) -> Tensor:
        if not self.strength:
            return z
        shape = z.shape[1:2] + (1,) * (z.ndim - 2)
        return (z + self.strength * more(0, tuple(shape)).to(z)) / math.sqrt(1 + self.strength**2)


COLOURS: dict[str, type[Colour]] = {
    "white": White,
    "coloured": Coloured,
    "pyramid": Pyramid,
    "offset": Offset,
}
