"""The NOISE that our nodes make."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import torch

from ...schedulers.noise import PLAIN, BatchSeed, NoiseRecipe
from .. import host

CONSUMERS = 16  # whose seeds are remembered, of those that use one NOISE at a time


class NoiseWire:
    """NOISE: a seed, and how noise comes from it.

    Packs set ``seed`` on a NOISE (one for each chunk of a video), and the host hands one NOISE, kept in its cache, to every
    node that is connected. So what is set belongs to the node that is running: another one, and the next run, see the seed
    of the node that made or copied it.

    The seed that a run reads after :meth:`generate_noise` says which images of the batch it is for and how noise comes from
    it, so that what our solvers draw on the way is those images' too.
    """

    def __init__(self, seed: int, recipe: NoiseRecipe = PLAIN) -> None:
        self.made_with, self.recipe, self.maker = seed, recipe, host.runs.consumer()
        self._seeds: dict[Hashable, int] = {}

    def __copy__(self) -> NoiseWire:
        """A copy is of the node that copies it, which may set its seed for the nodes after it."""
        return type(self)(self.seed, self.recipe)

    def __deepcopy__(self, memo: dict[int, Any]) -> NoiseWire:
        return self.__copy__()

    @property
    def seed(self) -> int:
        return self._seeds.get(host.runs.consumer(), self.made_with)

    @seed.setter
    def seed(self, value: int) -> None:
        consumer = host.runs.consumer()
        if consumer == self.maker:
            self.made_with = value
            return
        others = [item for item in self._seeds.items() if item[0] != consumer]
        self._seeds = dict([*others, (consumer, value)][-CONSUMERS:])

    def generate_noise(self, latent: dict[str, Any]) -> Any:
        """Noise shaped like latent["samples"], on the CPU; nested latents get one draw per part."""
        seed, samples = int(self.seed), latent["samples"]
        torch.manual_seed(seed)  # samplers of other packs draw from the global stream
        nested = getattr(samples, "is_nested", False)
        parts = [part.cpu() for part in (samples.unbind() if nested else [samples])]
        recipe = None if self.recipe == PLAIN else self.recipe
        self.seed = labelled = BatchSeed(seed, latent.get("batch_index"), recipe)
        noise = self.recipe.start(seed, labelled.images, parts)
        return type(samples)(noise) if nested else noise[0]
