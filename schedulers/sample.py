"""From SIGMAS to a sample: the few lines that a host needs around a plan."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from .path import VE, Path
from .points import Points
from .solver import Run, Solver


def sample(solver: Solver, path: Path, run: Run, x: Tensor, sigmas: Sequence[float]) -> Tensor:
    """The state at sigmas[-1] of ``solver`` from x [B, …] at sigmas[0]. Fewer than 2 levels: x itself.

    ``run`` denoises in the host's coordinates (x0 + κ·ε, or flow's own).
    """
    if len(sigmas) < 2:
        return x
    points = Points.from_sigmas(path, sigmas)
    return solver.solve(points, run, x)


def require_latent(path: Path, sigmas: Sequence[float]) -> None:
    """Raises ValueError for an inversion to pure noise on flow, where a LATENT, which is x/(1 − σ), has no value."""
    if len(sigmas) > 1 and sigmas[-1] > sigmas[0] and path.host.on(sigmas[-1]).alpha == 0:
        raise ValueError(
            "an inversion on a flow model cannot end at σ = 1: ComfyUI's LATENT there is x/(1 − σ). End below, for "
            "example with denoise = 0.98 in the Steps node, and start at that level again on the way back"
        )


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
