"""The host's part inside ComfyUI: native MODEL, GUIDER and SAMPLER.

Only this file and the others named ``_comfy_…`` import comfy.

Nothing of the host is patched or copied: a model is a BaseModel around a module, a guider a subclass
of CFGGuider, a sampler a KSAMPLER with our function. See DESIGN §5.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import comfy.latent_formats
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.model_sampling
import comfy.patcher_extension
import comfy.samplers
import comfy.supported_models_base
import comfy.utils
import folder_paths
import torch
from comfy_api.latest import ComfyExtension, io
from torch import Tensor, nn

from ..schedulers.denoiser import Denoiser
from ..schedulers.denoiser.wrap import call_in, input_scale
from ..schedulers.guidance import CFG, COND, UNCOND, Guidance, GuidanceRun
from ..schedulers.noise import PerImageNoise
from ..schedulers.noise_schedule import NoiseSchedule
from ..schedulers.path import VE, Flow
from ..schedulers.points import LARGEST_KAPPA
from ..schedulers.prediction import Prediction, usual
from ..schedulers.sample import require_latent, sample
from ..schedulers.solver import Progress, Solver
from ..schedulers.solver.plan import DrawNoise
from ..schedulers.split import Part
from ._comfy_model import (
    compute_choice,
    facts_of,
    in_dtype,
    noise_scale,
    probe,
    raw_output,
    relabelled,
    sampling_for,
    schedule_of,
    state_for,
    wants_vp,
)
from .conditioning import Conditioning, class_weights

__all__ = [
    "ABSOLUTE_FOLDERS",
    "ComfyExtension",
    "compute_choice",
    "facts_of",
    "folder",
    "in_dtype",
    "io",
    "loaded",
    "make_guider",
    "make_model",
    "make_sampler",
    "model_folders",
    "noise_scale",
    "patcher",
    "probe",
    "raw_output",
    "relabelled",
    "schedule_of",
    "set_device",
    "solver_of",
]

ms = comfy.model_sampling
ModelType = comfy.model_base.ModelType


def set_device(name: str) -> str:
    """ComfyUI chooses its own device."""
    raise RuntimeError("inside ComfyUI the device is set on ComfyUI's command line")


def folder(kind: str) -> Path:
    """ComfyUI's folder "input" or "output"."""
    return Path(folder_paths.get_directory_by_type(kind))


ABSOLUTE_FOLDERS = False  # workflows come from anywhere: only models folders may be opened


def model_folders(kind: str) -> list[Path]:
    """ComfyUI's folders for models of a kind."""
    return [Path(path) for path in folder_paths.get_folder_paths(kind)]


# ----------------------------------------------------------------- modules beside the MODEL: VAE, text


def patcher(module: nn.Module, kind: str, keep: bool = True) -> Any:
    """A ModelPatcher by which ComfyUI moves ``module`` as it moves its own "vae" or "text_encoder".

    Without ``keep`` the weights are gone (on the device "meta") once it is moved off its device, by /free
    or to make room. The module itself must live on: ComfyUI counts its models while it unloads them.
    """
    mm = comfy.model_management
    device, offload = getattr(mm, f"{kind}_device")(), getattr(mm, f"{kind}_offload_device")()
    made = comfy.model_patcher.ModelPatcher(module, load_device=device, offload_device=offload)
    if not keep:
        event = comfy.patcher_extension.CallbacksMP.ON_DETACH
        made.add_callback(event, lambda owner, whole: owner.model.to("meta") if whole else None)
    return made


@contextmanager
def loaded(patcher: Any, memory: int = 0) -> Iterator[torch.device]:
    """The module on its device, with room for ``memory`` bytes besides; yields the device."""
    mm = comfy.model_management
    mm.load_models_gpu([patcher], memory_required=memory, force_full_load=True)
    with mm.cuda_device_context(patcher.load_device):
        yield patcher.load_device


# ---------------------------------------------------------------------------- our MODEL, natively


class PixelSpace(comfy.latent_formats.LatentFormat):
    """Latents that are RGB pictures in [−1, 1]."""

    latent_channels = 3
    spacial_downscale_ratio = 1
    latent_rgb_factors: ClassVar = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]


class PixelModel(comfy.supported_models_base.BASE):
    """ComfyUI's configuration object for a model that we build ourselves."""

    latent_format = PixelSpace
    memory_usage_factor = 0.1


class FractionalTable(ms.ModelSamplingDiscrete):
    """A training table whose timesteps are interpolated instead of rounded, so that σ survives the trip."""

    def timestep(self, sigma: Tensor) -> Tensor:
        table = self.log_sigmas.to(sigma.device)
        at = sigma.float().log().clamp(table[0], table[-1])
        # zero terminal SNR: the steps' stand-in for infinity may be smaller than the table's
        pure = (at > math.log(LARGEST_KAPPA) - 1e-5) & (at > table[-2])
        at = torch.where(pure, table[-1], at)
        high = torch.searchsorted(table, at).clamp(1, len(table) - 1)
        low, up = table[high - 1], table[high]
        return (high - 1) + (at - low) / (up - low)


class Network(nn.Module):
    """A denoiser in the clothes of a network: takes ComfyUI's input and time, returns the prediction.

    It computes in the dtype of its input.
    """

    dtype = torch.float32
    sampling_kit_casts = True

    def __init__(
        self, denoiser: Denoiser, prediction: Prediction, sigma_of: Callable[[Tensor], Tensor]
    ) -> None:
        super().__init__()
        self.denoiser, self.prediction, self.sigma_of = denoiser, prediction, sigma_of

    def forward(
        self, x: Tensor, timesteps: Tensor, context: Tensor | None = None, control: Any = None,
        transformer_options: Any = None, **kwargs: Any,
    ) -> Tensor:  # fmt: skip
        self.denoiser.to(x.device)
        dtype, host, sigma = x.dtype, self.denoiser.path, self.sigma_of(timesteps.float())
        level = sigma.reshape(-1, *(1,) * (x.ndim - 1))
        x = x.float() / input_scale(host, self.prediction, level)
        inputs = x, sigma, class_weights(context, self.denoiser.classes)
        if dtype == torch.float32:
            d = self.denoiser(*inputs)
        else:
            d = call_in(dtype, self.denoiser, *inputs)
        return self.prediction.write(d, x, host, sigma)


def _table() -> nn.Module:
    """The blank of VP and sub-VP: a table with interpolated timesteps."""

    class Sampling(FractionalTable, ms.EPS):
        pass

    return Sampling()


def make_model(
    build: Callable[[Any], Denoiser], schedule: NoiseSchedule, prediction: Prediction | None = None
) -> Any:
    """Native MODEL from ``build(path)`` → denoiser, outputting ``prediction`` (default: the usual one)."""
    prediction = prediction or usual(schedule.path)
    kind = {Flow: ModelType.FLOW, VE: ModelType.EDM}.get(type(schedule.path), ModelType.EPS)
    sampling = sampling_for(schedule, prediction, _table() if kind is ModelType.EPS else None)
    sigma_of = sampling.sigma  # except on flow, where it would shift what timestep() did not
    if kind is ModelType.FLOW:
        sigma_of = partial(torch.div, other=sampling.multiplier)
    config = PixelModel({"disable_unet_model_creation": True})
    offload = comfy.model_management.unet_offload_device()
    base = comfy.model_base.BaseModel(config, model_type=kind, device=offload)
    base.model_sampling = sampling
    denoiser = build(schedule.path.host)
    base.diffusion_model = Network(denoiser, prediction, sigma_of).eval().requires_grad_(False)
    return comfy.model_patcher.CoreModelPatcher(
        base, load_device=comfy.model_management.get_torch_device(), offload_device=offload
    )


# --------------------------------------------------------------------------------------- SAMPLER


def solve(
    model: Any, x: Tensor, sigmas: Tensor, extra_args: dict[str, Any] | None = None,
    callback: Any = None, disable: bool | None = None, *, solver: Solver | Part,
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
        return model(y, y.new_full((y.shape[0],), sigma), **extra)

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
            return sample(solver, path, denoise, x, levels, noise(seed), report, check)
        masked = extra.get("denoise_mask") is not None
        # under a mask the picture and its noise belong to the run: a later part has neither
        mine = {"picture": model.latent_image, "noise": model.noise} if masked else {}
        start = solver.begin(path, x, levels, seed, bool(model.noise.any()), mine)
        if masked and start.extra:
            model.latent_image, model.noise = start.extra["picture"], start.extra["noise"]
        return solver.run(start, path, denoise, levels, noise(start.seed), report, check)


def make_sampler(solver: Solver | Part) -> Any:
    """SAMPLER around a solver; masks, previews and noise scaling are KSAMPLER's."""
    return comfy.samplers.KSAMPLER(solve, {"solver": solver})


def solver_of(sampler: Any) -> Solver | Part | None:
    """What :func:`make_sampler` was given; None for any other SAMPLER."""
    if getattr(sampler, "sampler_function", None) is not solve:
        return None
    return sampler.extra_options["solver"]


# ---------------------------------------------------------------------------------------- GUIDER


class Guider(comfy.samplers.CFGGuider):
    """A guidance chain as GUIDER: all branches of a step in one call, the host's hooks respected."""

    names: ClassVar = {"positive": COND, "negative": UNCOND}
    run: GuidanceRun | None = None

    def set_guidance(self, guidance: Guidance) -> None:
        self.guidance, self.run = guidance, None
        self.scale = next((rule.scale for rule in guidance.rules if isinstance(rule, CFG)), 1.0)
        self.cfg = self.scale

    def guidance_now(self) -> Guidance:
        """The chain, with the CFG scale that the host may set for a step (CFG Override)."""
        if self.cfg == self.scale:
            return self.guidance
        rules = (
            replace(r, scale=self.cfg) if isinstance(r, CFG) else r for r in self.guidance.rules
        )
        return Guidance(tuple(rules))

    def sample(
        self, noise: Any, latent_image: Any, sampler: Any, sigmas: Tensor, *args: Any, **kwargs: Any
    ) -> Any:
        """CFGGuider's, with a new run of the guidance."""
        self.run = self.new_run(sigmas.tolist())
        return super().sample(noise, latent_image, sampler, sigmas, *args, **kwargs)

    def new_run(self, sigmas: list[float]) -> GuidanceRun:
        flow = isinstance(self.model_patcher.get_model_object("model_sampling"), ms.CONST)
        return self.guidance.begin(Flow() if flow else VE(), sigmas)

    def predict_noise(
        self, x: Tensor, timestep: Tensor, model_options: dict[str, Any] | None = None,
        seed: int | None = None, **kwargs: Any,
    ) -> Tensor:  # fmt: skip
        options = model_options or {}
        sigma = float(timestep.flatten()[0])
        run = self.run or self.new_run([])
        run.guidance = self.guidance_now()
        always = options.get("disable_cfg1_optimization", False)
        also = (UNCOND,) if always and self.conds.get("negative") is not None else ()
        here = run.ladder.at(sigma)
        weights = [r.weight(here) for r in run.guidance.rules if isinstance(r, CFG)]
        shared = {
            "sigma": timestep, "timestep": timestep, "input": x, "model": self.inner_model,
            "model_options": options, "cond_scale": weights[0] if weights else self.cfg,
        }  # fmt: skip

        def chosen(names: Collection[str]) -> list[Any]:
            return [self.conds.get(key) if n in names else None for key, n in self.names.items()]

        def evaluate(y: Tensor, level: float, names: Sequence[str]) -> dict[str, Tensor]:
            """All branches in one call, and the host's functions before CFG."""
            at = timestep if level == sigma else torch.full_like(timestep, level)
            conds, known = chosen(names), shared | {"sigma": at, "timestep": at, "input": y}
            if "sampler_calc_cond_batch_function" in options:
                preds = options["sampler_calc_cond_batch_function"](known | {"conds": conds})
            else:
                preds = comfy.samplers.calc_cond_batch(self.inner_model, conds, y, at, options)
            for fn in options.get("sampler_pre_cfg_function", []):
                preds = fn(known | {"conds": conds, "conds_out": preds})
            return dict(zip(self.names.values(), preds, strict=False))

        with run.scope(x, sigma) as y:
            preds = run.predict(y, sigma, evaluate, also)
            conds, cond = chosen(list(preds)), preds[COND]
            uncond = preds.get(UNCOND, torch.zeros_like(cond))  # what the host itself hands on
            named = {"cond_denoised": cond, "uncond_denoised": uncond}
            if "sampler_cfg_function" in options:
                ours = {
                    "cond": x - cond,
                    "uncond": x - uncond,
                    "input_cond": conds[0],
                    "input_uncond": conds[1],
                }
                d = x - options["sampler_cfg_function"](shared | named | ours)
            else:
                d = run.combine(y, sigma, preds, evaluate)
        for fn in options.get("sampler_post_cfg_function", []):
            d = fn(shared | named | {"denoised": d, "cond": conds[0], "uncond": conds[1]})
        return d


def make_guider(model: Any, conds: dict[str, Conditioning], guidance: Guidance) -> Guider:
    """GUIDER over a native MODEL from conditionings named as in ``guidance``."""
    guider = Guider(model)
    guider.inner_set_conds(
        {key: conds[name] for key, name in Guider.names.items() if name in conds}
    )
    guider.set_guidance(guidance)
    return guider
