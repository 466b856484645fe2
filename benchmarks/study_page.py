"""docs/study.md from the study's data: tables, figures, findings and the digest.

    python -m benchmarks.study_page [--write]

Nothing is run. ``python -m benchmarks.study --publish`` writes the data, then the page.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path as File
from statistics import median
from typing import Any

from sampling_kit.schedulers import spacing as spacings
from sampling_kit.schedulers.text_table import markdown_table

from . import pages
from .study import AUTO, rows_in
from .study_data import DATA, Row, Study, facts_of, read, write
from .study_effects import (
    MODELS,
    Fit,
    best_of,
    by_distance,
    fit,
    geometric,
    shares,
    time_of,
    with_error,
    worlds,
)
from .study_figures import draw

PAGE = pages.DOCS / "study.md"
NFE = 10
ENOUGH = 40  # runs with an error, to speak of the best; for shares SHARED
TIMED, SHARED = "mixture", 120


class Findings:
    """What the page says, from the data alone."""

    def __init__(self, study: Study) -> None:
        self.study = study

    @cached_property
    def runs(self) -> list[Row]:
        return with_error(self.study.rows, NFE)

    @cached_property
    def both(self) -> Fit:
        return fit(self.runs, MODELS["solver + spacing with ends"])

    @property
    def solvers(self) -> dict[str, float]:
        """Solver → factor, the best first."""
        found = self.both.effects[0]
        return {str(k): 10**v for k, v in sorted(found.items(), key=lambda pair: pair[1])}

    @property
    def places(self) -> dict[tuple[str, str], float]:
        """(spacing, ends) → factor."""
        return {k: 10**v for k, v in self.both.effects[1].items()}  # type: ignore[misc]

    @cached_property
    def of_ends(self) -> dict[tuple[str, str], float]:
        """World → the exact ends' Fréchet distance."""
        known = self.study.facts["worlds"]
        found = {w: known.get(", ".join(w), {}).get("exact ends") for w in worlds(self.study.rows)}
        return {w: d for w, d in found.items() if d}

    @cached_property
    def distances(self) -> dict[str, tuple[float, float, int]]:
        return by_distance(self.study.rows, NFE, self.of_ends)

    @property
    def stochastic(self) -> set[str]:
        with_rmse = {r.solver for r in self.study.rows if r.rmse}
        return {r.solver for r in self.study.rows if r.frechet} - with_rmse - {AUTO}

    def tables(self) -> dict[str, str]:
        return {
            "data": self.citation(),
            "worlds": markdown_table(
                ("network", "guidance", "starts", "runs", "cannot be", "exact ends", "floor"),
                self._worlds(),
            ),
            "findings": "\n".join(f"{i}. {line}" for i, line in enumerate(self.sentences(), 1)),
            "shares": markdown_table(("world", "runs", *MODELS), self._shares()),
            "solvers": markdown_table(
                ("solver", "all places", "its best place", "median", "least", "µs"),
                self._solvers(),
            ),
            "places": markdown_table(("spacing", "schedule", "skip", "rule"), self._places()),
            "best": markdown_table(
                ("world", "NFE", "runs", "best", "RMSE", "auto ÷ best", "auto is ahead of"),
                self._best(),
            ),
            "noise": markdown_table(("solver", "runs", "median", "least"), self._noise()),
        }

    def citation(self) -> str:
        facts, count = self.study.facts, len(self.study.rows)
        return (
            f"Data: [study.csv.xz](study.csv.xz), {count} runs of size “{facts['size']}”, torch {facts['torch']}, numpy "
            f"{facts['numpy']}, {facts['machine']}; SHA-256 of the unpacked text\n\n    {self.study.digest}\n\n"
            "Cite the pack ([CITATION.cff](https://github.com/comfyui-sampling-kit/ComfyUI-SamplingKit/blob/main/CITATION.cff)) "
            "with this digest, and rows by their first six columns."
        )

    def _worlds(self) -> Iterator[list[Any]]:
        for network, guidance in worlds(self.study.rows):
            mine = [r for r in self.study.rows if r.world == (network, guidance)]
            facts = self.study.facts["worlds"].get(f"{network}, {guidance}", {})
            failed = sum(bool(r.failure) for r in mine)
            ends = [_short(facts.get(k)) for k in ("exact ends", "floor")]
            yield [network, guidance, facts.get("seeds", ""), len(mine) - failed, failed, *ends]

    def _shares(self) -> Iterator[list[str]]:
        groups = {"all": self.runs}
        for world in worlds(self.runs):
            groups[", ".join(world)] = [r for r in self.runs if r.world == world]
        for name, some in groups.items():
            if len(some) >= SHARED:
                yield [name, str(len(some)), *(f"{s:.2f}" for s in shares(some).values())]

    def _solvers(self) -> Iterator[list[str]]:
        best, times = best_of(self.runs), time_of(self.study.rows, TIMED)
        for solver, factor in self.solvers.items():
            middle, least, _ = self.distances.get(solver, (math.nan, math.nan, 0))
            numbers = [factor, best.get(solver, math.nan), middle, least]
            time = f"{times[solver]:.0f}" if solver in times else ""
            yield [f"`{solver}`", *map(_short, numbers), time]

    def _places(self) -> Iterator[list[str]]:
        for name, kind in spacings.ALL.items():
            cells = [_short(self.places.get((name, e))) for e in ("schedule", "skip", "rule")]
            if any(cells):
                yield [kind.title, *cells]

    def _best(self) -> Iterator[list[str]]:
        for world in worlds(self.study.rows):
            for nfe in sorted({r.nfe for r in self.study.rows if r.world == world}):
                some = [r for r in with_error(self.study.rows, nfe) if r.world == world]
                auto = self.auto(world, nfe)
                if len(some) < ENOUGH or auto is None:
                    continue
                best = min(some, key=lambda r: r.rmse or math.inf)
                beaten = sum(auto < (r.rmse or 0.0) for r in some) / len(some)
                who = f"`{best.solver}`, {spacings.ALL[best.spacing].title}, {best.ends}"
                ratio = _short(auto / (best.rmse or math.nan))
                cells = [str(nfe), str(len(some)), who, f"{best.rmse:.3g}", ratio]
                yield [", ".join(world), *cells, f"{100 * beaten:.0f} %"]

    def auto(self, world: tuple[str, str], nfe: int) -> float | None:
        mine = [r for r in self.study.rows if r.world == world and (r.solver, r.nfe) == (AUTO, nfe)]
        return mine[0].rmse if mine else None

    def _noise(self) -> Iterator[list[str]]:
        order = sorted(self.distances.items(), key=lambda pair: pair[1][0])
        for solver, (middle, least, count) in order:
            if solver in self.stochastic:
                yield [f"`{solver}`", str(count), _short(middle), _short(least)]

    def sentences(self) -> Iterator[str]:
        part = shares(self.runs)
        sum_of, names = part["solver + spacing with ends"], list(self.solvers)
        yield (
            f"With {NFE} evaluations the solver alone explains {100 * part['solver']:.0f} % of the variance of the error's logarithm within a world, spacing "
            f"with ends {100 * part['spacing with ends']:.0f} %, their sum {100 * sum_of:.0f} %: the rest is which solver stands on which levels, and for which network."
        )
        first = ", ".join(f"`{s}` ({self.solvers[s]:.2f})" for s in names[:3])
        last = ", ".join(f"`{s}` ({self.solvers[s]:.1f})" for s in names[-2:])
        yield f"Over all levels {first} err least, as shares of the mean solver's error; {last} most."
        order = sorted(self.places, key=lambda place: self.places[place])
        good, bad = (
            ", ".join(
                f"{spacings.ALL[s].title} with ends = {e} ({self.places[s, e]:.2f})"
                for s, e in some
            )
            for some in (order[:3], order[-2:])
        )
        yield f"Over all solvers the best levels are {good}; the worst {bad}."
        ratios = [self.places[s, "rule"] / self.places[s, "schedule"] for s in self._paired()]
        better = sum(r < 1 for r in ratios)
        yield f"Ends by rule have {geometric(ratios):.2f} times the error of the schedule's own (mean over spacings), less with {better} of {len(ratios)} spacings."
        autos = [float(row[5]) for row in self._best() if row[1] == str(NFE)]
        ahead = [int(row[6].split()[0]) for row in self._best() if row[1] == str(NFE)]
        yield (
            f"auto errs {geometric(autos):.1f} times as much as the best run of a world, which nobody knows beforehand (worst {max(autos):.1f}), and is ahead of "
            f"{median(ahead):.0f} % of the runs (median over worlds; least {min(ahead)} %)."
        )
        still = [v[0] for k, v in self.distances.items() if k not in self.stochastic]
        noisy = [v[0] for k, v in self.distances.items() if k in self.stochastic]
        if still and noisy:
            yield (
                f"By distribution, with {NFE} evaluations and over all levels, the median deterministic solver is at {median(still):.2f} times the Fréchet distance of the exact ends, "
                f"the median stochastic one at {median(noisy):.2f}."
            )

    def _paired(self) -> list[str]:
        return [s for s in spacings.ALL if {(s, "rule"), (s, "schedule")} <= self.places.keys()]


def _short(value: float | None) -> str:
    if value is None or math.isnan(value):
        return ""
    return f"{value:.2f}" if value < 100 else f"{value:.0f}"


def page_of(study: Study, page: str) -> str:
    """The page with its measured parts."""
    for name, text in Findings(study).tables().items():
        page = pages.written(page, pages.marks(name), text)
    return page


def write_page() -> None:
    read.cache_clear()
    study = read()
    PAGE.write_text(page_of(study, PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    at = Findings(study)
    draw(at.runs, at.solvers, at.places, at.distances, at.stochastic)


def publish(work: File, size: str) -> None:
    rows = [row for row in rows_in(work) if row["size"] == size]
    digest = write(facts_of(work, size), rows)
    print(f"{DATA}: {len(rows)} runs, {DATA.stat().st_size} bytes, SHA-256 {digest}")
    write_page()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args(arguments)
    if options.write:
        write_page()
        return
    for text in Findings(read()).tables().values():
        print(text, end="\n\n")


if __name__ == "__main__":
    main()
