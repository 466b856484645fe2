"""How far two right answers may lie apart, where processors, threads and batches sum in other orders.

One operation rounds by at most u = ε/2 of its result. n of them in a row, or a sum of n terms, are off by
at most n·u of the largest value on the way; since roundings have either sign, by more than λ·√n·u only with
a chance of 2·exp(−λ²/2) (Higham & Mary 2019, theorem 2.4). Two answers are each off: 2·λ·√n·u = λ·√n·ε.
λ = 8 is one number in 10¹⁴.

Noise, resumed runs, and one kernel called twice in a process promise equal bits: these are asked for with
``torch.equal``.
"""

from __future__ import annotations

import torch
from torch import Tensor

LAMBDA = 8.0


def rounding(operations: float, size: float = 1.0, dtype: torch.dtype = torch.float32) -> float:
    """The absolute difference that rounding explains.

    ``operations`` of the longest way from input to output (a matrix product counts its inner size), and
    ``size``, the largest value on that way: more than the result where large values cancel.
    """
    return LAMBDA * operations**0.5 * torch.finfo(dtype).eps * size


def assert_equal_up_to_rounding(
    a: Tensor, b: Tensor, operations: float, size: float = 0.0, dtype: torch.dtype | None = None
) -> None:
    """Shapes are equal, and values up to ``rounding`` of the largest of ``b`` and ``size``.

    ``dtype`` is what the values were worked out in: the narrower of the two where nothing is said.
    """
    assert a.shape == b.shape
    dtype = dtype or max(a.dtype, b.dtype, key=lambda kind: torch.finfo(kind).eps)
    allowed = rounding(operations, max(size, float(b.abs().max())), dtype)
    gap = float((a.double() - b.double()).abs().max())
    assert gap <= allowed, (
        f"{gap:.2g} apart, {allowed:.2g} allowed ({dtype}, {operations:g} operations)"
    )
