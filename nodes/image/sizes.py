"""Bounds of what one node may make, refused before it is made."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

MOST_PIXELS = 2**27  # of pictures: 1.6 GB
MOST_CODED = 2**30  # of pictures and videos that a VAE makes smaller


def check_size(most: int, limits: dict[str, tuple[int | None, int, int]]) -> None:
    """Raises ValueError where one of ``limits``, {input: (value, least, most)}, or their product is beyond its bounds.

    A value of None is that of a link, which only a run can tell. A node that hands its inputs here does so for all
    of their bounds, as ComfyUI then leaves them to it.
    """
    for name, (value, low, high) in limits.items():
        if value is not None and not low <= value <= high:
            raise ValueError(f"{name} = {value}: it must be from {low} to {high}")
    check_product(most, **{n: v for n, (v, _, _) in limits.items() if v is not None})


def check_product(most: int, **sizes: int) -> None:
    """Raises ValueError where the product of ``sizes`` is more than ``most`` pixels."""
    if (pixels := math.prod(sizes.values())) > most:
        said = " × ".join(f"{name} {value}" for name, value in sizes.items())
        raise ValueError(
            f"{said} = {pixels} pixels: at most {most} are made at once; choose a smaller size or batch"
        )


def zeros(shape: tuple[int, ...]) -> Tensor:
    """Zeros that take no memory before they are written to, where the system has such."""
    return torch.from_numpy(np.zeros(shape, np.float32))
