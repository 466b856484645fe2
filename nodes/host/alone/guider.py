"""GUIDER without ComfyUI: conditionings by branch and a guidance chain over a model.

The duck types are ComfyUI's, so the stand-ins of its core nodes read the same.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ....schedulers.denoiser.diffusers import lead
from ....schedulers.guidance import COND, WEAK, Guidance, GuidanceRun
from ....schedulers.guidance.networks import BranchNetworks
from ....schedulers.several_levels import level_by_level
from ..conditioning import Conditioning
from ..guidance_wire import Holder, conclude, one_condition, placed
from . import places

if TYPE_CHECKING:
    from .models import Model
    from .sampler import Callback, Sampler


class Guider:
    """GUIDER: conditionings by branch and a guidance chain over a model, and the model of ``weak``."""

    holder: Holder | None = None
    run: GuidanceRun | None = None
    report: Callable[[float], float] | None = None  # what the model is told at σ
    mask: Tensor | None = None  # of the run: 1 where a picture is made anew

    def __init__(
        self, model: Model, conds: Mapping[str, Conditioning], guidance: Guidance,
        weak: Model | None = None, share_pure_noise: bool = False,
    ) -> None:  # fmt: skip
        self.model, self.conds, self.guidance = model, conds, guidance
        self.weak_model, self.share_pure_noise = weak, share_pure_noise

    def sample(
        self,
        noise: Tensor,
        latent_image: Tensor,
        sampler: Sampler,
        sigmas: Tensor,
        denoise_mask: Tensor | None = None,
        callback: Callback | None = None,
        disable_pbar: bool = False,
        seed: int | None = None,
    ) -> Tensor:
        """Sample from noise and latent_image [B, …] over SIGMAS; returns the final state, on the CPU."""
        self.mask = denoise_mask
        self.run = self.new_run(sigmas.tolist())
        if len(sigmas):
            latent_image = self._sample(
                noise, latent_image, sampler, sigmas, callback, 0 if seed is None else seed
            )
        conclude(self.run, self.holder)
        return latent_image

    def _sample(
        self,
        noise: Tensor,
        latent: Tensor,
        sampler: Sampler,
        sigmas: Tensor,
        show: Callback | None,
        seed: int,
    ) -> Tensor:
        """From the LATENT wire to the denoiser's units and back."""
        latents, first = self.model.latents, lead.lead_of(self.model.inner, latent)

        def report(step: int, x0: Tensor, x: Tensor, total: int) -> None:
            if show is not None:
                show(step, latents.to_vae(lead.without(x0, first)), lead.without(x, first), total)

        start = self.model.latent_in(latent)
        if first:
            noise, start = lead.start(noise, start, first, seed)
        out = sampler.sample(self, sigmas.tolist(), noise, start, report, seed)
        return latents.to_vae(lead.without(out, first))

    def new_run(self, sigmas: Sequence[float]) -> GuidanceRun:
        share, probe = self.share_pure_noise, self.holder is not None
        path = self.model.schedule.path
        return self.guidance.begin(path, sigmas, share_pure_noise=share, probe=probe)

    def denoiser(self, batch: int) -> Callable[[Tensor, float], Tensor]:
        """D(x, σ) of the run for ``batch`` images, with the conditionings made ready once."""
        return self.denoisers(batch)[0]

    def denoisers(
        self, batch: int
    ) -> tuple[Callable[[Tensor, float], Tensor], Callable[[Tensor, tuple[float, ...]], Tensor]]:
        """:meth:`denoiser`, and D of states at several levels, level by level (see ``Run.several``)."""
        run = self.run or self.new_run([])
        branches = self.branches(batch)
        told = self.report or (lambda sigma: sigma)

        def evaluate(x: Tensor, sigma: float, names: Sequence[str]) -> dict[str, Tensor]:
            return branches(x, told(sigma), names, None)

        def every(x: Tensor, sigmas: Sequence[float], names: Sequence[str]) -> dict[str, Tensor]:
            levels = torch.tensor([told(sigma) for sigma in sigmas], dtype=x.dtype, device=x.device)
            sigma = levels.repeat_interleave(len(x) // len(sigmas))
            return branches(x, sigma, names, torch.arange(len(x)) % batch)

        def several(x: Tensor, sigmas: tuple[float, ...]) -> Tensor:
            if run.together(sigmas):
                return run.several(x, sigmas, evaluate, every, batch)
            return self.apart(denoise, x, sigmas, batch)

        def denoise(x: Tensor, sigma: float) -> Tensor:
            if not run.records:
                run.guidance = placed(self.guidance, x)
            return run(x, sigma, evaluate)

        return denoise, several

    def apart(
        self, denoise: Callable[[Tensor, float], Tensor], x: Tensor, sigmas: Sequence[float], batch: int = 0
    ) -> Tensor:  # fmt: skip
        """D of states at several levels by a call of ``denoise`` for each."""
        out = level_by_level(denoise, x, sigmas, batch)
        if self.run is not None:
            self.run.require_no_memory()
        return out

    def branches(
        self, batch: int | None
    ) -> Callable[[Tensor, float | Tensor, Sequence[str], Tensor | None], dict[str, Tensor]]:
        """D(x, σ) by branch, with the conditionings made ready once, for ``batch`` images; or, with
        rows, image i with row rows[i] of every conditioning, counted around."""
        models = {COND: self.model}
        if self.weak_model is not None:
            models[WEAK] = self.weak_model
        networks = {name: model.denoiser.to(places.device()) for name, model in models.items()}
        self.refuse_perturbations()
        evaluate = BranchNetworks(networks, places.in_parts)

        def condition(branch: str) -> Any:
            model, cond = models.get(branch, self.model), self.conds.get(branch)
            return model.condition(branch, self.conds[COND] if cond is None else cond, batch)

        conditions = {name: condition(name) for name in {*self.conds, *models}}

        def for_images(name: str, count: int, rows: Tensor | None) -> Any:
            if rows is not None:
                return picked(conditions[name], rows)
            if batch is not None and count < batch:
                return shared(conditions[name], count, name)
            return conditions[name]

        def predictions(
            x: Tensor, sigma: float | Tensor, names: Sequence[str], rows: Tensor | None
        ) -> dict[str, Tensor]:
            return evaluate(x, sigma, {name: for_images(name, len(x), rows) for name in names})

        return predictions

    def refuse_perturbations(self) -> None:
        """Raises ValueError if the chain perturbs attention or blocks: no model here has any."""
        for rule in self.guidance.rules:
            if rule.perturbations or rule.beside:
                raise ValueError(
                    f"{rule.title}: not possible with this MODEL ({type(self.model.inner).__name__}), which has no "
                    "attention layers or blocks to change"
                )


def shared(given: Any, count: int, name: str) -> Any:
    """The first ``count`` rows of a condition (a tensor, tensors by name or None) that all images share."""
    if given is None:
        return None
    if isinstance(given, dict):
        return {key: shared(value, count, f"{name}'s {key}") for key, value in given.items()}
    one_condition(given, name)
    return given[:count]


def picked(given: Any, rows: Tensor) -> Any:
    """Rows of a condition (a tensor, tensors by name or None), counted around."""
    if isinstance(given, dict):
        return {key: picked(value, rows) for key, value in given.items()}
    return given if given is None else given[(rows % len(given)).to(given.device)]


def probed(guider: Any, holder: Holder | None) -> Guider:
    """The same guider without a run, which puts the report of every run into ``holder``."""
    if not isinstance(guider, Guider):
        raise TypeError(
            f"guider: connect a Guider of the Sampling Kit, not a {type(guider).__name__}"
        )
    copied = copy.copy(guider)
    copied.holder, copied.run = holder, None
    return copied
