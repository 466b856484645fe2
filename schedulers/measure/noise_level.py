"""How much white noise is in a picture, from the picture alone: the level at which a run may begin with it as it is.

A picture y = x0 + s·ε is the state of a run at κ = s: there x = α(x0 + κε) = αy. Of small patches of a clean picture most
directions carry nothing (they lie near a subspace), so of a noisy one's covariance the smallest eigenvalues are s² (Pyatykh,
Hesser and Zheng, "Image noise level estimation by principal component analysis", 2013).

Only noise that is white, and alike in all channels and places, is measured: not JPEG's, and not that of a latent whose picture
was noisy, which the encoder has coloured.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

SIDES = (8, 6, 5, 4, 3, 2)  # of patches
PER_DIMENSION = 12  # patches for each value of a patch: fewer make eigenvalues too uneven
MOST_PATCHES = 60_000
LEAST = 8  # pixels of a side
#: Of s: what a picture's finest detail adds, as measured on drawn postcards (tests/test_noise_level.py). A clean one of 64 × 64
#: is taken for one with a noise of 0.005 of its range.
SHARE = 0.05


@dataclass(frozen=True)
class NoiseLevel:
    """``std``: standard deviation s of the noise in each image, in the images' unit; ``error``: one standard error each."""

    std: Tensor
    error: Tensor

    @property
    def mean(self) -> float:
        return float(self.std.mean())

    @property
    def mean_error(self) -> float:
        """Of the mean, or half the spread of the images' levels, whichever is larger."""
        spread = float(self.std.std()) / 2 if len(self.std) > 1 else 0.0
        return max(float(self.error.square().sum().sqrt()) / len(self.error), spread)


def noise_level(images: Tensor) -> NoiseLevel:
    """The noise in images [B, C, (T,) H, W], frames taken together. Raises ValueError for images below 8 × 8 or not finite."""
    x = images.detach().double().cpu()
    if min(x.shape[-2:]) < LEAST:
        raise ValueError(
            f"a picture of {x.shape[-1]} × {x.shape[-2]} is too small to measure its noise: {LEAST} × {LEAST} at least"
        )
    if not x.isfinite().all():
        raise ValueError("the picture has values that are not finite")
    stacks = x.transpose(1, 2) if x.ndim == 5 else x[:, None]  # [B, T, C, H, W]
    found = [_of_one(frames) for frames in stacks]
    std, error = (torch.tensor(column, dtype=torch.float64) for column in zip(*found, strict=True))
    return NoiseLevel(std, error)


def _of_one(frames: Tensor) -> tuple[float, float]:
    """(s, its error) of frames [T, C, H, W]: the error of chance, and SHARE of s for faint detail of the picture's own."""
    _, channels, height, width = frames.shape
    count = len(frames) * height * width
    fits = [side for side in SIDES if count >= PER_DIMENSION * channels * side**2]
    std, share = _of_patches(frames, fits[0] if fits else SIDES[-1])
    chance = std / math.sqrt(2 * max(1.0, count * channels * share))
    return std, math.hypot(chance, SHARE * std)


def _of_patches(frames: Tensor, side: int) -> tuple[float, float]:
    """(s, share of directions that carry noise alone) from all patches of ``side`` × ``side`` values.

    How uneven eigenvalues are by chance, a picture of pure noise of this size says. Directions are left out from the largest
    eigenvalue down until the rest is no more uneven than that.
    """
    eigenvalues = _eigenvalues(frames, side)
    generator = torch.Generator().manual_seed(0)
    noise = _eigenvalues(torch.randn(frames.shape, dtype=frames.dtype, generator=generator), side)
    uneven = float(noise[-1] / noise.mean())
    for count in range(len(eigenvalues), 0, -1):
        rest = eigenvalues[:count]
        mean = float(rest.mean())
        if float(rest[-1]) <= uneven * mean:
            break
    return math.sqrt(mean), count / len(eigenvalues)


def _eigenvalues(frames: Tensor, side: int) -> Tensor:
    """Of the covariance of all patches, the smallest first."""
    patches = frames.unfold(2, side, 1).unfold(3, side, 1)  # [T, C, h, w, side, side]
    rows = patches.movedim(1, 3).reshape(-1, frames.shape[1] * side**2)
    rows = rows[:: max(1, len(rows) // MOST_PATCHES)]
    rows = rows - rows.mean(0)
    return torch.linalg.eigvalsh(rows.T @ rows / max(1, len(rows) - 1)).clamp(min=0)
