"""Folders of tiny diffusers networks as native MODELs. Run by ComfyUI's own Python.

    cd ComfyUI && .venv/bin/python …/diffusers_models.py PACK FOLDER

Writes the folders below FOLDER and prints one JSON object of measurements; ``test_diffusers_models.py``
says which of them are right.
"""

# ruff: noqa: E402, I001  (native_models comes first: it says where ComfyUI is)

from __future__ import annotations

import asyncio
import itertools
import json
import sys
from functools import cache
from pathlib import Path
from typing import Any

import native_models as n
import comfy.sample
import comfy.sd
import folder_paths
import latent_preview
import torch
from comfy import model_management
from comfy_extras import nodes_model_advanced as advanced
from torch import Tensor

import nodes

PACK, ROOT = Path(sys.argv[1]), Path(sys.argv[2])
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


def patched() -> dict[str, Any]:
    """Weight patches on every weight, and a LoRA by its names; what is left after."""
    found = {}
    for name in ("sd", "flux", "cogvideox-5b"):
        model = load(name)
        state = {k: v.clone() for k, v in model.model.state_dict().items()}
        keys = [k for k in state if k.startswith("diffusion_model.")]
        before = ksampler(model, name)
        clone = model.clone()
        generator = torch.Generator().manual_seed(3)
        deltas = {k: ("diff", (0.01 * torch.randn(state[k].shape, generator=generator),)) for k in keys if state[k].is_floating_point()}  # fmt: skip
        taken = clone.add_patches(deltas)
        changed = ksampler(clone, name)
        again = ksampler(model, name)
        after = model.model.state_dict()
        lora_key = next(k for k in keys if k.endswith("to_q.weight"))
        stem, (rows, columns) = lora_key.removesuffix(".weight"), state[lora_key].shape
        pair = {"up": torch.ones(rows, 2), "down": torch.full((2, columns), 0.05)}
        effects = []
        for prefix, tail in ((stem, "lora_"), ("lora_unet_" + stem[len("diffusion_model."):].replace(".", "_"), "lora_")):  # fmt: skip
            lora = {f"{prefix}.{tail}{k}.weight": v for k, v in pair.items()}
            with_lora, _ = comfy.sd.load_lora_for_models(model, None, lora, 1.0, 1.0)
            effects.append(error(ksampler(with_lora, name), before))
        found[name] = {
            "all taken": len(taken) == len(deltas),
            "changed": error(changed, before),
            "output again": torch.equal(again, before),
            "weights again": all(torch.equal(after[k], v) for k, v in state.items()),
            "names": sorted(k.removeprefix("diffusion_model.") for k in keys)
            == sorted(tiny.network(name).state_dict()),
            "lora": effects,
            "without effect": [],
        }
    for name in ("wan", "pixart-alpha"):  # tables of blocks, which are no layer's weight
        model = load(name)
        before, state = ksampler(model, name), dict(model.model.state_dict())
        keys = [k for k in state if k.endswith("scale_shift_table")]
        state = {k: state[k].clone() for k in keys}
        silent = []
        for key in keys:
            clone = model.clone()
            clone.add_patches({key: ("diff", (torch.ones_like(state[key]),))})
            first, second = ksampler(clone, name), ksampler(clone, name)
            if error(first, before) < 1e-3 or not torch.equal(first, second):
                silent.append(key)
        found[name] = {
            "without effect": silent,
            "output again": torch.equal(ksampler(model, name), before),
            "weights again": all(
                torch.equal(model.model.state_dict()[k], v) for k, v in state.items()
            ),
        }
    return found


def partly_loaded() -> dict[str, Any]:
    """With almost no memory, layers stay where they are and are moved and patched for each call."""
    found = {}
    for name in ("sd", "sd3", "wan", "cogvideox-5b"):
        model = load(name)
        whole = ksampler(model, name)
        model_management.unload_all_models()
        clone = model.clone()
        key = next(k for k in clone.model.state_dict() if k.endswith("to_q.weight"))
        clone.add_patches({key: ("diff", (torch.full_like(clone.model.state_dict()[key], 0.05),))})
        full = ksampler(clone, name)
        model_management.unload_all_models()
        x, cond = noise_of(name), condition(name)[0]
        lowvram = clone.clone()
        lowvram.load(n.CPU, lowvram_model_memory=1)
        layers = [m for m in lowvram.model.modules() if hasattr(m, "comfy_cast_weights")]
        functions = sum(bool(m.weight_function) for m in layers)
        d_low = apply(lowvram, x, cond)
        lowvram.unpatch_model(n.CPU)
        clone.load(n.CPU, full_load=True)
        d_full = apply(clone, x, cond)
        clone.unpatch_model(n.CPU)
        found[name] = {
            "layers": len(layers),
            "functions": functions,
            "error": error(d_low, d_full),
            "effect": error(full, whole),
            "after": error(ksampler(model, name), whole),
        }
    return found


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


def freed() -> dict[str, Any]:
    model = load("sd3")
    first = ksampler(model, "sd3")
    model_management.unload_all_models()
    model_management.soft_empty_cache()
    again = ksampler(model, "sd3")
    factory, arguments = model.cached_patcher_init
    copy = factory(*arguments, disable_dynamic=True)
    return {
        "again": torch.equal(first, again),
        "second copy": torch.equal(first, ksampler(copy, "sd3")),
        "shared": copy.model is model.model,
    }


def dtypes() -> dict[str, Any]:
    """A folder stored in bfloat16: what it runs in, what it is told, and what Denoiser Settings does."""
    name = "cogvideox-5b"
    stored = folder(name, torch.bfloat16)
    model, _, about = kit("LoadDiffusersDenoiser", folder=stored)
    seen: list[Any] = []

    def hook(module: Any, args: Any, kwargs: Any) -> None:
        seen.append([str(kwargs["timestep"].dtype)[6:], str(kwargs["hidden_states"].dtype)[6:]])

    net = model.model.diffusion_model.denoiser.network
    handle = net.register_forward_pre_hook(hook, with_kwargs=True)
    states: list[str] = []
    rest = CFG, "euler", "normal", condition(name)[1], condition(name, 2)[1]
    out = comfy.sample.sample(
        model, noise_of(name), 2, *rest, empty(name)["samples"],
        callback=lambda i, x0, x, t: states.append(str(x.dtype)[6:]),
    )  # fmt: skip
    handle.remove()
    full = kit("LoadDiffusersDenoiser", folder=stored, dtype="fp32")[0]
    asked = kit("DenoiserSettings", model=model, compute_dtype="fp32")[0]
    want = ksampler(full, name)
    found = {
        "about": about,
        "network": str(model.model.diffusion_model.dtype)[6:],
        "seen": seen[0],
        "state": states,
        "bf16 against fp32": error(out, want),
        "settings": error(ksampler(asked, name), want),
        "undone": torch.equal(ksampler(model, name), out),
        "fp16 refused": told(lambda: kit("LoadDiffusersDenoiser", folder=stored, dtype="fp16")),
        "inspected": kit("InspectDenoiser", model=model)[0],
    }
    return found


def overflow() -> str:
    """A network whose numbers do not fit into float16."""
    from safetensors.torch import load_file, save_file

    made = tiny.save("sd", ROOT / "too-large")
    file = made / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    weights["conv_out.weight"] = weights["conv_out.weight"] * 1e6
    save_file(weights, file, {"format": "pt"})
    model = kit("LoadDiffusersDenoiser", folder="too-large", dtype="fp16")[0]
    return told(lambda: ksampler(model, "sd"))


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


def _call(node: Any, *args: Any, **knobs: Any) -> Any:
    return getattr(node(), node.FUNCTION)(*args, **knobs)


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
            (other,) = _call(getattr(advanced, kind), model, **knobs.get(kind, dict(shift=2.0)))
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

    host = sys.modules[next(k for k in sys.modules if k.endswith("nodes.host.comfy.model"))]
    return host.probe(model, text, {"samples": torch.zeros_like(x)}, look)


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
