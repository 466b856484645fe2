"""Guidance chains made by our nodes, for ComfyUI and for the stand-in alike: ``kit(name, **inputs)``.

Both worlds import this file, and draw the same pictures from the same noise with the same small exact models.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

Kit = Callable[..., Any]
SIZE, BATCH, STEPS = 24, 3, 8
SMALL: dict[str, Any] = {"kind": "gaussian", "size": SIZE, "scenes": 4, "rank": 2}
WEAK: dict[str, Any] = {**SMALL, "rank": 0}
SCHEDULES: dict[str, dict[str, Any]] = {
    "VP": {"kind": "vp_scaled_linear"},
    "FLOW": {"kind": "rectified_flow"},
}
#: Rules that change the attention or blocks of a network, which these models have not.
PERTURBED = ("PAG", "SEG", "SkipLayer", "NAG")
INSTEAD = ("CFG", "TCFG")  # of CFG; the others come after it


@dataclass(frozen=True)
class World:
    """The nodes, a MODEL and the conditions that chains are made with."""

    kit: Kit
    model: Any
    positive: Any
    negative: Any
    other: Any
    weak: Any = None
    classifier: Any = None
    measurement: Any = None

    def chain(self, name: str, before: Any = None, **knobs: Any) -> Any:
        """The GUIDANCE of rule ``name`` at settings that are not off, after ``before``."""
        wires: dict[str, dict[str, Any]] = {
            "Autoguidance": {"weak_model": self.weak},
            "PerpNeg": {"negative_prompt": self.other},
            "NAG": {"negative_prompt": self.other},
            "Compose": {"conditions": {"condition0": self.other, "condition1": self.positive}, "weights": "1.5, -0.5"},
            "ClassifierGuidance": {"classifier": self.classifier, "label": 1, "scale": 0.5},
            "Rescale": {"scale": 0.5},
            "DynamicThresholding": {"scale": 1.0},
            **{key: {"measurement": self.measurement} for key in ("DDNM", "DPS", "PiGDM")},
        }  # fmt: skip
        return self.kit(name, guidance=before, **{**wires.get(name, {}), **knobs})

    def guider(self, guidance: Any, **inputs: Any) -> Any:
        known = dict(model=self.model, positive=self.positive, negative=self.negative)
        return self.kit("Guider", guidance=guidance, **{**known, **inputs})


def embedded(kit: Kit, schedule: str) -> World:
    """A world of the pack's own exact models."""
    known = kit("NoiseSchedule", kind=SCHEDULES[schedule])
    model = kit("EmbeddedDenoiser", kind=SMALL, noise_schedule=known)
    weak = kit("EmbeddedDenoiser", kind=WEAK, noise_schedule=known)
    names = (
        "dawn mountains",
        "sunset sea",
        "green hills",
    )  # single Gaussians: nothing amplifies rounding
    positive, other, negative = (kit("ClassCondition", name=name) for name in names)
    mask = torch.zeros(1, SIZE, SIZE)
    mask[..., SIZE // 2 :] = 1
    picture = torch.linspace(0, 1, SIZE).expand(1, SIZE, SIZE)[..., None].repeat(1, 1, 1, 3)
    world = World(kit, model, positive, negative, other, weak)
    return replace(
        world,
        classifier=kit("EmbeddedClassifier", model=model, kind=SMALL),
        measurement=kit("Measurement", model=model, picture=picture, kind={"kind": "inpaint"}, mask=mask),
    )  # fmt: skip


def sigmas(world: World, count: int = STEPS) -> Any:
    schedule = world.kit("NoiseScheduleFromModel", model=world.model)
    return world.kit("Steps", noise_schedule=schedule, steps=count, spacing={"spacing": "trailing"})


def pictures(kit: Kit, sample: Callable[..., Any], rules: list[str]) -> dict[str, Any]:
    """{"rule on schedule": pictures [BATCH, 3, SIZE, SIZE]} for every rule but the perturbed, after CFG."""
    found = {}
    latent = {"samples": torch.zeros(BATCH, 3, SIZE, SIZE)}
    for schedule in SCHEDULES:
        world = embedded(kit, schedule)
        steps, solver = sigmas(world), kit("DDIM")
        for name in rules:
            if name in PERTURBED:
                continue
            before = None if name in INSTEAD else kit("CFG", scale=2.0)
            guider = world.guider(world.chain(name, before))
            noise = kit("PerImageNoise", seed=3)
            found[f"{name} on {schedule}"] = sample(noise, guider, solver, steps, latent)
    return found
