"""Who draws the white noise of a seed: our streams, torch as ComfyUI's core uses it, CUDA's Philox, a Brownian motion.

A generator has two sides. ``start`` is x_T of a LATENT, one tensor per part of it (a picture, and its sound); ``draws`` is
what a solver draws on the way, a pure function of (seed, image, position) in each of them, so that a run in parts, a batch
and one image of it agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ..settings import Settings
from .brownian import Path, Span, along
from .philox import normals
from .streams import MASK, DrawNoise, PerImageNoise

Images = Sequence[int] | None  # image i of a batch has seed + images[i]; None: seed + i


@dataclass(frozen=True)
class Generator(Settings):
    """Base class: each image's own stream of torch's CPU generator, as Per-Image Noise draws."""

    def start(self, seed: int, images: Images, parts: Sequence[Tensor]) -> list[Tensor]:
        """White noise like each of ``parts`` [B, …], on the CPU."""
        draw = PerImageNoise(seed, images)
        return [draw(-number, part) for number, part in enumerate(parts)]

    def draws(self, seed: int, images: Images, spans: Sequence[Span]) -> DrawNoise:
        """Draws 1, 2, … of a run; ``spans[k − 1]``: between which levels draw k is made."""
        return PerImageNoise(seed, images)

    def key(self, seed: int, image: int) -> object:
        """Equal for images that have the same noise."""
        return seed + image


@dataclass(frozen=True)
class Kit(Generator):
    """Image i of a batch has the noise of seed + i, as in Per-Image Noise. One image equals ComfyUI's RandomNoise."""

    title: ClassVar[str] = "Sampling Kit"
    aliases: ClassVar[tuple[str, ...]] = ("per image", "batch seed")


@dataclass(frozen=True)
class TorchCPU(Generator):
    """One draw for the whole batch, bit for bit that of ComfyUI's RandomNoise; batch_index is counted as there. On the
    way solvers draw as with RandomNoise: each image from its own stream."""

    title: ClassVar[str] = "torch CPU"
    aliases: ClassVar[tuple[str, ...]] = ("RandomNoise", "core noise", "CPU noise")

    def start(self, seed: int, images: Images, parts: Sequence[Tensor]) -> list[Tensor]:
        generator = torch.Generator("cpu").manual_seed(seed & MASK)
        return [self._part(generator, images, part) for part in parts]

    def key(self, seed: int, image: int) -> object:
        return seed, image

    @staticmethod
    def _part(generator: torch.Generator, images: Images, like: Tensor) -> Tensor:
        if images is None:
            return torch.randn(like.shape, generator=generator).to(like.dtype)
        if len(images) != len(like):
            raise ValueError(f"{len(images)} image indices for a batch of {len(like)}")
        one = (1, *like.shape[1:])
        drawn = [torch.randn(one, generator=generator) for _ in range(max(images) + 1)]
        return torch.cat([drawn[i] for i in images]).to(like.dtype)


@dataclass(frozen=True)
class Philox(Generator):
    """CUDA's randn, computed on the CPU: the noise of A1111's web UI with "NV" or "GPU" as its source. Image i has
    seed + i; draw k on the way is the seed's k-th."""

    title: ClassVar[str] = "Philox"
    aliases: ClassVar[tuple[str, ...]] = ("A1111", "GPU noise", "NV", "webui", "CUDA randn")

    def start(self, seed: int, images: Images, parts: Sequence[Tensor]) -> list[Tensor]:
        return [self._draw(seed, images, part, 0, number) for number, part in enumerate(parts)]

    def draws(self, seed: int, images: Images, spans: Sequence[Span]) -> DrawNoise:
        return lambda position, like: self._draw(seed, images, like, position, 0)

    @staticmethod
    def _draw(seed: int, images: Images, like: Tensor, position: int, part: int) -> Tensor:
        count, numbers = like[0].numel(), numbered(images, like)
        drawn = [normals((seed + i) & MASK, count, position, part) for i in numbers]
        batch = torch.from_numpy(np.stack(drawn)).float().reshape(like.shape)
        return batch.to(like.device, like.dtype)


@dataclass(frozen=True)
class Brownian(Generator):
    """The start of Per-Image Noise. What a solver draws on the way are steps of one Brownian motion, in the time
    τ = α²/σ² of the reverse SDE: runs of more or fewer steps follow one path, exactly where the prediction is constant.
    Draws on no stretch of it (Langevin moves, noise put back) are independent."""

    title: ClassVar[str] = "Brownian tree"
    aliases: ClassVar[tuple[str, ...]] = (
        "BrownianTreeNoiseSampler",
        "SDE noise",
        "brownian interval",
    )

    def draws(self, seed: int, images: Images, spans: Sequence[Span]) -> DrawNoise:
        other = PerImageNoise(seed, images)

        def draw(position: int, like: Tensor) -> Tensor:
            span = spans[position - 1] if 0 < position <= len(spans) else None
            numbers = numbered(images, like)
            paths = [Path((seed + i) & MASK, tuple(like.shape[1:])) for i in numbers]
            z = along(paths, span)
            return other(position, like) if z is None else z.to(like.device, like.dtype)

        return draw


GENERATORS: dict[str, type[Generator]] = {
    "kit": Kit,
    "torch_cpu": TorchCPU,
    "philox": Philox,
    "brownian": Brownian,
}


def numbered(images: Images, like: Tensor) -> Sequence[int]:
    """The number of every image of a batch. Raises ValueError for a wrong count."""
    numbers = range(len(like)) if images is None else images
    if len(numbers) != len(like):
        raise ValueError(f"{len(numbers)} image indices for a batch of {len(like)}")
    return numbers
