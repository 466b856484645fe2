"""SAMPLER without ComfyUI: a solver, a part of its run, or a run that shows its states."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ....schedulers.inpainting import Inpainting, KeptPart, noise_beside, plainly
from ....schedulers.measure.run_error import RunError
from ....schedulers.noise import draws_of, images_of
from ....schedulers.path import Flow, Path
from ....schedulers.points import Points
from ....schedulers.policy import usual_std
from ....schedulers.sample import noised, require_latent, sample
from ....schedulers.solver import Progress, Run, Solver
from ....schedulers.solver.base import spans_of
from ....schedulers.solver.run import Denoise
from ....schedulers.split import Part, Stepped
from ..guidance_wire import warn_of_flow_steps
from . import places
from .masks import latent_mask

if TYPE_CHECKING:
    from .guider import Guider

Callback = Callable[[int, Tensor, Tensor, int], None]


@dataclass(frozen=True)
class Sampler:
    """SAMPLER: a solver, a part of its run, or a run that shows its states."""

    solver: Solver | Part | Stepped

    def sample(
        self,
        guider: Guider,
        sigmas: list[float],
        noise: Tensor,
        latent: Tensor,
        callback: Callback | None,
        seed: int,
    ) -> Tensor:
        schedule = guider.model.schedule
        if len(sigmas) > 1 or not isinstance(
            self.solver, Part
        ):  # a Keep State may stop where it began
            require_latent(schedule.path, sigmas)
        top = Points(schedule.path, (schedule.kappa_max,)).sigmas()[0]
        warn_of_flow_steps(isinstance(schedule.path.host, Flow), sigmas, lambda: top)
        from_pure_noise = sigmas[0] > top or math.isclose(sigmas[0], top, rel_tol=1e-5)
        noise, latent = (t.to(places.device(), torch.float32) for t in (noise, latent))
        x = noised(schedule.path, sigmas[0], latent, noise, from_pure_noise)

        def report(p: Progress) -> None:
            if callback is not None:
                callback(p.step, p.denoised, p.x, p.steps)

        path = schedule.path
        with torch.no_grad():
            plain, several = guider.denoisers(len(x))
            solver, denoise = masked(self.solver, plain, path, guider.mask, latent, noise, seed)
            together = several if denoise is plain else partial(guider.apart, denoise, batch=len(x))
            if isinstance(solver, Solver):
                with solver.watching(guider.model.inner) as ready:
                    draws = draws_of(seed, spans_of(solver, path, sigmas))
                    error = RunError.of(ready, path, sigmas, usual_std(schedule))
                    run = Run(error.watching(denoise), draws, report, several=together)
                    out = sample(ready, path, run, x, sigmas)
                assert guider.run is not None
                guider.run.error = error.facts()
            else:
                start = solver.begin(
                    path, x, sigmas, seed, bool(noise.any()), images=images_of(seed)
                )
                assert guider.run is not None
                guider.run.go_on(start.sigmas, start.memory)
                run = Run(denoise, start.draws(solver.solver, path), report, several=together)
                out = solver.run(start, path, run, sigmas, guider.run.remembered)
        alpha = path.host.on(sigmas[-1]).alpha  # a flow LATENT is x/α
        return (out if alpha == 1 else out / alpha).cpu()


def masked(
    solver: Solver | Part | Stepped, denoise: Denoise, path: Path, mask: Tensor | None, latent: Tensor, noise: Tensor,
    seed: int,
) -> tuple[Solver | Part | Stepped, Denoise]:  # fmt: skip
    """Solver and D(x, σ) of a run whose LATENT has a noise mask; as they are where it has none.

    Raises ValueError for a solver that needs a mask and has none, and for a part of a run.
    """
    inner = solver if isinstance(solver, Solver) else solver.solver
    if mask is None:
        if isinstance(inner, Inpainting):
            raise ValueError(
                f"latent_image: {inner.title} needs a noise mask, 1 where the picture is made anew: put Set Latent Noise "
                "Mask before the sampler node, or take the solver itself"
            )
        return solver, denoise
    if isinstance(solver, Part):
        raise ValueError(
            "latent_image: a run in parts with a noise mask is supported inside ComfyUI only"
        )
    added = noise if noise.any() else noise_beside(seed, noise)
    fits = latent_mask(mask, tuple(latent.shape)).to(latent)
    kept = KeptPart(latent, added, fits)
    if not isinstance(inner, Inpainting):
        return solver, plainly(denoise, kept, path)
    inner = inner.keeping(kept)
    return (inner if isinstance(solver, Solver) else replace(solver, solver=inner)), denoise


def make_sampler(solver: Solver | Part | Stepped) -> Sampler:
    return Sampler(solver)


def solver_of(sampler: Any) -> Solver | Part | Stepped | None:
    """What :func:`make_sampler` was given; None for any other SAMPLER."""
    return sampler.solver if isinstance(sampler, Sampler) else None
