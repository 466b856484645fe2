"""Noise that belongs to an image, not to a batch, a device or a number of steps taken before.

Draw number ``position`` of the image with seed s is a pure function of (s, position, shape): it is
drawn on the CPU from its own generators, so batch size, batch-mates, device and a resumed run never
change a picture. Position 0 is x_T and equals ``torch.manual_seed(s); torch.randn(...)``, so a single
image starts from the noise ComfyUI's own node gives; positions 1, 2, … are the draws inside a run.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .recipe import NoiseRecipe

#: (position, like) → standard normal noise [B, …] like ``like``: draw number 1, 2, … of a run.
DrawNoise = Callable[[int, Tensor], Tensor]

MASK = (1 << 64) - 1
#: Values per generator in a draw inside a run; a larger image has several, drawn side by side.
PIECE = 1 << 17


def mix(seed: int, position: int) -> int:
    """A 64-bit generator key for draw ``position`` (SplitMix64; Steele et al. 2014). Position 0 is the seed."""
    if position == 0:
        return seed & MASK
    z = (seed + position * 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


class BatchSeed(int):
    """A seed that says which images it is for: image i has seed + images[i]; None: seed + i. And how noise is drawn
    from it: by a recipe; None: by each image's own stream."""

    images: tuple[int, ...] | None
    recipe: NoiseRecipe | None

    def __new__(
        cls, seed: int, images: Sequence[int] | None = None, recipe: NoiseRecipe | None = None
    ) -> BatchSeed:
        made = super().__new__(cls, seed)
        made.images = None if images is None else tuple(int(i) for i in images)
        made.recipe = recipe
        return made


def images_of(seed: int) -> tuple[int, ...] | None:
    """Which images a seed is for, if it says so."""
    return getattr(seed, "images", None)


@dataclass(frozen=True)
class PerImageNoise:
    """Standard normal noise; image i of a batch has seed ``seed + indices[i]`` (default: seed + i).

    A batch of 3 with seed 10 therefore holds the same images as three runs with seeds 10, 11, 12.
    """

    seed: int
    indices: Sequence[int] | None = None

    def __call__(self, position: int, like: Tensor) -> Tensor:
        """Draw number ``position`` for every image of a batch shaped like ``like`` [B, …]."""
        indices = range(like.shape[0]) if self.indices is None else self.indices
        if len(indices) != like.shape[0]:
            raise ValueError(f"{len(indices)} image indices for a batch of {like.shape[0]}")
        with torch.inference_mode(False):  # which other threads are not in
            batch = torch.empty(like.shape, pin_memory=like.device.type == "cuda")
        keys = [mix(self.seed + i, position) for i in indices]
        pieces = [
            (piece, mix(key, j))
            for image, key in zip(batch.reshape(len(keys), -1), keys, strict=True)
            for j, piece in enumerate(image.split(PIECE) if position else [image])
        ]
        if batch.numel() < PIECE:
            for piece in pieces:
                _fill(piece)
        else:
            list(_threads().map(_fill, pieces))
        return batch.to(like.device, like.dtype, non_blocking=True)


@dataclass(frozen=True)
class Louder:
    """Noise of another ``deviation`` than 1, for models that were trained with it."""

    draw: DrawNoise
    deviation: float

    def __call__(self, position: int, like: Tensor) -> Tensor:
        return self.draw(position, like) * self.deviation


def _fill(piece: tuple[Tensor, int]) -> None:
    values, key = piece
    values.normal_(generator=torch.Generator("cpu").manual_seed(key))


@lru_cache(maxsize=1)
def _threads() -> ThreadPoolExecutor:
    """Drawing normals takes one core 3 ns a value, a large part of a step without a network."""
    return ThreadPoolExecutor(min(8, os.cpu_count() or 1), "sampling-kit-noise")
