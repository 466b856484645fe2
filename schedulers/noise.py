"""Noise that belongs to an image, not to a batch, a device or a number of steps taken before.

Draw number ``position`` of the image with seed s is a pure function of (s, position, shape): it is
drawn on the CPU from its own generator, so batch size, batch-mates, device and a resumed run never
change a picture. Position 0 is x_T and equals ``torch.manual_seed(s); torch.randn(...)``, so a single
image starts from the noise ComfyUI's own node gives; positions 1, 2, … are the draws inside a run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

MASK = (1 << 64) - 1


def mix(seed: int, position: int) -> int:
    """A 64-bit generator key for draw ``position`` (SplitMix64; Steele et al. 2014). Position 0 is the seed."""
    if position == 0:
        return seed & MASK
    z = (seed + position * 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


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
        batch = torch.empty(like.shape, pin_memory=like.device.type == "cuda")
        for image, i in zip(batch, indices, strict=True):
            image.normal_(generator=_generator(mix(self.seed + i, position)))
        return batch.to(like.device, like.dtype, non_blocking=True)


def _generator(key: int) -> torch.Generator:
    return torch.Generator("cpu").manual_seed(key)
