"""The nodes that look at a MODEL and correct it, on native models of every class. Run by ComfyUI's Python.

    cd ComfyUI && .venv/bin/python …/model_nodes.py PACK

Prints one JSON object of measurements; ``test_model_nodes.py`` says which of them are right.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import native_models as n
import torch
from comfy import model_base, model_sampling, ops
from comfy.model_base import ModelType
from comfy_extras import nodes_model_advanced as advanced
from torch import Tensor, nn

import nodes

ms = model_sampling
MEAN = 0.3


class Perfect(nn.Module):
    """A perfectly trained network for N(MEAN, STD²): knows its own prediction, whatever the MODEL says.

    state(x, σ) is the state, x0 + κ·ε or flow's own, that its input x was made from.
    """

    dtype = torch.float32

    def __init__(self, prediction: Any, state: Any, flow: bool) -> None:
        super().__init__()
        self.prediction, self.state, self.flow = prediction, state, flow

    def forward(
        self, x: Tensor, t: Tensor, context: Any = None, control: Any = None,
        transformer_options: Any = None, **more: Any,
    ) -> Tensor:  # fmt: skip
        sigma = float(transformer_options["sigmas"][0])
        x = self.state(x, sigma)
        return self.prediction.write(truth(x, sigma, self.flow), x, host(self.flow), sigma)


def host(flow: bool) -> Any:
    path = engine("path")
    return path.Flow() if flow else path.VE()


def engine(name: str) -> Any:
    """One of the pack's engine modules, under the name ComfyUI loaded it by."""
    (found,) = (m for key, m in sys.modules.items() if key.endswith(f".schedulers.{name}"))
    return found


def truth(x: Tensor, sigma: float, flow: bool) -> Tensor:
    """E[x0 | x]."""
    alpha = 1 - sigma if flow else 1.0
    variance = (alpha * n.STD) ** 2 + sigma**2
    return MEAN + alpha * n.STD**2 / variance * (x - alpha * MEAN)


def scaled(sigma_data: float) -> Any:
    return lambda x, sigma: x * (sigma**2 + sigma_data**2) ** 0.5


def raw(x: Tensor, sigma: float) -> Tensor:
    return x


def cosmos(x: Tensor, sigma: float) -> Tensor:
    return x * (1 + sigma)


#: ModelType → sampling settings, prediction, state, flow?
TYPES: dict[str, tuple[dict[str, Any], str, Any, bool]] = {
    "EPS": ({}, "eps", scaled(1), False),
    "V_PREDICTION": ({}, "v", scaled(1), False),
    "V_PREDICTION zsnr": ({"zsnr": True}, "v", scaled(1), False),
    "V_PREDICTION_EDM": ({"sigma_max": 80.0}, "v", scaled(1), False),
    "STABLE_CASCADE": ({"shift": 2.0}, "eps", scaled(1), False),
    "EDM": ({"sigma_max": 80.0, "sigma_data": 0.5}, "edm", scaled(0.5), False),
    "FLOW": ({"shift": 3.0}, "flow", raw, True),
    "V_PREDICTION_CONTINUOUS": ({"sigma_min": 0.03, "sigma_max": 500.0}, "v", scaled(1), False),
    "FLUX": ({}, "flow", raw, True),
    "IMG_TO_IMG": ({}, "x0", raw, False),
    "FLOW_COSMOS": ({"sigma_max": 80.0}, "flow", cosmos, False),
    "IMG_TO_IMG_FLOW": ({}, "x0", raw, False),
    "V_PREDICTION_DDPM": ({"zsnr": True}, "v", scaled(1), False),
    "FLOW_AV": ({"shift": 5.0}, "flow", raw, True),
}
#: Schedule classes that only patches make: (schedule class, output class) → as above.
PATCHED: dict[str, tuple[type, type, str, Any, bool]] = {
    "DiscreteEDM": (ms.ModelSamplingDiscreteEDM, ms.EPS, "eps", scaled(1), False),
    "X0": (ms.ModelSamplingDiscrete, ms.X0, "x0", scaled(1), False),
    "ContinuousEDM eps": (ms.ModelSamplingContinuousEDM, ms.EPS, "eps", scaled(1), False),
    "LCM": (advanced.ModelSamplingDiscreteDistilled, advanced.LCM, "eps", scaled(1), False),
}


def prediction(kind: str, sigma_data: float = 0.5) -> Any:
    return engine("prediction").Prediction(kind, sigma_data)


def bare(kind: ModelType, network: nn.Module, settings: dict[str, Any]) -> Any:
    """A native MODEL around ``network``."""
    config = n.Config({"disable_unet_model_creation": True})
    config.sampling_settings = settings
    base = model_base.BaseModel(config, model_type=kind, device=n.CPU)
    base.diffusion_model = network
    return n.comfy.model_patcher.CoreModelPatcher(base, load_device=n.CPU, offload_device=n.CPU)


def native(name: str) -> Any:
    settings, kind, state, flow = TYPES[name]
    return bare(ModelType[name.split()[0]], Perfect(prediction(kind), state, flow), settings)


def patched(name: str) -> Any:
    schedule, output, kind, state, flow = PATCHED[name]
    model = bare(ModelType.EPS, Perfect(prediction(kind), state, flow), {})
    clone = model.clone()
    clone.add_object_patch("model_sampling", type("Advanced", (schedule, output), {})(None))
    return clone


def every() -> dict[str, Any]:
    return {name: native(name) for name in TYPES} | {name: patched(name) for name in PATCHED}


def node(name: str, **inputs: Any) -> tuple[Any, ...]:
    """All outputs of one of our nodes."""
    return nodes.NODE_CLASS_MAPPINGS[f"SamplingKit{name}"].execute(**inputs).args


def worst(model: Any) -> float:
    """Largest error of D as the host computes it, at noise levels over the MODEL's range."""
    host_module = next(m for k, m in sys.modules.items() if k.endswith(".nodes.host"))
    schedule, flow = host_module.models.schedule_of(model), host_module.models.facts_of(model).flow
    levels = engine("measure").spread(schedule, 7)

    def look(x0: Tensor, denoise: Any) -> float:
        errors = []
        for sigma in levels:
            alpha = 1 - sigma if flow else 1.0
            x = alpha * x0 + sigma * torch.randn(
                x0.shape, generator=torch.Generator().manual_seed(1)
            )
            errors.append(float((denoise(x, sigma) - truth(x, sigma, flow)).abs().max()))
        return max(errors)

    return host_module.runs.probe(model, None, n.latent(2, 4, 8, 8, fill=0.5), look)


# ----------------------------------------------------------------------------------- measurements


def inspected() -> dict[str, Any]:
    """{class: what Inspect Denoiser says, without steps, and how wrong D is}."""
    return {
        name: json.loads(node("InspectDenoiser", model=model)[1]) | {"error": worst(model)}
        for name, model in every().items()
    }


def sampled() -> dict[str, Any]:
    """{class: (mean, std) of 200 Euler steps of ours from the MODEL's largest level}; one step for images."""
    found = {}
    for name, model in every().items():
        if name.startswith(("IMG", "LCM")):
            continue
        sigmas = n.steps(model, 200, "uniform_lambda" if name == "FLOW_AV" else "karras")
        x = n.run(
            n.guide(model, positive=[[None, {}]]), n.kit("Euler"), sigmas, n.latent(8, 4, 16, 16)
        )
        found[name] = [float(x.mean()), float(x.std())]
    return found


def known(batch: int = 4) -> dict[str, Any]:
    noise = torch.randn(batch, 4, 16, 16, generator=torch.Generator().manual_seed(2))
    return {"samples": MEAN + n.STD * noise}


def checked() -> dict[str, Any]:
    """{class: what Check Prediction Type says}."""
    return {
        name: json.loads(node("CheckPredictionType", model=model, latent=known())[1])
        for name, model in every().items()
    }


def corrected() -> dict[str, Any]:
    """{case: (claimed, worst error before, worst after Denoiser Settings, of the input again)}."""
    vp = n.kit("NoiseSchedule", kind={"kind": "vp_scaled_linear", "zero_snr": True})
    flow = n.kit("NoiseSchedule", kind={"kind": "rectified_flow", "shift": 2.0})
    edm = n.kit("NoiseSchedule", kind={"kind": "ve_edm"})
    states = {"x0": raw, "eps": raw, "flow": raw, "v": raw}
    cases: dict[str, tuple[Any, dict[str, Any]]] = {
        f"{kind} network called eps": (
            bare(ModelType.EPS, Perfect(prediction(kind), scaled(1), False), {}),
            {"prediction": kind},
        )
        for kind in ("v", "x0", "flow", "score")
    }
    cases |= {
        f"{kind} network called flow": (
            bare(ModelType.FLOW, Perfect(prediction(kind), states[kind], True), {"shift": 3.0}),
            {"prediction": kind},
        )
        for kind in ("x0", "v")
    }
    cases["flow network called eps"] = (
        bare(ModelType.EPS, Perfect(prediction("flow"), raw, True), {}),
        {"prediction": "flow", "noise_schedule": flow},
    )
    cases["edm network called v"] = (
        bare(ModelType.V_PREDICTION, Perfect(prediction("edm"), scaled(0.5), False), {}),
        {"prediction": "edm", "noise_schedule": edm},
    )
    cases["v network called cosmos"] = (
        bare(ModelType.FLOW_COSMOS, Perfect(prediction("v"), cosmos, False), {"sigma_max": 80.0}),
        {"prediction": "v"},
    )
    cases["v network called image"] = (
        bare(ModelType.IMG_TO_IMG, Perfect(prediction("v"), raw, False), {}),
        {"prediction": "v"},
    )
    cases["zero SNR not known"] = (native("V_PREDICTION"), {"noise_schedule": vp})
    cases["flux with another shift"] = (native("FLUX"), {"noise_schedule": flow})
    cases["nothing changed"] = (native("EPS"), {})
    found = {}
    for name, (model, inputs) in cases.items():
        before = worst(model)
        sampling = model.get_model_object("model_sampling")
        clone, text = node("DenoiserSettings", model=model, **inputs)
        facts = json.loads(node("InspectDenoiser", model=clone)[1])
        found[name] = dict(
            before=before, after=worst(clone), again=worst(model), text=text, facts=facts,
            untouched=model.get_model_object("model_sampling") is sampling and not model.object_patches,
        )  # fmt: skip
    return found


class Layers(nn.Module):
    """A network of ComfyUI's own layers that notes what it is given."""

    def __init__(
        self, dtype: torch.dtype, gain: float = 1.0, layers: Any = ops.disable_weight_init
    ) -> None:
        super().__init__()
        self.dtype, self.gain, self.seen = dtype, gain, []
        torch.manual_seed(0)
        self.one = layers.Conv2d(4, 8, 1, dtype=dtype)
        self.two = layers.Conv2d(8, 4, 1, dtype=dtype)
        for p in self.parameters():
            p.data = (0.2 * torch.randn(p.shape)).to(dtype)
            p.requires_grad_(False)

    def forward(
        self, x: Tensor, t: Tensor, context: Any = None, control: Any = None,
        transformer_options: Any = None, **more: Any,
    ) -> Tensor:  # fmt: skip
        hidden = self.gain * torch.tanh(self.one(x))
        self.seen.append([str(v.dtype)[6:] for v in (x, t, hidden)])
        return self.two(hidden) / self.gain


STORED = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def outcome(model: Any) -> Tensor:
    sigmas = torch.tensor([1.0, 0.5, 0.0])
    return n.run(
        n.guide(model, positive=[[None, {}]]),
        n.kit("Euler"),
        sigmas,
        n.latent(1, 4, 8, 8, fill=0.5),
    )


def returned() -> dict[str, Any]:
    """{class: (largest change of a timestep, of D)} when a MODEL is given the schedule it already has."""
    found = {}
    for name, model in every().items():
        if name in ("LCM", "IMG_TO_IMG_FLOW"):
            continue
        schedule = n.kit("NoiseScheduleFromModel", model=model)
        same = node("DenoiserSettings", model=model, noise_schedule=schedule)[0]
        old, new = (m.get_model_object("model_sampling") for m in (model, same))
        levels = torch.tensor(engine("measure").spread(schedule, 9))
        times = [s.timestep(levels).float() for s in (old, new)]
        found[name] = [n.distance(*times), worst(same)]
    return found


def cogvideox() -> dict[str, Any]:
    """V_PREDICTION_DDPM: (mean, std) with samplers that keep another state, and the error about masks."""
    model = native("V_PREDICTION_DDPM")
    corrected = node("DenoiserSettings", model=model, prediction="v")[0]
    sigmas, image = n.steps(model, 200), n.latent(8, 4, 16, 16)
    samplers = {"ours": n.kit("Euler"), "euler": n.comfy.samplers.sampler_object("euler")}
    found: dict[str, Any] = {}
    for about, here in {"as loaded": model, "corrected": corrected}.items():
        for name, sampler in samplers.items():
            x = n.run(n.guide(here, positive=[[None, {}]]), sampler, sigmas, image)
            found[f"{name} {about}"] = [float(x.mean()), float(x.std())]
    masked = image | {"noise_mask": torch.ones(1, 1, 16, 16)}
    run = lambda: n.run(n.guide(model, positive=[[None, {}]]), samplers["ours"], sigmas, masked)  # noqa: E731
    return found | {"masked": n.message(run)}


def precision() -> dict[str, Any]:
    """{stored → asked: dtypes of input, time and hidden; or the error}, and whether it can be undone."""
    found: dict[str, Any] = {}
    for stored, dtype in STORED.items():
        model = bare(ModelType.FLOW, network := Layers(dtype), {})
        first = outcome(model)
        for asked in ("auto", "fp32", "bf16", "fp16"):
            try:
                clone, text = node("DenoiserSettings", model=model, compute_dtype=asked)
            except ValueError as error:
                found[f"{stored} {asked}"] = str(error)
                continue
            network.seen.clear()
            result = outcome(clone)
            undone, _ = node("DenoiserSettings", model=clone, compute_dtype="as loaded")
            found[f"{stored} {asked}"] = dict(
                seen=network.seen[0], text=text, state=str(result.dtype)[6:],
                changed=not torch.equal(first, result),
                undone=torch.equal(first, outcome(undone)), again=torch.equal(first, outcome(model)),
            )  # fmt: skip
    plain = bare(ModelType.FLOW, Layers(torch.float32, layers=nn), {})
    found["plain layers"] = n.message(
        lambda: node("DenoiserSettings", model=plain, compute_dtype="bf16")
    )
    bf16_family = bare(ModelType.FLOW, Layers(torch.float16), {})
    bf16_family.model.model_config.supported_inference_dtypes = [torch.bfloat16, torch.float32]
    found["family"] = n.message(
        lambda: node("DenoiserSettings", model=bf16_family, compute_dtype="fp16")
    )
    found["family auto"] = node("DenoiserSettings", model=bf16_family)[1]
    return found


def audited() -> dict[str, Any]:
    """Precision Audit of a network that is fine and of one that overflows in fp16, and of our own."""
    ours = n.kit("EmbeddedDenoiser", kind={"kind": "gaussian", "size": 24, "scenes": 4, "rank": 2})
    cases = {
        "fine": (bare(ModelType.FLOW, Layers(torch.float32), {}), known()),
        "overflows": (bare(ModelType.FLOW, Layers(torch.bfloat16, gain=1e5), {}), known()),
        "ours": (ours, {"samples": torch.rand(2, 3, 24, 24) * 2 - 1}),
    }
    found = {}
    for name, (model, image) in cases.items():
        plot, text, told = node("PrecisionAudit", model=model, latent=image, levels=3, steps=4)
        facts = dict(shape=list(plot.shape), spread=float(plot.max() - plot.min()), text=text)
        found[name] = json.loads(told) | facts
    return found


def steps_checked() -> dict[str, Any]:
    """{case: warnings of Inspect Denoiser about steps}."""
    sd3 = advanced.ModelSamplingSD3().patch(native("FLOW"), 3.0)[0]
    mixed = advanced.ModelSamplingSD3().patch(native("EPS"), 3.0)[0]
    zero = native("V_PREDICTION zsnr")
    simple = n.comfy.samplers.calculate_sigmas
    patched_twice = simple(sd3.get_model_object("model_sampling"), "simple", 20)
    twice = 3 * patched_twice / (1 + 2 * patched_twice)
    cases = {
        "right": (sd3, patched_twice),
        "kit steps": (sd3, n.steps(sd3, 20, "trailing")),
        "shifted twice": (sd3, twice),
        "flow shift spacing": (sd3, n.kit("Steps", noise_schedule=n.kit("NoiseScheduleFromModel", model=sd3), steps=20, spacing={"spacing": "flow_shift", "shift": 3.0})),
        "eps patched to flow": (mixed, n.steps(mixed, 20, "trailing")),
        "eps steps on flow": (sd3, n.steps(native("EPS"), 20)),
        "other range": (native("EPS"), n.steps(zero, 20)),
        "not to zero": (native("EPS"), n.steps(native("EPS"), 20, final="sigma_min")),
        "img2img": (native("EPS"), n.steps(native("EPS"), 20, denoise=0.5)),
        "karras on zero SNR": (zero, n.steps(zero, 8)),
    }  # fmt: skip
    return {
        name: json.loads(node("InspectDenoiser", model=model, sigmas=sigmas)[1])["warnings"]
        for name, (model, sigmas) in cases.items()
    }


def unknown() -> dict[str, str]:
    """The errors about classes that nobody knows."""

    class MysterySampling(nn.Module):
        sigma_min, sigma_max = torch.tensor(0.1), torch.tensor(10.0)

    class MysteryOutput(ms.EPS):
        def calculate_denoised(self, sigma: Tensor, output: Tensor, x: Tensor) -> Tensor:
            return output

    schedule = native("EPS").clone()
    schedule.add_object_patch("model_sampling", type("M", (MysterySampling, ms.EPS), {})())
    output = native("EPS").clone()
    output.add_object_patch(
        "model_sampling", type("M", (ms.ModelSamplingDiscrete, MysteryOutput), {})()
    )
    vp = n.kit("NoiseSchedule", kind={"kind": "vp_linear"})
    flow = n.kit("NoiseSchedule", kind={"kind": "rectified_flow"})
    rescued = node("DenoiserSettings", model=schedule, prediction="eps", noise_schedule=vp)[0]
    return {
        "schedule": n.message(lambda: n.steps(schedule)),
        "inspect": n.message(lambda: node("InspectDenoiser", model=schedule)),
        "output": node("InspectDenoiser", model=output)[0],
        "no prediction": n.message(lambda: node("DenoiserSettings", model=output, noise_schedule=vp)),
        "to flow": n.message(lambda: node("DenoiserSettings", model=native("EPS"), noise_schedule=flow)),
        "empty latent": n.message(lambda: node("CheckPredictionType", model=native("EPS"), latent=n.latent(1, 4, 8, 8))),
        "rescued": f"{worst(rescued):.3g}",
    }  # fmt: skip


def main() -> None:
    torch.set_num_threads(1)
    n.comfy.utils.PROGRESS_BAR_ENABLED = False
    assert asyncio.run(nodes.load_custom_node(sys.argv[1])), "the pack did not load"
    checks = (
        inspected,
        sampled,
        checked,
        corrected,
        returned,
        cogvideox,
        precision,
        audited,
        steps_checked,
        unknown,
    )
    with torch.inference_mode():
        print(json.dumps({check.__name__: check() for check in checks}, allow_nan=False))


if __name__ == "__main__":
    main()
