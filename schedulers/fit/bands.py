r"""Frequency bands in closed form: which small matrices per band would have moved the end to the right place.

With T_t(ν) the spectra of the terms of all rows, r(ν) that of what is missing at the end, and A_i(ν) the
mean answer of the end to row i's state, the matrices M_{i,t,b} of all rows minimise

    Σ_ν ‖ r(ν) + Σ_i A_i(ν)·Σ_t Σ_b band_b(ν)·M_{i,t,b}·T_t(ν) ‖² .

Everything in it that is large appears only in products of spectra summed over trajectories and over rings
of nearly one radial frequency (Parseval), so the normal equations are small, whatever the size of a picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..solver.band_mix import Mix, band_weights

Array = NDArray[np.float64]
Indices = NDArray[np.intp]

#: Centres of the bands, relative to Nyquist along an axis.
KNOTS = (0.0, 0.125, 0.25, 0.5, 1.0)
RINGS = 64
#: Every pair of channels is mixed up to this many channels; of more, each only with itself.
MIXED = 4


@dataclass(frozen=True)
class Rings:
    """Rings of the frequencies of ``rfft2`` for pictures [H, W]: ``slices`` of ``order``, which sorts them by their radius.

    ``roots``, in that order: √2 where a stored frequency stands for two of the picture's, else 1. ``bands`` [rings, bands]:
    how much each band weighs there.
    """

    order: Tensor
    slices: tuple[slice, ...]
    roots: Tensor
    bands: Array

    @classmethod
    def of(cls, height: int, width: int) -> Rings:
        y, x = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
        r = 2 * np.hypot(y, x)
        ring = np.minimum((r / np.sqrt(2) * RINGS).astype(int), RINGS - 1).ravel()
        order = np.argsort(ring, kind="stable")
        edges = [0, *(np.flatnonzero(np.diff(ring[order])) + 1), ring.size]
        slices = tuple(slice(a, b) for a, b in pairwise(edges))
        centres = [r.ravel()[order[s]].mean() for s in slices]
        bands = np.stack([np.interp(centres, KNOTS, row) for row in np.eye(len(KNOTS))], 1)
        # a real picture's spectrum is half stored: columns inside stand for two
        twice = np.full(width // 2 + 1, 2.0)
        twice[0] = 1.0
        if width % 2 == 0:
            twice[-1] = 1.0
        doubled = np.broadcast_to(twice, r.shape).ravel()[order]
        return cls(torch.from_numpy(order), slices, torch.from_numpy(np.sqrt(doubled)), bands)

    def spectrum(self, x: Tensor) -> Tensor:
        """[C, B·frames, frequencies in order], complex128 on the CPU; squares add up to those of x."""
        spectrum = torch.fft.rfft2(x if x.ndim == 5 else x[:, :, None], norm="ortho")
        flat = spectrum.flatten(-2).transpose(0, 1).flatten(1, 2).cpu().to(torch.complex128)
        return flat[..., self.order] * self.roots

    def products(self, terms: Tensor) -> Array:
        """[rings, T, T]: real parts of the products of ``terms`` [T, n, frequencies], summed over each ring."""
        return np.stack(
            [
                (part @ part.mH).real.numpy()
                for part in (terms[..., s].flatten(1) for s in self.slices)
            ]
        )


def answer(rings: Rings, products: Array, channels: int) -> Array:
    """[rings, C, C]: A with (end's change) ≈ A·(state's change), from their products [rings, 2C, 2C]."""
    c, b = channels, rings.bands
    seen, caused = products[:, :c, :c], products[:, :c, c:]
    size = b.shape[1] * c
    matrix = np.einsum("rb,rk,rcd->bckd", b, b, seen).reshape(size, size)
    vector = np.einsum("rb,rca->bca", b, caused).reshape(size, c)
    small = 1e-6 * np.trace(matrix) / size
    solved = np.linalg.solve(matrix + small * np.eye(size), vector).reshape(-1, c, c)
    return np.einsum("rb,bca->rac", b, solved)


@dataclass(frozen=True)
class BandEquations:
    """Normal equations of every row's matrices; ``used`` [rows] numbers the D's that a row mixes, newest first, ``pairs`` the
    channels (into, from) of the entries that are fitted."""

    matrix: Array
    vector: Array
    used: tuple[tuple[int, ...], ...]
    pairs: tuple[Indices, Indices]
    channels: int

    def solve(self, penalty: float) -> list[Array]:
        """Per row [terms, bands, C, C]; ``penalty`` is added for the square of every entry."""
        numbers = np.linalg.solve(self.matrix + penalty * np.eye(len(self.vector)), self.vector)
        out, at = [], 0
        into, source = self.pairs
        for used in self.used:
            shape = (len(used), len(KNOTS), len(into))
            count = int(np.prod(shape))
            full = np.zeros((*shape[:2], self.channels, self.channels))
            full[..., into, source] = numbers[at : at + count].reshape(shape)
            out.append(full)
            at += count
        return out


def band_equations(
    rings: Rings, products: Array, answers: list[Array], window: int
) -> BandEquations:
    """From the products [rings, (K + 1)·C, (K + 1)·C] of D_0 … D_{K−1} and of what is missing at the end, and the ``answers``
    [rings, C, C] of the end to each row's state; a row mixes the newest ``window`` D's."""
    k, c = len(answers), answers[0].shape[-1]
    g = products.reshape(len(products), k + 1, c, k + 1, c)
    used = tuple(tuple(range(i, max(i - window, -1), -1)) for i in range(k))
    into, source = np.divmod(np.arange(c * c), c) if c <= MIXED else (np.arange(c), np.arange(c))
    b = rings.bands
    blocks, vector = [], []
    for i, mine in enumerate(used):
        row = []
        for j, other in enumerate(used):
            both = np.einsum("rxa,rxd->rad", answers[i], answers[j])[:, into][:, :, into]
            seen = g[:, mine][:, :, source][:, :, :, other][..., source]
            part = np.einsum("rb,rk,rpq,rtpuq->tbpukq", b, b, both, seen, optimize=True)
            row.append(part.reshape(len(mine) * b.shape[1] * len(into), -1))
        blocks.append(row)
        missing = g[:, mine][:, :, source][:, :, :, k]
        vector.append(-np.einsum("rb,rxp,rtpx->tbp", b, answers[i][:, :, into], missing).ravel())
    return BandEquations(np.block(blocks), np.concatenate(vector), used, (into, source), c)


def added(mix: Mix | None, d: Array) -> Mix:
    """The bands of a row with matrices d [terms, bands, C, C] added; its knots are KNOTS."""
    if mix is None:
        return Mix(KNOTS, np.zeros((0, *d.shape[1:])), d)
    total = np.zeros((max(len(mix.d), len(d)), *d.shape[1:]))
    total[: len(mix.d)] += mix.d
    total[: len(d)] += d
    return Mix(KNOTS, mix.x, total)


def shaken(x: Tensor, size: float, generator: torch.Generator) -> Tensor:
    """x with the bands of every image and channel weighted by their own random number of deviation ``size``."""
    five = x if x.ndim == 5 else x[:, :, None]
    weights = band_weights(KNOTS, *x.shape[-2:]).to(x.dtype)
    gains = torch.randn(len(x), x.shape[1], len(KNOTS), generator=generator, dtype=x.dtype) * size
    gain = torch.einsum("bck,khw->bchw", gains, weights)[:, :, None].to(x.device)
    return torch.fft.irfft2(torch.fft.rfft2(five) * gain, s=x.shape[-2:]).reshape(x.shape)
