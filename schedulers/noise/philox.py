"""Philox4x32-10, the counter-based generator of CUDA's randn, and its normals, on any machine.

Philox (Salmon, Moraes, Dror & Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3", sec. 3.3) turns a counter of four
32-bit words and a key of two into four random words by ten rounds of multiplying and exchanging halves:

    (c₀, c₁, c₂, c₃) ← (hi(M₁c₂) ⊕ c₁ ⊕ k₀, lo(M₁c₂), hi(M₀c₀) ⊕ c₃ ⊕ k₁, lo(M₀c₀)),    k ← k + W

Value i of draw number ``offset`` of a seed has the counter (offset, part, i, 0) and the seed as the key, as in cuRAND where
each value has a thread of its own; the first two words x, y become one normal by Box and Muller:
√(−2 ln u)·sin v with u = (x + ½)/2³², v = 2π(y + ½)/2³². A1111's web UI draws in this way for "NV" and calls it the same
as its "GPU" noise. Here v is computed in float64: all digits that its file prints for seed 0 come out. Code that rounds 2π to
float32 first, as CUDA's own kernels do, differs from this by up to 1e-6.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

ROUNDS = 10
MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
WEYL = (0x9E3779B9, 0xBB67AE85)
LOW = np.uint64(0xFFFFFFFF)
HALF = np.uint64(32)
TURN = 2 * np.pi / 2**32

Words = NDArray[Any]


def philox(counter: tuple[Words, Words, Words, Words], seed: int) -> tuple[Words, ...]:
    """Four arrays of random 32-bit words (as uint64) for counters of four words and a 64-bit seed."""
    c0, c1, c2, c3 = counter
    keys = [seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF]
    for _ in range(ROUNDS):
        first, second = MULTIPLIERS[0] * c0, MULTIPLIERS[1] * c2
        k0, k1 = (np.uint64(key) for key in keys)
        c0, c1 = (second >> HALF) ^ c1 ^ k0, second & LOW
        c2, c3 = (first >> HALF) ^ c3 ^ k1, first & LOW
        keys = [(key + step) & 0xFFFFFFFF for key, step in zip(keys, WEYL, strict=True)]
    return c0, c1, c2, c3


def normals(seed: int, count: int, offset: int = 0, part: int = 0) -> NDArray[np.float64]:
    """``count`` standard normals: draw number ``offset`` of ``seed``."""
    if count > 1 << 32:
        raise ValueError(f"{count} values in one draw: Philox counts up to 2**32")
    index = np.arange(count, dtype=np.uint64)
    number, side = (np.full(count, word, dtype=np.uint64) for word in (offset, part))
    x, y, *_ = philox((number, side, index, np.zeros_like(index)), seed)
    radius = np.sqrt(-2.0 * np.log((x + 0.5) / 2**32))
    return np.asarray(radius * np.sin((y + 0.5) * TURN))
