"""Plots as pictures, without a window or a display. matplotlib is loaded only here, when one is drawn."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

# Okabe & Ito's colours, told apart by colour-blind readers too.
BLUE, SKY, GREEN = "#0072B2", "#56B4E9", "#009E73"
ORANGE, VERMILION, PINK = "#E69F00", "#D55E00", "#CC79A7"
GREY, BLACK = "#999999", "#000000"


def number(value: float | None) -> float:
    """A value to plot; NaN, which leaves a gap, where there is none."""
    return math.nan if value is None else value


def new_figure(width: int, height: int) -> Any:
    """A matplotlib Figure, ``width`` × ``height`` pixels."""
    from matplotlib.figure import Figure

    # matplotlib before 3.11 cuts inches × dpi to whole pixels, and 9.2 × 100 is just under 920
    size = (width + 1e-6) / 100, (height + 1e-6) / 100
    return Figure(figsize=size, dpi=100, layout="constrained")


def pixels(figure: Any) -> Tensor:
    """The figure as IMAGE [1, height, width, 3] in [0, 1]."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    rgb = np.asarray(canvas.buffer_rgba())[..., :3].astype(np.float32) / 255
    return torch.from_numpy(rgb)[None]


def written(text: str, size: int = 12) -> Tensor:
    """Text as IMAGE [1, H, W, 3], black on white, in letters of one width, ``size`` points high."""
    lines = text.split("\n")
    wide = math.ceil(max(map(len, lines)) * size * 0.85)  # pixels, at 100 per inch
    figure = new_figure(wide + 4 * size, math.ceil(len(lines) * size * 1.8) + 4 * size)
    figure.text(
        0.5,
        0.5,
        text,
        size=size,
        family="monospace",
        ha="center",
        va="center",
        ma="left",
        parse_math=False,
    )
    return pixels(figure)
