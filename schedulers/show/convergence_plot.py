"""Several solvers side by side: error against cost, and a labelled sheet of what each drew."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..counts import counted
from ..measure.compare_solvers import Entry
from . import style
from .contact_sheet import Row, sheet
from .film import Decode, looker
from .style import new_figure, pixels

# Markers say the same as colours.
COLOURS = (
    style.BLUE, style.VERMILION, style.GREEN, style.PINK, style.ORANGE, style.SKY, style.BLACK,
)  # fmt: skip
MARKERS = "osD^vPX"


def families(entries: Sequence[Entry]) -> dict[str, int]:
    """Name → number, by which it has its colour and marker; runs of one name are one line."""
    return {name: i for i, name in enumerate(dict.fromkeys(e.name for e in entries))}


def plot(entries: Sequence[Entry], width: int = 1080, height: int = 540) -> Tensor:
    """IMAGE [1, height, width, 3]: error against evaluations, and against time."""
    figure, numbers = new_figure(width, height), families(entries)
    axes = figure.subplots(1, 2, sharey=True)
    axes[0].set_ylabel("distance from the reference (RMS)", fontsize=15)
    costs = (("evaluations (NFE)", lambda e: e.trace.nfe), ("seconds per image", lambda e: e.per_image))  # fmt: skip
    handles: list[Any] = []
    for ax, (title, cost) in zip(axes, costs, strict=True):
        ax.set_xlabel(title, fontsize=15)
        ax.tick_params(labelsize=13, which="both")
        ax.grid(alpha=0.3, which="both")
        handles = []
        for name, i in numbers.items():
            mine = sorted((e for e in entries if e.name == name and e.error), key=cost)
            hollow = bool(mine) and bool(mine[0].trace.stochastic)
            colour = COLOURS[i % len(COLOURS)]
            (line,) = ax.plot(
                [cost(e) for e in mine], [e.error for e in mine], color=colour, lw=2.2, ms=10,
                marker=MARKERS[(i + i // len(COLOURS)) % len(MARKERS)], ls="--" if hollow else "-",
                markerfacecolor="white" if hollow else colour, markeredgewidth=2,
                label=name + (" (draws noise)" if hollow else ""),
            )  # fmt: skip
            handles.append(line)
        _log(ax.xaxis, [cost(e) for e in entries])
    _log(axes[0].yaxis, [e.error for e in entries if e.error])
    figure.legend(
        handles=handles, loc="outside lower center", ncols=min(3, len(handles)), fontsize=14
    )
    return pixels(figure)


def _log(axis: Any, values: Sequence[float]) -> None:
    """A log axis with plain numbers on it, where the values span a factor of 3 or more."""
    from matplotlib.ticker import FuncFormatter, LogLocator

    there = [v for v in values if v > 0]
    if len(there) < 2 or max(there) < 3 * min(there):
        return
    (axis.axes.set_xscale if axis.axis_name == "x" else axis.axes.set_yscale)("log")
    wide = max(there) > 100 * min(there)
    axis.set_major_locator(LogLocator(subs=(1,) if wide else (1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    axis.set_minor_formatter(FuncFormatter(lambda v, _: ""))


def contact(
    entries: Sequence[Entry], reference: Entry | None, images: int, decode: Decode | None = None
) -> Tensor:
    """IMAGE [1, H, W, 3]: a row of ``images`` pictures per run with its numbers, the reference last."""
    numbers, rows = families(entries), []
    for e, pictures in drawn(entries, reference, images, decode):
        lines = [*_wrapped(e.name), f"{counted(e.intervals, 'step')}, {e.trace.nfe} NFE"]
        lines.append("reference" if e is reference else f"{e.per_image:.3g} s per image")
        if e.error is not None:
            lines.append(f"distance {e.error:.3g}")
        colour = "black" if e is reference else COLOURS[numbers[e.name] % len(COLOURS)]
        rows.append(Row(pictures, "\n".join(lines), colour=colour))
    return sheet(rows, cell=144)


def drawn(
    entries: Sequence[Entry], reference: Entry | None, images: int, decode: Decode | None
) -> list[tuple[Entry, Tensor]]:
    """Each run with its pictures [images, H, W, 3]; those without a VAE all in the same colours."""
    every = [*entries, *([reference] if reference else [])]
    first = every[-1].trace
    look = looker(first.view, first.end[:1], decode)
    return [(e, torch.stack([look(x[None]) for x in e.trace.end[:images]])) for e in every]


def _wrapped(name: str, most: int = 24) -> list[str]:
    """A name in lines of ``most`` letters, broken at spaces."""
    return textwrap.wrap(name, most) or [""]
