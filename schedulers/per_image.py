"""Sums over one image: every axis but the first, kept as axes of length 1, for any number of axes."""

from __future__ import annotations

import torch
from torch import Tensor


def dot(a: Tensor, b: Tensor) -> Tensor:
    """⟨a, b⟩ per image: [B, 1, …]."""
    return (a * b).sum(tuple(range(1, a.ndim)), keepdim=True)


def norm(a: Tensor) -> Tensor:
    """‖a‖₂ per image."""
    return dot(a, a).sqrt()


def std(a: Tensor) -> Tensor:
    """Standard deviation of the values of each image (as torch.std, divided by n − 1)."""
    return a.std(tuple(range(1, a.ndim)), keepdim=True)


def ratio(a: Tensor, b: Tensor) -> Tensor:
    """a/b for b ≥ 0, where 0/0 is 0."""
    return a / b.clamp(min=torch.finfo(b.dtype).tiny)


def project(a: Tensor, onto: Tensor) -> Tensor:
    """The part of a along ``onto``, per image; 0 where ``onto`` is 0."""
    return onto * ratio(dot(a, onto), dot(onto, onto))


def quantile(a: Tensor, q: float) -> Tensor:
    """The q-quantile along the last axis, kept, interpolated (torch.quantile stops at 2²⁴ values)."""
    ordered = a.sort(-1).values
    at = q * (a.shape[-1] - 1)
    low = int(at)
    high = min(low + 1, a.shape[-1] - 1)
    return torch.lerp(ordered[..., low : low + 1], ordered[..., high : high + 1], at - low)
