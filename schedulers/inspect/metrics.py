"""How far two batches are apart."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Distance:
    """Root mean square and largest absolute difference; PSNR = 20·log10(peak/rmse) dB, None if that is not finite."""

    rmse: float
    largest: float
    psnr: float | None

    def __str__(self) -> str:
        if self.rmse == 0:
            return "no difference"
        psnr = "" if self.psnr is None else f", PSNR {self.psnr:.1f} dB"
        return f"RMSE {self.rmse:.3g}, largest {self.largest:.3g}{psnr}"


def distances(a: Tensor, b: Tensor, peak: float | None = None) -> tuple[Distance, ...]:
    """One per image of a, b [B, …]. ``peak``: the range of values; None: that of each image of ``a``.

    Raises ValueError for different shapes, NaN or infinity.
    """
    if a.shape != b.shape or a.ndim < 2:
        raise ValueError(f"the shapes differ: {tuple(a.shape)} and {tuple(b.shape)}")
    found = []
    for x, y in zip(a.double(), b.double(), strict=True):
        rmse, largest = (x - y).square().mean().sqrt().item(), (x - y).abs().max().item()
        if not math.isfinite(rmse):
            raise ValueError("there are NaN or infinite values; the run that made them diverged")
        span = peak or (x.max() - x.min()).item()
        psnr = 20 * math.log10(span / rmse) if rmse and span else None
        found.append(Distance(rmse, largest, psnr))
    return tuple(found)
