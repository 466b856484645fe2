"""What guidance did during a run, from ``GuidanceRun.report()``: a table and a plot over the evaluations."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ..show.style import new_figure, pixels
from . import table

Report = Mapping[str, Any]
Row = Mapping[str, Any]

#: Key of a report's row → title of its plot.
MEASURES = {
    "delta": "‖Δ‖ = ‖D_c − D_u‖",
    "cosine": "cos(D_c, D_u)",
    "effective_weight": "effective weight ⟨D − D_u, Δ⟩/‖Δ‖²",
}


def text(report: Report) -> str:
    """The totals in a sentence, and a row per evaluation; values are means over the images."""
    header = ("evaluation", "step", "σ", "calls", "skipped", "‖Δ‖", "cos", "weight")
    rows = [
        (
            str(i), row["step"], row["sigma"], _names(row["calls"]), ", ".join(row["skipped"]) or None,
            *(mean(row[key]) for key in MEASURES),
        )
        for i, row in enumerate(report["steps"])
    ]  # fmt: skip
    return "\n".join((summary(report), "", table(header, rows)))


def summary(report: Report) -> str:
    """Network calls made and saved."""
    calls = _names(report["calls"], always=True)
    more = f"; {n} images shared" if (n := report["shared_images"]) else ""
    return (
        f"{report['network_calls']} network calls in {report['evaluations']} evaluations ({calls}), "
        f"{report['saved_calls']} saved{more}"
    )


def _names(calls: Mapping[str, int], always: bool = False) -> str:
    return ", ".join(f"{n} {k}" if k > 1 or always else n for n, k in calls.items()) or "none"


def mean(values: Sequence[float | None] | None) -> float | None:
    """The mean of what is there."""
    there = [v for v in values or () if v is not None]
    return sum(there) / len(there) if there else None


# Okabe & Ito's colours, told apart by colour-blind readers too; hatches say the same again.
_BLUE, _ORANGE, _GREY = "#0072B2", "#D55E00", "#999999"


def plot(report: Report, width: int = 960, height: int = 640) -> Tensor:
    """IMAGE [1, height, width, 3] in [0, 1]. Raises ImportError without matplotlib."""
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
            color=_GREY, transform=ax.transAxes,
        )  # fmt: skip
        return
    for i in range(count if count > 1 else 0):
        ax.plot([_number(v[i] if v and i < len(v) else None) for v in values], color=_GREY, lw=1)
    means = [_number(mean(v)) for v in values]
    ax.plot(means, color=_BLUE, linewidth=2.5, marker="o", markersize=5)
    ax.ticklabel_format(axis="y", useOffset=False)
    low, high = ax.get_ylim()
    if high - low < 0.02 * max(abs(low), abs(high)):  # what is constant shall look so
        ax.set_ylim(low - 0.1 * abs(low), high + 0.1 * abs(high))
    there = [m for m in means if m > 0]
    if there and max(there) > 30 * min(there):
        ax.set_yscale("log", nonpositive="mask")
        ax.set_ylim(max(min(there), 1e-4 * max(there)) / 2, 2 * high)


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _plot_calls(ax: Any, rows: Sequence[Row]) -> None:
    """Bars: network calls of every evaluation, and on top of them those that were skipped."""
    from matplotlib.ticker import MaxNLocator

    made = [sum(row["calls"].values()) for row in rows]
    skipped = [len(row["skipped"]) for row in rows]
    at = range(len(rows))
    ax.bar(at, made, color=_BLUE, label="made")
    if any(skipped):
        ax.bar(
            at, skipped, bottom=made, color="white", edgecolor=_ORANGE, hatch="///", label="skipped"
        )
    ax.set_title("network calls", fontsize=13)
    ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_ylim(0, 1.3 * max((m + s for m, s in zip(made, skipped, strict=True)), default=1))
    ax.legend(fontsize=12, loc="upper right", ncols=2)
