"""What a compute dtype costs: errors of D over the noise level, and of the results."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..measure.precision import Audit
from .style import BLUE, VERMILION, new_figure, pixels

# Marker and hatch say the same as colour.
_STYLE = {"bf16": (BLUE, "o", ""), "fp16": (VERMILION, "s", "///")}


def plot(result: Audit, width: int = 960, height: int = 480) -> Tensor:
    """IMAGE [1, height, width, 3] in [0, 1]."""
    figure = new_figure(width, height)
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    _plot_levels(left, result)
    _plot_runs(right, result)
    return pixels(figure)


def _plot_levels(axes: Any, result: Audit) -> None:
    """Relative error of D over κ; a cross at the top where values are not finite."""
    broken: list[tuple[str, float]] = []
    for name in result.dtypes:
        colour, marker, _ = _STYLE[name]
        rows = [(_place(r.kappa), r.gap) for r in result.of("network", name)]
        good = [(k, gap.relative) for k, gap in rows if gap.relative and not gap.nonfinite]
        broken += [(name, k) for k, gap in rows if gap.nonfinite]
        if good:
            axes.plot(
                *zip(*good, strict=True),
                color=colour,
                marker=marker,
                linewidth=2,
                markersize=8,
                label=name,
            )
    axes.set_xscale("log")
    axes.set_yscale("log")
    top = axes.get_ylim()[1] if any(line.get_xdata().size for line in axes.lines) else 1.0
    for name in dict.fromkeys(n for n, _ in broken):
        at = [s for n, s in broken if n == name]
        axes.plot(
            at,
            [top] * len(at),
            color=_STYLE[name][0],
            marker="X",
            linestyle="",
            markersize=13,
            label=f"{name}: NaN or ∞",
        )
    axes.set_xlabel("noise to data, κ = σ/α", fontsize=13)
    axes.set_ylabel("relative error of D", fontsize=13)
    axes.set_title("D against fp32", fontsize=14)
    axes.tick_params(labelsize=12)
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend(fontsize=12)


def _place(kappa: float | None) -> float:
    """κ on a logarithmic axis; pure noise at 1e4."""
    return min(max(kappa or 0.0, 1e-6), 1e4)


def _plot_runs(axes: Any, result: Audit) -> None:
    """Bars: where a run ends, with the network or the state in each dtype."""
    kinds = ("run", "state")
    for i, name in enumerate(result.dtypes):
        colour, _, hatch = _STYLE[name]
        for j, kind in enumerate(kinds):
            (row,) = result.of(kind, name)
            at = j + (i - (len(result.dtypes) - 1) / 2) * 0.38
            value = row.gap.relative
            if row.gap.nonfinite or not value:
                text = "NaN" if row.gap.nonfinite else "0"
                axes.text(
                    at,
                    0.02,
                    text,
                    transform=axes.get_xaxis_transform(),
                    ha="center",
                    fontsize=13,
                    color=colour,
                    weight="bold",
                )
                continue
            axes.bar(
                at,
                value,
                0.34,
                color=colour,
                hatch=hatch,
                edgecolor="white",
                label=name if j == 0 else None,
            )
            axes.text(
                at,
                value * 1.05,
                f"{100 * value:.2g} %",
                ha="center",
                va="bottom",
                fontsize=11,
                bbox=dict(facecolor="white", edgecolor="none", pad=1),
            )
    axes.set_yscale("log")
    axes.set_xlim(-0.6, 1.6)
    low, high = axes.get_ylim()
    axes.set_ylim(low / 1.5, high * 1.6)
    axes.set_xticks(range(len(kinds)), ["network\nin dtype", "state\nin dtype"])
    axes.set_title(f"Result of {result.steps} steps", fontsize=14)
    axes.tick_params(labelsize=12)
    axes.tick_params(axis="x", labelsize=13)
    axes.grid(axis="y", alpha=0.3)
