"""Folders of tiny diffusers networks as native MODELs, inside ComfyUI, and the engine's runs of them."""

# ruff: noqa: E402, I001  (native_models comes first: it says where ComfyUI is)

from __future__ import annotations

import itertools
import sys
from functools import cache
from pathlib import Path
from typing import Any

import native_models as n
import comfy.samplers
import torch
from torch import Tensor

import nodes

ROOT = Path(sys.argv[2])
sys.path.append(str(Path(__file__).resolve().parent.parent))
import diffusers_folders as tiny

core = nodes.NODE_CLASS_MAPPINGS
CFG = 3.0


def engine(name: str) -> Any:
    """One of the pack's engine modules, under the name ComfyUI loaded it by."""
    (found,) = (m for key, m in sys.modules.items() if key.endswith(f".schedulers.{name}"))
    return found


def kit(name: str, **inputs: Any) -> Any:
    return nodes.NODE_CLASS_MAPPINGS[f"SamplingKit{name}"].execute(**inputs).args


@cache
def folder(name: str, dtype: torch.dtype = torch.float32) -> str:
    """A tiny folder's name, written once."""
    full = name if dtype == torch.float32 else f"{name}-{str(dtype)[6:]}"
    tiny.save(name, ROOT / full, dtype)
    return full


def load(name: str, **knobs: Any) -> Any:
    return kit("LoadDiffusersDenoiser", folder=folder(name), **knobs)[0]


def condition(name: str, seed: int = 1) -> tuple[dict[str, Tensor], Any]:
    """The same random conditioning for the engine and for ComfyUI."""
    tensors = tiny.conditioning(name, 1, seed)
    keys = {"pooled": "pooled_output", "mask": "attention_mask", "concat": "noise_concat"}
    text = tensors.get("text")
    if "labels" in tensors:
        text = (tensors["labels"] + 1).float().reshape(1, 1, 1)
    return tensors, [[text, {keys[k]: v for k, v in tensors.items() if k in keys}]]


def denoiser(name: str, **knobs: Any) -> Any:
    """The engine's own, in ComfyUI's coordinates."""
    own = engine("denoiser.diffusers")
    made = own.load(own.read_folder(ROOT / folder(name)), **knobs)
    return made.using(path=made.noise_schedule.path.host)


def guided(name: str, network: Any) -> Any:
    """D under CFG, two network calls."""
    cond, uncond = condition(name)[0], condition(name, 2)[0]
    if name == "sdxl-refiner":  # what its pipeline and the core's node say of a negative
        uncond = uncond | {"aesthetic": torch.tensor([2.5])}

    def d(x: Tensor, sigma: float) -> Tensor:
        low, high = network(x, sigma, uncond), network(x, sigma, cond)
        return low + CFG * (high - low)

    return d


def noise_of(name: str, seed: int = 0, batch: int = 1) -> Tensor:
    generator = torch.manual_seed(seed)
    return torch.randn((batch, *tiny.TINY[name].shape), generator=generator)


def empty(name: str, batch: int = 1) -> dict[str, Tensor]:
    return {"samples": torch.zeros(batch, *tiny.TINY[name].shape)}


def ksampler(model: Any, name: str, latent: Any = None, steps: int = 2, **more: Any) -> Tensor:
    knobs = dict(cfg=CFG, sampler_name="euler", scheduler="normal", denoise=1.0) | more
    positive, negative = condition(name)[1], condition(name, 2)[1]
    positive, negative = more.pop("positive", positive), more.pop("negative", negative)
    knobs = {k: v for k, v in knobs.items() if k not in ("positive", "negative")}
    return nodes.KSampler().sample(
        model, 0, steps, positive=positive, negative=negative, latent_image=latent or empty(name), **knobs
    )[0]["samples"]  # fmt: skip


def euler(name: str, model: Any, network: Any, steps: int = 2) -> Tensor:
    """What the core's Euler does, on the engine's D."""
    sampling = model.get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(sampling, "normal", steps)
    noise = noise_of(name)
    x = sampling.noise_scaling(sigmas[0], noise, torch.zeros_like(noise), True)
    d = guided(name, network)
    for s, t in itertools.pairwise(sigmas):  # tensors, as in the core: same rounding
        x = x + (x - d(x, float(s))) / s * (t - s)
    x = sampling.inverse_noise_scaling(sigmas[-1], x)
    return out_of(network, x)


def out_of(network: Any, x: Tensor) -> Tensor:
    return x if network.latents is None else network.latents.to_vae(x)


def ours(name: str, model: Any, schedule: Any) -> Tensor:
    """SamplerCustomAdvanced with our steps, solver, guidance."""
    sigmas = kit("Steps", noise_schedule=schedule, steps=4, spacing={"spacing": "trailing"})[0]
    guider = kit("Guider", model=model, positive=condition(name)[1], negative=condition(name, 2)[1], guidance=kit("CFG", scale=CFG)[0])[0]  # fmt: skip
    sampler = kit("DPMSolverMultistep")[0]
    noise = n.core.Noise_RandomNoise(0)
    return n.core.SamplerCustomAdvanced.execute(noise, guider, sampler, sigmas, empty(name)).args[
        0
    ]["samples"]


def ours_by_engine(name: str, schedule: Any, network: Any) -> Tensor:
    sigmas = kit("Steps", noise_schedule=schedule, steps=4, spacing={"spacing": "trailing"})[
        0
    ].tolist()
    e, solver = engine("sample"), engine("solver").DPMSolverMultistep()
    noise, path = noise_of(name), schedule.path
    x = e.noised(path, sigmas[0], torch.zeros_like(noise), noise, True)
    draws = engine("noise").PerImageNoise(0)
    run = engine("solver.run").Run(guided(name, network), draws, lambda p: None)
    x = e.sample(solver, path, run, x, sigmas)
    return out_of(network, x / path.host.on(sigmas[-1]).alpha)


def error(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / max(1, b.abs().max()))


def told(act: Any) -> str:
    """Type and text of the error that ``act`` ends with."""
    try:
        act()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def apply(model: Any, x: Tensor, cond: dict[str, Tensor]) -> Tensor:
    """D by BaseModel.apply_model in the middle of the range."""
    sampling = model.get_model_object("model_sampling")
    sigma = float(sampling.percent_to_sigma(0.5))
    extra = model.model.extra_conds(
        cross_attn=cond.get("text"), pooled_output=cond.get("pooled"), device=n.CPU, noise=x
    )
    text = extra.pop("c_crossattn").cond
    rest = {k: v.concat([]) for k, v in extra.items()}
    return model.model.apply_model(x, torch.full((len(x),), sigma), c_crossattn=text, **rest)


def call(node: Any, *args: Any, **knobs: Any) -> Any:
    return getattr(node(), node.FUNCTION)(*args, **knobs)
