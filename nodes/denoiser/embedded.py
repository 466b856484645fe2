"""Denoiser nodes: the models that ship with the pack, and their conditions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...embedded import postcards, trained
from ...schedulers import noise_schedule as schedules
from ...schedulers.denoiser import Denoiser, ImageSet, LocalScore, Mixture
from ...schedulers.denoiser.latent import Blocks, InLatents
from ...schedulers.path import Path
from ...schedulers.settings import Settings, knob
from .. import host
from ..host import io
from ..host.conditioning import class_conditioning
from ..ui.inputs import choice, chosen
from ..ui.wire_types import NoiseScheduleType
from .vae import FolderVae

CATEGORY = "Sampling Kit/denoiser"
EACH, NONE = "one of each", "unconditional"


@lru_cache(maxsize=4)
def painted(count: int, size: int, width: int) -> Tensor:
    """The first ``count`` postcards of every class, bytes [K, count, 3, size, width]."""
    images = np.empty((len(postcards.CLASSES), count, 3, size, width), np.uint8)
    for k, seed in np.ndindex(images.shape[:2]):
        images[k, seed] = postcards.scene(k, seed, size, width).transpose(2, 0, 1)
    return torch.from_numpy(images)


def scenes(count: int, size: int) -> Tensor:
    """The first ``count`` square postcards of every class [K, count, 3, size, size] in [−1, 1]."""
    return painted(count, size, size).float() / 127.5 - 1


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
    width: int = knob(
        0,
        "Width in pixels, for panoramas; 0: as the size. The empty latent must match.",
        low=0,
        high=postcards.MAX_WIDTH,
    )

    def build(self, path: Path) -> Denoiser:
        width = self.width or self.size
        if width < self.size:
            raise ValueError(
                f"width = {width}: 0 (square), or from the size ({self.size}) to {postcards.MAX_WIDTH}"
            )
        return LocalScore(path, painted(self.scenes, self.size, width), self.locality)


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


@dataclass(frozen=True)
class TrainedNetwork(Embedded):
    """A U-Net trained on postcards, 32×32: new pictures, and everything a real network does."""

    def build(self, path: Path) -> Denoiser:
        return trained.network(path)


@dataclass(frozen=True)
class SmallNetwork(Embedded):
    """Its weaker twin, for autoguidance."""

    def build(self, path: Path) -> Denoiser:
        return trained.network(path, "network-small")


KINDS: dict[str, type[Embedded]] = {
    "patches": Patches,
    "network": TrainedNetwork,
    "network-small": SmallNetwork,
    "images": Images,
    "mixture": MixtureOfGaussians,
    "gaussian": OneGaussian,
}


#: What a MODEL draws: the denoiser itself, or seen in latents.
SPACES: dict[str, Callable[[Denoiser], Denoiser]] = {"pixels": lambda d: d, "latent": InLatents}


class EmbeddedDenoiser(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="SamplingKitEmbeddedDenoiser",
            display_name="Embedded Denoiser",
            category=CATEGORY,
            description="A model that needs no download: procedural postcards in 10 classes, drawn by an analytic denoiser or a small trained network. "
            "The same denoiser runs on every noise schedule, so it serves DDPM, DDIM, EDM and rectified-flow graphs. "
            "'patches' draws new pictures by a mean per neighbourhood, which is no density's exact denoiser; 'network' (32×32) "
            "draws new ones too, 'network-small' is weaker on purpose, for autoguidance; 'images' copies, 'mixture' and "
            "'gaussian' draw from a density: these three are exact.",
            search_aliases=["model", "checkpoint", "postcards", "local score", "test model", "loader"],
            inputs=[
                choice("kind", KINDS, "Which model."),
                NoiseScheduleType.Input("noise_schedule", optional=True, tooltip="Default: VE (EDM), σ from 0.002 to 80."),
                io.Combo.Input(
                    "space", options=list(SPACES), default=next(iter(SPACES)), optional=True,
                    tooltip="latent: the same pictures as latents of the Embedded VAE, 12 channels at half the size.",
                ),
            ],
            outputs=[
                io.Model.Output(
                    display_name="model", tooltip="Pixels: Empty Pixel Latent and Latent to Image. Latents: Empty Diffusers "
                    "Latent and VAE Decode with the Embedded VAE.",
                )
            ],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, kind: dict[str, Any] | None = None, noise_schedule: Any = None, space: str = "pixels"
    ) -> Any:
        schedule = noise_schedule or schedules.EDM()
        if not isinstance(schedule, schedules.NoiseSchedule):
            raise TypeError(
                f"noise_schedule: expected a NOISE_SCHEDULE, got {type(schedule).__name__}"
            )
        if space not in SPACES:
            raise ValueError(f"space = {space!r}: choose one of {', '.join(SPACES)}")
        build, seen = chosen("kind", KINDS, kind).build, SPACES[space]
        return io.NodeOutput(host.models.make_model(lambda path: seen(build(path)), schedule))


class EmbeddedVAE(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="SamplingKitEmbeddedVAE",
            display_name="Embedded VAE",
            category=CATEGORY,
            description="A stand-in for a VAE that needs no download, for VAE Decode, VAE Encode and their tiled forms: every "
            "2×2 pixels become 12 latent channels by an orthogonal transform (colour, then Haar), and back without loss. For "
            "the Embedded Denoiser with space 'latent', whose latent run then equals its pixel run.",
            search_aliases=["VAELoader", "Load VAE", "latent space", "Haar", "test VAE"],
            inputs=[],
            outputs=[io.Vae.Output(display_name="vae", tooltip="For VAE Decode and VAE Encode.")],
        )

    @classmethod
    def execute(cls) -> Any:
        return io.NodeOutput(FolderVae(Blocks()))


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
            outputs=[io.Conditioning.Output(display_name="conditioning", tooltip="For the Guider, or Conditioning (Average).")],
        )  # fmt: skip

    @classmethod
    def execute(cls, name: str) -> Any:
        return io.NodeOutput(class_conditioning(class_rows(name)))


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


NODES = (EmbeddedDenoiser, EmbeddedVAE, ClassCondition)
