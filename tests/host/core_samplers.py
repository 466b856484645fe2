"""ComfyUI's own sampler functions on an exact Gaussian denoiser. Run by ComfyUI's own Python.

    cd ComfyUI && .venv/bin/python …/core_samplers.py < cases.json

Reads {"mean", "std", "draws", "cases": [{"sampler", "model", "sigmas", "x", "dtype", "options"}, …]} and
prints, for each case, every state its denoiser saw and the result: [[x, …], …, end]. ``draws`` holds the
noise that the sampler is given, in the order in which it asks; a sampler that draws elsewhere would show.
"""

# ruff: noqa: E402  (where ComfyUI is and that it must use the CPU comes before its imports)

from __future__ import annotations

import inspect
import json
import os
import sys
from types import SimpleNamespace
from typing import Any

sys.path[0] = os.getcwd()  # ComfyUI's modules, not this folder's

import comfy.cli_args

comfy.cli_args.args.cpu = True

import comfy.extra_samplers.uni_pc
import comfy.k_diffusion.sampling
import comfy.model_sampling
import torch
from torch import Tensor


class EPS(comfy.model_sampling.ModelSamplingDiscrete, comfy.model_sampling.EPS):
    """As Stable Diffusion has it."""


class FLOW(comfy.model_sampling.ModelSamplingDiscreteFlow, comfy.model_sampling.CONST):
    """As SD3 has it."""


class Model:
    """What a sampler function is given, with D of N(mean, std²) in place of a network."""

    def __init__(self, kind: str, mean: Tensor, std: Tensor) -> None:
        self.flow, self.mean, self.std = kind == "FLOW", mean, std
        sampling = FLOW() if self.flow else EPS()
        patcher = SimpleNamespace(get_model_object=lambda name: sampling)
        base = SimpleNamespace(model_sampling=sampling)
        self.inner_model = SimpleNamespace(inner_model=base, model_patcher=patcher)
        self.states: list[Tensor] = []

    def __call__(self, x: Tensor, sigma: Tensor, **_: Any) -> Tensor:
        self.states.append(x)
        sigma = sigma.reshape(-1, *(1,) * (x.ndim - 1))
        alpha = 1 - sigma if self.flow else 1
        gain = alpha * self.std**2 / (alpha**2 * self.std**2 + sigma**2)
        return self.mean + gain * (x - alpha * self.mean)


def run(case: dict[str, Any], mean: Any, std: Any, draws: Any) -> list[Any]:
    dtype = getattr(torch, case["dtype"])
    torch.set_default_dtype(dtype)  # several samplers make tensors without saying of which type

    def tensor(values: Any) -> Tensor:
        return torch.tensor(values, dtype=dtype)

    model, supply = Model(case["model"], tensor(mean), tensor(std)), iter(draws)
    options = dict(case["options"])
    if "tau" in options:  # [τ, from σ, to σ]
        tau, low, high = options.pop("tau")
        options["tau_func"] = lambda sigma: tau if low <= sigma <= high else 0.0
    unipc = case["sampler"].startswith("unipc")
    module = comfy.extra_samplers.uni_pc if unipc else comfy.k_diffusion.sampling
    sample = getattr(module, "sample_" + case["sampler"])
    if "noise_sampler" in inspect.signature(sample).parameters:
        options["noise_sampler"] = lambda *_: tensor(next(supply))
    levels: Any = (tensor(case["sigmas"]),)
    if "sigma_min" in inspect.signature(sample).parameters:
        levels = (case["sigmas"][-1], case["sigmas"][0])
        options["noise_sampler"] = lambda *_: 0.0  # it draws in each of its steps, times 0
    end = sample(model, tensor(case["x"]), *levels, extra_args={}, disable=True, **options)
    return [x.tolist() for x in (*model.states, end)]


def main() -> None:
    torch.set_num_threads(1)
    given = json.load(sys.stdin)
    shared = given["mean"], given["std"], given["draws"]
    with torch.inference_mode():
        print(json.dumps([run(case, *shared) for case in given["cases"]]))


if __name__ == "__main__":
    main()
