"""Traced and untraced runs on native BaseModels. Run by ComfyUI's own Python, as ``native_models.py`` is.

Prints one JSON object of measurements; ``test_trace.py`` says which of them are right.
"""

from __future__ import annotations

import asyncio
import json
import math
import sys
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))
import native_models as native  # first: it says where ComfyUI is, and that it must use the CPU
import state_runs
from comfy_extras import nodes_custom_sampler as core

OURS = {**state_runs.SOLVERS, "adaptive": ("Adaptive", {}), "langevin": ("Langevin", {})}
STEPS = 5


def plain_cfg(model: Any, scale: float) -> Any:
    """ComfyUI's own CFGGuider."""
    guider = native.comfy.samplers.CFGGuider(model)
    guider.set_conds(native.POSITIVE, native.NEGATIVE)
    guider.set_cfg(scale)
    return guider


def sampled(
    guider: Any, sampler: Any, sigmas: Any, latent: Any, noise: Any
) -> tuple[Any, list[int]]:
    """(output, steps the host's callback heard of)."""
    heard: list[int] = []
    prepare = core.latent_preview.prepare_callback

    def counting(*args: Any) -> Any:
        callback = prepare(*args)

        def both(step: int, *more: Any) -> Any:
            heard.append(step)
            return callback(step, *more)

        return both

    core.latent_preview.prepare_callback = counting
    try:
        out = core.SamplerCustomAdvanced.execute(noise, guider, sampler, sigmas, latent).args[0]
    finally:
        core.latent_preview.prepare_callback = prepare
    return out, heard


def compared(
    kind: str, latent: Any, samplers: dict[str, Any], guide: Any, look: bool = True
) -> dict[str, Any]:
    """{sampler: facts} of its runs with and without a trace, and if ``look`` of what comes of the trace."""
    found = {}
    model = native.native(kind)
    model.model.latent_format = state_runs.Scaled()
    sigmas, noise = native.steps(model, STEPS), native.kit("PerImageNoise", seed=7)
    for name, sampler in samplers.items():
        guider, network = guide(model), model.model.diffusion_model
        network.calls, forward = 0, type(network).forward

        def counted(*args: Any, forward: Any = forward, network: Any = network, **more: Any) -> Any:
            network.calls += 1
            return forward(network, *args, **more)

        network.forward = counted
        whole, plainly = sampled(guider, sampler, sigmas, latent, noise)
        calls = network.calls
        traced, watch = state_runs.both("Trace", sampler=sampler, memory=64)
        again, heard = sampled(guider, traced, sigmas, latent, noise)
        trace = watch.trace
        found[name] = dict(
            gap=state_runs.gap(again, whole), callbacks=heard == plainly, steps=len(trace), nfe=trace.nfe, calls=calls,
            delta=trace.curve("delta"), weight=trace.curve("weight"), kept=len(trace.kept),
        )  # fmt: skip
        if look:
            values = [v for key in trace.measured for v in trace.curve(key) if v is not None]
            found[name] |= dict(
                finite=all(map(math.isfinite, values)), sigma=trace.curve("sigma"), sigmas=sigmas.tolist(),
                replay=replayed(watch, guider, again, whole),
            )  # fmt: skip
        if look and name == "euler":  # plots take their time
            shown = state_runs.both("ShowTrace", trace=watch, latent=again, image=1, frames=3)
            found[name]["pictures"] = list(shown[2].shape)
    return found


def replayed(watch: Any, guider: Any, latent: Any, whole: Any) -> list[float | str]:
    """Largest distance of the runs that go on from some steps of the trace to the whole run."""
    gaps: list[float | str] = []
    for step in (0, 3):
        try:
            parts = state_runs.both("Replay", trace=watch, latent=latent, step=step)
        except ValueError as error:
            gaps.append(str(error))
            continue
        none = core.DisableNoise.execute().args[0]
        out = core.SamplerCustomAdvanced.execute(none, guider, *parts).args[0]
        gaps.append(state_runs.gap(out, whole))
    return gaps


def main() -> None:
    torch.set_num_threads(1)
    native.comfy.utils.PROGRESS_BAR_ENABLED = False
    loaded = native.nodes.load_custom_node(sys.argv[1])
    assert asyncio.run(loaded), "the pack did not load"
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., 4:] = 1
    latents = {
        "empty": native.latent(2, 4, 8, 8),
        "masked": native.latent(2, 4, 8, 8, fill=0.4) | {"noise_mask": mask},
        "video": native.latent(2, 4, 3, 8, 8),
        "sound": native.latent(2, 4, 32),
        "nested": native.nested(),
    }
    ours = {name: native.kit(node, **knobs) for name, (node, knobs) in OURS.items()}
    theirs = {
        name: native.comfy.samplers.sampler_object(name)
        for name in native.comfy.samplers.SAMPLER_NAMES
    }
    few = {name: theirs[name] for name in ("euler", "dpmpp_2m", "uni_pc")}
    rows = {}
    with torch.inference_mode():
        for kind in ("EPS", "FLOW"):
            for name, latent in latents.items():
                guide = lambda model: native.cfg_guide(model, 2.0)  # noqa: E731
                rows[f"{kind} {name}"] = compared(kind, latent, ours, guide)
            guide = lambda model: plain_cfg(model, 2.0)  # noqa: E731
            rows[f"{kind} core"] = compared(kind, latents["empty"], theirs, guide, look=False)
            rows[f"{kind} core masked"] = compared(kind, latents["masked"], few, guide)
            rows[f"{kind} core nested"] = compared(kind, latents["nested"], few, guide)
    print(json.dumps(rows, allow_nan=False))


if __name__ == "__main__":
    main()
