"""What other packs and newer hosts do to our wires, on exact networks. Run by ComfyUI's own Python, as
``native_models.py`` is; ``test_wires.py`` judges the JSON that it prints.
"""

from __future__ import annotations

import asyncio
import json
import sys
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))
import native_models as native  # first: it says where ComfyUI is, and that it must use the CPU  # isort: skip

import caches
from comfy_extras import nodes_custom_sampler as core
from inpainting_runs import inpainting
from reported_runs import reporting as reporting_of
from scheduler_levels import offered, schedulers

import nodes

KSAMPLER = native.comfy.samplers.KSAMPLER
RULES = (
    "CFG", "CFGPlusPlus", "APG", "CFGZeroStar", "TCFG", "FrequencyDecoupled", "MAMBOG", "RectifiedCFGPlusPlus",
)  # fmt: skip
STEPS = 6


def outputs(name: str, **inputs: Any) -> tuple[Any, ...]:
    return nodes.NODE_CLASS_MAPPINGS[f"SamplingKit{name}"].execute(**inputs).args


def guide(model: Any, rule: str, **knobs: Any) -> Any:
    return native.guide(model, negative=native.NEGATIVE, guidance=native.kit(rule, **knobs))


def run(guider: Any, sampler: Any, sigmas: Tensor, image: Any, noise: Any = None) -> Any:
    noise = noise or native.kit("PerImageNoise", seed=3)
    return core.SamplerCustomAdvanced.execute(noise, guider, sampler, sigmas, image).args[0]


def gap(a: Any, b: Any) -> float:
    return float((a["samples"] - b["samples"]).abs().max())


def silence() -> Any:
    return core.DisableNoise.execute().args[0]


def wrapped(sampler: Any, factor: float = 1.0) -> Any:
    """A pack's SAMPLER around another, as Detail Daemon's: it hands on ``inner_model`` and ``sigmas``, and may tell the
    model another level."""

    def function(model: Any, x: Tensor, sigmas: Tensor, *, inner: Any, **kwargs: Any) -> Tensor:
        def told(x: Tensor, sigma: Tensor, **extra: Any) -> Tensor:
            return model(x, sigma * factor, **extra)

        for name in ("inner_model", "sigmas"):
            if hasattr(model, name):
                setattr(told, name, getattr(model, name))
        return inner.sampler_function(told, x, sigmas, **kwargs, **inner.extra_options)

    return KSAMPLER(function, {"inner": sampler}, sampler.inpaint_options)


# ----------------------------------------------------------------------------------- measurements


def memory() -> dict[str, list[float]]:
    """{rule, solver, kind: distance of a run in two parts, and of one replayed, from the run in one go}."""
    found, image = {}, native.latent(2, 4, 8, 8)
    for kind in ("EPS", "FLOW"):
        model = native.native(kind)
        sigmas = native.steps(model, STEPS, "trailing")
        high, low = core.SplitSigmas.execute(sigmas, 3).args
        for rule in RULES:
            for solver in ("Euler", "UniPC", "SASolver"):
                sampler = native.kit(solver)
                whole = run(guide(model, rule), sampler, sigmas, image)
                keep, state = outputs("KeepState", sampler=sampler, sigmas=sigmas)
                half = run(guide(model, rule), keep, high, image)
                resume = outputs("ResumeState", sampler=sampler, state=state)[0]
                end = run(guide(model, rule), resume, low, half, silence())
                taped, trace = outputs("Trace", sampler=sampler, memory=64)[:2]
                again = run(guide(model, rule), taped, sigmas, image)
                played, levels, start = outputs("Replay", trace=trace, latent=image, step=3)
                replayed = run(guide(model, rule), played, levels, start, silence())
                found[f"{rule} {solver} {kind}"] = [
                    gap(end, whole),
                    gap(again, whole),
                    gap(replayed, whole),
                ]
    return found


def levels() -> dict[str, list[int]]:
    """How many levels a patch of the MODEL and a mask function see in each part of a run."""
    seen: dict[str, list[int]] = {"patch": [], "mask": []}
    model = native.native("FLOW")

    def wrapper(apply: Any, args: dict[str, Any]) -> Tensor:
        seen["patch"].append(len(args["c"]["transformer_options"]["sample_sigmas"]))
        return apply(args["input"], args["timestep"], **args["c"])

    def mask_at(sigma: Tensor, mask: Tensor, extra_options: dict[str, Any]) -> Tensor:
        seen["mask"].append(len(extra_options["sigmas"]))
        return mask

    model.set_model_unet_function_wrapper(wrapper)
    model.set_model_denoise_mask_function(mask_at)
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., 4:] = 1
    image = native.latent(1, 4, 8, 8, fill=0.4) | {"noise_mask": mask}
    sampler = native.kit("Euler")
    sigmas = native.steps(model, STEPS, denoise=0.6)
    high, low = core.SplitSigmas.execute(sigmas, 3).args
    keep, state = outputs("KeepState", sampler=sampler, sigmas=sigmas)
    half = run(native.guide(model), keep, high, image)
    resume = outputs("ResumeState", sampler=sampler, state=state)[0]
    run(native.guide(model), resume, low, half, silence())
    return {name: sorted(set(counts)) for name, counts in seen.items()}


def one_of_a_batch() -> dict[str, list[float]]:
    """{solver on kind: distance of the third image alone, and finished alone, from the batch's third}."""
    found = {}
    for kind in ("EPS", "FLOW"):
        model = native.native(kind)
        sigmas = native.steps(model, STEPS)
        high, low = core.SplitSigmas.execute(sigmas, 3).args
        image = native.latent(4, 4, 8, 8)
        third = {"samples": image["samples"][2:3], "batch_index": [2]}
        for name, knobs in (("EulerAncestral", {}), ("SASolver", {}), ("DPMSolver", {"eta": 1.0})):
            sampler = native.kit(name, **knobs)
            whole = run(native.guide(model), sampler, sigmas, image)["samples"][2:3]
            alone = run(native.guide(model), sampler, sigmas, third)
            keep, state = outputs("KeepState", sampler=sampler, sigmas=sigmas)
            drafts = run(native.guide(model), keep, high, image)
            draft = {"samples": drafts["samples"][2:3], "batch_index": [2]}
            resume = outputs("ResumeState", sampler=sampler, state=state)[0]
            end = run(native.guide(model), resume, low, draft, silence())
            found[f"{name} on {kind}"] = [gap(x, {"samples": whole}) for x in (alone, end)]
    return found


def picked_drafts() -> list[float]:
    """Distance of two picked drafts from their full runs, by a rule that remembers and a solver that draws."""
    model, image = native.native("FLOW"), native.latent(4, 4, 8, 8)
    sigmas, sampler = native.steps(model, STEPS), native.kit("SASolver")
    high, low = core.SplitSigmas.execute(sigmas, 3).args
    guider = guide(model, "APG", momentum=-0.5)
    whole = run(guider, sampler, sigmas, image)["samples"]
    keep, state = outputs("KeepState", sampler=sampler, sigmas=sigmas)
    drafts = run(guider, keep, high, image)
    some, latent = outputs("PickDrafts", state=state, latent=drafts, numbers="4, 2")
    end = run(
        guider, outputs("ResumeState", sampler=sampler, state=some)[0], low, latent, silence()
    )
    waits = outputs("PickDrafts", state=state, latent=drafts, numbers="")[0]
    return [gap(end, {"samples": whole[[3, 1]]}), float(waits.message is not None)]


def nesting() -> dict[str, Any]:
    """A pack's SAMPLER around each of ours, and Trace around the pack's: distance from the bare run."""
    model, image = native.native("FLOW"), native.latent(1, 4, 8, 8)
    sigmas = native.steps(model, STEPS)
    high, low = core.SplitSigmas.execute(sigmas, 3).args
    sampler = native.kit("SASolver")
    whole = run(native.guide(model), sampler, sigmas, image)
    keep, state = outputs("KeepState", sampler=sampler, sigmas=sigmas)
    taped, trace = outputs("Trace", sampler=sampler, memory=64)[:2]
    outside, _ = outputs("Trace", sampler=wrapped(sampler), memory=64)[:2]
    half = run(native.guide(model), wrapped(keep), high, image)
    resume = outputs("ResumeState", sampler=sampler, state=state)[0]
    end = run(native.guide(model), wrapped(resume), low, half, silence())
    distances = {
        "solver": gap(run(native.guide(model), wrapped(sampler), sigmas, image), whole),
        "state": gap(end, whole),
        "trace inside": gap(run(native.guide(model), wrapped(taped), sigmas, image), whole),
        "trace outside": gap(run(native.guide(model), outside, sigmas, image), whole),
        "core inside": 0.0,
    }
    euler = native.comfy.samplers.sampler_object("euler")
    bare = run(native.guide(model), euler, sigmas, image)
    seen, _ = outputs("Trace", sampler=euler, memory=64)[:2]
    distances["core inside"] = gap(run(native.guide(model), wrapped(seen), sigmas, image), bare)
    steps = len(trace.get("test").steps)
    order = native.message(lambda: outputs("KeepState", sampler=taped, sigmas=sigmas))
    parts = {
        name: all(hasattr(s, a) for a in ("sampler_function", "extra_options", "inpaint_options"))
        for name, s in (("keep", keep), ("resume", resume), ("trace", taped), ("solver", sampler))
    }
    return {"distances": distances, "steps": steps, "order": order, "parts": parts}


#: Settings in which every rule is as strong as CFG at 4; CFG++'s strength is read off its steps.
AS_FOUR: dict[str, dict[str, float]] = {
    "CFGPlusPlus": {"scale": 0.6},
    "FrequencyDecoupled": {"scale": 4.0, "low": 4.0},
    "RectifiedCFGPlusPlus": {"scale": 3.0},
}


def reported_levels() -> dict[str, float]:
    """{rule on kind and factor: largest ‖D(reported) − D‖ over a run, as a share of CFG's at the same weight}."""
    found = {}
    for kind in ("EPS", "FLOW", "EDM"):
        model, image = native.native(kind), native.latent(1, 4, 8, 8)
        sigmas = native.steps(model, 20, "trailing" if kind == "FLOW" else "karras")
        for factor in (0.8, 1.2):
            moved = partial(moved_by, model, sigmas, image, factor)
            one, four = moved("CFG", scale=1.0), moved("CFG", scale=4.0)
            for rule in RULES[1:]:
                off = moved(rule, **AS_FOUR.get(rule, {"scale": 4.0}))
                weights = [4.0] * len(off)
                if rule == "CFGPlusPlus":
                    weights = [0.6 / share for share in shares(sigmas, kind == "FLOW")]
                cfg = [
                    a + (w - 1) / 3 * (b - a) for a, b, w in zip(one, four, weights, strict=True)
                ]
                least = 0.05 * max(float(c.norm()) for c in cfg)
                found[f"{rule} on {kind}, {factor}"] = max(
                    float(a.norm()) / max(float(c.norm()), least)
                    for a, c in zip(off, cfg, strict=True)
                )
    return found


def moved_by(
    model: Any, sigmas: Tensor, image: Any, factor: float, rule: str, **knobs: float
) -> list[Tensor]:
    """D(reported) − D at every level."""
    guider = guide(model, rule, **knobs)
    right, off = (predictions(guider, sigmas, image, f) for f in (1.0, factor))
    return [b - a for a, b in zip(right, off, strict=True)]


def shares(sigmas: Tensor, flow: bool) -> list[float]:
    """1 − κ'/κ of every step."""
    kappas = [
        float(s / (1 - s)) if flow and s < 1 else float("inf") if flow else float(s) for s in sigmas
    ]
    return [1 - b / a for a, b in pairwise(kappas)]


def predictions(guider: Any, sigmas: Tensor, image: Any, factor: float) -> list[Tensor]:
    """D at every level of a run, at the states of a run without guidance, the level reported times ``factor``."""
    plain = native.guide(guider.model_patcher)
    states: list[tuple[Tensor, float]] = []

    def note(model: Any, x: Tensor, sigmas: Tensor, extra_args: Any = None, **_: Any) -> Tensor:
        sampler = native.kit("Euler")

        def told(x: Tensor, sigma: Tensor, **extra: Any) -> Tensor:
            states.append((x.clone(), float(sigma[0])))
            return model(x, sigma, **extra)

        told.inner_model = model.inner_model
        return sampler.sampler_function(
            told, x, sigmas, extra_args=extra_args, **sampler.extra_options
        )

    run(plain, KSAMPLER(note, {}, {}), sigmas, image)
    out: list[Tensor] = []
    standing = sys.modules[native.kit("Euler").sampler_function.__module__].standing_at

    def look(model: Any, x: Tensor, sigmas: Tensor, extra_args: Any = None, **_: Any) -> Tensor:
        for state, level in states:
            with standing(model.inner_model, level):
                told = state.new_full((1,), level * factor)
                out.append(model(state, told, **extra_args))
        return x

    run(guider, KSAMPLER(look, {}, {}), sigmas, image)
    return out


def scales() -> dict[str, list[float]]:
    """{rule: distance of cfg = 1 (CFG Override) from no guidance, of cfg = 9 from the rule's own, of the rule set to 9}."""
    model, image = native.native("FLOW"), native.latent(1, 4, 8, 8)
    sigmas, sampler = native.steps(model, STEPS, denoise=0.7), native.kit("Euler")
    plain = run(native.guide(model), sampler, sigmas, image)
    found = {}
    for rule in RULES:
        own = run(guide(model, rule), sampler, sigmas, image)
        ends = []
        for cfg in (1.0, 9.0):
            overridden = core.CFGOverride.execute(model, cfg, 0.0, 1.0).args[0]
            ends.append(run(guide(overridden, rule), sampler, sigmas, image))
        guider = guide(model, rule)
        guider.set_cfg(9.0)
        by_hand = run(guider, sampler, sigmas, image)
        found[rule] = [gap(ends[0], plain), gap(ends[1], own), gap(by_hand, ends[1])]
    lacking = native.guide(model, guidance=native.kit("CFG", scale=1.0))
    lacking.set_cfg(4.0)
    found["refused"] = [
        float("negative" in native.message(lambda: run(lacking, sampler, sigmas, image)))
    ]
    return found


def noise_samplers() -> dict[str, Any]:
    """What a pack's noise_sampler is asked for, whether it acts, and what is said where it cannot."""
    model, image = native.native("EPS"), native.latent(1, 4, 8, 8)
    sigmas, calls = native.steps(model, 4), []

    def sampler_of(solver: str, **knobs: Any) -> Any:
        sampler = native.kit(solver, **knobs)
        calls.clear()

        def draw(sigma: Tensor, sigma_next: Tensor) -> Tensor:
            calls.append((float(sigma), float(sigma_next)))
            return torch.zeros(1, 4, 8, 8)

        sampler.extra_options = {**sampler.extra_options, "noise_sampler": draw}
        return sampler

    ours = run(native.guide(model), native.kit("EulerAncestral"), sigmas, image)
    theirs = run(native.guide(model), sampler_of("EulerAncestral"), sigmas, image)
    asked = [
        pair == (float(a), float(b)) for pair, a, b in zip(calls, sigmas, sigmas[1:], strict=False)
    ]
    twice = native.message(
        lambda: run(native.guide(model), sampler_of("DPMSolver", eta=1.0), sigmas, image)
    )
    return {"acts": gap(ours, theirs), "asked": asked, "twice": twice}


def classes() -> dict[str, Any]:
    """Model sampling classes of other packs and newer hosts."""
    ms = native.comfy.model_sampling

    class Velocity(ms.CONST):  # IMG_TO_IMG_VELOCITY of 0.36
        def calculate_denoised(
            self, sigma: Tensor, model_output: Tensor, model_input: Tensor
        ) -> Tensor:
            return model_input - model_output

        def noise_scaling(
            self, sigma: Any, noise: Any, latent_image: Any, max_denoise: bool = False
        ) -> Any:
            return latent_image

    class Private(ms.ModelSamplingDiscreteFlow):
        def sigma(self, timestep: Tensor) -> Tensor:
            return super().sigma(timestep) ** 2

    def patched(*bases: type) -> Any:
        model = native.native("FLOW")
        clone = model.clone()
        clone.add_object_patch(
            "model_sampling", type("Patched", bases, {})(model.model.model_config)
        )
        return clone

    def schedule(*bases: type) -> str:
        return native.message(lambda: native.kit("NoiseScheduleFromModel", model=patched(*bases)))

    inspected = outputs("InspectDenoiser", model=clocked(1.0))[0]
    return {
        "velocity on flow": schedule(ms.ModelSamplingDiscreteFlow, Velocity),
        "velocity on a table": schedule(ms.ModelSamplingDiscrete, Velocity),
        "private": schedule(Private, ms.CONST),
        "flow": schedule(ms.ModelSamplingDiscreteFlow, ms.CONST),
        "clock": inspected,
        "same clock": outputs("InspectDenoiser", model=clocked(1000.0))[0],
    }


def clocked(multiplier: float) -> Any:
    """A flow MODEL whose clock somebody patched."""
    model = native.native("FLOW")
    clone, ms = model.clone(), native.comfy.model_sampling
    kind = type("Advanced", (ms.ModelSamplingDiscreteFlow, ms.CONST), {})
    sampling = kind(model.model.model_config)
    sampling.set_parameters(shift=3.0, multiplier=multiplier)
    clone.add_object_patch("model_sampling", sampling)
    return clone


def assignable() -> list[int]:
    """Packs set ``seed`` on a NOISE; another output of the node stays."""
    ours, other = native.kit("PerImageNoise", seed=1), native.kit("PerImageNoise", seed=1)
    ours.seed = 5
    return [ours.seed, other.seed]


def cached_noise() -> list[int]:
    """One NOISE of ComfyUI's cache in two nodes, of which the first sets its seed."""
    from comfy_execution.utils import CurrentNodeContext

    noise = native.kit("Noise", seed=1)
    with CurrentNodeContext("run", "1"):
        noise.seed = 5
        noise.generate_noise({"samples": torch.zeros(1, 4, 4, 4)})
        first = int(noise.seed)
    with CurrentNodeContext("run", "2"):
        return [first, int(noise.seed)]


def core_noise() -> dict[str, float]:
    """How far the torch CPU generator is from the core's RandomNoise."""
    kind = native.comfy.nested_tensor.NestedTensor
    batch, sound = torch.zeros(3, 4, 5, 7), torch.zeros(3, 8, 9)
    latents = {
        "batch": {"samples": batch},
        "some of it": {"samples": batch, "batch_index": [4, 0, 4]},
        "video": {"samples": torch.zeros(2, 4, 3, 5, 7)},
        "half": {"samples": batch.half()},
        "nested": {"samples": kind([batch, sound])},
    }
    ours = native.kit("Noise", seed=7, generator={"generator": "torch_cpu"})
    theirs = core.RandomNoise.execute(7).args[0]
    rows = {}
    for name, latent in latents.items():
        a, b = (noise.generate_noise(latent) for noise in (ours, theirs))
        each = zip(a.unbind(), b.unbind(), strict=True) if name == "nested" else [(a, b)]
        rows[name] = max(float((x - y).abs().max()) + (x.dtype != y.dtype) for x, y in each)
    return rows


def reporting() -> dict[str, float]:
    return reporting_of(RULES, wrapped)


CHECKS = (memory, levels, one_of_a_batch, picked_drafts, nesting, reported_levels, scales, noise_samplers, classes, assignable, cached_noise, core_noise, caches.caches,
    caches.own_samplers, caches.cfg_functions, reporting, schedulers, inpainting, offered,
)  # fmt: skip


def main() -> None:
    torch.set_num_threads(1)
    native.comfy.utils.PROGRESS_BAR_ENABLED = False
    assert asyncio.run(nodes.load_custom_node(sys.argv[1])), "the pack did not load"
    with torch.inference_mode():
        chosen = [check for check in CHECKS if check.__name__ in sys.argv[2:]] or CHECKS
        print(json.dumps({check.__name__: check() for check in chosen}))


if __name__ == "__main__":
    main()
