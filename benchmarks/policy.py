"""How good "auto" is: its error beside the best of all pairs of solver and spacing, and beside peers' defaults.

    python -m benchmarks.policy [--problems ztf postcards …] [--nfe 4 5 6 8 10] [--seeds 12] [--keep FILE] [--write]

The rows of ``schedulers/policy.py`` were chosen on the problems of CHOSEN; those of JUDGED, which nobody looked at before, say how good
they are. "best" is the best pair of CANDIDATES, SPACINGS and ends (the schedule's, by rule) found on these very seeds, which
flatters it. Peers' defaults are run by solvers of this pack that are the same method (docs/elsewhere.md): ComfyUI's
euler with simple, dpmpp_2m and uni_pc with karras, diffusers' DPM-Solver++ 2M with its linspace. Beside the RMSE stand
the median, the 95th percentile, and the energy of three bands of the spectrum against the exact end's.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sampling_kit.schedulers import policy
from sampling_kit.schedulers import spacing as spacings
from sampling_kit.schedulers.noise_schedule import EDM
from sampling_kit.schedulers.path import VE
from sampling_kit.schedulers.points import Points
from sampling_kit.schedulers.solver import (
    AdamsBashforth,
    DPMSolverMultistep,
    Euler,
    GaussianAdams,
    GradientEstimation,
    Plan,
    Solver,
    UniPC,
)
from sampling_kit.schedulers.solver.run import Run, drive_together
from sampling_kit.schedulers.solver.state import State

from . import drawn, galaxies, pages, problems
from .fit import reference
from .problems import Problem, median, rmse

SEEN = (*range(12), 15, 16, 21, 23, 35, 41, 53)
CHOSEN = (
    *(f"{drawn.PREFIX}{seed}" for seed in SEEN),
    *(f"{drawn.PREFIX}{seed}-{guidance}" for seed in SEEN for guidance in ("none", "cfg2", "cfg5")),
    "hsc",
    "hsc-flow",
    "ztf",
    "ztf-flow",
    "postcards",
    "network-cfg2",
    "network-cfg5",
    "network-cfg7",
)
#: 1000 to 1047 judged earlier versions and drafts, so they were seen before version 4 was made. As few of those that are drawn have guidance above CFG 2.5,
#: some are judged with CFG 5 whatever their number says.
STRONGLY = tuple(f"{drawn.PREFIX}{seed}-cfg5" for seed in drawn.JUDGED[60:66])
#: No version was chosen on it.
JUDGED_NETWORK = "network-cond"
JUDGED = (*(f"{drawn.PREFIX}{seed}" for seed in drawn.JUDGED[48:60]), *STRONGLY)
NFES = (4, 5, 6, 8, 10, 15, 20)
MARKS = pages.marks("auto")
SCHEDULES = {"pure": "flow, zero terminal SNR", "other": "VP", "exploding": "VE"}
BEST, PEERS = 1.15, 0.6  # bars
NETWORK_STEPS = (
    50  # of Gaussian Adams, for the ends of a network's guidance that has no stored ones
)
DRAWN_STEPS = 200  # of Runge–Kutta, for the ends of drawn problems: known to 1e-5 of an error at 30 evaluations

CANDIDATES: tuple[Solver, ...] = (
    GradientEstimation(),
    AdamsBashforth(2),
    AdamsBashforth(3),
    AdamsBashforth(4),
    UniPC(),
    UniPC(3),
    DPMSolverMultistep(),
    DPMSolverMultistep(3, "exact", coordinate="index"),
    GaussianAdams(),
    GaussianAdams(8.0, 3, 0, coordinate="index"),
)
SPACINGS: tuple[spacings.Spacing, ...] = (
    spacings.Exponential(),
    spacings.Karras(),
    spacings.NoiseShare(1.0),
    spacings.NoiseShare(2.0),
    spacings.NoiseShare(5.0),
    spacings.NoiseShare(1.0, 1.0),
    spacings.Linspace(),
)
#: Name → solver, spacing: what a peer runs when nothing is changed, or as its documentation says.
DEFAULTS: dict[str, tuple[Solver, spacings.Spacing]] = {
    "ComfyUI euler, simple": (Euler(), spacings.HostTable()),
    "ComfyUI dpmpp_2m, karras": (DPMSolverMultistep(), spacings.Karras()),
    "ComfyUI uni_pc, karras": (UniPC(3, "bh1"), spacings.Karras()),
    "diffusers DPM-Solver++ 2M, linspace": (DPMSolverMultistep(), spacings.Linspace()),
}


@dataclass(frozen=True)
class Score:
    """Over seeds; ``bands``: energy of low, middle and high frequencies against the exact ends', () if no picture."""

    name: str
    rmse: float
    median: float
    p95: float
    bands: tuple[float, ...] = ()


@dataclass(frozen=True)
class Judged:
    """One problem at one number of evaluations."""

    problem: str
    nfe: int
    auto: Score
    best: Score
    default: Score
    before: Score  # the policy of the version before

    @property
    def to_best(self) -> float:
        return self.auto.rmse / self.best.rmse

    @property
    def to_default(self) -> float:
        return self.auto.rmse / self.default.rmse

    @property
    def to_before(self) -> float:
        return self.auto.rmse / self.before.rmse

    @property
    def of_medians(self) -> float:
        """To the best pair's, without the few seeds that end elsewhere."""
        return self.auto.median / self.best.median


@dataclass(frozen=True)
class Bench:
    """A problem with the exact ends of its seeds, all but the first ``skip`` of them."""

    task: Problem
    end: Tensor
    skip: int = 0

    @property
    def guided(self) -> bool:
        return "cfg" in self.task.name

    @property
    def side(self) -> int:
        shape = self.task.start.shape
        return (
            round(math.sqrt(shape[-1] * shape[-2])) if len(shape) == 4 else round(shape[-1] ** 0.5)
        )

    def play(self, name: str, solver: Solver, points: Points) -> Score | None:
        """The run's score; None where the solver cannot run there."""
        return next(self.play_all({name: solver}, points), None)

    def play_all(self, solvers: dict[str, Solver], points: Points) -> Iterator[Score]:
        """The scores of those that can run on these levels; their runs share their calls."""
        levels = points.on(self.task.path)
        top, first = self.task.path.at(self.task.schedule.kappa_max), levels[0]
        x = self.task.start[self.skip :] * (first.sigma / top.sigma)
        plans = dict[str, Plan]()
        for name, solver in solvers.items():
            with suppress(ValueError):
                plans[name] = solver.plan(levels)
        walks = [plan.walk(State((x,))) for plan in plans.values()]
        ends = drive_together(walks, Run(self._rows, finite=False))
        for name, state in zip(plans, ends, strict=True):
            score = self._score(name, state.x.double())
            if math.isfinite(score.rmse):
                yield score

    def _rows(self, x: Tensor, sigma: float) -> Tensor:
        """D of several runs' states, one after the other: a network of seeds knows its own rows only."""
        if not self.task.name.startswith("network"):
            return self.task.denoise(x, sigma)
        count = len(self.task.start) - self.skip
        return torch.cat([self.task.denoise(part, sigma) for part in x.split(count)])

    def _score(self, name: str, last: Tensor) -> Score:
        end = self.end[self.skip :]
        errors = rmse(last, end)
        found = float(errors.square().mean().sqrt())
        high = float(np.quantile(errors.numpy(), 0.95))
        return Score(name, found, median(errors), high, bands(last, end))


def bench(name: str, seeds: int, skip: int = 0) -> Bench:
    """Raises galaxies.Missing."""
    count = seeds + skip
    if name.startswith(drawn.PREFIX):
        task = drawn.problem(name, count)
        return Bench(task, task.finer_run(DRAWN_STEPS), skip)
    if name.startswith("network"):
        rows, guidance = torch.arange(skip, count), name.split("-")[1]
        start = problems.fits.starts(torch.arange(count)).double()
        task = Problem(name, VE(), EDM(), _of_rows(guidance, rows), start)
        if guidance in problems.fits.GUIDANCE:
            return Bench(task, reference()[guidance][:count].double(), skip)
        last = problems.by_adams(replace(task, start=start[skip:]), NETWORK_STEPS)
        return Bench(task, torch.cat([torch.zeros_like(start[:skip]), last.double()]), skip)
    return Bench(problems.problem(name, count), problems.answer(name, count).end, skip)


def _of_rows(guidance: str, rows: Tensor) -> problems.Denoise:
    """The network for these seeds' classes only; ``guidance``: cond, or cfg with a scale."""
    scale = 1.0 if guidance == "cond" else float(guidance.removeprefix("cfg"))
    field = problems.fits.field(problems.network(), rows, scale, fast=False)

    @torch.no_grad()
    def call(x: Tensor, sigma: float) -> Tensor:
        return field(x.float(), float(sigma), torch.arange(len(rows))).to(x.dtype)

    return call


def bands(x: Tensor, exact: Tensor) -> tuple[float, ...]:
    """Energy of x against ``exact``'s in three bands of spatial frequency: up to 1/16, to 1/4 of the side, above; the
    mean left out. () for what is no picture."""
    if x.ndim != 4:
        return ()
    side = x.shape[-1]
    k = torch.fft.fftfreq(side) * side
    radius = (k[:, None] ** 2 + k**2).sqrt()
    edges = (0.0, side / 16, side / 4, math.inf)
    energies = [torch.fft.fft2(image).abs().square().sum((0, 1)) for image in (x, exact)]
    found = []
    for low, high in pairwise(edges):
        inside = (radius > low) & (radius <= high)
        found.append(float(energies[0][inside].sum() / energies[1][inside].sum()))
    return tuple(found)


def judge(at: Bench, nfe: int) -> Judged:
    auto = score_of(at, nfe)
    best = min(_pairs(at, nfe), key=lambda s: s.rmse)
    best = min(best, auto, key=lambda s: s.rmse)
    found = [
        at.play(n, s, spacings.space(at.task.schedule, nfe, p)) for n, (s, p) in DEFAULTS.items()
    ]
    default = min((s for s in found if s), key=lambda s: s.rmse)
    return Judged(at.task.name, nfe, auto, best, default, score_of(at, nfe, policy.LATEST - 1))


def cfg_of(problem: str) -> float:
    """The scale that a problem's name says, 0 without guidance."""
    return float(problem.split("cfg")[1]) if "cfg" in problem else 0.0


def score_of(at: Bench, nfe: int, version: int = policy.LATEST) -> Score:
    """Of the policy's choice."""
    cfg = cfg_of(at.task.name)
    chosen = policy.choose(
        at.task.schedule, nfe, guided=at.guided, cfg=cfg, side=at.side, version=version
    )
    score = at.play(chosen.text, chosen.solver, chosen.points(at.task.schedule, chosen.steps))
    if score is None:
        raise ValueError(f"{at.task.name}: {chosen.text} does not run")
    return score


def _pairs(at: Bench, nfe: int) -> Iterator[Score]:
    schedule = at.task.schedule
    rule = spacings.ByRule(policy.usual_std(schedule), at.side)
    for spacing in SPACINGS:
        for ends in (spacings.WholeRange(), rule):
            points = spacings.space(schedule, nfe, spacing, ends=ends)
            levels = f"{spacing.title}, {ends.title}"
            yield from at.play_all({f"{s.call}, {levels}": s for s in CANDIDATES}, points)


def table(rows: Sequence[Judged]) -> str:
    """A line for each number of evaluations, then for each problem."""
    lines = [
        "| | rows | ÷ best pair (worst) | of medians | within 1.15 | ÷ best default (worst) | up to 0.6 | ÷ version before (worst) |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for nfe in sorted({r.nfe for r in rows}):
        lines.append(_line(f"{nfe} evaluations", [r for r in rows if r.nfe == nfe]))
    for name in dict.fromkeys(r.problem for r in rows):
        lines.append(_line(name, [r for r in rows if r.problem == name]))
    return "\n".join(lines)


def _line(name: str, rows: Sequence[Judged]) -> str:
    best, default, before = (
        [getattr(r, f"to_{k}") for r in rows] for k in ("best", "default", "before")
    )
    return (
        f"| {name} | {len(rows)} | {mean(best):.2f} ({max(best):.2f}) | {mean([r.of_medians for r in rows]):.2f} | "
        f"{sum(b <= BEST for b in best)} | {mean(default):.2f} ({max(default):.2f}) | {sum(d <= PEERS for d in default)} | "
        f"{mean(before):.2f} ({max(before):.2f}) |"
    )


def mean(values: Sequence[float]) -> float:
    """Geometric."""
    return math.exp(sum(map(math.log, values)) / len(values))


def findings(rows: Sequence[Judged]) -> str:
    few = [r for r in rows if r.nfe <= 10]
    best, default = [r.to_best for r in rows], [r.to_default for r in few]
    before = [r.to_before for r in rows]
    near, far = sum(b <= BEST for b in best), sum(d <= PEERS for d in default)
    return (
        f"Within {BEST} times the best pair in {near} of {len(rows)} rows (geometric mean {mean(best):.2f}, worst "
        f"{max(best):.2f}); at most {PEERS} times the best of the peers' defaults in {far} of {len(few)} "
        f"rows up to 10 evaluations (mean {mean(default):.2f}, worst {max(default):.2f}, behind it in {sum(d > 1 for d in default)}). "
        f"Against version {policy.LATEST - 1} the error is {mean(before):.2f} times as large (mean; at worst {max(before):.2f} times, at best "
        f"{min(before):.2f}), and smaller in {sum(b < 1 for b in before)} rows."
    )


def rows_of(version: int) -> str:
    """A policy's table, for the page."""
    lines = [
        "| schedule | guidance | evaluations | solver | spacing | last level |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for path in SCHEDULES:
        rows = getattr(policy.POLICIES[version], path)
        if rows is None:
            continue
        strong = f"CFG above {policy.STRONG:g}"
        named = {"no": rows.plain, "yes": rows.guided, strong: rows.strong}
        if rows.plain == rows.guided:
            named = {"any": rows.plain}
        for name, some in named.items():
            for row in some:
                most = "more" if math.isinf(row.nfe) else f"up to {row.nfe:g}"
                lines.append(
                    f"| {SCHEDULES[path]} | {name} | {most} | `{row.solver.call}` | {_spacing(row.spacing)} | "
                    f"{_last(row.last)} |"
                )
    return "\n".join(lines)


def _spacing(spacing: spacings.Spacing) -> str:
    scale = getattr(spacing, "scale", None)
    return spacing.title if scale is None else f"{spacing.title}, scale {scale:g} s"


def _last(share: float) -> str:
    return (
        "the schedule's"
        if not share
        else "by rule"
        if share == 1
        else f"{share:g} times the rule's"
    )


def text_of(rows: Sequence[Judged]) -> str:
    """The measured part of docs/choosing.md."""
    return "\n\n".join([rows_of(policy.LATEST), findings(rows), table(rows)])


def merged(file: Path, rows: Sequence[Judged]) -> list[Judged]:
    """What the file holds and ``rows``, which replace its own of the same problem and number; both are kept there."""
    kept = read(file) if file.exists() else []
    found = {(r.problem, r.nfe): r for r in [*kept, *rows]}
    every = sorted(found.values(), key=lambda r: (r.problem, r.nfe))
    file.write_text(json.dumps([asdict(row) for row in every], indent=1), encoding="utf-8")
    return every


def read(file: Path) -> list[Judged]:
    return [_read(row) for row in json.loads(file.read_text(encoding="utf-8"))]


def _read(row: dict[str, Any]) -> Judged:
    scores = {key: Score(**row[key]) for key in ("auto", "best", "default", "before")}
    return Judged(row["problem"], row["nfe"], **scores)


def measure(names: Sequence[str], nfes: Sequence[int], seeds: int, skip: int) -> Iterator[Judged]:
    for name in names:
        try:
            at = bench(name, seeds, skip)
        except galaxies.Missing as missing:
            print(f"{name} is left out: {missing}")
            continue
        for nfe in nfes:
            yield judge(at, nfe)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument(
        "--problems", nargs="*", default=JUDGED, choices=sorted({*CHOSEN, *JUDGED, JUDGED_NETWORK})
    )
    parser.add_argument("--nfe", nargs="+", type=int, default=NFES)
    parser.add_argument("--seeds", type=int, default=12)
    parser.add_argument("--skip", type=int, default=24, help="seeds left out: those chosen on")
    parser.add_argument("--keep", type=Path, help="a JSON file for rows that are measured in parts")
    parser.add_argument("--write", action="store_true", help="write docs/choosing.md")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    started = time.perf_counter()
    rows = list(measure(options.problems, options.nfe, options.seeds, options.skip))
    if options.keep:  # with no problems at all: what it holds
        rows = merged(options.keep, rows)
    print(table(rows), findings(rows), f"{time.perf_counter() - started:.0f} s", sep="\n\n")
    if options.write:
        pages.write(pages.CHOOSING, MARKS, text_of(rows))


if __name__ == "__main__":
    main()
