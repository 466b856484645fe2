"""Core's caches beside our solvers, and MODELs with a sampler of their own: checks of ``wires.py``."""

from __future__ import annotations

import logging
from typing import Any

import native_models as native
import torch
from comfy_extras import nodes_custom_sampler as core
from comfy_extras.nodes_easycache import EasyCacheNode, LazyCacheNode
from torch import Tensor, nn


class Lines(logging.Handler):
    """Collects what the pack's log says."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def noted(call: Any, level: int = logging.WARNING) -> list[str]:
    """What the pack's log says at this level and above during a call."""
    handler, log = Lines(), logging.getLogger("sampling_kit")
    handler.setLevel(level)
    log.setLevel(level)
    log.addHandler(handler)
    try:
        call()
    finally:
        log.removeHandler(handler)
    return handler.lines


def run(model: Any, sampler: Any, ours: bool = True, steps: int = 20) -> Tensor:
    sigmas = native.steps(model, steps, "trailing")
    guider = native.guide(model) if ours else native.cfg_guide(model, 1.0)
    noise = native.kit("PerImageNoise", seed=3)
    image = native.latent(1, 4, 8, 8)
    return core.SamplerCustomAdvanced.execute(noise, guider, sampler, sigmas, image).args[0][
        "samples"
    ]


def caches() -> dict[str, Any]:
    """LazyCache skips the same steps for ours as for core's; who is warned, and in which words."""
    model = native.native("FLOW")
    knobs = {"start_percent": 0.15, "end_percent": 0.95, "verbose": False}
    lazy = LazyCacheNode.execute(model, 0.5, **knobs).args[0]
    easy = EasyCacheNode.execute(model, 0.5, **knobs).args[0]
    euler, theirs = native.kit("Euler"), core.KSamplerSelect.execute("euler").args[0]
    without = run(model, euler)
    found = {
        "acts": native.distance(run(lazy, euler), without),
        "as core": native.distance(run(lazy, euler), run(lazy, theirs)),
        "core's guider": native.distance(run(lazy, euler), run(lazy, euler, False)),
        "afterwards": native.distance(run(model, euler), without),
    }
    compiled = model.clone()
    compiled.add_wrapper_with_key("apply_model", "torch.compile", lambda executor, *a: executor(*a))
    for name, patched in (("lazy", lazy), ("easy", easy), ("compile", compiled), ("none", model)):
        for solver in ("HeunEDM", "UniPC", "Adaptive"):
            sampler = native.kit(solver)
            found[f"{name} {solver}"] = noted(lambda m=patched, s=sampler: run(m, s, steps=4))
    lines = noted(lambda: run(model, native.kit("UniPC", max_order=3), steps=8), logging.INFO)
    found["kept"] = [line for line in lines if "keeps" in line]
    return found


def cfg_functions() -> dict[str, list[str]]:
    """{rule: what the log says of a patch's own CFG function beside it}."""
    model, sampler, image = native.native("FLOW"), native.kit("Euler"), native.latent(1, 4, 8, 8)
    patched, sigmas = model.clone(), native.steps(model, 4)
    patched.set_model_sampler_cfg_function(lambda args: args["cond"])
    found = {}
    for rule in ("CFG", "APG"):
        guidance = native.kit(rule)
        guider = native.guide(patched, negative=native.NEGATIVE, guidance=guidance)
        found[rule] = noted(lambda g=guider: native.run(g, sampler, sigmas, image))
    return found


class Frames(nn.Module):
    """A network that makes frame after frame."""

    dtype = torch.float32

    def init_kv_caches(self) -> None: ...

    def forward(self, x: Tensor, timestep: Tensor, **kwargs: Any) -> Tensor:
        return x


def own_samplers() -> dict[str, str]:
    model, actions = native.native("FLOW"), native.native("FLOW")
    model.model.diffusion_model = Frames()
    kind = type(actions.model)
    actions.model.__class__ = type("Policy", (kind,), {"select_action": lambda self: None})
    return {
        "frames": native.message(lambda: run(model, native.kit("Euler"))),
        "actions": native.message(lambda: run(actions, native.kit("Euler"))),
    }
