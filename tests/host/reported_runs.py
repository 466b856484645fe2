"""Reported Level beside a pack's wrapper that multiplies the level, in parts, under a mask and around core's samplers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import native_models as native
import torch
from comfy_extras import nodes_custom_sampler as core

import nodes

STEPS, SHARE = 6, 0.2
LEVEL = "0:1, 1:1"  # everywhere


def kit(name: str, **inputs: Any) -> tuple[Any, ...]:
    return nodes.NODE_CLASS_MAPPINGS[f"SamplingKit{name}"].execute(**inputs).args


def reporting(rules: tuple[str, ...], wrapped: Callable[[Any, float], Any]) -> dict[str, float]:
    """{case: distance, which is 0 where the report is right}."""
    model, image = native.native("FLOW"), native.latent(2, 4, 8, 8)
    sigmas, rows = native.steps(model, STEPS), {}
    high, low = core.SplitSigmas.execute(sigmas, 3).args
    noise, silence = native.kit("PerImageNoise", seed=3), core.DisableNoise.execute().args[0]

    def run(
        guider: Any, sampler: Any, levels: Any = sigmas, start: Any = image, z: Any = noise
    ) -> Any:
        return core.SamplerCustomAdvanced.execute(z, guider, sampler, levels, start).args[0]

    def told(sampler: Any, curve: str = LEVEL) -> Any:
        return kit("ReportedLevel", sampler=sampler, sigmas=sigmas, amount=SHARE, curve=curve)[0]

    def gap(a: Any, b: Any) -> float:
        return float((a["samples"] - b["samples"]).abs().max())

    solver, bump = native.kit("SASolver"), "0:0, 0.5:1, 1:0"
    for rule in rules:
        guider = native.guide(model, negative=native.NEGATIVE, guidance=native.kit(rule))
        rows[f"{rule} as a pack's"] = gap(
            run(guider, told(solver)), run(guider, wrapped(solver, 1 - SHARE))
        )
        whole = run(guider, told(solver, bump))
        keep, state = kit("KeepState", sampler=solver, sigmas=sigmas)
        half = run(guider, told(keep, bump), high)
        resume = kit("ResumeState", sampler=solver, state=state)[0]
        rows[f"{rule} in parts"] = gap(run(guider, told(resume, bump), low, half, silence), whole)
        traced = kit("Trace", sampler=told(solver, bump), memory=64)[0]
        rows[f"{rule} traced"] = gap(run(guider, traced), whole)
    guider = native.guide(model, negative=native.NEGATIVE, guidance=native.kit("CFGPlusPlus"))
    euler = core.KSamplerSelect.execute("euler").args[0]
    rows["none reported"] = gap(run(guider, told(euler, "0:0, 1:0")), run(guider, euler))
    rows["moves nothing"] = float(gap(run(guider, told(solver)), run(guider, solver)) == 0)
    rows["core's Euler, our rule"] = gap(
        run(guider, told(euler)), run(guider, told(native.kit("Euler")))
    )
    mask = {**image, "samples": image["samples"] + 1, "noise_mask": torch.zeros(2, 1, 8, 8)}
    rows["under a mask"] = gap(run(guider, told(euler), start=mask), mask)
    return rows
