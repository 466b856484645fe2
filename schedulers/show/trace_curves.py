"""The measures of a trace as six panels over its steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..counts import counted
from ..measure.trace import MEASURES, Trace
from .style import BLUE, GREY, VERMILION, new_figure, number, pixels

STYLES = ((BLUE, "-", "o"), (VERMILION, "--", "s"))
#: Panels of the curves: title → measures and what their lines are called. The first with a number is drawn.
PANELS: tuple[dict[str, dict[str, str]], ...] = (
    {"noise level": {"sigma": "σ"}},
    {"distance of x0 to the end": {"to_end": ""}},
    {"curvature, ° per step": {"turn": ""}},
    {"local error": {"error": "embedded", "doubling": "step doubling"}},
    {"guidance ‖Δ‖": {"delta": ""}, "root mean square": {"x": "x", "x0": "D"}},
    {"time per step, ms": {"seconds": ""}},
)


def curves(trace: Trace, width: int = 1080, height: int = 720) -> Tensor:
    """IMAGE [1, height, width, 3] in [0, 1]: six panels over the steps."""
    figure, there = new_figure(width, height), set(trace.measured)
    axes = figure.subplots(2, 3, sharex=True)
    for ax, panel in zip(axes.flat, PANELS, strict=True):
        title, lines = next(
            ((t, k) for t, k in panel.items() if there & set(k)), (next(iter(panel)), {})
        )
        ax.set_title(title, fontsize=16)
        ax.tick_params(labelsize=14)
        ax.grid(alpha=0.3)
        if title == "time per step, ms":
            ax.bar(range(len(trace)), [1000 * step.seconds for step in trace.steps], color=BLUE)
        else:
            _lines(ax, trace, {k: name for k, name in lines.items() if k in there})
    _snr(axes[0, 0], trace)
    for ax in axes[1]:
        ax.set_xlabel("step", fontsize=15)
    figure.suptitle(
        f"{trace.solver}: {counted(len(trace), 'step')}, {counted(trace.nfe, 'evaluation')}, {trace.seconds:.3g} s", fontsize=16
    )  # fmt: skip
    return pixels(figure)


def _lines(ax: Any, trace: Trace, lines: Mapping[str, str]) -> None:
    """One line per measure, means over the images; the single images in grey behind the first."""
    if not lines:
        ax.text(
            0.5, 0.5, "not measured", ha="center", va="center", fontsize=14, color=GREY, transform=ax.transAxes
        )  # fmt: skip
        return
    first, steps = next(iter(lines)), range(len(trace))
    single = [trace.per_image(first, i) for i in steps]
    images = max(map(len, single))
    for j in range(images if 1 < images <= 16 else 0):
        ax.plot([number(v[j] if j < len(v) else None) for v in single], color=GREY, lw=0.8)
    tall: list[float] = []
    for (key, name), (colour, dash, marker) in zip(lines.items(), STYLES, strict=False):
        values, mark = [number(v) for v in trace.curve(key)], marker if len(trace) <= 40 else None
        ax.plot(values, color=colour, ls=dash, marker=mark, ms=5, lw=2.4, label=name)
        tall += [v for v in values if v > 0]
    if len(lines) > 1:
        ax.legend(fontsize=13, framealpha=0.6)
    if not tall:
        return
    if MEASURES[first].log and max(tall) > 30 * min(tall):
        ax.set_yscale("log", nonpositive="mask")
    elif min(tall) > 0 and max(tall) < 1.2 * min(tall):  # what is constant shall look so
        ax.set_ylim(0, 1.6 * max(tall))


def _snr(ax: Any, trace: Trace) -> None:
    """The signal-to-noise ratio on an axis of its own beside σ."""
    other = ax.twinx()
    values = [number(v) for v in trace.curve("snr")]
    (line,) = other.plot(values, color=VERMILION, ls="--", lw=2.4, label="log₁₀ SNR")
    other.tick_params(labelsize=14, colors=VERMILION)
    ax.legend(handles=[*ax.get_lines()[:1], line], fontsize=13, framealpha=0.6)
