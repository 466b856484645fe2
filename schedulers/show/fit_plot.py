"""Fits beside the best training-free pairs."""

from __future__ import annotations

from torch import Tensor

from ..fit.compare import Comparison
from .style import BLUE, GREY, new_figure, pixels

LINES = (
    ("training_free", "best training-free pair", GREY, "o-"),
    ("training_free_median", "its median", GREY, "o:"),
    ("fitted", "fitted", BLUE, "o-"),
    ("fitted_median", "its median", BLUE, "o:"),
)


def plot(comparison: Comparison, width: int = 960, height: int = 540) -> Tensor:
    """Error against evaluations as IMAGE [1, H, W, 3]."""
    figure, rows = new_figure(width, height), comparison.rows
    axes, at = figure.subplots(), [row["nfe"] for row in rows]
    for key, label, colour, style in LINES:
        axes.plot(at, [row[key] for row in rows], style, color=colour, label=label)
    axes.set_yscale("log")
    axes.set_xticks(at, [f"{row['nfe']}\n×{row['ratio']:.2f}" for row in rows])
    axes.set_xlabel("denoiser evaluations (NFE), and RMSE fitted/training-free", fontsize=13)
    axes.set_ylabel("RMSE to the teacher's end", fontsize=13)
    axes.tick_params(labelsize=12)
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=12)
    figure.suptitle(str(comparison.about.get("guidance", "")), fontsize=13)
    return pixels(figure)
