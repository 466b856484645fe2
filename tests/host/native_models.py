"""Our nodes on native BaseModels whose network is exact for Gaussian data. Run by ComfyUI's own Python.

    cd ComfyUI && .venv/bin/python …/native_models.py PACK

Prints one JSON object of measurements; ``test_native.py`` says which of them are right.
"""

# ruff: noqa: E402  (where ComfyUI is and that it must use the CPU comes before its imports)

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any

sys.path[0] = os.getcwd()  # ComfyUI's modules, not this folder's

import comfy.cli_args

comfy.cli_args.args.cpu = True

import comfy.latent_formats
import comfy.model_base
import comfy.model_patcher
import comfy.model_sampling
import comfy.nested_tensor
import comfy.samplers
import comfy.supported_models_base
import comfy.utils
import torch
from comfy.model_base import ModelType
from comfy_extras import nodes_custom_sampler as core
from comfy_extras.nodes_model_advanced import RescaleCFG
from torch import Tensor, nn

import nodes

STD = 0.5  # of the data, in every coordinate
CPU = torch.device("cpu")
#: Those of KINDS that differ in their levels or in how a run starts; the others only in what the network predicts.
STARTS = ("EPS", "V zero SNR", "EDM", "FLOW")
KINDS: dict[str, tuple[ModelType, dict[str, Any]]] = {
    "EPS": (ModelType.EPS, {}),
    "V": (ModelType.V_PREDICTION, {}),
    "V zero SNR": (ModelType.V_PREDICTION, {"zsnr": True}),
    "EDM": (ModelType.EDM, {"sigma_max": 80.0, "sigma_data": 0.5}),
    "FLOW": (ModelType.FLOW, {"shift": 3.0}),
    "FLOW louder": (ModelType.FLOW, {"noise_scale": 4.0}),
    "FLUX": (ModelType.FLUX, {}),
}


def data_mean(x: Tensor, shift: Any) -> Tensor:
    """The mean of the data, shaped like x [B, …]: 0.3 and the condition's ramp along the last axis."""
    return 0.3 + shift * torch.linspace(0, 1, x.shape[-1])


class Exact(nn.Module):
    """What a perfectly trained network outputs for N(data_mean, STD²), for each prediction."""

    dtype = torch.float32

    def __init__(self, kind: ModelType, sampling: Any) -> None:
        super().__init__()
        self.kind, self.rows = kind, 0
        self.flow = isinstance(sampling, comfy.model_sampling.CONST)
        self.noise_scale = getattr(sampling, "noise_scale", 1.0)
        self.sigma_data = getattr(sampling, "sigma_data", 1.0)

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        context: Tensor,
        control: Any = None,
        transformer_options: Any = None,
    ) -> Tensor:
        self.rows += len(x)
        sigma, s = transformer_options["sigmas"][0], self.sigma_data  # t is rounded on EPS and V
        alpha, norm = self.alpha(sigma), 1 if self.flow else (sigma**2 + s**2) ** 0.5
        x = x * norm
        mean = data_mean(x, context.reshape(-1, *(1,) * (x.ndim - 1)))
        d = mean + alpha * STD**2 / self.variance(sigma) * (x - alpha * mean)
        if self.flow or self.kind is ModelType.EPS:
            return (x - d) / sigma
        sign = 1 if self.kind is ModelType.EDM else -1
        return sign * (d - x * s**2 / norm**2) * norm / (sigma * s)

    def alpha(self, sigma: Tensor) -> Any:
        return 1 - sigma if self.flow else 1

    def variance(self, sigma: Tensor) -> Tensor:
        """Of x at ``sigma``."""
        return (self.alpha(sigma) * STD) ** 2 + (self.noise_scale * sigma) ** 2

    def transport(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Where the probability-flow ODE takes x from ``sigma``."""
        mean = data_mean(x, SHIFT)
        return mean + STD * (x - self.alpha(sigma) * mean) / self.variance(sigma) ** 0.5


class Config(comfy.supported_models_base.BASE):
    latent_format = comfy.latent_formats.LatentFormat
    memory_usage_factor = 0.01


def native(name: str, sampling: ModelType | None = None) -> Any:
    """A native MODEL; ``sampling``: with another type's model_sampling."""
    kind, settings = KINDS[name]
    config = Config({"disable_unet_model_creation": True})
    config.sampling_settings = settings
    base = comfy.model_base.BaseModel(config, model_type=sampling or kind, device=CPU)
    base.diffusion_model = Exact(kind, base.model_sampling)
    return comfy.model_patcher.CoreModelPatcher(base, load_device=CPU, offload_device=CPU)


def kit(name: str, /, **inputs: Any) -> Any:
    """The first output of one of our nodes."""
    return nodes.NODE_CLASS_MAPPINGS[f"SamplingKit{name}"].execute(**inputs).args[0]


def condition(shift: float) -> Any:
    return [[torch.full((1, 1, 1), shift), {}]]


SHIFT = 0.2
POSITIVE, NEGATIVE = condition(SHIFT), condition(-0.1)


def latent(*shape: int, fill: float = 0.0) -> dict[str, Any]:
    return {"samples": torch.full(shape, fill)}


def steps(model: Any, count: int = 60, spacing: str = "karras", **options: Any) -> Tensor:
    schedule = kit("NoiseScheduleFromModel", model=model)
    return kit(
        "Steps", noise_schedule=schedule, steps=count, spacing={"spacing": spacing}, **options
    )


def guide(model: Any, **inputs: Any) -> Any:
    return kit("Guider", model=model, **{"positive": POSITIVE, **inputs})


def cfg_guide(model: Any, scale: float) -> Any:
    return guide(model, negative=NEGATIVE, guidance=kit("CFG", scale=scale))


def run(guider: Any, sampler: Any, sigmas: Tensor, image: Any, seed: int = 0) -> Any:
    """The output of SamplerCustomAdvanced, with our noise."""
    noise = kit("PerImageNoise", seed=seed)
    out = core.SamplerCustomAdvanced.execute(noise, guider, sampler, sigmas, image)
    return out.args[0]["samples"]


def exact(model: Any, sigmas: Tensor, image: Any) -> Tensor:
    """Where the ODE takes the state that ComfyUI starts from."""
    noise = kit("PerImageNoise", seed=0).generate_noise(image)
    sampling = model.get_model_object("model_sampling")
    x = sampling.noise_scaling(sigmas[0], noise, image["samples"], True)
    return model.model.diffusion_model.transport(x, sigmas[0])


def distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max())


# ----------------------------------------------------------------------------------- measurements

NOISY = {
    "DDIM": {"eta": 1.0},
    "Euler": {"churn": 20.0},
    "HeunEDM": {"churn": 20.0},
    "RectifiedFlow": {"eta": 1.0},
}


def solvers() -> dict[str, tuple[Any, dict[str, Any]]]:
    """{name: (SAMPLER, knobs)} of all our solver nodes, and of some with their noise turned on.

    Without the Idempotent Solver, which repeats a one-step generator and solves no equation, and a solver that is a text.
    """
    found = {
        name.removeprefix("SamplingKit"): (node.execute().args[0], {})
        for name, node in nodes.NODE_CLASS_MAPPINGS.items()
        if name.startswith("SamplingKit")
        and node.GET_SCHEMA().category == "Sampling Kit/solver"
        and name not in ("SamplingKitIdempotent", "SamplingKitSolverFromText")
        and all(
            item.optional for item in node.GET_SCHEMA().inputs
        )  # else it changes another SAMPLER
    }
    noisy = {f"{name} with noise": (kit(name, **knobs), knobs) for name, knobs in NOISY.items()}
    return found | noisy


def accuracy() -> list[dict[str, Any]]:
    """Every solver on every kind of model: moments, and the mean distance to the exact map, per STD."""
    rows, image = [], latent(8, 4, 32, 32)
    for kind in KINDS:
        model = native(kind)
        for spacing in ("karras", "trailing") if kind in STARTS else ("karras",):
            sigmas = steps(model, spacing=spacing)
            truth = exact(model, sigmas, image)
            for name, (sampler, knobs) in solvers().items():
                x = run(guide(model), sampler, sigmas, image)
                rest, error = x - data_mean(x, SHIFT), (x - truth).square().mean().sqrt()
                found = dict(
                    mean=float(rest.mean()), std=float(rest.std()) / STD, error=float(error) / STD
                )
                about = dict(kind=kind, spacing=spacing, solver=name.split()[0], knobs=knobs)
                rows.append({**about, **found, "sigmas": sigmas.tolist()})
    return rows


def post_cfg(args: dict[str, Any]) -> Tensor:
    return (
        args["denoised"] * 0.9
        + args["uncond_denoised"] * 0.05
        + args["input"] * 0.01 * args["cond_scale"]
    )


def pre_cfg(args: dict[str, Any]) -> list[Tensor]:
    cond, uncond = args["conds_out"]
    return [cond + 0.1 * uncond, uncond * args["cond_scale"]]


def patched(model: Any) -> dict[str, Any]:
    """{patch: the model with it}, one for every hook that guidance nodes of the host use."""
    post, pre = model.clone(), model.clone()
    post.set_model_sampler_post_cfg_function(post_cfg)
    pre.set_model_sampler_pre_cfg_function(pre_cfg)
    return {
        "none": model,
        "post_cfg": post,
        "pre_cfg": pre,
        "RescaleCFG": RescaleCFG().patch(model, 0.7)[0],
        "CFGOverride": core.CFGOverride.execute(model, 1.5, 0.2, 0.8).args[0],
    }


def guidance() -> list[dict[str, Any]]:
    """Our Guider with CFG next to the core's CFGGuider: distance, network rows, effect of the patch."""
    rows, image = [], latent(2, 4, 8, 8)
    for kind in KINDS:
        plain = native(kind)
        sigmas, net = steps(plain, 10), plain.model.diffusion_model
        for sampler_name in ("euler", "euler_cfg_pp", "dpmpp_2m"):
            sampler = comfy.samplers.sampler_object(sampler_name)
            unpatched = run(cfg_guide(plain, 3.0), sampler, sigmas, image)
            for patch, model in patched(plain).items():
                for scale in (3.0, 1.0):
                    theirs = core.CFGGuider.execute(model, POSITIVE, NEGATIVE, scale).args[0]
                    outs, counts = [], []
                    for guider in (cfg_guide(model, scale), theirs):
                        net.rows = 0
                        outs.append(run(guider, sampler, sigmas, image))
                        counts.append(net.rows)
                    about = dict(kind=kind, sampler=sampler_name, patch=patch, scale=scale)
                    found = dict(distance=distance(*outs), effect=distance(outs[0], unpatched))
                    rows.append({**about, **found, "rows": counts})
    return rows


def masked() -> dict[str, Any]:
    """{solver on kind: (change where the mask is 0, where it is 1)} of img2img with a noise mask."""
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., 8:] = 1
    image = latent(1, 4, 16, 16, fill=0.7) | {"noise_mask": mask}
    found = {}
    for kind in KINDS:
        model = native(kind)
        sigmas = steps(model, 8, denoise=0.6)
        for name, (sampler, _) in solvers().items():
            x = run(guide(model), sampler, sigmas, image) - image["samples"]
            kept, drawn = x[..., :8].abs().max(), x[..., 8:].abs().max()
            found[f"{name} on {kind}"] = [float(kept), float(drawn)]
    return found


def nested() -> Any:
    """A LATENT of two parts, as of video and its sound."""
    return {
        "samples": comfy.nested_tensor.NestedTensor(
            [torch.zeros(2, 4, 3, 8, 8), torch.zeros(2, 8, 5)]
        )
    }


def parts(x: Any) -> list[Tensor]:
    return x.unbind() if x.is_nested else [x]


def shapes() -> dict[str, Any]:
    """{solver on shape: (shapes, largest distance of batch from single images, mean, std)}."""
    found = {}
    for kind in ("EPS", "FLOW"):
        model = native(kind)
        sigmas = steps(model, 20)
        for name, (sampler, _) in solvers().items():
            for shape, image in {"video": latent(2, 4, 3, 8, 8), "nested": nested()}.items():
                out = parts(run(guide(model), sampler, sigmas, image, seed=4))
                second = {"samples": image["samples"][1:]}
                alone = parts(run(guide(model), sampler, sigmas, second, seed=5))
                flat = torch.cat([x.flatten() for x in out])
                found[f"{name} on {kind} {shape}"] = dict(
                    shapes=[list(x.shape) for x in out],
                    alone=max(distance(x[1:], y) for x, y in zip(out, alone, strict=True)),
                    mean=float(flat.mean()),
                    std=float(flat.std()),
                )
    return found


def repeats() -> dict[str, Any]:
    """{solver on kind: what held}: equal reruns, a batch equal to its images, wires left alone."""
    found = {}
    for kind in STARTS:
        model, image = native(kind), latent(3, 4, 8, 8, fill=0.1)
        sigmas = steps(model, 12)
        before = sigmas.clone(), image["samples"].clone(), str(POSITIVE)
        for name, (sampler, _) in solvers().items():
            guider = guide(model)
            batch, again = (run(guider, sampler, sigmas, image, seed=5) for _ in range(2))
            single = latent(1, 4, 8, 8, fill=0.1)
            alone = torch.cat(
                [run(guide(model), sampler, sigmas, single, seed=s) for s in (5, 6, 7)]
            )
            found[f"{name} on {kind}"] = dict(
                again=torch.equal(batch, again),
                singles=torch.equal(batch, alone),
                wires=torch.equal(sigmas, before[0]) and torch.equal(image["samples"], before[1]),
                conditioning=str(POSITIVE) == before[2],
            )
    return found


def message(call: Any) -> str:
    try:
        call()
    except ValueError as error:
        return str(error)
    return "nothing was raised"


def text_to_our_model() -> None:
    """A conditioning with the shape of a text encoder's, to a model that knows classes."""
    model = kit("EmbeddedDenoiser", kind={"kind": "gaussian", "size": 24, "scenes": 4, "rank": 2})
    text = [[torch.zeros(1, 77, 768), {"pooled_output": torch.zeros(1, 768)}]]
    run(guide(model, positive=text), kit("Euler"), steps(model, 2), latent(1, 3, 24, 24))


def refusals() -> dict[str, str]:
    return {"text": message(text_to_our_model)}


def main() -> None:
    torch.set_num_threads(1)
    comfy.utils.PROGRESS_BAR_ENABLED = False
    assert asyncio.run(nodes.load_custom_node(sys.argv[1])), "the pack did not load"
    checks = (accuracy, guidance, masked, shapes, repeats, refusals)
    with torch.inference_mode():
        print(json.dumps({check.__name__: check() for check in checks}))


if __name__ == "__main__":
    main()
