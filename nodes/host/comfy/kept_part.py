"""What a noise mask of ComfyUI keeps, for our solver that inpaints."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ....schedulers.inpainting import Inpainting, KeptPart, noise_beside
from ....schedulers.path import Path
from ....schedulers.solver import Solver
from ....schedulers.split import Part, Stepped

log = logging.getLogger("sampling_kit")


def keeping(
    solver: Solver | Part | Stepped, model: Any, path: Path, x: Tensor, sigma: float, extra: dict[str, Any], size: float
) -> tuple[Solver | Part | Stepped, dict[str, Any]]:  # fmt: skip
    """The solver with what the mask keeps, and the sampler's arguments without the mask, where the solver inpaints; ``size``
    is the deviation of the MODEL's noise. A MODEL that is conditioned on its kept part, without noise, keeps the host's mask.

    Raises ValueError for a LATENT without a mask, and where another pack's wrapper hides the picture.
    """
    inner = solver if isinstance(solver, Solver) else solver.solver
    if not isinstance(inner, Inpainting):
        return solver, extra
    mask = extra.get("denoise_mask")
    if mask is None:
        raise ValueError(
            f"latent_image: {inner.title} needs a noise mask, 1 where the picture is made anew: put Set Latent Noise Mask "
            "before the sampler node (behind InpaintModelConditioning: set its noise_mask), or take the solver itself"
        )
    picture, noise = getattr(model, "latent_image", None), getattr(model, "noise", None)
    if picture is None or noise is None:
        raise ValueError(
            f"sampler: {inner.title} does not work inside another pack's sampler, which hides the picture and its noise; take "
            "that pack out"
        )
    if not noise.any():
        noise = noise_beside(extra.get("seed") or 0, noise)
    kept = KeptPart(picture, noise * size, mask, mask_function(model, mask, extra, x))
    if takes_it_clean(model, kept, path, x, sigma, noise):
        log.info(
            "%s: this MODEL is conditioned on the kept part itself, which is left to its mask",
            inner.title,
        )
        return solver, extra
    inner = inner.keeping(kept)
    rest = {**extra, "denoise_mask": None}
    return (inner if isinstance(solver, Solver) else replace(solver, solver=inner)), rest


def mask_function(model: Any, mask: Tensor, extra: dict[str, Any], x: Tensor) -> Any:
    """σ → mask of a MODEL whose mask follows the level (Differential Diffusion); None for others."""
    function = extra.get("model_options", {}).get("denoise_mask_function")
    if function is None:
        return None

    def at(sigma: float) -> Tensor:
        level = x.new_full((len(x),), sigma)
        options = {"model": model.inner_model, "sigmas": model.sigmas}
        out: Tensor = function(level, mask, extra_options=options)
        return out

    return at


def takes_it_clean(
    model: Any, kept: KeptPart, path: Path, x: Tensor, sigma: float, noise: Tensor
) -> bool:
    """Whether the MODEL wants something other than the noised picture where it is kept."""
    base = model.inner_model.inner_model
    made = base.scale_latent_inpaint(
        x=x, sigma=x.new_full((len(x),), sigma), noise=noise, latent_image=kept.picture, denoise_mask=kept.mask
    )  # fmt: skip
    noised = kept.noised(path.host.on(sigma))
    return made.shape != noised.shape or not torch.allclose(made, noised, rtol=1e-3, atol=1e-3)
