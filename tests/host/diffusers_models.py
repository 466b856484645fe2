"""Folders of tiny diffusers networks as native MODELs. Run by ComfyUI's own Python.

    cd ComfyUI && .venv/bin/python …/diffusers_models.py PACK FOLDER

Writes the folders below FOLDER and prints one JSON object of measurements; ``test_diffusers_models.py``
says which of them are right.
"""

# ruff: noqa: I001  (native_models comes first: it says where ComfyUI is)

from __future__ import annotations

import asyncio
import importlib
import itertools
import json
import sys
from pathlib import Path
from typing import Any

import native_models as n
import comfy.sample
import comfy.sd
import folder_paths
import latent_preview
import torch
from comfy_extras import nodes_model_advanced as advanced
from torch import Tensor

import nodes

sys.path += [str(folder) for folder in Path(__file__).resolve().parents[:2]]
import diffusers_folders as tiny
from diffusers_native import (
    CFG,
    ROOT,
    call,
    condition,
    core,
    denoiser,
    empty,
    error,
    euler,
    folder,
    kit,
    ksampler,
    load,
    noise_of,
    ours,
    ours_by_engine,
    out_of,
    told,
)
from diffusers_weights import dtypes, freed, overflow, partly_loaded, patched

# ------------------------------------------------------------------------------------------ checks


def sampled() -> dict[str, list[float]]:
    """name → how far KSampler and SamplerCustomAdvanced are from the engine's own runs, and σ_max."""
    found = {}
    for name in tiny.TINY:
        model, schedule, _ = kit("LoadDiffusersDenoiser", folder=folder(name))
        network = denoiser(name)
        found[name] = [
            error(ksampler(model, name), euler(name, model, network)),
            error(ours(name, model, schedule), ours_by_engine(name, schedule, network)),
            float(model.get_model_object("model_sampling").sigma_max),
        ]
    return found


def previewed() -> dict[str, Any]:
    """name → what the previewer makes of x0, None without one."""
    latent_preview.set_preview_method("latent2rgb")
    found: dict[str, Any] = {}
    for name in ("sd", "ddpm", "cogvideox-5b"):
        model, seen = load(name), []
        previewer = latent_preview.get_previewer(n.CPU, model.model.latent_format)

        def look(step: int, x0: Tensor, x: Tensor, total: int, to=previewer, seen=seen) -> None:
            if to is not None:
                seen.append(to.decode_latent_to_preview_image("JPEG", x0)[1].size)

        positive, negative = condition(name)[1], condition(name, 2)[1]
        comfy.sample.sample(
            model, noise_of(name), 2, CFG, "euler", "normal", positive, negative, empty(name)["samples"], callback=look
        )  # fmt: skip
        found[name] = seen if previewer is not None else None
    latent_preview.set_preview_method("none")
    return found


def masked() -> dict[str, float]:
    """How far the part outside the mask moved, and the part inside it."""
    found = {}
    for name in ("sd", "sd3", "cogvideox-5b"):
        samples = noise_of(name, 5)
        mask = torch.zeros(1, 1, *samples.shape[-2:])
        mask[..., : samples.shape[-1] // 2] = 1
        out = ksampler(load(name), name, {"samples": samples, "noise_mask": mask})
        half = samples.shape[-1] // 2
        found[name] = [
            error(out[..., half:], samples[..., half:]),
            error(out[..., :half], samples[..., :half]),
        ]
    return found


def batched() -> dict[str, float]:
    """A batch of three against three single runs with the same noise."""
    found = {}
    for name in ("sd", "sd3", "flux", "cogvideox-5b", "dit", "pixart-alpha"):
        model, noise = load(name), noise_of(name, batch=3)
        rest = 2, CFG, "euler", "normal", condition(name)[1], condition(name, 2)[1]
        run = lambda z, m=model, r=rest: comfy.sample.sample(m, z, *r, torch.zeros_like(z))  # noqa: E731
        single = torch.cat([run(z) for z in noise.split(1)])
        found[name] = error(run(noise), single)
    return found


def conditioned() -> dict[str, Any]:
    """The core's conditioning nodes, and our class nodes."""
    sd, flux, dit = load("sd"), load("flux"), load("dit")
    positive, other = condition("sd")[1], condition("sd", 5)[1]
    average = core["ConditioningAverage"]().addWeighted(positive, other, 0.25)[0]
    mixed = [[0.25 * positive[0][0] + 0.75 * other[0][0], {}]]
    area = core["ConditioningSetArea"]().append(other, 64, 64, 0, 0, 1.0)[0]
    both = core["ConditioningCombine"]().combine(positive, area)[0]
    guidance = lambda g: [[c, d | {"guidance": g}] for c, d in condition("flux")[1]]  # noqa: E731
    at = {g: ksampler(flux, "flux", positive=guidance(g), cfg=1.0) for g in (3.5, 7.0)}
    numbers = kit("DiffusersClass", classes="3")[0]
    one_hot = [[torch.eye(10)[3].reshape(1, 1, 10), {}]]
    none = kit("DiffusersClass", classes="none")[0]
    zeroed = core["ConditioningZeroOut"]().zero_out(numbers)[0]
    draw = lambda c: ksampler(dit, "dit", positive=c, negative=none)  # noqa: E731
    three = draw(numbers)
    return {
        "average": error(ksampler(sd, "sd", positive=average), ksampler(sd, "sd", positive=mixed)),
        "area": error(ksampler(sd, "sd", positive=both), ksampler(sd, "sd", positive=positive)),
        "guidance": error(at[7.0], at[3.5]),
        "default guidance": error(at[3.5], ksampler(flux, "flux", cfg=1.0)),
        "one hot": error(draw(one_hot), three),
        "other class": error(draw(kit("DiffusersClass", classes="4")[0]), three),
        "zeroed": error(draw(zeroed), draw(none)),
    }


def rescheduled() -> dict[str, Any]:
    """D at the same σ after the core's nodes that change the schedule, some of which name time differently."""
    found = {}
    for name, kinds in {
        "flux": ("ModelSamplingFlux", "ModelSamplingSD3", "ModelSamplingAuraFlow"),
        "sd": ("ModelSamplingDiscrete",),
    }.items():
        model, cond = load(name), condition(name)[0]
        x = noise_of(name)
        for kind in kinds:
            size = dict(width=64, height=64, max_shift=1.15, base_shift=0.5)
            knobs = {"ModelSamplingFlux": size, "ModelSamplingDiscrete": dict(sampling="eps", zsnr=False)}  # fmt: skip
            (other,) = call(getattr(advanced, kind), model, **knobs.get(kind, dict(shift=2.0)))
            sigma = 0.5 if name == "flux" else float(model.get_model_object("model_sampling").sigmas[500])  # fmt: skip
            a, b = (guess(m, x, sigma, cond) for m in (other, model))
            found[kind] = [error(a, b), error(a, denoiser(name)(x, sigma, cond))]
    return found


def guess(model: Any, x: Tensor, sigma: float, cond: dict[str, Tensor], more: Any = None) -> Tensor:
    """D at σ through CFGGuider, patches and all."""
    pooled = {"pooled_output": cond["pooled"]} if "pooled" in cond else {}
    text = [[cond["text"], pooled | (more or {})]]

    def look(x0: Any, evaluate: Any) -> Tensor:
        return evaluate(x, sigma)

    host = next(k for k in sys.modules if k.endswith("nodes.host.comfy.model"))
    evaluation = importlib.import_module(".evaluation", host.rpartition(".")[0])
    return evaluation.probe(model, text, {"samples": torch.zeros_like(x)}, look)


def lengths() -> dict[str, float]:
    """Prompts of different lengths, against the engine."""
    found = {}
    for name in ("sd", "sd3"):
        model, network = load(name), denoiser(name)
        long = condition(name)[0] | {"text": torch.randn(1, 8, 16)}
        extra = condition(name)[1][0][1]
        got = ksampler(model, name, positive=[[long["text"], extra]], negative=condition(name)[1], cfg=CFG)  # fmt: skip
        sampling = model.get_model_object("model_sampling")
        sigmas = comfy.samplers.calculate_sigmas(sampling, "normal", 2)
        x = sampling.noise_scaling(sigmas[0], noise_of(name), torch.zeros(1, *tiny.TINY[name].shape), True)  # fmt: skip
        for s, t in itertools.pairwise(sigmas):
            low, high = (network(x, float(s), c) for c in (condition(name)[0], long))
            x = x + (x - low - CFG * (high - low)) / s * (t - s)
        found[name] = error(got, out_of(network, sampling.inverse_noise_scaling(sigmas[-1], x)))
    return found


def inpainted() -> dict[str, float]:
    """Networks that see a picture beside x, given as the core's inpainting and video nodes give it."""
    found = {}
    for name in ("sd-inpaint", "cogvideox-1.5"):
        model, network = load(name), denoiser(name)
        x, cond = noise_of(name), condition(name)[0]
        picture = noise_of(name, 8)
        scaled, given = network.latents.from_vae(picture), {"concat_latent_image": picture}
        if name == "sd-inpaint":
            mask = torch.zeros(1, 1, 8, 12)
            mask[..., :5] = 1
            given["concat_mask"] = mask
            scaled = torch.cat([mask, scaled], 1)
        d = guess(model, x, 3.0, cond, given)
        found[name] = error(d, network(x, 3.0, cond | {"concat": scaled}))
    found["missing"] = told(lambda: ksampler(load("sd-inpaint"), "sd", positive=condition("sd")[1]))  # fmt: skip
    return found


def looked_at() -> dict[str, Any]:
    """The nodes that look at a MODEL."""
    model, positive = load("sd"), condition("sd")[1]
    latent = {"samples": noise_of("sd", 4)}
    told = kit("CheckPredictionType", model=model, latent=latent, positive=positive)
    audit = kit("PrecisionAudit", model=model, latent=latent, positive=positive, levels=2, steps=2)
    return {"claimed": json.loads(told[1])["claimed"], "audit": audit[1]}


def latents() -> dict[str, list[int]]:
    """Shapes out of KSampler for empty latents of the core and of our own node."""
    found = {}
    for name in ("sd", "cogvideox-5b"):
        model = load(name)
        plain = core["EmptyLatentImage"]().generate(64, 32, 2)[0]
        own = kit("EmptyDiffusersLatent", model=model, width=24, height=16, frames=5 if name != "sd" else 1, batch_size=2)[0]  # fmt: skip
        found[name] = [
            list(nodes.KSampler().sample(model, 0, 1, CFG, "euler", "normal", condition(name)[1], condition(name, 2)[1], latent)[0]["samples"].shape)
            for latent in (plain, own)
        ]  # fmt: skip
    return found


def refused() -> dict[str, str]:
    """One clear error each."""
    sd, sd3, dit = load("sd"), load("sd3"), load("dit")
    text = condition("sd")[1]
    outside = ROOT.parent / "outside"
    tiny.save("ddpm", outside)
    (ROOT / "link").symlink_to(outside)
    linked = ROOT / "linked-weights"
    tiny.save("ddpm", linked)
    file = linked / "unet" / "diffusion_pytorch_model.safetensors"
    file.unlink()
    file.symlink_to(outside / "unet" / file.name)
    pickled = tiny.save("ddpm", ROOT / "pickled", safe_serialization=False)
    loading = lambda name, **k: told(lambda: kit("LoadDiffusersDenoiser", folder=name, **k))  # noqa: E731
    found = {
        "no text": told(lambda: ksampler(sd, "sd", positive=[[None, {}]])),
        "wide text": told(lambda: ksampler(sd, "sd", negative=[[torch.zeros(1, 5, 7), {}]])),
        "no pooled": told(lambda: ksampler(sd3, "sd3", positive=text)),
        "text for a class": told(lambda: ksampler(dit, "dit", positive=text)),
        "large class": told(lambda: ksampler(dit, "dit", positive=kit("DiffusersClass", classes="11")[0])),
        "not square": told(lambda: ksampler(dit, "dit", {"samples": torch.zeros(1, 4, 8, 12)})),
        "missing": loading("nothing-here"),
        "up": loading("../outside"),
        "absolute": loading(str(outside)),
        "link": loading("link"),
        "linked weights": loading("linked-weights"),
        "pickle": loading(pickled.name),
        "variant": loading("sd", variant="fp16"),
        "file": loading("sd", weights="no.safetensors"),
    }  # fmt: skip
    real = sys.modules["diffusers"]
    sys.modules["diffusers"] = None
    try:
        found["no diffusers"] = loading("sd")
    finally:
        sys.modules["diffusers"] = real
    return found


def main() -> None:
    torch.set_num_threads(1)
    n.comfy.utils.PROGRESS_BAR_ENABLED = False
    ROOT.mkdir(parents=True, exist_ok=True)
    folder_paths.folder_names_and_paths["diffusers"] = ([str(ROOT)], {"folder"})
    assert asyncio.run(nodes.load_custom_node(sys.argv[1])), "the pack did not load"
    found: dict[str, Any] = {"imported": "diffusers" in sys.modules}
    checks = (
        sampled, patched, partly_loaded, previewed, masked, batched, freed, dtypes, overflow, conditioned, rescheduled, lengths,
        inpainted, looked_at, latents, refused,
    )  # fmt: skip
    wanted = sys.argv[3:]
    with torch.inference_mode():
        for check in checks:
            if not wanted or check.__name__ in wanted:
                found[check.__name__] = check()
    names = nodes.NODE_CLASS_MAPPINGS["SamplingKitLoadDiffusersDenoiser"].INPUT_TYPES()
    found["choices"] = names["required"]["folder"][1]["options"]
    print(json.dumps(found, allow_nan=False))


if __name__ == "__main__":
    main()
