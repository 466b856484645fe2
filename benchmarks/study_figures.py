"""The study's figures: factors of solvers and levels, the map of both, and distances of distributions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, median
from typing import Any

import numpy as np

from sampling_kit.schedulers import spacing as spacings
from sampling_kit.schedulers.show.style import BLACK, BLUE, GREY, ORANGE, VERMILION, new_figure

from . import pages
from .study_data import Row
from .study_effects import CAP, worlds

FACTORS, MAP, DISTANCES = (
    pages.DOCS / f"study-{name}.png" for name in ("factors", "map", "distances")
)
ENDS = {"schedule": ("o", BLUE), "skip": ("s", ORANGE), "rule": ("D", VERMILION)}
Place = tuple[str, str]


def draw(
    runs: Sequence[Row],
    solvers: Mapping[str, float],
    places: Mapping[Place, float],
    distances: Mapping[str, tuple[float, float, int]],
    stochastic: set[str],
) -> None:
    """Writes the three."""
    _factors(solvers, places).savefig(FACTORS)
    _map(runs, list(solvers)).savefig(MAP)
    _distances(distances, stochastic).savefig(DISTANCES)


def _factors(solvers: Mapping[str, float], places: Mapping[Place, float]) -> Any:
    figure = new_figure(1000, 460)
    left, right = figure.subplots(1, 2)
    names = list(solvers)[::-1]
    left.plot([solvers[name] for name in names], range(len(names)), "o", color=BLUE)
    left.set_yticks(range(len(names)), names, size=8)
    left.set_title("solvers, over all levels", size=10)
    kinds = [s for s in spacings.ALL if any((s, e) in places for e in ENDS)]
    kinds.sort(key=lambda s: -fmean(math.log(places[s, e]) for e in ENDS if (s, e) in places))
    for ends, (mark, colour) in ENDS.items():
        at = [(places[s, ends], i) for i, s in enumerate(kinds) if (s, ends) in places]
        right.plot(*zip(*at, strict=True), mark, color=colour, label=f"ends = {ends}", alpha=0.8)
    right.set_yticks(range(len(kinds)), [spacings.ALL[s].title for s in kinds], size=8)
    right.set_title("spacings and ends, over all solvers", size=10)
    right.legend(frameon=False, fontsize=8)
    for axes in (left, right):
        _multiples(axes)
    return figure


def _multiples(axes: Any) -> None:
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    ticks = [t for t in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50) if low <= t <= high]
    axes.set_xticks(ticks, [f"{t:g}" for t in ticks])
    axes.minorticks_off()
    axes.axvline(1, color=GREY, linewidth=1)
    axes.grid(color=GREY, alpha=0.3)
    axes.set_xlabel("times the mean error", size=9)


def _map(runs: Sequence[Row], solvers: Sequence[str]) -> Any:
    """log10 of the error over its world's median, mean over worlds and ends; what was not run is grey."""
    middle = {w: median(_size(r) for r in runs if r.world == w) for w in worlds(runs)}
    kinds = [s for s in spacings.ALL if any(r.spacing == s for r in runs)]
    grid = np.full((len(solvers), len(kinds)), np.nan)
    for i, solver in enumerate(solvers):
        for j, kind in enumerate(kinds):
            mine = [r for r in runs if (r.solver, r.spacing) == (solver, kind)]
            if mine:
                grid[i, j] = fmean(math.log10(_size(r) / middle[r.world]) for r in mine)
    figure = new_figure(1000, 560)
    axes = figure.subplots()
    axes.set_facecolor("#bbbbbb")
    shown = axes.imshow(grid, cmap="RdBu_r", vmin=-0.8, vmax=0.8, aspect="auto")
    axes.set_yticks(range(len(solvers)), solvers, size=8)
    axes.set_xticks(
        range(len(kinds)), [spacings.ALL[s].title for s in kinds], size=8, rotation=35, ha="right"
    )
    bar = figure.colorbar(shown, ax=axes, ticks=[math.log10(t) for t in (0.2, 0.5, 1, 2, 5)])
    bar.ax.set_yticklabels(["0.2", "0.5", "1", "2", "5"])
    bar.set_label("times the median error", size=9)
    return figure


def _size(row: Row) -> float:
    return min(row.rmse or CAP, CAP)


def _distances(found: Mapping[str, tuple[float, float, int]], stochastic: Iterable[str]) -> Any:
    """Median and least over levels, as multiples of the exact ends' distance."""
    names = sorted(found, key=lambda s: -found[s][0])
    noisy = set(stochastic)
    figure = new_figure(800, 560)
    axes = figure.subplots()
    for i, name in enumerate(names):
        colour = ORANGE if name in noisy else BLUE
        axes.plot(found[name][:2], [i, i], "-", color=colour)
        axes.plot(found[name][0], i, "o", color=colour)
        axes.plot(found[name][1], i, "|", color=colour, markersize=10)
    axes.set_yticks(range(len(names)), names, size=8)
    _multiples(axes)
    axes.set_xlabel(
        "Fréchet distance ÷ that of the exact ends: median (dot) and least (bar) over levels",
        size=9,
    )
    handles = [axes.plot([], [], "o", color=c, label=t)[0] for c, t in ((BLUE, "deterministic"), (ORANGE, "with noise"))]  # fmt: skip
    axes.legend(handles=handles, frameon=False, fontsize=9)
    axes.axvline(1, color=BLACK, linewidth=1)
    return figure
