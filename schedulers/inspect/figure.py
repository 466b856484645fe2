"""Plots as pictures, without a window or a display. matplotlib is loaded only here, when one is drawn."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor


def new_figure(width: int, height: int) -> Any:
    """A matplotlib Figure of so many pixels. Raises ImportError without matplotlib."""
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
