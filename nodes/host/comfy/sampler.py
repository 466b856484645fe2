"""Our solvers as SAMPLER: a KSAMPLER with our function. See DESIGN §5."""

from __future__ import annotations

from typing import Any

import comfy.model_management
import comfy.samplers
import comfy.utils
from torch import Tensor

from ....schedulers.noise import PerImageNoise
from ....schedulers.sample import require_latent, sample
from ....schedulers.solver import Progress, Run, Solver
from ....schedulers.solver.run import DrawNoise
from ....schedulers.split import Part, Stepped
from .missing import needed_by
from .model import noise_scale, schedule_of, state_for, wants_vp
from .step_level import noted


@needed_by("SAMPLER")
def solve(
    model: Any, x: Tensor, sigmas: Tensor, extra_args: dict[str, Any] | None = None,
    callback: Any = None, disable: bool | None = None, *, solver: Solver | Part | Stepped,
) -> Tensor:  # fmt: skip
    """A k-diffusion style sampler function around one of our solvers, or a part of its run."""
    extra = extra_args or {}
    path = schedule_of(model.inner_model.model_patcher).path
    levels = sigmas.tolist()
    require_latent(path, levels)
    bar = comfy.utils.model_trange(len(levels) - 1, disable=disable)
    seed = extra.get("seed") or 0
    size = noise_scale(model.inner_model.model_patcher)
    sampling = model.inner_model.model_patcher.get_model_object("model_sampling")
    if wants_vp(sampling) and extra.get("denoise_mask") is not None:
        raise ValueError(
            "latent_image: a noise mask does not work with this MODEL's V_PREDICTION_DDPM; put a Denoiser Settings "
            "node with prediction v before the sampler"
        )

    def noise(seed: int) -> DrawNoise:
        draw = PerImageNoise(seed)
        return lambda position, like: draw(position, like) * size

    def denoise(y: Tensor, sigma: float) -> Tensor:
        y = state_for(sampling, y, sigma)
        return model(y, noted(y.new_full((y.shape[0],), sigma), sigma), **extra)

    def report(p: Progress) -> None:
        if callback is not None:
            level = p.x.new_full((), p.sigma)
            callback(
                {"x": p.x, "i": p.step, "sigma": level, "sigma_hat": level, "denoised": p.denoised}
            )
        bar.update(p.step + 1 - bar.n)  # a solver that chooses its steps passes levels unevenly

    check = comfy.model_management.throw_exception_if_processing_interrupted
    with bar:
        if isinstance(solver, Solver):
            with solver.watching(model.inner_model.model_patcher.model.diffusion_model) as ready:
                return sample(ready, path, Run(denoise, noise(seed), report, check), x, levels)
        masked = extra.get("denoise_mask") is not None
        # under a mask the picture and its noise belong to the run: a later part has neither
        mine = {"picture": model.latent_image, "noise": model.noise} if masked else {}
        start = solver.begin(path, x, levels, seed, bool(model.noise.any()), mine)
        if masked and start.extra:
            model.latent_image, model.noise = start.extra["picture"], start.extra["noise"]
        return solver.run(start, path, Run(denoise, noise(start.seed), report, check), levels)


def make_sampler(solver: Solver | Part | Stepped) -> Any:
    """SAMPLER around a solver; masks, previews and noise scaling are KSAMPLER's."""
    return comfy.samplers.KSAMPLER(solve, {"solver": solver})


def solver_of(sampler: Any) -> Solver | Part | Stepped | None:
    """What :func:`make_sampler` was given; None for any other SAMPLER."""
    if getattr(sampler, "sampler_function", None) is not solve:
        return None
    return sampler.extra_options["solver"]
