"""Lists of numbers as people type and paste them."""

from __future__ import annotations

import math
import re

import numpy as np

from .noise_schedule import Array


def words(text: str) -> list[str]:
    """The numbers of a list as people paste it: ``tensor([14.6, 0.0], device='cuda:0')``, brackets, lines."""
    text = re.sub(r",?\s*(device|dtype|requires_grad)\s*=\s*[^\s,)]+", " ", text)
    return re.sub(r"tensor|[\[\](){},;]", " ", text).split()


def require_one_way(numbers: Array, unit: str) -> None:
    """Raises ValueError, in the unit of the list, where it repeats a number or turns round."""
    steps = np.diff(numbers)
    wrong = next((i for i, step in enumerate(steps) if not step * steps[0] > 0), None)
    if wrong is not None:
        a, b = numbers[wrong : wrong + 2]
        raise ValueError(
            f"noise levels {wrong} and {wrong + 1} of the list are {a:.6g} and {b:.6g} ({unit}): a run must go strictly "
            "down in noise (or, to invert, strictly up), without repeats or turns"
        )


def number(word: str) -> float:
    try:
        value = float(word)
    except ValueError:
        value = math.nan
    if math.isfinite(value):
        return value
    raise ValueError(f"{word!r} in the list of noise levels is not a finite number")
