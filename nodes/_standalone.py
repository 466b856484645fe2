"""The host's part without ComfyUI: MODEL, GUIDER and SAMPLER that mean what ComfyUI's mean.

Only what the headless runner needs: a denoiser called directly, no weight patches, no memory
management. The duck types are ComfyUI's, so the stand-ins of its core nodes read the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..schedulers.denoiser import Denoiser
from ..schedulers.guidance import Guidance
from ..schedulers.noise import PerImageNoise
from ..schedulers.noise_schedule import NoiseSchedule
from ..schedulers.points import Points
from ..schedulers.sample import noised, require_latent, sample
from ..schedulers.solver import Progress, Solver
from ..schedulers.split import Part
from .conditioning import Conditioning, class_weights

Callback = Callable[[int, Tensor, Tensor, int], None]

_device = torch.device("cpu")


class ComfyExtension:
    """Base of the pack's extension object; only ComfyUI makes one."""


def set_device(name: str) -> str:
    """Choose where models run: cpu, cuda, mps or auto. Returns the choice; ValueError if absent."""
    global _device
    found = {
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    if name == "auto":
        name = next(n for n in ("cuda", "mps", "cpu") if found[n])
    if not found.get(name.split(":")[0], False):
        here = ", ".join(n for n, there in found.items() if there)
        raise ValueError(f"device {name!r} is not available here; found: {here}")
    _device = torch.device(name)
    return name


_folder: Callable[[str], Path] = Path  # here, until the runner says where


def set_folders(find: Callable[[str], Path]) -> None:
    """Say where the folders "input" and "output" of the run that is going on are."""
    global _folder
    _folder = find


def folder(kind: str) -> Path:
    """The folder "input" or "output" of the run that is going on."""
    return _folder(kind)


@dataclass(frozen=True)
class Model:
    """MODEL: a denoiser in the coordinates of ``schedule.path.host``, and its noise schedule."""

    denoiser: Denoiser
    schedule: NoiseSchedule


def make_model(build: Callable[[Any], Denoiser], schedule: NoiseSchedule) -> Model:
    """MODEL from ``build(path)`` → denoiser."""
    return Model(build(schedule.path.host).eval().requires_grad_(False), schedule)


def schedule_of(model: Any) -> NoiseSchedule:
    if not isinstance(model, Model):
        raise TypeError(f"expected a MODEL, got {type(model).__name__}")
    return model.schedule


class Guider:
    """GUIDER: conditionings by name and a guidance chain over a model."""

    def __init__(self, model: Model, conds: dict[str, Conditioning], guidance: Guidance) -> None:
        self.model, self.conds, self.guidance = model, conds, guidance

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
        if denoise_mask is not None:
            raise ValueError("a noise mask on the LATENT is supported inside ComfyUI only")
        if len(sigmas) == 0:
            return latent_image
        return sampler.sample(self, sigmas.tolist(), noise, latent_image, callback, seed or 0)

    def denoiser(self, batch: int) -> Callable[[Tensor, float], Tensor]:
        """D(x, σ) for a run of ``batch`` images, with the conditionings made ready once."""
        network = self.model.denoiser.to(_device)
        weights = {
            name: repeat_to(class_weights(cond[0][0], network.classes), batch)
            for name, cond in self.conds.items()
        }

        def denoise(x: Tensor, sigma: float) -> Tensor:
            names = self.guidance.branches(sigma)
            preds = {name: network(x, sigma, weights[name]) for name in sorted(names)}
            return self.guidance.combine(x, sigma, preds)

        return denoise


def repeat_to(rows: Tensor | None, batch: int) -> Tensor | None:
    """Rows [B, K] repeated or cut to ``batch``, as ComfyUI does with conditionings."""
    if rows is None:
        return None
    return rows.repeat(-(-batch // len(rows)), 1)[:batch].to(_device)


@dataclass(frozen=True)
class Sampler:
    """SAMPLER: a solver, or a part of its run."""

    solver: Solver | Part

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
        require_latent(schedule.path, sigmas)
        top = Points(schedule.path, (schedule.kappa_max,)).sigmas()[0]
        from_pure_noise = sigmas[0] > top or math.isclose(sigmas[0], top, rel_tol=1e-5)
        noise, latent = (t.to(_device, torch.float32) for t in (noise, latent))
        x = noised(schedule.path, sigmas[0], latent, noise, from_pure_noise)

        def report(p: Progress) -> None:
            if callback is not None:
                callback(p.step, p.denoised, p.x, p.steps)

        path, solver = schedule.path, self.solver
        with torch.inference_mode():
            denoise = guider.denoiser(len(x))
            if isinstance(solver, Solver):
                out = sample(solver, path, denoise, x, sigmas, PerImageNoise(seed), report)
            else:
                start = solver.begin(path, x, sigmas, seed, bool(noise.any()))
                draw = PerImageNoise(start.seed)
                out = solver.run(start, path, denoise, sigmas, draw, report)
        alpha = path.host.on(sigmas[-1]).alpha  # a flow LATENT is x/α
        return (out if alpha == 1 else out / alpha).cpu()


def make_sampler(solver: Solver | Part) -> Sampler:
    return Sampler(solver)


def solver_of(sampler: Any) -> Solver | Part | None:
    """What :func:`make_sampler` was given; None for any other SAMPLER."""
    return sampler.solver if isinstance(sampler, Sampler) else None


def make_guider(model: Any, conds: dict[str, Conditioning], guidance: Guidance) -> Guider:
    schedule_of(model)
    return Guider(model, conds, guidance)
