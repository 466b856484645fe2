"""The study: every solver × spacing × ends × network × guidance, by error, by distribution and by time.

    python -m benchmarks.study [--size small] [--work FOLDER] [--minutes M] [--part 1/4] [--only mixture …] [--publish]

It runs what is not yet in the work folder and appends a row of JSON per run, so it may be stopped and started again. At one number
of evaluations it takes ROUND cases of each world in turn, in an order drawn once for all, so a study that was stopped is a fair sample. ``--part 2/4`` runs a quarter (several machines may share a
folder). ``--publish`` writes what the folder holds to docs/study.csv.xz and the page (``benchmarks.study_page``). Sizes: "small" takes
about an hour of one core, "full" every setting of every solver and 256 starts, for a machine of many cores; "tiny" is for tests.

Deterministic runs have the error to the exact end (RMSE, and median over starts) and the Fréchet distance to a target sample,
stochastic ones the distance alone (``benchmarks.study_worlds``). Two names for one plan on the same levels are one run. Time is that of
the processor, per evaluation, outside the network, plan excluded. A run that cannot be says why.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import product
from pathlib import Path as File
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sampling_kit.schedulers import policy
from sampling_kit.schedulers import spacing as spacings
from sampling_kit.schedulers.noise import PerImageNoise
from sampling_kit.schedulers.points import Points
from sampling_kit.schedulers.solver import ALL, Adaptive, Solver
from sampling_kit.schedulers.solver.run import Run
from sampling_kit.schedulers.solver.selection import variants

from . import galaxies
from .problems import median, rmse
from .quality import contestant, plan_of
from .study_worlds import NAMES, NETWORKS, World, world

WORK = File(".study")
WRITTEN = ("explicit", "drawn")  # spacings that are what a person writes
ENDS = ("schedule", "skip", "rule")
AUTO = "auto"
NOISE_SEED, ROUND = 9, 150


@dataclass(frozen=True)
class Size:
    """Starts by network; numbers of evaluations, the first of all worlds, the others of those not in ``once``; ``most``: how many cases
    of a world at one number, the first of all in their drawn order. All settings of a solver, or its default and the shortest with noise."""

    seeds: dict[str, int]
    nfes: tuple[int, ...]
    once: tuple[tuple[str, str], ...] = ()
    most: dict[tuple[str, str], int] = field(default_factory=dict)
    every_setting: bool = False


SIZES = {
    "tiny": Size(dict.fromkeys(NETWORKS, 2), (4,)),
    "small": Size(
        {"mixture": 64, "mixture-flow": 64, "postcards": 64, "network": 4, "hsc": 4},
        (10, 20, 6),
        tuple(name for name in NAMES if not name[0].startswith("mixture")),
        {("postcards", "none"): 700, ("postcards", "CFG 2"): 400, ("hsc", "none"): 400}
        | {("network", "none"): 300, ("network", "CFG 2"): 150},
    ),
    "full": Size(
        dict.fromkeys(NETWORKS, 256) | {"network": 64},
        (10, 20, 6, 4, 8, 15, 30, 50),
        every_setting=True,
    ),
}


class Case(NamedTuple):
    """``solver``, ``spacing`` and ``ends`` are "auto" where the policy chooses."""

    network: str
    guidance: str
    solver: str
    spacing: str
    ends: str
    nfe: int


@lru_cache
def solvers(every_setting: bool) -> dict[str, Solver]:
    """Call → solver: all that run a list of levels, which Adaptive does not."""
    chosen = list[Solver]()
    for kind in ALL:
        if kind is Adaptive:
            continue
        some, default = variants(kind), kind()
        if not every_setting:
            noisy = [v for v in some if v.stochastic and not default.stochastic]
            some = (default, *sorted(noisy, key=lambda v: len(v.call))[:1])
        chosen += some
    return {solver.call: solver for solver in chosen}


def cases(size: Size, network: str, guidance: str, nfe: int) -> list[Case]:
    """Of a world at a number of evaluations, in an order drawn once; auto's first."""
    if nfe != size.nfes[0] and (network, guidance) in size.once:
        return []
    places = [name for name in spacings.ALL if name not in WRITTEN]
    some = [
        Case(network, guidance, *rest, nfe)
        for rest in product(solvers(size.every_setting), places, ENDS)
    ]
    order = np.random.default_rng(0).permutation(len(some)).tolist()
    auto = Case(network, guidance, AUTO, AUTO, AUTO, nfe)
    return [auto, *(some[i] for i in order)][: size.most.get((network, guidance))]


# ---- one run


def planned(at: World, case: Case, size: Size) -> tuple[Solver, Points]:
    """Solver and levels. Raises ValueError for what cannot run."""
    schedule = at.task.schedule
    if case.solver == AUTO:
        guided = case.guidance != "none"
        choice = policy.choose(schedule, case.nfe, guided=guided, side=at.side)
        return choice.solver, choice.points(schedule, choice.steps).on(at.task.path)
    solver = solvers(size.every_setting)[case.solver]
    steps = next((n for n in range(case.nfe, 0, -1) if solver.nfe(n) <= case.nfe), 0)
    if not steps and solver.planned:
        raise ValueError(f"needs more than {case.nfe} evaluations")
    kind = spacings.ENDS[case.ends]
    rule = spacings.ByRule(policy.usual_std(schedule), at.side)
    ends = rule if case.ends == "rule" else kind()
    spacing = spacings.ALL[case.spacing]()
    return solver, spacings.space(schedule, steps or case.nfe, spacing, ends=ends).on(at.task.path)


def play(at: World, solver: Solver, points: Points) -> dict[str, Any]:
    """What a run is worth: calls, error, distance and µs per evaluation outside the network."""
    calls, inside = 0, 0.0

    def denoise(x: Tensor, sigma: float) -> Tensor:
        nonlocal calls, inside
        began = time.process_time()
        d = at.task.denoise(x, sigma)
        inside += time.process_time() - began
        calls += 1
        return d

    top = at.task.path.at(at.task.schedule.kappa_max).sigma
    x = at.task.start * (points[0].sigma / top)
    run = Run(denoise, PerImageNoise(NOISE_SEED) if solver.stochastic else None)
    plan = plan_of(solver, points) if solver.planned else solver
    began = time.process_time()
    end = (plan.solve(run, x) if solver.planned else solver.solve(points, run, x)).double()  # type: ignore[call-arg, arg-type]
    outside = time.process_time() - began - inside
    if not bool(torch.isfinite(end).all()):
        raise FloatingPointError("not finite")
    found: dict[str, Any] = {"calls": calls, "us": round(1e6 * outside / max(calls, 1), 1)}
    if not solver.stochastic:
        errors = rmse(end, at.end)
        found |= {"rmse": float(errors.square().mean().sqrt()), "median": median(errors)}
    distance = at.distance(end)
    return found | ({} if distance is None else {"frechet": distance})


def measured(
    at: World, case: Case, size: Size, seen: dict[Hashable, dict[str, Any]]
) -> dict[str, Any]:
    """A row without its case. ``seen``: results by plan and levels, of this world."""
    try:
        solver, points = planned(at, case, size)
        if solver.planned and not solver.stochastic:
            key: Hashable = ("plan", contestant(solver).key(points))
        else:
            key = (solver, tuple(round(s, 9) for s in points.sigmas()))
        if key in seen:
            return seen[key] | {"shared": True}
        seen[key] = play(at, solver, points)
        return seen[key]
    except (ValueError, ArithmeticError) as error:
        return {"failure": f"{type(error).__name__}: {error}".splitlines()[0][:160]}


# ---- all of them


def rows_in(work: File) -> Iterator[dict[str, Any]]:
    """Rows of all parts; a line that a stop cut short is left out."""
    for file in sorted(work.glob("rows*.jsonl")):
        for line in file.read_text(encoding="utf-8").splitlines():
            try:
                yield json.loads(line)
            except json.JSONDecodeError:
                continue


def case_of(row: dict[str, Any]) -> Case:
    return Case(*(row[name] for name in Case._fields))


@dataclass(frozen=True)
class Part:
    """Number ``index`` of ``count``."""

    index: int = 0
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> Part:
        index, count = map(int, text.split("/"))
        if not 1 <= index <= count:
            raise ValueError(f"--part {text}: the first number is from 1 to the second")
        return cls(index - 1, count)


def study(
    work: File,
    size_name: str,
    worlds: Sequence[tuple[str, str]] = NAMES,
    part: Part = Part(),
    minutes: float = math.inf,
) -> int:
    """Runs what the folder has not; returns how many runs it made. Time is the processor's."""
    size, made = SIZES[size_name], 0
    work.mkdir(parents=True, exist_ok=True)
    done = {case_of(row) for row in rows_in(work) if row["size"] == size_name}
    stop = time.process_time() + 60 * minutes
    benches = dict[tuple[str, str], Bench | None]()
    with (work / f"rows-{part.index + 1}of{part.count}.jsonl").open("a", encoding="utf-8") as file:
        file.write("\n")  # ends a line that was cut short
        for name, some in rounds(size, worlds):
            left = [case for case in some[part.index :: part.count] if case not in done]
            if left and name not in benches:
                benches[name] = bench(name, size_name, work)
            at = benches.get(name)
            for case in left if at else ():
                if time.process_time() > stop:
                    return made
                assert at is not None
                file.write(json.dumps(case._asdict() | at.row(case)) + "\n")
                file.flush()
                made += 1
    return made


def rounds(
    size: Size, worlds: Sequence[tuple[str, str]]
) -> Iterator[tuple[tuple[str, str], list[Case]]]:
    """At each number of evaluations ROUND cases of every world, then the next."""
    for nfe in size.nfes:
        of = {name: cases(size, *name, nfe) for name in worlds}
        for first in range(0, max(map(len, of.values())), ROUND):
            for name, some in of.items():
                yield name, some[first : first + ROUND]


@dataclass(frozen=True)
class Bench:
    """A world and what was run on it."""

    world: World
    size_name: str
    seen: dict[Hashable, dict[str, Any]] = field(default_factory=dict)

    def row(self, case: Case) -> dict[str, Any]:
        facts = {"size": self.size_name, "seeds": len(self.world.task.start)}
        return facts | measured(self.world, case, SIZES[self.size_name], self.seen)


def bench(name: tuple[str, str], size_name: str, work: File) -> Bench | None:
    """None where the network is not to be had here."""
    try:
        at = world(*name, SIZES[size_name].seeds[name[0]], work)
    except galaxies.Missing as missing:
        print(f"{name[0]}: {missing}", flush=True)
        return None
    write_facts(work, at)
    return Bench(at, size_name)


def write_facts(work: File, at: World) -> None:
    """What is known of a world beside its runs."""
    facts = {
        "seeds": len(at.task.start),
        "uncertainty": at.uncertainty,
        "exact ends": at.of_ends,
        "floor": at.floor,
    }
    name = f"world-{at.name}".replace(", ", "-").replace(" ", "-")
    (work / f"{name}.json").write_text(json.dumps({"name": at.name} | facts), encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--work", type=File, default=WORK)
    parser.add_argument("--minutes", type=float, default=math.inf, help="of the processor")
    parser.add_argument("--part", type=Part.parse, default=Part(), metavar="1/4")
    parser.add_argument("--only", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--publish", action="store_true")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    worlds = [name for name in NAMES if name[0] in options.only]
    if not options.publish:
        study(options.work, options.size, worlds, options.part, options.minutes)
        return
    from .study_page import publish

    publish(options.work, options.size)


if __name__ == "__main__":
    main()
