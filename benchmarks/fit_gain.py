"""What a fit gains over the best training-free pair with its best ends, on seeds and networks that chose nothing.

    python -m benchmarks.fit_gain [--problems hsc ztf cond cfg2] [--nfe 3 4 5 6 8] [--seeds 128] [--made] [--json] [--write]

The pairs are those of ``benchmarks.fit_rivals``: the best with any ends, and the best on the schedule's whole range, each
chosen by RMSE where the RMSE is compared and by median where the median is. Galaxies' fits are made here, by ``forward``
within its own budget on the trajectories of ``fit_tasks``, and kept outside of the repository; embedded ones ship for 4 to 10, and are made here too with ``--made``. Every
ratio has a paired bootstrap interval of 95 % over seeds; "trimmed" leaves out the worst 2 % on both sides. The Fréchet
distance is to the exact ends of the same seeds. ``--write`` puts the rows into the table of docs/fit.md, in place of those of the same
network and number of evaluations.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sampling_kit.embedded import fits
from sampling_kit.schedulers.fit import fit_files
from sampling_kit.schedulers.fit.forward import Forward
from sampling_kit.schedulers.fit.problem import Problem
from sampling_kit.schedulers.fit.run_fit import run_fit
from sampling_kit.schedulers.fit.safeguard import safest
from sampling_kit.schedulers.fit.starts import best_starts
from sampling_kit.schedulers.measure.metrics import frechet
from sampling_kit.schedulers.solver.fitted import FittedSolver, Table

from . import galaxies, pages
from .fit_rivals import stored_pair
from .fit_tasks import EMBEDDED, JUDGES, NAMES, Task, work_folder

MARKS = pages.marks("gain")
DRAWS, DISTANCES, TRIMMED = 2000, 40, 0.02
Errors = NDArray[np.float64]


# ------------------------------------------------------------------------------------- statistics


def rmse(errors: Errors) -> float:
    return float(np.sqrt(np.mean(errors**2)))


def median(errors: Errors) -> float:
    return float(np.median(errors))


def trimmed(errors: Errors) -> float:
    """RMSE without the worst 2 %, at least one."""
    return rmse(np.sort(errors)[: -max(1, math.ceil(TRIMMED * len(errors)))])


@dataclass(frozen=True)
class Ratio:
    """Of a fit to a pair, and its 95 % interval over seeds."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


def ratio(of: Callable[[Errors], float], fit: Errors, pair: Errors, draws: int = DRAWS) -> Ratio:
    """Both sides take the same seeds in every draw."""
    generator = np.random.default_rng(0)
    picks = generator.integers(0, len(fit), (draws, len(fit)))
    drawn = [of(fit[rows]) / of(pair[rows]) for rows in picks]
    low, high = np.quantile(drawn, (0.025, 0.975))
    return Ratio(of(fit) / of(pair), float(low), float(high))


def distance(task: Task, ends: Tensor, others: Tensor, exact: Tensor) -> dict[str, float]:
    """Fréchet distances to the exact ends: of a fit's, of a pair's, and the interval of their difference."""
    mine, theirs, real = (task.features(t) for t in (ends, others, exact))
    generator, drawn = torch.Generator().manual_seed(0), []
    for _ in range(DISTANCES):
        rows = torch.randint(len(real), (len(real),), generator=generator)
        drawn.append(frechet(mine[rows], real[rows]) - frechet(theirs[rows], real[rows]))
    low, high = np.quantile(drawn, (0.025, 0.975))
    return dict(fit=frechet(mine, real), pair=frechet(theirs, real), low=float(low), high=float(high))  # fmt: skip


# ------------------------------------------------------------------------------------------- rows


class Begun(NamedTuple):
    """Where a fit begins, the best training-free pair, and what finding them cost, the teacher included."""

    name: str
    start: Table
    pair: Table
    evaluations: int


@torch.no_grad()
def begun(task: Task, nfe: int) -> Begun:
    """As Fit Solver begins, on the seen trajectories."""
    problem = task.seen
    problem.evaluations = fits.TEACHER_STEPS * len(problem.start)
    starts = best_starts(problem, task.schedule, nfe)
    assert starts.pair is not None
    ((name, table),) = starts.tables.items()
    return Begun(name, table, starts.pair.table, problem.evaluations)


def fit_of(
    task: Task, nfe: int, settings: Forward | None = None, begin: Callable[[], Begun] | None = None
) -> FittedSolver:
    """The shipped fit of the embedded network; else, and with ``settings``, one made here, where it is not kept."""
    if task.name in EMBEDDED and nfe in fits.NFES and settings is None:
        return fits.ready(task.name, "best").at(nfe)
    settings = settings or Forward(numbers=2)
    words = repr(settings) + (f" {settings.shape}" if settings.shape != 1 else "")
    key = fits.hashlib.sha256(words.encode()).hexdigest()[:8]
    file = work_folder() / f"{task.name}-{task.weights[:12]}-fit-{nfe}-{key}.safetensors"
    if not file.exists():
        began = time.process_time()
        fit = made(task, settings, begin() if begin else begun(task, nfe))
        seconds = round(time.process_time() - began, 1)
        fit_files.save(file, [replace(fit, card={**fit.card, "cpu_seconds": seconds})])
    return fit_files.load(file).at(nfe)


@torch.no_grad()
def made(task: Task, settings: Forward, begin: Begun) -> FittedSolver:
    """As Fit Solver makes it, on the seen trajectories."""
    problem = task.seen
    problem.evaluations = begin.evaluations
    state = run_fit(problem, begin.start, settings)
    kept, _ = safest(problem, begin.start, state.table, {"pair": begin.pair})
    moves = [(r.kind, round(r.rmse, 4), round(r.median, 4), r.taken) for r in state.records]
    facts = dict(before=state.before, after=state.after, evaluations=problem.evaluations)
    return FittedSolver(kept.table, dict(start=begin.name, kept=kept.name, moves=moves) | facts)


@torch.no_grad()
def row(task: Task, nfe: int, seeds: int = JUDGES, way: Forward | None = None) -> dict[str, Any]:
    """One network at one number of evaluations. ``way``: of a fit that is made here."""
    at, fit = task.judges(seeds), fit_of(task, nfe, way)
    kept: dict[Table, tuple[Errors, Tensor]] = {}

    def run(table: Table) -> tuple[Errors, Tensor]:
        if table not in kept:
            ends = at.run(table, at.held)
            kept[table] = judged(at, ends), ends
        return kept[table]

    mine, ends = run(fit.table)
    facts: dict[str, Any] = dict(
        problem=task.name + MADE * bool(way), nfe=nfe, seeds=seeds, fit=shown(mine)
    )
    facts["spent"] = {name: fit.card.get(name) for name in ("evaluations", "cpu_seconds")}
    for among in ("best", "whole"):
        pairs = {by: stored_pair(task, nfe, among, by) for by in ("rmse", "median")}
        theirs = {by: run(pair.table(at))[0] for by, pair in pairs.items()}
        facts[among] = dict(
            pair=f"{pairs['rmse'].solver}, {pairs['rmse'].spacing}, {pairs['rmse'].ends}",
            errors=dict(rmse=rmse(theirs["rmse"]), median=median(theirs["median"]), trimmed=trimmed(theirs["rmse"])),
            rmse=ratio(rmse, mine, theirs["rmse"]).__dict__,
            trimmed=ratio(trimmed, mine, theirs["rmse"]).__dict__,
            median=ratio(median, mine, theirs["median"]).__dict__,
        )  # fmt: skip
    rival = stored_pair(task, nfe, "best", "rmse").table(at)
    facts["frechet"] = distance(task, ends, run(rival)[1], at.end)
    return facts


def judged(at: Problem, ends: Tensor) -> Errors:
    each = (ends - at.end).flatten(1).double().square().mean(1).sqrt().numpy()
    return np.nan_to_num(np.asarray(each, np.float64), nan=np.inf)


def errors(at: Problem, table: Table) -> Errors:
    """Of a table's ends from the held-out starts."""
    return judged(at, at.run(table, at.held))


def shown(errors: Errors) -> dict[str, float]:
    return dict(rmse=rmse(errors), median=median(errors), trimmed=trimmed(errors))


# ------------------------------------------------------------------------------------------ table

MADE = ", made here"
ORDER = tuple(name + made for name in (*galaxies.FILES, *EMBEDDED) for made in ("", MADE))
HEADER = (
    "network", "NFE", "seeds", "fitted", "best ends", "ratio RMSE", "trimmed", "median", "whole range", "RMSE", "median",
    "Fréchet fit / pair",
)  # fmt: skip


def cells(facts: dict[str, Any]) -> list[str]:
    def pair(errors: dict[str, float]) -> str:
        return f"{errors['rmse']:.4f} ({errors['median']:.4f})"

    best, whole, far = facts["best"], facts["whole"], facts["frechet"]
    ratios = [str(Ratio(**best[name])) for name in ("rmse", "trimmed", "median")]
    others = [f"{whole[name]['value']:.2f}" for name in ("rmse", "median")]
    worse = " (worse)" if far["low"] > 0 else ""
    distances = f"{far['fit']:.3g} / {far['pair']:.3g}{worse}"
    key = [facts["problem"], str(facts["nfe"]), str(facts["seeds"])]
    first = [*key, pair(facts["fit"]), pair(best["errors"])]
    return [*first, *ratios, pair(whole["errors"]), *others, distances]


def table(rows: Sequence[dict[str, Any]], old: str = "") -> str:
    """The rows, and those of an ``old`` table that are of other networks and numbers of evaluations."""
    kept = [line.strip("| ").split(" | ") for line in old.strip().splitlines()[2:]]
    lines = {(line[0], int(line[1])): line for line in [*kept, *map(cells, rows)]}
    ordered = sorted(lines, key=lambda key: (ORDER.index(key[0]), key[1]))
    body = [HEADER, ["---"] * len(HEADER), *(lines[key] for key in ordered)]
    return "\n".join(f"| {' | '.join(line)} |" for line in body)


def measured(
    names: Sequence[str], nfes: Sequence[int], seeds: int, way: Forward | None = None
) -> list[dict[str, Any]]:
    """Rows are kept in the work folder as they are made."""
    rows = []
    for name in names:
        task = Task(name)
        for nfe in nfes:
            rivals = [stored_pair(task, nfe, a, b) for a in ("best", "whole") for b in ("rmse", "median")]  # fmt: skip
            key = fits.hashlib.sha256(repr((rivals, fit_of(task, nfe, way).table.digest, seeds)).encode()).hexdigest()[:12]  # fmt: skip
            file = work_folder() / f"{name}-gain-{nfe}-{key}.json"
            if not file.exists():
                file.write_text(json.dumps(row(task, nfe, seeds, way)))
            rows.append(json.loads(file.read_text()))
            print(" | ".join(cells(rows[-1])), flush=True)
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--problems", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--nfe", nargs="+", type=int, default=[3, 4, 5, 6, 8])
    parser.add_argument("--seeds", type=int, default=JUDGES)
    parser.add_argument(
        "--made", action="store_true", help="fits that are made here, not those that ship"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--write", action="store_true", help="put the table into docs/fit.md")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    way = Forward(numbers=2) if options.made else None
    rows = measured(options.problems, options.nfe, options.seeds, way)
    if options.write:
        old = pages.FIT.read_text(encoding="utf-8").split(MARKS[0])[1].split(MARKS[1])[0]
        pages.write(pages.FIT, MARKS, table(rows, old))
    print(json.dumps(rows) if options.json else table(rows))


if __name__ == "__main__":
    main()
