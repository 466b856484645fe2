"""The noise levels of runs, overlaid."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle

from torch import Tensor

from ..measure.run_levels import Run
from . import style
from .style import new_figure, number, pixels

#: What the levels of a run can be plotted as and against, and how an axis is labelled.
QUANTITIES = {
    "log_sigma": "σ (log)",
    "sigma": "σ",
    "lambda": "λ = log(α/σ)",
    "timestep": "timestep",
}
POSITIONS = {"step": "step", "progress": "progress"}
COLOURS = (
    style.BLUE, style.ORANGE, style.GREEN, style.PINK, style.SKY, style.VERMILION, style.GREY, style.BLACK,
)  # fmt: skip


def plot(runs: Sequence[Run], y: str, x: str, width: int = 960, height: int = 640) -> Tensor:
    """Runs overlaid as IMAGE [1, height, width, 3] in [0, 1]."""
    figure = new_figure(width, height)
    ax = figure.subplots()
    for run, color in zip(runs, cycle(COLOURS), strict=False):
        values = [number(v) for v in run.values(y)]
        last = max(len(values) - 1, 1)
        at = [i / last if x == "progress" else i for i in range(len(values))]
        marker = "o" if len(values) <= 100 else None
        ax.plot(at, values, color=color, marker=marker, markersize=5, linewidth=2, label=run.name)
    if y == "log_sigma":
        ax.set_yscale("log")
    if all(v is None for run in runs for v in run.values(y)):
        text = "connect noise_schedule to see this quantity"
        ax.text(0.5, 0.5, text, ha="center", va="center", fontsize=15, transform=ax.transAxes)
    ax.set_xlabel(POSITIONS[x], fontsize=15)
    ax.set_ylabel(QUANTITIES[y], fontsize=15)
    ax.tick_params(labelsize=13)
    ax.grid(alpha=0.3)
    if any(run.name for run in runs):
        ax.legend(fontsize=13)
    return pixels(figure)
