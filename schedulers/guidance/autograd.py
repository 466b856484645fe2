"""Gradients through networks that were made in inference mode.

Hosts load weights and make conditions under ``torch.inference_mode``. Such tensors cannot be saved for a
backward pass, also by code that has left that mode; an ordinary tensor over the same memory can. So
nothing is copied: for the length of a call the network's tensors are stood in for by such tensors.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


def ordinary(value: Any) -> Any:
    """``value`` with the inference tensors in it (dicts, lists and tuples too) as ordinary ones.

    They share their memory; tensors of a kind that torch cannot make over given memory are cloned.
    """
    if isinstance(value, Tensor):
        return _ordinary(value) if value.is_inference() else value
    if type(value) is dict:
        return {key: ordinary(v) for key, v in value.items()}
    if type(value) in (list, tuple):
        return type(value)(ordinary(v) for v in value)
    return value


def _ordinary(t: Tensor) -> Tensor:
    with torch.inference_mode(False):
        if type(t) not in (Tensor, nn.Parameter) or t.layout is not torch.strided:
            return t.clone()
        where = t.storage_offset(), t.shape, t.stride()
        alias = torch.empty(0, dtype=t.dtype, device=t.device).set_(t.untyped_storage(), *where)
        return nn.Parameter(alias, requires_grad=False) if isinstance(t, nn.Parameter) else alias


@contextmanager
def differentiable(*networks: Any) -> Iterator[None]:
    """Inside, the networks' weights, buffers and other tensors are ordinary ones; after it as before.

    What is not an ``nn.Module`` is left as it is.
    """
    swapped: list[tuple[MutableMapping[str, Any], str, Tensor, Tensor]] = []
    modules = [
        m for network in networks if isinstance(network, nn.Module) for m in network.modules()
    ]
    try:
        for module in modules:
            tables: tuple[Any, ...] = (module._parameters, module._buffers, vars(module))
            for table in tables:
                for key, t in list(table.items()):
                    if isinstance(t, Tensor) and t.is_inference():
                        swapped.append((table, key, t, alias := _ordinary(t)))
                        table[key] = alias
        yield
    finally:
        for table, key, t, alias in swapped:
            if table.get(key) is alias:
                table[key] = t
