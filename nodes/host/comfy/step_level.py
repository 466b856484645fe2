"""The level of a step, written on the timestep that the host hands around."""

from __future__ import annotations

from torch import Tensor


def noted(timestep: Tensor, sigma: float) -> Tensor:
    """``timestep`` [B] with its level written on it, so that our Guider need not read it from the device."""
    timestep.sampling_kit_sigma = sigma  # type: ignore[attr-defined]
    return timestep


def level_of(timestep: Tensor) -> float:
    """σ of a step: as :func:`noted`, else (other samplers) read back."""
    known: float | None = getattr(timestep, "sampling_kit_sigma", None)
    return float(timestep.flatten()[0]) if known is None else known
