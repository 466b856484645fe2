"""A noise recipe: a generator, seeds per image or shared, a colour of the start, and a second seed on the sphere.

The second seed: z = cos(tπ/2)·z₁ + sin(tπ/2)·z₂ for the strength t. That is spherical interpolation (Shoemake 1985) of two
independent draws, whose angle is a right one in expectation: for every t each value is exactly standard normal, t = 0 is the
first seed's draw and t = 1 the second's, bit for bit. Draws on the way are mixed in the same proportion.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from ..settings import Settings, choose, knob
from .brownian import Span
from .colours import COLOURS, Colour
from .generators import GENERATORS, Generator, Images
from .streams import MASK, BatchSeed, DrawNoise, PerImageNoise

PER_IMAGE, SHARED = "per_image", "shared"
BATCH = (PER_IMAGE, SHARED)
#: The first position of the draws beside a start (see ``colours.More``); further ones lie below.
BESIDE = -(1 << 20)


@dataclass(frozen=True)
class Variation(Settings):
    """Base class: the seed alone."""


@dataclass(frozen=True)
class NoVariation(Variation):
    """The seed alone."""

    title: ClassVar[str] = "none"


@dataclass(frozen=True)
class SecondSeed(Variation):
    """A second seed, mixed in on the sphere, for the start and for what solvers draw on the way."""

    title: ClassVar[str] = "second seed"
    aliases: ClassVar[tuple[str, ...]] = (
        "variation seed",
        "subseed",
        "variation strength",
        "slerp",
    )
    second_seed: int = knob(0, "Seed of the other noise.", low=0, high=MASK)
    strength: float = knob(
        0.1, "0 is the first seed exactly, 1 the second; between them on the sphere.", low=0.0, high=1.0, step=0.01
    )  # fmt: skip
    second_batch: str = knob(
        PER_IMAGE, "per_image: image i has second_seed + i. With batch = shared: variations of one picture.",
        options=BATCH,
    )  # fmt: skip


VARIATIONS: dict[str, type[Variation]] = {"none": NoVariation, "second_seed": SecondSeed}


@dataclass(frozen=True)
class NoiseRecipe(Settings):
    """How noise comes from a seed. The colour is that of the start; what solvers draw on the way is white."""

    batch: str = knob(
        PER_IMAGE, "per_image: image i of a batch has seed + i. shared: all have the noise of the first.",
        options=BATCH,
    )  # fmt: skip
    generator: Generator = choose(GENERATORS, "Who draws the noise of a seed.")
    colour: Colour = choose(COLOURS, "Of the noise that a run starts from.")
    variation: Variation = choose(VARIATIONS, "A second seed, mixed into the first.")

    def start(self, seed: int, images: Images, parts: Sequence[Tensor]) -> list[Tensor]:
        """Noise like each of the ``parts`` [B, …] of a LATENT, on the CPU."""
        sources = self._sources(seed, images, len(parts[0]))
        drawn = [self._coloured(*source, parts) for source in sources]
        return [self._mixed(sources, part) for part in zip(*drawn, strict=True)]

    def draws(self, seed: int, images: Images = None, spans: Sequence[Span] = ()) -> DrawNoise:
        """What a solver draws on the way: draw k [B, …] is the same function of the images' seeds in every batch."""

        def draw(position: int, like: Tensor) -> Tensor:
            sources = self._sources(seed, images, len(like))
            streams = (self.generator.draws(*source, spans) for source in sources)
            return self._mixed(sources, [stream(position, like) for stream in streams])

        return draw

    def _sources(self, seed: int, images: Images, count: int) -> list[tuple[int, Images]]:
        """(seed, images) of every draw that is mixed. A strength of 0 or 1 mixes nothing."""
        first = seed, self._of_batch(self.batch, images, count)
        if not isinstance(self.variation, SecondSeed):
            return [first]
        second = (
            self.variation.second_seed,
            self._of_batch(self.variation.second_batch, images, count),
        )
        return {0.0: [first], 1.0: [second]}.get(self.variation.strength, [first, second])

    @staticmethod
    def _of_batch(batch: str, images: Images, count: int) -> Images:
        return (0,) * count if batch == SHARED else images

    def _coloured(self, seed: int, images: Images, parts: Sequence[Tensor]) -> list[Tensor]:
        beside, out = PerImageNoise(seed, images), []
        for number, z in enumerate(self.generator.start(seed, images, parts)):

            def more(k: int, shape: tuple[int, ...], z: Tensor = z, number: int = number) -> Tensor:
                return beside(BESIDE - (number << 8) - k, z.new_empty((len(z), *shape)))

            out.append(self.colour.apply(z, more))
        return out

    def _mixed(self, sources: Sequence[tuple[int, Images]], drawn: Sequence[Tensor]) -> Tensor:
        """On the sphere; where an image has the same seed twice, that seed's noise."""
        if len(drawn) == 1:
            return drawn[0]
        assert isinstance(self.variation, SecondSeed)
        z, other = drawn
        keys = (self._keys(*source, len(z)) for source in sources)
        alike = z.new_tensor([a == b for a, b in zip(*keys, strict=True)])
        alike = alike.reshape(-1, *(1,) * (z.ndim - 1)) > 0
        turn = self.variation.strength * math.pi / 2
        return (math.cos(turn) * z + math.sin(turn) * other).where(~alike, z)

    def _keys(self, seed: int, images: Images, count: int) -> list[object]:
        numbers = range(count) if images is None else images
        return [self.generator.key(seed, i) for i in numbers]


PLAIN = NoiseRecipe()


def recipe_of(seed: int) -> NoiseRecipe | None:
    """The recipe that a seed says, if it says one."""
    return getattr(seed, "recipe", None)


def draws_of(seed: int, spans: Sequence[Span] = ()) -> DrawNoise:
    """What a solver draws in a run of ``seed``, which may say images and a recipe."""
    images, recipe = getattr(seed, "images", None), recipe_of(seed)
    if recipe is None:
        return PerImageNoise(seed, images)
    return recipe.draws(BatchSeed(seed), images, spans)


TABLES: dict[str, Mapping[str, type[Settings]]] = {
    "generator": GENERATORS,
    "colour": COLOURS,
    "variation": VARIATIONS,
}


def to_facts(recipe: NoiseRecipe) -> dict[str, Any]:
    """The recipe as JSON; :func:`from_facts` is the inverse."""
    facts: dict[str, Any] = {"batch": recipe.batch}
    for name, table in TABLES.items():
        part = getattr(recipe, name)
        key = next(key for key, kind in table.items() if kind is type(part))
        facts[name] = {name: key, **dataclasses.asdict(part)}
    return facts


def from_facts(facts: Mapping[str, Any]) -> NoiseRecipe:
    """Raises KeyError, TypeError or ValueError for what no recipe writes."""
    parts: dict[str, Any] = {}
    for name, table in TABLES.items():
        fields = dict(facts[name])
        parts[name] = table[fields.pop(name)](**fields)
    return NoiseRecipe(facts["batch"], **parts)
