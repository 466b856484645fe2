"""Numbers about models, runs and results: facts, prediction type, precision, errors. Nothing is drawn here."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..noise_schedule import NoiseSchedule
from ..points import Points

#: D(x, σ) for a state x [B, …] in the host's coordinates (VE or flow) and a float σ of SIGMAS.
Evaluate = Callable[[Tensor, float], Tensor]

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def dtype_name(dtype: torch.dtype | None) -> str:
    """fp32, bf16, fp16, or torch's own name."""
    names = {value: key for key, value in DTYPES.items()}
    return names.get(dtype, str(dtype).removeprefix("torch.")) if dtype else "none"


def spread(
    schedule: NoiseSchedule, count: int, low: float = 0.0, high: float = math.inf
) -> list[float]:
    """``count`` noise levels of the schedule as SIGMAS shows them, largest first, even in log κ.

    κ is kept between ``low`` and ``high``. A schedule that ends at pure noise starts there; its other
    levels begin at κ = 1000.
    """
    largest = min(schedule.kappa_max, high)
    low = max(schedule.kappa_min, low)
    top = max(min(largest, 1e3) if math.isinf(largest) else largest, low)
    ratios = [i / max(count - 1, 1) for i in range(count)]
    kappas = [top ** (1 - r) * low**r for r in ratios]
    return Points(schedule.path, (largest, *kappas[1:])).sigmas()


def plain(value: Any) -> Any:
    """``value`` for JSON: NaN and infinity become None, tuples lists, dtypes and others text."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    return dtype_name(value) if isinstance(value, torch.dtype) else str(value)
