"""States of several noise levels in one call of a MODEL, where nothing in the way of it depends on the level."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import comfy.samplers
from torch import Tensor

from ....schedulers.several_levels import level_by_level

Several = Callable[[Tensor, tuple[float, ...]], Tensor]
#: What a condition may hold that goes by the level, or is for one state at a time.
BY_LEVEL = ("area", "mask", "timestep_start", "timestep_end", "control", "hooks", "gligen")
#: Functions in a MODEL's options that are handed one level.
FUNCTIONS = (
    "sampler_cfg_function", "sampler_pre_cfg_function", "sampler_post_cfg_function",
    "sampler_calc_cond_batch_function", "model_function_wrapper", "multigpu_clones",
)  # fmt: skip


def several_of(
    model: Any, extra: Mapping[str, Any], batch: int, denoise: Callable[[Tensor, float], Tensor],
    ready: Callable[[Tensor, float], Tensor],
) -> Several | None:  # fmt: skip
    """D of states at several levels, level by level (``Run.several``), of our Guider; None for another's.

    ``model`` and ``extra`` are what the host hands a SAMPLER, ``batch`` the number of images, ready(x, σ) the state as
    the MODEL wants it. One call, or a call of ``denoise`` for each level where something goes by it.
    """
    guider: Any = getattr(model, "inner_model", None)
    options = extra.get("model_options", {})
    if not hasattr(guider, "predict_levels"):
        return None

    def apart(x: Tensor, levels: tuple[float, ...]) -> Tensor:
        out = level_by_level(denoise, x, levels, batch)
        guider.run.require_no_memory()
        return out

    direct = type(model) is comfy.samplers.KSamplerX0Inpaint
    if not direct or extra.get("denoise_mask") is not None or by_level(options):
        return apart
    if not guider.same_at_levels(batch, BY_LEVEL):
        return apart

    def several(x: Tensor, levels: tuple[float, ...]) -> Tensor:
        y = level_by_level(ready, x, levels)
        d: Tensor = guider.predict_levels(y, levels, options, batch)
        return d

    return several


def by_level(options: Mapping[str, Any]) -> bool:
    """Whether a patch in a MODEL's options is told the level, or may ask for it."""
    inside = options.get("transformer_options", {})
    wrappers = [*inside.get("wrappers", {}).values(), *options.get("wrappers", {}).values()]
    patched = any(inside.get(name) for name in ("patches", "patches_replace", "callbacks"))
    override = "optimized_attention_override" in inside
    return patched or override or any(wrappers) or any(options.get(name) for name in FUNCTIONS)
