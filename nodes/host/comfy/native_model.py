"""Our denoisers as native MODELs: a BaseModel around a module, nothing of the host patched or copied."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import comfy.latent_formats
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.model_sampling as ms
import comfy.supported_models_base
import torch
from torch import Tensor, nn

from ....schedulers.denoiser import Denoiser, latent
from ....schedulers.denoiser.wrap import call_in, input_scale
from ....schedulers.noise_schedule import NoiseSchedule
from ....schedulers.path import VE, Flow
from ....schedulers.points import LARGEST_KAPPA
from ....schedulers.prediction import Prediction, usual
from ..conditioning import class_weights
from .model import sampling_for

ModelType = comfy.model_base.ModelType


class PixelSpace(comfy.latent_formats.LatentFormat):
    """Latents that are RGB pictures in [−1, 1]."""

    latent_channels = 3
    spacial_downscale_ratio = 1
    latent_rgb_factors: ClassVar = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]


class BlockSpace(comfy.latent_formats.LatentFormat):
    """The latents of ``schedulers/denoiser/latent.py``; a preview shows the blocks' average colours."""

    latent_channels = latent.CHANNELS
    spacial_downscale_ratio = latent.RATIO
    latent_rgb_factors: ClassVar = [list(row) for row in latent.PREVIEW]


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


def model_type(schedule: NoiseSchedule) -> Any:
    """ComfyUI's kind of MODEL for the path of a schedule."""
    return {Flow: ModelType.FLOW, VE: ModelType.EDM}.get(type(schedule.path), ModelType.EPS)


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
    kind = model_type(schedule)
    sampling = sampling_for(schedule, prediction, _table() if kind is ModelType.EPS else None)
    sigma_of = sampling.sigma  # except on flow, where it would shift what timestep() did not
    if kind is ModelType.FLOW:
        sigma_of = partial(torch.div, other=sampling.multiplier)
    denoiser = build(schedule.path.host)
    config = PixelModel({"disable_unet_model_creation": True})
    if isinstance(denoiser, latent.InLatents):
        config.latent_format = BlockSpace()
    offload = comfy.model_management.unet_offload_device()
    base = comfy.model_base.BaseModel(config, model_type=kind, device=offload)
    base.model_sampling = sampling
    base.diffusion_model = Network(denoiser, prediction, sigma_of).eval().requires_grad_(False)
    return comfy.model_patcher.CoreModelPatcher(
        base, load_device=comfy.model_management.get_torch_device(), offload_device=offload
    )
