"""D of one state under several conditions, in as few calls of a network as their sizes allow.

D acts on each image by itself, so the conditions of a state (cond, uncond, …) can stand one after the
other in one batch: a call of k·B images costs less than k calls of B. The results are those of single
calls up to the rounding of the device's kernels, which may sum in another order for another batch size.

A condition is None, a tensor [B, …] of class weights, or tensors [B, …] by name; one row may stand for
all B. Conditions share a call where names, sizes and dtypes agree. None beside class weights is a row of
zeros, which means the same to every denoiser (``analytic.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

Network = Callable[[Tensor, "float | Tensor", Any], Tensor]

#: Values of x in a call that holds several conditions, where no one measures memory (CPU, MPS): 64 latents
#: of 4×64×64. Beyond it a call is long enough that joining saves no time (``benchmarks/batched.py``).
MOST_VALUES = 2**20


def many(
    network: Network, x: Tensor, sigma: float | Tensor, conditions: Sequence[Any]
) -> list[Tensor]:
    """D [B, …] of x [B, …] under each condition; σ is a float or one number per image [B]."""
    out: dict[int, Tensor] = {}
    for group in groups(x, conditions):
        if len(group) == 1:
            out[group[0]] = network(x, sigma, conditions[group[0]])
            continue
        joined = join([conditions[i] for i in group], len(x))
        d = network(torch.cat([x] * len(group)), levels(sigma, len(group)), joined)
        out.update(zip(group, d.split(len(x)), strict=True))
    return [out[i] for i in range(len(conditions))]


def groups(x: Tensor, conditions: Sequence[Any]) -> list[list[int]]:
    """The numbers of the conditions that share a call, call by call."""
    alike: dict[Hashable, list[int]] = {}
    weights = next((sizes(c) for c in conditions if isinstance(c, Tensor)), None)
    for i, condition in enumerate(conditions):
        key = weights if condition is None else sizes(condition)
        alike.setdefault(key if fits(condition, len(x)) else i, []).append(i)
    most = len(conditions)
    if x.device.type != "cuda":
        most = max(1, MOST_VALUES // max(x.numel(), 1))
    return [every[i : i + most] for every in alike.values() for i in range(0, len(every), most)]


def sizes(condition: Any) -> Hashable:
    """Names, sizes of a row and dtypes: equal for conditions that can stand in one batch."""
    if isinstance(condition, Mapping):
        return frozenset((name, sizes(value)) for name, value in condition.items())
    return None if condition is None else (tuple(condition.shape[1:]), condition.dtype)


def fits(condition: Any, batch: int) -> bool:
    """Whether it has a row for each image, or one for all. The network itself says what is wrong else."""
    if isinstance(condition, Mapping):
        return all(fits(value, batch) for value in condition.values())
    return condition is None or (condition.ndim > 0 and len(condition) in (1, batch))


def join(conditions: Sequence[Any], batch: int) -> Any:
    """Conditions of equal :func:`sizes` one after the other, ``batch`` rows each."""
    if isinstance(conditions[0], Mapping):
        return {name: join([c[name] for c in conditions], batch) for name in conditions[0]}
    some = next((c for c in conditions if c is not None), None)
    if some is None:
        return None
    row = some.shape[1:]
    full = [some.new_zeros(1, *row) if c is None else c for c in conditions]
    return torch.cat([c.expand(batch, *row) for c in full])


def levels(sigma: float | Tensor, times: int) -> float | Tensor:
    """σ for the joined batch; one number for all stays as it is."""
    if not isinstance(sigma, Tensor) or sigma.numel() == 1:
        return sigma
    return torch.cat([sigma] * times)
