"""Weights of diffusers networks in ComfyUI: patched, moved, freed and cast. ``diffusers_models.py`` asks for it."""

# ruff: noqa: I001  (native_models comes first: it says where ComfyUI is)

from __future__ import annotations

from typing import Any

import native_models as n
import comfy.sample
import comfy.sd
import torch
from comfy import model_management

import diffusers_folders as tiny
from diffusers_native import (
    CFG,
    ROOT,
    apply,
    condition,
    empty,
    error,
    folder,
    kit,
    ksampler,
    load,
    noise_of,
    told,
)


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
