"""Postcards: procedural little landscapes in ten classes; unlimited seeds, no data file.

``scene(label, seed, size)`` paints one picture with numpy alone.  A picture is a pure function of
its arguments: every random parameter comes from a Philox stream keyed by (VERSION, class, seed) and
is drawn in *unit coordinates* (y runs from 0 at the top to 1 at the bottom, x from 0 to the aspect
ratio), so the same seed at another size is the same scene at another resolution.  To give the same
bytes on every machine, only ``random()`` is taken from the generator, and two-dimensional work uses
nothing but IEEE-exact operations (+ - * / sqrt); sines, exponentials and interpolation stay
one-dimensional and in float64.

The scenes of a class are aligned on purpose (sky above, ground below, a compact range of hues, sun
and moon on a coarse grid): a patch-recombining denoiser can mix many of them into a coherent new
one.

Run ``python -m sampling_kit.embedded.postcards --sheet sheet.png`` for a contact sheet.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL import Image
from ..schedulers.whole_file import whole
from .postcard_canvas import Canvas, Dice
from .postcard_scenes import PAINTERS

CLASSES: tuple[str, ...] = (
    "dawn mountains",
    "green hills",
    "sunset sea",
    "moonlit night",
    "desert",
    "snow",
    "forest",
    "city night",
    "planet",
    "meadow",
)
VERSION: int = 1
"""Any change of pixels bumps this number."""

HELD_OUT: int = 2**31
"""Seeds below are for fitting and training; seeds from here on are never used to build a model."""

MIN_SIZE, MAX_SIZE, MAX_WIDTH = 24, 128, 2048


def class_index(label: int | str) -> int:
    """Index of a class given by name or index.  Raises ValueError for any other label."""
    if isinstance(label, str):
        if label in CLASSES:
            return CLASSES.index(label)
    elif 0 <= int(label) < len(CLASSES):
        return int(label)
    names = ", ".join(f"{i} {name!r}" for i, name in enumerate(CLASSES))
    raise ValueError(f"unknown postcard class {label!r}; the classes are: {names}")


def scene(label: int | str, seed: int, size: int = 64, width: int | None = None) -> np.ndarray:
    """Paints one scene.

    Args:
        label: class name or index into CLASSES.
        seed: any integer >= 0; seeds from HELD_OUT on are kept for evaluation.
        size: height in pixels, 24..128.
        width: width in pixels, size..2048 (default: size).  A wider picture shows more of the
            world, not the same world stretched; it need not begin with the square scene.

    Returns:
        uint8 [size, width, 3], RGB.

    Raises:
        ValueError: unknown class, size or width out of range, negative seed.
    """
    index = class_index(label)
    width = size if width is None else width
    if not MIN_SIZE <= size <= MAX_SIZE:
        raise ValueError(f"size must be in {MIN_SIZE}..{MAX_SIZE} pixels, got {size}")
    if not size <= width <= MAX_WIDTH:
        raise ValueError(
            f"width must be in size..{MAX_WIDTH} = {size}..{MAX_WIDTH} pixels, got {width}"
        )
    if seed < 0:
        raise ValueError(f"seed must be >= 0, got {seed}")
    canvas = Canvas(int(size), int(width))
    PAINTERS[CLASSES[index]](canvas, Dice(VERSION, index, int(seed)))
    return canvas.picture()


def scenes(label: int | str, seeds: Iterable[int], size: int = 64) -> np.ndarray:
    """Paints one square scene per seed, uint8 [n, size, size, 3]; errors as in `scene`."""
    pictures = [scene(label, seed, size) for seed in seeds]
    return np.stack(pictures) if pictures else np.empty((0, size, size, 3), np.uint8)


def contact_sheet(
    per_class: int = 12, size: int = 64, first_seed: int = 0, zoom: int = 1, gap: int = 4
) -> Image.Image:
    """A white sheet: a row per class, consecutive seeds, each pixel shown zoom x zoom."""
    import torch
    from PIL import Image

    from ..schedulers.show.contact_sheet import tiles

    if per_class < 1 or zoom < 1 or gap < 0:
        raise ValueError(
            f"need per_class >= 1, zoom >= 1, gap >= 0; got {per_class}, {zoom}, {gap}"
        )
    seeds = range(first_seed, first_seed + per_class)
    batches = [torch.from_numpy(scenes(row, seeds, size) / 255) for row in range(len(CLASSES))]
    page = tiles(batches, per_class, zoom, gap)[0]
    return Image.fromarray((page * 255).round().byte().numpy())


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: writes a contact sheet."""
    parser = argparse.ArgumentParser(description="Write a contact sheet of procedural postcards.")
    parser.add_argument("--sheet", required=True, metavar="PATH", help="PNG to write")
    parser.add_argument("--per-class", type=int, default=12, metavar="N", help="scenes per class")
    parser.add_argument("--size", type=int, default=64, metavar="S", help="pixels, 24..128")
    parser.add_argument("--zoom", type=int, default=1, metavar="Z", help="whole-number enlargement")
    parser.add_argument("--first-seed", type=int, default=0, metavar="SEED")
    options = parser.parse_args(arguments)
    sheet = contact_sheet(options.per_class, options.size, options.first_seed, options.zoom)
    with whole(Path(options.sheet)) as part:
        sheet.save(part, "PNG")


if __name__ == "__main__":
    main()
