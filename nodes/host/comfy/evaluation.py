"""A native MODEL evaluated outside a run: its raw output, and D in its own latent space."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import comfy.model_management
import comfy.samplers
import torch
from torch import Tensor

from ....schedulers.measure import Evaluate
from .model import state_for

if TYPE_CHECKING:
    from ..conditioning import Conditioning

T = TypeVar("T")

CFG_HOOKS = ("sampler_cfg_function", "sampler_pre_cfg_function", "sampler_post_cfg_function")


def raw_output(model: Any) -> Any:
    """A clone whose "denoised" is the network's output itself, for states at the same σ."""
    clone = model.clone()
    sampling = copy.copy(model.get_model_object("model_sampling"))
    raw = {"calculate_denoised": lambda self, sigma, output, x: output}
    sampling.__class__ = type("SamplingKitRawOutput", (type(sampling),), raw)
    clone.add_object_patch("model_sampling", sampling)
    for hook in CFG_HOOKS:
        clone.model_options.pop(hook, None)
    return clone


class Look:
    """SAMPLER that only looks: calls ``look(x0, D)`` while the model is loaded."""

    def __init__(self, look: Callable[[Tensor, Evaluate], Any]) -> None:
        self.look = look
        self.found: Any = None

    def sample(
        self, model_wrap: Any, sigmas: Tensor, extra_args: dict[str, Any], callback: Any, noise: Tensor,
        latent_image: Tensor, denoise_mask: Any = None, disable_pbar: bool = False,
    ) -> Tensor:  # fmt: skip
        sampling = model_wrap.inner_model.model_sampling

        def denoise(x: Tensor, sigma: float) -> Tensor:
            comfy.model_management.throw_exception_if_processing_interrupted()
            x = state_for(sampling, x, sigma)
            return model_wrap(x, x.new_full((len(x),), sigma), **extra_args)

        self.found = self.look(latent_image, denoise)
        return latent_image


def model_of(value: Any) -> Any:
    """The MODEL of a GUIDER; anything else as it is."""
    return value.model_patcher if isinstance(value, comfy.samplers.CFGGuider) else value


def probe(
    model: Any, positive: Conditioning | None, latent: dict[str, Any], look: Callable[[Tensor, Evaluate], T]
) -> T:  # fmt: skip
    """``look(x0, D)`` with the MODEL loaded: x0 the latent in the model's own space, D under ``positive``,
    or a GUIDER's in place of the MODEL."""
    samples = latent["samples"]
    noise = (
        samples.__class__([torch.zeros_like(t) for t in samples.unbind()])
        if samples.is_nested
        else torch.zeros_like(samples)
    )
    looking = Look(look)
    if isinstance(model, comfy.samplers.CFGGuider):
        guider = copy.copy(model)
    else:
        guider = comfy.samplers.CFGGuider(model)
        guider.inner_set_conds({"positive": positive if positive is not None else [[None, {}]]})
    top = float(model_of(model).get_model_object("model_sampling").sigma_max)
    guider.sample(noise, samples, looking, torch.tensor([top, 0.0]), disable_pbar=True, seed=0)
    return looking.found
