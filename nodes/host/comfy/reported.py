"""A SAMPLER around any SAMPLER whose model is told other noise levels, inside ComfyUI."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import comfy.samplers
from torch import Tensor

from ..trace_watch import StandIn
from .missing import needed_by
from .sampler import standing_at
from .step_level import level_of, noted


def standing_once(guider: Any, level: float) -> AbstractContextManager[None]:
    """Calls of our Guider in here are for a state at ``level``, unless somebody outside has said another."""
    said = getattr(guider, "state_level", None) is not None
    return nullcontext() if said else standing_at(guider, level)


class Told(StandIn):
    """A guider whose model is told ``report(σ)``; its rules take σ itself."""

    def __init__(self, guider: Any, report: Callable[[float], float]) -> None:
        super().__init__(guider)
        object.__setattr__(self, "_report", report)

    def __call__(self, x: Tensor, sigma: Tensor, *args: Any, **more: Any) -> Any:
        level = level_of(sigma)
        told = self._report(level)
        with standing_once(self._real, level):
            return self._real(x, noted(sigma.new_full(sigma.shape, told), told), *args, **more)


class Reported(comfy.samplers.KSAMPLER):
    """The SAMPLER ``inner`` with ``report`` between it and the model. As every SAMPLER of ours it has
    ``sampler_function`` and ``extra_options``, which packs that wrap a SAMPLER call."""

    def __init__(self, inner: Any, report: Callable[[float], float]) -> None:
        if not hasattr(inner, "sampler_function"):
            raise ValueError(
                f"sampler: a {type(inner).__name__} has no sampler function that Reported Level could call; connect a solver "
                "of the Sampling Kit, KSamplerSelect, or a wrapper of one"
            )
        options = getattr(inner, "inpaint_options", {})
        super().__init__(reported_function, {"inner": inner, "report": report}, options)
        self.inner = inner

    def max_denoise(self, model_wrap: Any, sigmas: Tensor) -> bool:
        return bool(self.inner.max_denoise(model_wrap, sigmas))


@needed_by("Reported Level")
def reported_function(
    model: Any, x: Tensor, sigmas: Tensor, extra_args: dict[str, Any] | None = None, callback: Any = None,
    disable: bool | None = None, *, inner: Any, report: Callable[[float], float], **options: Any,
) -> Tensor:  # fmt: skip
    """A k-diffusion style sampler function. What stands under a mask keeps the noise of σ: the report comes after it."""
    if isinstance(model, comfy.samplers.KSamplerX0Inpaint):
        inside = copy.copy(model)
        inside.inner_model = Told(model.inner_model, report)
    else:
        inside = Around(model, report)
    out: Tensor = inner.sampler_function(
        inside, x, sigmas, extra_args=extra_args, callback=callback, disable=disable, **inner.extra_options, **options
    )  # fmt: skip
    return out


class Around(StandIn):
    """Another pack's wrapper of a model, told ``report(σ)``; the rules of the guider inside take σ itself."""

    def __init__(self, model: Any, report: Callable[[float], float]) -> None:
        super().__init__(model)
        object.__setattr__(self, "_report", report)

    def __call__(self, x: Tensor, sigma: Tensor, *args: Any, **more: Any) -> Any:
        level = level_of(sigma)
        told = self._report(level)
        with standing_once(self._real.inner_model, level):
            return self._real(x, noted(sigma.new_full(sigma.shape, told), told), *args, **more)


def reported(sampler: Any, report: Callable[[float], float]) -> Reported:
    """SAMPLER that does what ``sampler`` does, with the model told ``report(σ)`` at σ."""
    return Reported(sampler, report)
