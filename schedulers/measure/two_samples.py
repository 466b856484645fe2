"""Are two batches samples of one distribution? Every distance of ``metrics``, and a permutation test."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..text_table import text_table
from .metrics import energy_distance, frechet, mmd, random_features, sliced_wasserstein

LARGEST = 4096  # features of a Fréchet distance: its cost grows with their cube


def chance(a: Tensor, b: Tensor, shuffles: int, seed: int = 0) -> float | None:
    """p-value of the energy distance: how often batches shuffled together differ at least as much.

    Energy is a quadratic form, E² = −sᵀ‖x_i − x_j‖s with s = 1/N for images of a and −1/M for those of b,
    so a shuffle only moves the entries of s. None without shuffles.
    """
    if not shuffles:
        return None
    rows = torch.cat([a.flatten(1).cpu(), b.flatten(1).cpu()]).double()
    between = torch.cdist(rows, rows)
    signs = torch.cat([torch.full((len(a),), 1 / len(a)), torch.full((len(b),), -1 / len(b))])
    generator = torch.Generator().manual_seed(seed)
    orders = [torch.randperm(len(rows), generator=generator) for _ in range(shuffles)]
    s = torch.stack([signs, *(signs[order] for order in orders)]).double()
    energies = -((s @ between) * s).sum(1)
    return (energies >= energies[0] * (1 - 1e-9)).double().mean().item()


@dataclass(frozen=True)
class Comparison:
    """Distances of two batches; None where one could not be measured, and ``notes`` say why.

    ``p`` is the permutation test's, of the energy distance; ``features`` what Fréchet was measured on.
    """

    count: tuple[int, int]
    sliced_wasserstein: float | None
    energy: float
    p: float | None
    mmd: float | None
    frechet: float | None
    features: str
    notes: tuple[str, ...] = ()

    def text(self) -> str:
        rows: list[tuple[str, Any]] = [
            ("sliced Wasserstein", self.sliced_wasserstein),
            ("energy distance", self.energy),
            ("p of energy", self.p),
            ("MMD²", self.mmd),
            (f"Fréchet, {self.features}", self.frechet),
        ]
        count = f"{self.count[0]} and {self.count[1]} images"
        return "\n".join([text_table(["", "distance"], rows), count, *self.notes])


def compare(
    a: Tensor,
    b: Tensor,
    features: tuple[Tensor, Tensor] | None = None,
    directions: int = 512,
    shuffles: int = 200,
    seed: int = 0,
) -> Comparison:
    """All distances of two batches [N, …], [M, …]; ``features`` [N, …], [M, …] for the Fréchet distance.

    Without features: fixed random convolutions for 3 channels of at least 8×8 values, else the values
    themselves. Raises ValueError for batches that cannot be compared at all.
    """
    if a.shape[1:] != b.shape[1:] or a.ndim < 2:
        raise ValueError(f"the images differ in shape: {tuple(a.shape)} and {tuple(b.shape)}")
    if min(len(a), len(b)) < 2:
        raise ValueError(f"each batch needs at least 2 images, got {len(a)} and {len(b)}")
    if not (a.isfinite().all() and b.isfinite().all()):
        raise ValueError("there are NaN or infinite values; the run that made them diverged")
    notes, sliced, kernel, far = [], None, None, None
    if len(a) == len(b):
        sliced = sliced_wasserstein(a, b, directions, seed)
    else:
        notes.append("sliced Wasserstein: needs as many images in a as in b")
    try:
        kernel = mmd(a, b)
    except ValueError as error:  # all images are one
        notes.append(f"MMD²: {error}")
    name, rows = _features(a, b, features)
    if rows[0].shape[1] > LARGEST:
        notes.append(f"Fréchet: {rows[0].shape[1]} values per image are more than {LARGEST}")
    else:
        far = frechet(*rows)
        if min(map(len, rows)) <= rows[0].shape[1]:
            notes.append(
                f"Fréchet: no more images than features ({rows[0].shape[1]}), so it is too large; compare it only "
                "with others of as many images"
            )
    energy, p = energy_distance(a, b), chance(a, b, shuffles, seed)
    count = len(a), len(b)
    return Comparison(count, sliced, energy, p, kernel, far, name, tuple(notes))


def _features(
    a: Tensor, b: Tensor, features: tuple[Tensor, Tensor] | None
) -> tuple[str, tuple[Tensor, Tensor]]:
    """What they are, and both [N, F]."""
    if features is not None:
        return "supplied features", (features[0].flatten(1), features[1].flatten(1))
    if a.ndim == 4 and a.shape[1] == 3 and min(a.shape[2:]) >= 8:
        return "random features", (random_features(a), random_features(b))
    return "values", (a.flatten(1), b.flatten(1))
