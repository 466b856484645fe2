"""What tells one model or one set of conditions from another: a digest of some of their numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor


def fingerprint(
    tensors: Iterable[tuple[str, Tensor]], more: Sequence[Any] = (), values: int = 8
) -> str:
    """16 hex digits that tell a model's weights: names and shapes of all, ``values`` of each of 64 of them.

    ``more``: what else belongs to it, by repr, such as patches. A tensor whose values cannot be read
    (quantised, on no device) counts by name and shape. Cheap: reads at most about 128·``values`` numbers.
    """
    named = sorted(tensors, key=lambda item: item[0])
    digest = hashlib.sha256()
    every = max(len(named) // 64, 1)
    for i, (name, t) in enumerate(named):
        digest.update(f"{name}{tuple(t.shape)}".encode())
        if i % every == 0 and t.numel() and t.device.type != "meta":
            try:
                at = torch.linspace(0, t.numel() - 1, values, dtype=torch.float64).long()
                picked = t.detach().reshape(-1)[at.to(t.device)].float().cpu()
                digest.update(np.asarray(picked, np.float32).tobytes())
            except (RuntimeError, NotImplementedError, TypeError):
                pass
    digest.update(repr(list(more)).encode())
    return digest.hexdigest()[:16]


def contents(value: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """(name, tensor) for all tensors in nested dicts, lists, tuples and objects with ``weights``; numbers and
    text are names of empty tensors. For the fingerprint of conditions and patches."""
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, Mapping):
        for key in sorted(value, key=str):
            if key != "uuid":  # drawn anew each time
                yield from contents(value[key], f"{name}.{key}")
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            yield from contents(item, f"{name}.{i}")
    elif hasattr(value, "weights"):
        yield from contents(value.weights, f"{name}.{type(value).__name__}")
    else:
        plain = value is None or isinstance(value, bool | int | float | str)
        yield f"{name}={value if plain else type(value).__name__}", torch.empty(0)
