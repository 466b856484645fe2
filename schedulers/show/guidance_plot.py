"""What guidance did during a run, over the evaluations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ..measure.guidance_report import MEASURES, Report, Row, mean, summary
from .style import BLUE, GREY, VERMILION, new_figure, number, pixels


def plot(report: Report, width: int = 960, height: int = 640) -> Tensor:
    """IMAGE [1, height, width, 3] in [0, 1]."""
    figure, rows = new_figure(width, height), report["steps"]
    axes = figure.subplots(2, 2, sharex=True)
    for ax, (key, title) in zip(axes.flat, MEASURES.items(), strict=False):
        _plot_measure(ax, [row[key] for row in rows], title)
    _plot_calls(axes[1, 1], rows)
    for ax in axes.flat:
        ax.tick_params(labelsize=12)
        ax.grid(alpha=0.3)
    for ax in axes[1]:
        ax.set_xlabel("evaluation, and its σ", fontsize=13)
        at = sorted({round(i * (len(rows) - 1) / 5) for i in range(6)}) if rows else []
        ax.set_xticks(at, [f"{i}\n{rows[i]['sigma']:.3g}" for i in at])
    figure.suptitle(summary(report), fontsize=13)
    return pixels(figure)


def _plot_measure(ax: Any, values: Sequence[Sequence[float | None] | None], title: str) -> None:
    """One line per image, and their mean; gaps where the unconditional prediction was not needed."""
    ax.set_title(title, fontsize=13)
    count = max((len(v) for v in values if v), default=0)
    if not count:
        ax.text(
            0.5, 0.5, "needs the unconditional\nprediction", ha="center", va="center", fontsize=13,
            color=GREY, transform=ax.transAxes,
        )  # fmt: skip
        return
    for i in range(count if count > 1 else 0):
        ax.plot([number(v[i] if v and i < len(v) else None) for v in values], color=GREY, lw=1)
    means = [number(mean(v)) for v in values]
    ax.plot(means, color=BLUE, linewidth=2.5, marker="o", markersize=5)
    ax.ticklabel_format(axis="y", useOffset=False)
    low, high = ax.get_ylim()
    if high - low < 0.02 * max(abs(low), abs(high)):  # what is constant shall look so
        ax.set_ylim(low - 0.1 * abs(low), high + 0.1 * abs(high))
    there = [m for m in means if m > 0]
    if there and max(there) > 30 * min(there):
        ax.set_yscale("log", nonpositive="mask")
        ax.set_ylim(max(min(there), 1e-4 * max(there)) / 2, 2 * high)


def _plot_calls(ax: Any, rows: Sequence[Row]) -> None:
    """Bars: network calls of every evaluation, and on top of them those that were skipped."""
    from matplotlib.ticker import MaxNLocator

    made = [sum(row["calls"].values()) for row in rows]
    skipped = [len(row["skipped"]) for row in rows]
    at = range(len(rows))
    ax.bar(at, made, color=BLUE, label="made")
    if any(skipped):
        ax.bar(
            at,
            skipped,
            bottom=made,
            color="white",
            edgecolor=VERMILION,
            hatch="///",
            label="skipped",
        )
    ax.set_title("network calls", fontsize=13)
    ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_ylim(0, 1.3 * max((m + s for m, s in zip(made, skipped, strict=True)), default=1))
    ax.legend(fontsize=12, loc="upper right", ncols=2)
