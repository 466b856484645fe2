"""Many pictures as one, with labels or without."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from .style import new_figure, pixels


@dataclass(frozen=True)
class Row:
    """Pictures [n, H, W, 3] side by side; ``label`` stands left of them, ``captions`` above, one each."""

    pictures: Tensor
    label: str = ""
    captions: Sequence[str] = ()
    colour: str = "black"


def sheet(rows: Sequence[Row], cell: int = 160, size: int = 17, gap: int = 8) -> Tensor:
    """IMAGE [1, H, W, 3]: pictures ``cell`` pixels high and as wide as they are, with their labels in letters of
    ``size`` pixels."""
    pictures = [[fitted(p, cell) for p in row.pictures] for row in rows]
    left = max((_wide(line, size) for row in rows for line in row.label.split("\n")), default=0)
    left += 2 * gap if left else gap
    tops, top = [], gap
    for row in rows:
        top += (size + 6) if row.captions else 0
        tops.append(top)
        top += cell + gap
    width = left + max(sum(p.shape[1] + gap for p in line) for line in pictures)
    figure = new_figure(width, top)
    figure.set_layout_engine("none")
    points = size * 0.72

    def put(x: float, y: float, text: str, **more: Any) -> None:
        figure.text(x / width, 1 - y / top, text, fontsize=points, **more)

    for row, line, y in zip(rows, pictures, tops, strict=True):
        put(gap, y + cell / 2, row.label, va="center", color=row.colour, linespacing=1.35)
        x = left
        for caption, picture in zip(row.captions, line, strict=False):
            put(x + picture.shape[1] / 2, y - 4, caption, ha="center", va="bottom")
            x += picture.shape[1] + gap
    canvas = pixels(figure)
    for line, y in zip(pictures, tops, strict=True):
        x = left
        for picture in line:
            height, wide = picture.shape[:2]
            canvas[0, y : y + height, x : x + wide] = picture
            x += wide + gap
    return canvas


def _wide(text: str, size: int) -> int:
    """Pixels that a line of text takes at most, about."""
    return math.ceil(len(text) * size * 0.6)


def fitted(picture: Tensor, height: int) -> Tensor:
    """[H, W, 3] at that height: whole pixels enlarged as squares, larger pictures averaged."""
    own = picture.shape[0]
    x = picture.movedim(-1, 0)[None]
    wide = max(1, round(picture.shape[1] * height / own))
    if own * 2 <= height:
        times = math.ceil(height / own)
        x = F.interpolate(x, scale_factor=times, mode="nearest")
    x = F.interpolate(x, (height, wide), mode="bilinear", antialias=True)
    return x[0].movedim(0, -1).clamp(0, 1)
