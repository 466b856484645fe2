"""Denoiser nodes: the models that ship with the pack, and their conditions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..embedded import postcards
from ..schedulers import noise_schedule as schedules
from ..schedulers.denoiser import Denoiser, ImageSet, LocalScore, Mixture
from ..schedulers.path import Path
from ..schedulers.settings import Settings, knob
from .conditioning import class_conditioning
from .host import io, make_model
from .types import NoiseScheduleType
from .widgets import choice, chosen

CATEGORY = "Sampling Kit/denoiser"
EACH, NONE = "one of each", "unconditional"


@lru_cache(maxsize=4)
def scenes(count: int, size: int) -> Tensor:
    """The first ``count`` postcards of every class [K, count, 3, size, size] in [−1, 1]."""
    images = np.stack([postcards.scenes(name, range(count), size) for name in postcards.CLASSES])
    return torch.from_numpy(images).permute(0, 1, 4, 2, 3).float() / 127.5 - 1


_SCENES = "Postcards per class the model knows."
_SIZE = "Picture size in pixels; the empty latent must match."


@dataclass(frozen=True)
class Embedded(Settings):
    """Base of the shipped models: ``build`` makes the denoiser in the coordinates of ``path``."""

    def build(self, path: Path) -> Denoiser:
        raise NotImplementedError


@dataclass(frozen=True)
class Patches(Embedded):
    """Local score: new pictures from neighbourhoods of the scenes, without any trained weight."""

    size: int = knob(64, _SIZE, low=24, high=128)
    scenes: int = knob(110, _SCENES, low=4, high=500)
    locality: float = knob(
        1.0,
        "Window size: small makes patchwork, large recalls whole scenes.",
        low=0.1,
        high=20.0,
        step=0.01,
    )

    def build(self, path: Path) -> Denoiser:
        return LocalScore(path, scenes(self.scenes, self.size), self.locality)


@dataclass(frozen=True)
class Images(Embedded):
    """The exact denoiser of the scenes themselves: it can only draw copies."""

    size: int = knob(64, _SIZE, low=24, high=128)
    scenes: int = knob(110, _SCENES, low=4, high=500)

    def build(self, path: Path) -> Denoiser:
        return ImageSet(path, scenes(self.scenes, self.size))


@dataclass(frozen=True)
class MixtureOfGaussians(Embedded):
    """A Gaussian mixture fitted to the scenes: blurred, but its score is exact."""

    size: int = knob(32, _SIZE, low=24, high=128)
    scenes: int = knob(200, _SCENES, low=4, high=500)
    components: int = knob(6, "Gaussians per class.", low=1, high=50)
    rank: int = knob(12, "Principal directions per Gaussian.", low=0, high=100)

    def build(self, path: Path) -> Denoiser:
        return Mixture.fit(path, scenes(self.scenes, self.size), self.rank, self.components)


@dataclass(frozen=True)
class OneGaussian(Embedded):
    """One Gaussian per class: its trajectories are known in closed form."""

    size: int = knob(32, _SIZE, low=24, high=128)
    scenes: int = knob(200, _SCENES, low=4, high=500)
    rank: int = knob(24, "Principal directions.", low=0, high=200)

    def build(self, path: Path) -> Denoiser:
        return Mixture.fit(path, scenes(self.scenes, self.size), self.rank)


KINDS: dict[str, type[Embedded]] = {
    "patches": Patches,
    "images": Images,
    "mixture": MixtureOfGaussians,
    "gaussian": OneGaussian,
}


class EmbeddedDenoiser(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="SamplingKitEmbeddedDenoiser",
            display_name="Embedded Denoiser",
            category=CATEGORY,
            description="A model that needs no download: procedural postcards in 10 classes, drawn by an analytic denoiser. "
            "The same denoiser runs on every noise schedule, so it serves DDPM, DDIM, EDM and rectified-flow graphs. "
            "'patches' draws new pictures, 'images' copies, 'mixture' and 'gaussian' have exact scores.",
            search_aliases=["model", "checkpoint", "postcards", "local score", "test model", "loader"],
            inputs=[
                choice("kind", KINDS, "Which analytic denoiser."),
                NoiseScheduleType.Input("noise_schedule", optional=True, tooltip="Default: VE (EDM), σ from 0.002 to 80."),
            ],
            outputs=[io.Model.Output(display_name="model", tooltip="Pixel space: no VAE, use Latent to Image.")],
        )  # fmt: skip

    @classmethod
    def execute(cls, kind: dict[str, Any] | None = None, noise_schedule: Any = None) -> Any:
        schedule = noise_schedule or schedules.EDM()
        if not isinstance(schedule, schedules.NoiseSchedule):
            raise TypeError(
                f"noise_schedule: expected a NOISE_SCHEDULE, got {type(schedule).__name__}"
            )
        build: Callable[[Path], Denoiser] = chosen("kind", KINDS, kind).build
        return io.NodeOutput(make_model(build, schedule))


class ClassCondition(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="SamplingKitClassCondition",
            display_name="Class Condition",
            category=CATEGORY,
            description="Which class of postcards to draw. 'one of each' gives image i of a batch class i; blend two classes "
            "with ComfyUI's Conditioning (Average).",
            search_aliases=["prompt", "class label", "CLIP Text Encode"],
            inputs=[
                io.Combo.Input(
                    "name", options=[*postcards.CLASSES, EACH, NONE], default=postcards.CLASSES[0],
                    tooltip="'unconditional' draws any class; use it as the negative of CFG.",
                ),
            ],
            outputs=[io.Conditioning.Output(display_name="conditioning")],
        )  # fmt: skip

    @classmethod
    def execute(cls, name: str) -> Any:
        return io.NodeOutput(class_conditioning(class_rows(name)))


class Postcards(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="SamplingKitPostcards",
            display_name="Postcards",
            category="Sampling Kit/image",
            description="Pictures of the kind that the Embedded Denoiser draws, painted by a program: image i has seed + i. "
            "Models are made from the seeds 0 to scenes − 1; those from 2147483648 on are new to every model.",
            search_aliases=["test image", "load image", "postcards", "data set", "example picture"],
            inputs=[
                io.Combo.Input(
                    "name", options=[*postcards.CLASSES, EACH], default=EACH,
                    tooltip="The class; with 'one of each' image i has class i.",
                ),
                io.Int.Input(
                    "seed", default=postcards.HELD_OUT, min=0, max=0xFFFFFFFF, control_after_generate=True,
                    tooltip="Seed of the first image.",
                ),
                io.Int.Input("size", default=64, min=postcards.MIN_SIZE, max=postcards.MAX_SIZE, tooltip="Pixels."),
                io.Int.Input("batch_size", default=1, min=1, max=4096, tooltip="Number of pictures."),
            ],
            outputs=[
                io.Image.Output(display_name="images"),
                io.Conditioning.Output(display_name="conditioning", tooltip="Their classes, as Class Condition gives them."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, name: str, seed: int, size: int, batch_size: int) -> Any:
        if name == NONE:
            raise ValueError(f"name = {name!r}: a picture has a class")
        rows = class_rows(name)
        rows = [rows[i % len(rows)] for i in range(batch_size if name == EACH else 1)]
        labels = [int(np.argmax(rows[i % len(rows)])) for i in range(batch_size)]
        images = np.stack([postcards.scene(k, seed + i, size) for i, k in enumerate(labels)])
        return io.NodeOutput(torch.from_numpy(images).float() / 255, class_conditioning(rows))


def class_rows(name: str) -> list[list[float]]:
    """Class weights, one row per image, for a choice of the Class Condition node."""
    unit = np.eye(len(postcards.CLASSES))
    if name == NONE:
        return (0 * unit[:1]).tolist()
    if name == EACH:
        return unit.tolist()
    if name not in postcards.CLASSES:
        raise ValueError(
            f"name = {name!r}: choose one of {', '.join((*postcards.CLASSES, EACH, NONE))}"
        )
    return [unit[postcards.CLASSES.index(name)].tolist()]


NODES = (EmbeddedDenoiser, ClassCondition, Postcards)
