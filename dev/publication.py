"""The pack's icon and banner, drawn anew: python -m sampling_kit.dev.publication [--folder FOLDER]

A postcard comes out of noise, at the levels of a run; below it the four parts as sockets on a wire. No font: the pictures are
the same on every machine.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from ..embedded.postcards import scene
from ..schedulers.path import VP

FOLDER = Path(__file__).resolve().parents[1] / "docs"
#: Schedule, denoiser, guidance and solver, in the colours of their wires.
SOCKETS = ("#1aa08c", "#b39ddb", "#cc4fe0", "#ecb4b4")
BACK, WIRE = "#202226", "#777c85"
LABEL, SEED, SIZE = 3, 7, 64  # of the postcard
LEVELS = 1.6, 0.6, 0.2, 0.0  # κ = σ/α
FINER = 4  # discs and wires are drawn at this many times their size, then made smaller
Pixels = NDArray[np.float64]


def stages() -> list[Pixels]:
    """One postcard [64, 64, 3] in 0…1 at each of LEVELS, as its state on the VP path."""
    picture = scene(LABEL, SEED, SIZE) / 255
    noise = np.random.default_rng(SEED).standard_normal(picture.shape)
    points = [VP().at(kappa) for kappa in LEVELS]
    states = [p.alpha * (2 * picture - 1) + p.sigma * noise for p in points]
    return [np.clip(state / 2 + 0.5, 0, 1) for state in states]


def draw(width: int, height: int, states: Sequence[Pixels]) -> Image.Image:
    """A picture of ``width`` × ``height`` pixels: the states side by side, the sockets below."""
    size, count = (width * FINER, height * FINER), len(states)
    large = Image.new("RGB", size, BACK)
    pen, unit = ImageDraw.Draw(large), min(size[0] / count, size[1] / 1.35)
    gap, edge = unit * 0.04, int(unit * 0.92)
    left, top = (size[0] - unit * count) / 2 + gap, (size[1] - unit * 1.3) / 2 + gap
    for i, state in enumerate(states):
        picture = Image.fromarray((state * 255).round().astype(np.uint8))
        place = int(left + i * unit), int(top)
        large.paste(picture.resize((edge, edge), Image.Resampling.NEAREST), place)
    line, radius = top + unit * 1.1, unit * 0.085
    ends = [size[0] * (i + 0.5) / len(SOCKETS) for i in range(len(SOCKETS))]
    pen.line([(0, line), (size[0], line)], fill=WIRE, width=int(unit * 0.03))
    for x, colour in zip(ends, SOCKETS, strict=True):
        pen.ellipse((x - radius, line - radius, x + radius, line + radius), fill=colour)
    return large.resize((width, height), Image.Resampling.LANCZOS)


def striped(parts: Sequence[Pixels]) -> Pixels:
    """The states in one picture: a stripe each, from noise on the left to the postcard on the right."""
    edges = np.linspace(0, SIZE, len(parts) + 1).astype(int)
    stripes = [p[:, a:b] for p, a, b in zip(parts, edges[:-1], edges[1:], strict=True)]
    return np.concatenate(stripes, axis=1)


def pictures() -> dict[str, Image.Image]:
    """By file name. The registry takes icons up to 800 × 400 and banners of 21 : 9."""
    states = stages()
    return {"icon.png": draw(400, 400, [striped(states)]), "banner.png": draw(1260, 540, states)}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=FOLDER)
    folder = parser.parse_args(arguments).folder
    for name, picture in pictures().items():
        picture.save(folder / name, optimize=True)


if __name__ == "__main__":
    main()
