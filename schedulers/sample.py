"""From SIGMAS to a sample: the few lines that a host needs around a plan."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from .path import VE, Path
from .points import Points
from .solver import Run, Solver


def sample(solver: Solver, path: Path, run: Run, x: Tensor, sigmas: Sequence[float]) -> Tensor:
    """The state at sigmas[-1] of ``solver`` from x [B, …] at sigmas[0]. Fewer than 2 levels: x itself.

    ``run`` denoises in the host's coordinates (x0 + κ·ε, or flow's own).
    """
    points = Points.from_sigmas(path, sigmas)
    return solver.solve(points, run, x) if len(points) > 1 else x


def require_latent(path: Path, sigmas: Sequence[float]) -> None:
    """Raises ValueError for a run that ends at pure noise on flow, where a LATENT, which is x/(1 − σ), has no value:
    an inversion, or a list of that one level."""
    if len(sigmas) == 0 or not path.host.on(float(sigmas[-1])).alpha <= 0:  # NaN: Points says so
        return
    if len(sigmas) == 1:
        raise ValueError(
            "sigmas: one level, σ = 1, is no run, and ComfyUI's LATENT at σ = 1 of a flow model is x/(1 − σ): give at "
            "least two levels, the last below 1"
        )
    if sigmas[-1] > sigmas[0]:
        raise ValueError(
            "an inversion on a flow model cannot end at σ = 1: ComfyUI's LATENT there is x/(1 − σ). End below, for "
            f"example with denoise = {skips_one(len(sigmas) - 1):.3g} in the Steps node, and start at that level again "
            "on the way back"
        )


def skips_one(steps: int) -> float:
    """The largest denoise, in hundredths where they do, with which Steps leaves out the first level of ``steps``."""
    for digits in (2, 3, 4):
        unit = 10.0**-digits
        value = math.floor(steps / (steps + 1) / unit + 1e-9) * unit
        if value > 0 and int(steps / value) > steps:
            return value
    return steps / (steps + 1)


def noised(
    path: Path, sigma: float, latent: Tensor, noise: Tensor, from_pure_noise: bool
) -> Tensor:
    """The state x at the first level of SIGMAS, as ComfyUI makes it.

    ``from_pure_noise``: the run starts at the model's largest level, where ComfyUI gives a
    variance-exploding state the variance 1 + σ² that unit-variance data would have.
    """
    point = path.host.on(sigma)
    scale = (
        (1 + sigma * sigma) ** 0.5 if from_pure_noise and isinstance(path.host, VE) else point.sigma
    )
    return latent * point.alpha + noise * scale
