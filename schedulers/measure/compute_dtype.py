"""Which dtype a network should compute in, and why.

float16 ends at 65504 and bfloat16 at 3.4e38: activations of a network trained in bfloat16 may
overflow in float16 (CogVideoX-5B and Wan give black or noisy video), so weights trained in bfloat16
are never run in float16. The other way round only costs precision: bfloat16 keeps 8 bits, float16 11.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch

from . import DTYPES, dtype_name

ASKED = ("auto", "fp32", "bf16", "fp16")
FP32, BF16, FP16 = torch.float32, torch.bfloat16, torch.float16


@dataclass(frozen=True)
class Choice:
    """A compute dtype and one sentence of reason."""

    dtype: torch.dtype
    why: str


def choose(
    asked: str,
    stored: torch.dtype,
    family: Sequence[torch.dtype] = (FP16, BF16, FP32),
    fast: Collection[torch.dtype] = (FP16, BF16, FP32),
) -> Choice:
    """The dtype to compute in, for weights ``stored`` in a dtype.

    family: what this kind of model runs in, preferred first; fast: what the device is fast in.
    Raises ValueError for float16 on weights that were stored or trained in bfloat16.
    """
    if asked not in ASKED:
        raise ValueError(f"compute_dtype = {asked!r}: choose one of {', '.join(ASKED)}")
    if asked == "fp16" and stored == BF16:
        raise ValueError(_refusal("the weights are stored in bf16"))
    if asked == "fp16" and FP16 not in family:
        raise ValueError(_refusal("this kind of model was trained in bf16"))
    if asked != "auto":
        return Choice(DTYPES[asked], f"{asked}: as asked")
    want, why = _choice(stored, family)
    if want != FP32 and want not in fast:
        return Choice(FP32, f"fp32: {why}; this device is not fast in {dtype_name(want)}")
    return Choice(want, f"{dtype_name(want)}: {why}")


def _choice(stored: torch.dtype, family: Sequence[torch.dtype]) -> tuple[torch.dtype, str]:
    held = f"the weights are stored in {dtype_name(stored)}"
    if stored == FP16 and (FP16 not in family or family[0] == BF16):
        return BF16, f"{held}, but this kind of model was trained in bf16"
    if stored in DTYPES.values():
        return stored, held
    if stored == torch.float64:
        return FP32, held
    return family[0], f"{held}, which is for storing only; this kind of model prefers it"


def _refusal(fact: str) -> str:
    return (
        f"compute_dtype fp16: {fact}, whose range (3e38) float16 (65504) does not have, so activations "
        "may overflow to NaN or black pictures: choose bf16, fp32 or auto"
    )
