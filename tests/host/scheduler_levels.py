"""ComfyUI's schedulers beside the spacings that the menu "Convert to Sampling Kit Sample" takes for them."""

from __future__ import annotations

import importlib
from typing import Any

import native_models as native
from comfy_extras import nodes_custom_sampler as core
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


def offered() -> dict[str, Any]:
    """KSampler's lists before and after ours are added, and how far a run by such a name is from the node's."""
    samplers = native.comfy.samplers
    before = [list(samplers.KSAMPLER_NAMES), list(samplers.SAMPLER_NAMES)]
    pack = nodes.NODE_CLASS_MAPPINGS["SamplingKitSample"].__module__.rpartition(".nodes.")[0]
    module = importlib.import_module(f"{pack}.nodes.host.comfy.offered")
    count = module.offer()
    assert module.offer() == count  # a second time adds nothing
    after = [list(samplers.KSAMPLER_NAMES), list(samplers.SAMPLER_NAMES)]
    gaps = {}
    for name, node in (
        ("dpmpp_2m", "DPMSolverMultistep"),
        ("euler", "Euler"),
        ("euler_a", "EulerAncestral"),
    ):
        model, image = native.native("EPS"), native.latent(1, 4, 8, 8)
        sigmas, guider = native.steps(model, 5), native.guide(model)
        theirs, ours = (
            core.SamplerCustomAdvanced.execute(native.kit("PerImageNoise", seed=3), guider, sampler, sigmas, image).args[0]["samples"]
            for sampler in (samplers.sampler_object(f"sampling_kit_{name}"), native.kit(node))
        )  # fmt: skip
        gaps[name] = float((theirs - ours).abs().max())
    added = [new[len(old) :] for old, new in zip(before, after, strict=True)]
    return {
        "kept": [new[: len(old)] == old for old, new in zip(before, after, strict=True)],
        "added": [sorted(names) == sorted(module.names()) for names in added],
        "gaps": gaps,
    }


def menu() -> dict[str, Any]:
    inputs = nodes.NODE_CLASS_MAPPINGS["SamplingKitSample"].INPUT_TYPES()
    return {**inputs["required"], **inputs.get("optional", {})}["solver"][1]["sampling_kit"]


def gap(model: Any, theirs: str, ours: str, count: int, denoise: float) -> float:
    sampling = model.get_model_object("model_sampling")
    whole = native.comfy.samplers.calculate_sigmas(sampling, theirs, int(count / denoise))
    core, kit = whole[-(count + 1) :], native.steps(model, count, ours, denoise=denoise)
    return float(((core - kit).abs() / core.clamp(min=1e-6)).max())
