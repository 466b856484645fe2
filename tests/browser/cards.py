"""Thumbnails of the examples that load a checkpoint: words, and a postcard that comes out of its noise.

    python -m tests.browser.cards        (from the folder that holds the pack's: python sampling_kit/tests/browser/cards.py)

Their pictures need weights that nobody has where this is built, so a card says what the template is for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from sampling_kit.embedded import postcards

FOLDER = Path(__file__).parents[2] / "example_workflows"
WIDTH, HEIGHT, TILE = 400, 225, 80
BACK = (32, 33, 38)


@dataclass(frozen=True)
class Card:
    """Two lines of words, their colour, the class of the postcard, and the noise of its tiles (1 is noise alone)."""

    model: str
    task: str
    colour: str
    scene: int
    noise: Sequence[float] = (1.0, 0.75, 0.5, 0.25, 0.0)


IMAGE_TO_IMAGE, FEW, TWO = (
    (0.6, 0.45, 0.3, 0.15, 0.0),
    (1.0, 0.66, 0.33, 0.1, 0.0),
    (1, 0.9, 0.6, 0.2, 0),
)
CARDS = {
    "sd15-text-to-image": Card("SD 1.5", "text to image", "#6fb7ff", 0),
    "sd15-controlnet": Card("SD 1.5", "with a ControlNet (Canny)", "#6fb7ff", 1),
    "fit-a-solver-to-your-checkpoint": Card(
        "Fit a solver", "to your checkpoint: fewer steps", "#7ee0a1", 2
    ),
    "sdxl-text-to-image": Card("SDXL", "text to image", "#ffb86b", 3),
    "sdxl-image-to-image": Card(
        "SDXL", "image to image, denoise 0.6", "#ffb86b", 4, IMAGE_TO_IMAGE
    ),
    "sdxl-inpainting": Card("SDXL", "inpainting with a mask", "#ffb86b", 5),
    "sdxl-lightning-4-steps": Card(
        "SDXL Lightning", "4 steps on its own levels", "#ffe06b", 6, FEW
    ),
    "flux1-text-to-image": Card("Flux.1 dev", "text to image", "#e58bff", 7),
    "flux2-text-to-image": Card("Flux.2 dev", "text to image", "#c79bff", 8),
    "qwen-image-text-to-image": Card("Qwen-Image", "text to image", "#ff8fa3", 9),
    "z-image-turbo-text-to-image": Card(
        "Z-Image Turbo", "text to image, 8 steps", "#8be9e0", 0, FEW
    ),
    "negative-prompt-turbo": Card("Z-Image Turbo", "a negative prompt (NAG)", "#8be9e0", 2, FEW),
    "wan22-text-to-video": Card("Wan 2.2", "text to video, two experts", "#d9e06b", 1, TWO),
}


def tiles(card: Card) -> Image.Image:
    """The postcard at the card's levels of noise, x = (1 − t)·x0 + t·ε, side by side."""
    clean = postcards.scene(card.scene, 3, 64).astype(float) / 127.5 - 1
    noise = np.random.default_rng(card.scene).standard_normal(clean.shape)
    strip = np.concatenate([(1 - t) * clean + t * noise for t in card.noise], axis=1)
    return Image.fromarray(np.uint8(np.clip((strip + 1) * 127.5, 0, 255))).resize((WIDTH, TILE))


def drawn(card: Card) -> Image.Image:
    """The card: the model's name large, the task under it, the tiles at the foot."""
    image = Image.new("RGB", (WIDTH, HEIGHT), BACK)
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0, 10, HEIGHT - TILE), fill=card.colour)
    draw.text((28, 26), card.model, fill=card.colour, font=ImageFont.load_default(48))
    draw.text((30, 92), card.task, fill="white", font=ImageFont.load_default(24))
    image.paste(tiles(card), (0, HEIGHT - TILE))
    return image


def main() -> None:
    for stem, card in CARDS.items():
        drawn(card).save(FOLDER / f"{stem}.jpg", quality=85)


if __name__ == "__main__":
    main()
