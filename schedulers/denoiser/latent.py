r"""A latent space without weights: pictures [B, 3, H, W] ↔ latents [B, 12, H/2, W/2], losing nothing.

Two layers, each an orthonormal change of basis, so that together they are one orthogonal matrix T of
size 12 for every block of 2×2 pixels:

1. colour: red, green, blue → brightness (r+g+b)/√3, (r−b)/√2, (r−2g+b)/√6;
2. the 2×2 Haar transform of each: average, left − right, top − bottom and diagonal, each ½·(± a ± b ± c ± d).

Latent channel 3·j + c is Haar coefficient j of colour c, so the first three are a small picture. On
postcards their standard deviations are 1.7 (brightness), 0.6 and 0.5; of the details 0.03 to 0.28.

T keeps lengths, hence white noise: x = α·x0 + σ·ε ⇔ Tx = α·Tx0 + σ·Tε with Tε ~ N(0, I), and the
exact denoiser of latents is D_z(z, σ) = T·D(T⁻¹z, σ) on every path. A trained VAE is no such map; what
is true here is true by construction, and what a latent graph does to a picture can be checked to the
last digit.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import Denoiser
from .diffusers.vae import Latents

CHANNELS, RATIO = 12, 2

COLOURS = (
    (1 / math.sqrt(3), 1 / math.sqrt(3), 1 / math.sqrt(3)),
    (1 / math.sqrt(2), 0.0, -1 / math.sqrt(2)),
    (1 / math.sqrt(6), -2 / math.sqrt(6), 1 / math.sqrt(6)),
)
HAAR = (
    ((0.5, 0.5), (0.5, 0.5)),
    ((0.5, -0.5), (0.5, -0.5)),
    ((0.5, 0.5), (-0.5, -0.5)),
    ((0.5, -0.5), (-0.5, 0.5)),
)

#: What each channel adds to red, green and blue of a preview in [−1, 1]: the blocks' average colours.
PREVIEW = tuple(
    tuple(HAAR[j][0][0] * COLOURS[c][rgb] if j == 0 else 0.0 for rgb in range(3))
    for j in range(4)
    for c in range(3)
)


@lru_cache(maxsize=8)
def kernel(dtype: torch.dtype = torch.float64, device: torch.device | None = None) -> Tensor:
    """T as a convolution kernel [12, 3, 2, 2]."""
    with torch.inference_mode(False):  # it outlives the caller, and may have to pass gradients on
        haar, colours = (torch.tensor(t, dtype=torch.float64) for t in (HAAR, COLOURS))
        rows = torch.einsum("jyx,cr->jcryx", haar, colours).reshape(CHANNELS, 3, RATIO, RATIO)
        return rows.to(dtype).to(device)


def encode(images: Tensor) -> Tensor:
    """T: latents [B, 12, H/2, W/2] of images [B, 3, H, W] in [−1, 1] with even sides."""
    if images.ndim != 4 or images.shape[1] != 3 or images.shape[2] % 2 or images.shape[3] % 2:
        raise ValueError(f"images [B, 3, H, W] with even sides wanted, got {tuple(images.shape)}")
    return F.conv2d(images, kernel(images.dtype, images.device), stride=RATIO)


def decode(latents: Tensor) -> Tensor:
    """T⁻¹: images of latents [B, 12, h, w]."""
    if latents.ndim != 4 or latents.shape[1] != CHANNELS:
        raise ValueError(
            f"latents [B, {CHANNELS}, h, w] of this space wanted, got {tuple(latents.shape)}"
        )
    return F.conv_transpose2d(latents, kernel(latents.dtype, latents.device), stride=RATIO)


class Blocks(nn.Module):
    """The transform with the interface of a folder's ``Vae``. It has no weights."""

    dims, dtype = 2, torch.float32
    latents = Latents(spatial=RATIO, channels=CHANNELS)

    def unscaled(self) -> Blocks:
        return self

    def encode(self, images: Tensor) -> Tensor:
        return encode(images.float())

    def decode(self, latents: Tensor) -> Tensor:
        return decode(latents.float())

    def tiles(self, size: int, overlap: int) -> AbstractContextManager[None]:
        """Nothing to do: blocks do not see each other, so tiles make the same picture."""
        return nullcontext()


class InLatents(Denoiser):
    """``inner``, which draws pictures, as the denoiser of their latents."""

    pixels = RATIO

    def __init__(self, inner: Denoiser) -> None:
        shape = inner.shape
        if shape is not None:
            if len(shape) != 3 or shape[0] != 3 or shape[1] % 2 or shape[2] % 2:
                raise ValueError(
                    f"a picture of shape {shape} has no latents: its sides must be even"
                )
            shape = CHANNELS, shape[1] // RATIO, shape[2] // RATIO
        super().__init__(inner.path, shape, inner.classes)
        self.inner = inner

    def forward(self, x: Tensor, sigma: float | Tensor, classes: Tensor | None = None) -> Tensor:
        self.check(x)
        return encode(self.inner(decode(x), sigma, classes))
