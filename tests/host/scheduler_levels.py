"""ComfyUI's schedulers beside the spacings that the menu "Convert to Sampling Kit Sample" takes for them."""

from __future__ import annotations

from typing import Any

import native_models as native
from comfy_extras import nodes_model_advanced as advanced

import nodes

RUNS = ((2, 1.0), (20, 1.0), (13, 0.6), (30, 0.45))


def schedulers() -> dict[str, float]:
    """{"theirs as ours": the most by which a level differs, as a share of it}, on Stable Diffusion's table and on flow."""
    flow = advanced.ModelSamplingSD3().patch(native.native("FLOW"), 3.0)[0]
    rows = menu()["spacings"].items()
    return {
        f"{theirs} as {ours}": max(
            gap(model, theirs, ours, *run) for model in (native.native("EPS"), flow) for run in RUNS
        )
        for theirs, ours in rows
    }


def menu() -> dict[str, Any]:
    inputs = nodes.NODE_CLASS_MAPPINGS["SamplingKitSample"].INPUT_TYPES()
    return {**inputs["required"], **inputs.get("optional", {})}["solver"][1]["sampling_kit"]


def gap(model: Any, theirs: str, ours: str, count: int, denoise: float) -> float:
    sampling = model.get_model_object("model_sampling")
    whole = native.comfy.samplers.calculate_sigmas(sampling, theirs, int(count / denoise))
    core, kit = whole[-(count + 1) :], native.steps(model, count, ours, denoise=denoise)
    return float(((core - kit).abs() / core.clamp(min=1e-6)).max())
