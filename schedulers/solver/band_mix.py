"""Weights that depend on spatial frequency and mix channels: what a stage may add to its scalar weights.

For every term T (an anchor or a D) and every radial frequency band b there is one C×C matrix, and the
stage's state gets

    F⁻¹[ Σ_T Σ_b band_b(r) · M_{T,b} · F[T] ]

with F the FFT over the last two axes. r is the radial frequency relative to Nyquist along an axis,
0 … √2, so the same numbers serve every size. The bands are hat functions of r: band_b is 1 at knot b and
falls linearly to 0 at the knots beside it, and beyond the last knot the last band stays 1. They add up
to 1 everywhere; so equal multiples of the identity in every band are a scalar weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False, repr=False)
class Mix:
    """Matrices [terms, bands, C, C] of the anchors (``x``) and predictions (``d``), newest first.

    M[…, i, j] takes channel j to channel i. ``knots`` rise from 0. Raises ValueError for shapes that do
    not agree and for numbers that are not finite.
    """

    knots: tuple[float, ...]
    x: Array
    d: Array

    def __post_init__(self) -> None:
        for name in ("x", "d"):
            value = np.array(getattr(self, name), np.float64)
            value.flags.writeable = False
            object.__setattr__(self, name, value)
        object.__setattr__(self, "knots", tuple(float(k) for k in self.knots))
        k = self.knots
        if not k or k[0] != 0 or any(not b > a for a, b in pairwise(k)):
            raise ValueError(f"the bands' knots must rise from 0, got {k}")
        shapes = self.x.shape[1:], self.d.shape[1:]
        if self.x.ndim != 4 or shapes[0] != shapes[1] or shapes[0] != (len(k), *shapes[0][1:2] * 2):
            raise ValueError(
                f"matrices of shape {self.x.shape} and {self.d.shape} for {len(k)} bands: expected "
                f"[terms, {len(k)}, C, C]"
            )
        if not (np.isfinite(self.x).all() and np.isfinite(self.d).all()):
            raise ValueError("a matrix holds NaN or infinity")

    def __repr__(self) -> str:
        return f"{len(self.x) + len(self.d)} terms in {len(self.knots)} bands"

    @property
    def channels(self) -> int:
        return self.d.shape[-1]

    def scaled(self, x: Sequence[float], d: float) -> Mix:
        """With the matrices of anchor j times x[j], those of every prediction times d."""
        factors = np.array(x[: len(self.x)])[:, None, None, None]
        return replace(self, x=self.x * factors, d=self.d * d)

    def apply(self, anchors: Sequence[Tensor], data: Sequence[Tensor], spectra: Spectra) -> Tensor:
        """What is added to the state, shaped like a term [B, C, (frames,) H, W]."""
        like = (*anchors, *data)[0]
        if like.ndim not in (4, 5) or like.shape[1] != self.channels:
            raise ValueError(
                f"this fitted solver mixes {self.channels} channels of pictures or video, [B, C, H, W] or "
                f"[B, C, frames, H, W]; the latent has shape {tuple(like.shape)}"
            )
        shape, device = (like.shape[-2], like.shape[-1]), like.device
        bands = band_weights(self.knots, *shape).to(like.dtype).to(device)
        total: Tensor | None = None
        for matrices, terms in ((self.x, anchors), (self.d, data)):
            for matrix, term in zip(matrices, terms, strict=False):
                if not matrix.any():
                    continue
                m = torch.tensor(matrix, dtype=like.dtype, device=device)
                gain = torch.einsum("kij,khw->ijhw", m, bands)
                part = torch.einsum("ijhw,bjthwz->bithwz", gain, spectra.of(term))
                total = part if total is None else total.add_(part)
        if total is None:
            return torch.zeros_like(like)
        mixed = torch.fft.irfft2(torch.view_as_complex(total), s=shape)
        return mixed.reshape(like.shape)


class Spectra:
    """The FFT of every tensor a run still holds, each made once: real [B, C, frames, H, W/2 + 1, 2]."""

    def __init__(self) -> None:
        self.kept: list[tuple[Tensor, Tensor]] = []

    def of(self, term: Tensor) -> Tensor:
        for tensor, spectrum in self.kept:
            if tensor is term:
                return spectrum
        five = term if term.ndim == 5 else term[:, :, None]
        self.kept.append((term, torch.view_as_real(torch.fft.rfft2(five))))
        return self.kept[-1][1]

    def forget(self, *held: Sequence[Tensor]) -> None:
        """Drop what belongs to no tensor in ``held``."""
        alive = {id(t) for tensors in held for t in tensors}
        self.kept = [entry for entry in self.kept if id(entry[0]) in alive]


@lru_cache(maxsize=16)
def band_weights(knots: tuple[float, ...], height: int, width: int) -> Tensor:
    """[bands, H, W/2 + 1], float64 on the CPU: the hat functions on the frequencies of ``rfft2``."""
    y, x = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    r = 2 * np.hypot(y, x)
    hats = [np.interp(r, knots, row) for row in np.eye(len(knots))]
    return torch.from_numpy(np.stack(hats))
