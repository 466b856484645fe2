"""Noise: who draws it, of which colour, and which seeds it mixes."""

from .brownian import Span
from .colours import COLOURS, Colour, Coloured, Offset, Pyramid, White
from .generators import GENERATORS, Brownian, Generator, Kit, Philox, TorchCPU
from .recipe import (
    PLAIN,
    VARIATIONS,
    NoiseRecipe,
    NoVariation,
    SecondSeed,
    Variation,
    draws_of,
    from_facts,
    recipe_of,
    to_facts,
)
from .streams import PIECE, BatchSeed, DrawNoise, Louder, PerImageNoise, images_of, mix

__all__ = [
    "COLOURS",
    "GENERATORS",
    "PIECE",
    "PLAIN",
    "VARIATIONS",
    "BatchSeed",
    "Brownian",
    "Colour",
    "Coloured",
    "DrawNoise",
    "Generator",
    "Kit",
    "Louder",
    "NoVariation",
    "NoiseRecipe",
    "Offset",
    "PerImageNoise",
    "Philox",
    "Pyramid",
    "SecondSeed",
    "Span",
    "TorchCPU",
    "Variation",
    "White",
    "draws_of",
    "from_facts",
    "images_of",
    "mix",
    "recipe_of",
    "to_facts",
]
