"""Many pictures as one, with labels or without."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .style import new_figure, pixels

MOST_PIXELS = 2**27  # of a sheet: 1.6 GB


@dataclass(frozen=True)
class Row:
    """Pictures [H, W, 3] side by side; ``label`` stands left of them, ``captions`` above, one each."""

    pictures: Tensor | Sequence[Tensor]
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
        top += max((caption.count("\n") + 1 for caption in row.captions), default=0) * (size + 6)
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


def numbered(images: Tensor, columns: int, height: int) -> Tensor:
    """IMAGE [1, H, W, 3] of pictures [B, h, w, 3], ``columns`` a row, each with its number from 1 above it."""
    starts = range(0, len(images), columns)
    wide = math.ceil(images.shape[2] * height / images.shape[1])
    pixels = len(starts) * (height + 40) * min(columns, len(images)) * (wide + 8)
    if pixels > MOST_PIXELS:
        raise ValueError(
            f"height = {height}: the sheet of {len(images)} pictures would have {pixels} pixels, at most {MOST_PIXELS}; "
            "choose a smaller height or fewer pictures"
        )
    parts = [images[k : k + columns] for k in starts]
    captions = [[str(k + i + 1) for i in range(len(p))] for k, p in zip(starts, parts, strict=True)]
    return sheet([Row(p, captions=c) for p, c in zip(parts, captions, strict=True)], height)


def tiles(batches: Sequence[Tensor], columns: int, scale: int, gap: int) -> Tensor:
    """IMAGE [1, H, W, C] from batches [B, h, w, C] of equal picture size, on white, batches below each other: ``columns``
    pictures a row, each pixel a square of ``scale``, ``gap`` pixels around each."""
    sizes = {tuple(batch.shape[1:]) for batch in batches}
    if len(sizes) > 1:
        raise ValueError(f"images: a sheet needs pictures of one size, got {sorted(sizes)}")
    (height, width, channels) = sizes.pop()
    height, width = height * scale, width * scale
    rows = [row for batch in batches for row in batch.split(columns)]
    wide = max(len(row) for row in rows)
    pixels = (len(rows) * (height + gap) + gap) * (wide * (width + gap) + gap)
    if pixels > MOST_PIXELS:
        raise ValueError(
            f"scale = {scale}: the sheet of {sum(map(len, batches))} pictures would have {pixels} pixels, at most "
            f"{MOST_PIXELS}; choose a smaller scale or fewer pictures"
        )
    canvas = torch.ones(len(rows) * (height + gap) + gap, wide * (width + gap) + gap, channels)
    for i, row in enumerate(rows):
        for j, picture in enumerate(row.cpu()):
            top, left = gap + i * (height + gap), gap + j * (width + gap)
            big = F.interpolate(picture.movedim(-1, 0)[None], scale_factor=scale, mode="nearest")[0]
            canvas[top : top + height, left : left + width] = big.movedim(0, -1)
    return canvas[None]


def labelled(
    canvas: Tensor,
    grid: tuple[int, int],
    gap: int,
    rows: Sequence[str],
    columns: Sequence[str],
    size: int = 17,
) -> Tensor:
    """``canvas`` [1, H, W, C] of ``tiles``, ``grid`` = (rows, columns) of them, with words left of rows and above columns.

    Words beyond the last row or column are left out: a picture that was made is shown.
    """
    rows, columns = rows[: grid[0]], columns[: grid[1]]
    if not (rows or columns):
        return canvas
    _, height, width, channels = canvas.shape
    lines = max((text.count("\n") + 1 for text in columns), default=0)
    left = max((_wide(line, size) for text in rows for line in text.split("\n")), default=0)
    left, top = (left + gap + size // 2 if left else 0), lines * (size + 6)
    figure = new_figure(width + left, height + top)
    figure.set_layout_engine("none")
    high, wide = (height - gap) / grid[0], (width - gap) / grid[1]
    more: dict[str, Any] = dict(fontsize=size * 0.72, parse_math=False)
    for i, text in enumerate(rows):
        y = 1 - (top + gap / 2 + (i + 0.5) * high) / (height + top)
        figure.text(size / 2 / (width + left), y, text, va="center", **more)
    for j, text in enumerate(columns):
        x = (left + gap / 2 + (j + 0.5) * wide) / (width + left)
        figure.text(x, 1 - (top - 2) / (height + top), text, ha="center", va="bottom", **more)
    sheet = pixels(figure)[..., :1].expand(-1, -1, -1, channels).clone()
    sheet[:, top:, left:] = canvas
    return sheet


def _wide(text: str, size: int) -> int:
    """Pixels that a line of text takes at most, about."""
    return math.ceil(len(text) * size * 0.6)


def fitted(picture: Tensor, height: int) -> Tensor:
    """[H, W, 3] at that height: whole pixels enlarged as squares, larger pictures averaged."""
    rows = picture.shape[0]
    x = picture.movedim(-1, 0)[None]
    wide = max(1, round(picture.shape[1] * height / rows))
    if rows * 2 <= height:
        times = math.ceil(height / rows)
        x = F.interpolate(x, scale_factor=times, mode="nearest")
    x = F.interpolate(x, (height, wide), mode="bilinear", antialias=True)
    return x[0].movedim(0, -1).clamp(0, 1)
