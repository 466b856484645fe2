"""The best training-free pairs of a network: every solver × spacing × ends of the kit, by the seeds a fit sees.

    python -m benchmarks.fit_rivals [--problems hsc ztf cond cfg2] [--nfe 2 3 4 5 6 8 10]

Chosen by ∛(RMSE²·median) over the trajectories that a fit is made of and chosen by, in rounds: a few solvers on every
spacing and ends; every solver on the best of those; the better ones on more trajectories; the ends of the best moved to
where they gain ("own"); all of what is left on all trajectories. Ends are the schedule's, the smallest level skipped, by
rule, own. ``rivals.json`` keeps the best pair of all and the best on the schedule's whole range, and the best by RMSE and
by median alone; a row is written when it is there, and made again with --again.
"""

from __future__ import annotations

import argparse
import ast
import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path as File
from typing import Any

import torch
from torch import Tensor

from sampling_kit.schedulers import spacing as spacings
from sampling_kit.schedulers.fit import ends
from sampling_kit.schedulers.fit.compare import every_solver
from sampling_kit.schedulers.fit.grid import FIXED, steps_for
from sampling_kit.schedulers.fit.problem import Problem, summary
from sampling_kit.schedulers.fit.shared_runs import errors_of
from sampling_kit.schedulers.points import Points
from sampling_kit.schedulers.solver import (
    ALL,
    DDIM,
    AdamsBashforth,
    DPMSolver,
    DPMSolverMultistep,
    GaussianAdams,
    GradientEstimation,
    Solver,
    UniPC,
)
from sampling_kit.schedulers.solver.fitted import Table, table_of

from .fit_tasks import NAMES, Task

STORED = File(__file__).parent / "rivals.json"
NFES = (2, 3, 4, 5, 6, 8, 10)
#: The first round's solvers.
SCOUTS: tuple[Solver, ...] = (
    DDIM(),
    AdamsBashforth(2),
    AdamsBashforth(3),
    DPMSolverMultistep(),
    UniPC(3),
    GaussianAdams(),
    GaussianAdams(0.5),
    GradientEstimation(),
    DPMSolver(2),
)
#: Trajectories of the rounds; grids of the first that go on; pairs that go on from the second and the third; pairs
#: whose ends are moved, in how many runs each.
FEW, MORE, GRIDS, SECOND, THIRD, TUNED, RUNS = 3, 16, 8, 20, 6, 3, 14
WHOLE, OWN = "schedule", "own"


@dataclass(frozen=True)
class Pair:
    """``kappas``: the levels of the run."""

    solver: str
    spacing: str
    ends: str
    kappas: tuple[float, ...]

    def table(self, problem: Problem) -> Table:
        """Raises ValueError where the solver cannot run there."""
        points = Points(problem.path, self.kappas)
        return ends.from_noise(table_of(solver_of(self.solver).plan(points)), problem.kappa)


SOLVERS = {solver.call: solver for solver in every_solver()}
KINDS = {kind.__name__: kind for kind in ALL}


def solver_of(call: str) -> Solver:
    """The solver of a ``call``, whether or not it is among those that are compared today."""
    if call in SOLVERS:
        return SOLVERS[call]
    kind, _, rest = call.removesuffix(")").partition("(")
    values = (part.partition("=") for part in rest.split(", ") if part)
    typed = {key: ast.literal_eval(text) for key, _, text in values}
    return KINDS[kind](**typed)


def ends_of(task: Task) -> dict[str, spacings.Ends]:
    """Those that need no run to be chosen."""
    side = spacings.side_of(task.seen.start.shape[1:])
    rule = spacings.ByRule(task.data_std, side)
    return {WHOLE: spacings.WholeRange(), "skip": spacings.SkipLast(), "rule": rule}


def pairs_of(
    task: Task, nfe: int, solvers: Iterable[str], grids: Iterable[tuple[str, str]]
) -> dict[Pair, Table]:
    """The pairs that can run, one for every table."""
    named, found = ends_of(task), dict[Table, Pair]()
    for solver in solvers:
        for spacing, kind in grids:
            try:
                steps = steps_for(SOLVERS[solver], nfe)
                points = spacings.space(task.schedule, steps, FIXED[spacing], ends=named[kind])
                pair = Pair(solver, spacing, kind, begun(points, task))
                found.setdefault(pair.table(task.seen), pair)
            except ValueError:  # too few steps, or a spacing that does not fit here
                continue
    return {pair: table for table, pair in found.items()}


def begun(points: Points, task: Task) -> tuple[float, ...]:
    first, *others = points.kappas
    return (min(first, task.seen.kappa), *others)


Scored = list[tuple[float, Pair, Tensor]]


def scored(task: Task, pairs: dict[Pair, Table], rows: Tensor) -> Scored:
    """(mark, pair, errors), best first."""
    errors = errors_of(task.seen, list(pairs.values()), rows)
    marks = [ends.mark(each) for each in errors]
    return sorted(zip(marks, pairs, errors, strict=True), key=lambda entry: entry[0])


@torch.no_grad()
def screen(task: Task, nfe: int) -> dict[str, Any]:
    """The best pairs, as ``rivals.json`` keeps them."""
    seen = torch.cat([task.seen.held, task.seen.train])
    spent = task.seen.evaluations
    grids = [(spacing, kind) for kind in ends_of(task) for spacing in FIXED]
    first = scored(task, pairs_of(task, nfe, (scout.call for scout in SCOUTS), grids), seen[:FEW])
    best = kept_grids(first)
    second = scored(task, pairs_of(task, nfe, SOLVERS, best), seen[:FEW])
    able = {pair: pair.table(task.seen) for pair in better([*first, *second], SECOND)}
    third = scored(task, able, seen[:MORE])
    last = able | tuned(task, nfe, [pair for _, pair, _ in third[:TUNED]], seen[:MORE])
    names = [*better(third, THIRD), *(pair for pair in last if pair.ends == OWN)]
    final = scored(task, {pair: last[pair] for pair in names}, seen)
    whole = [entry for entry in final if entry[1].ends == WHOLE]
    facts = dict(best=final, whole=whole)
    return {
        name: winners(entries) for name, entries in facts.items()
    } | {"evaluations": task.seen.evaluations - spent}  # fmt: skip


def kept_grids(first: Scored) -> list[tuple[str, str]]:
    """The grids of the best pairs; half of them on the schedule's whole range."""
    order = list(dict.fromkeys((pair.spacing, pair.ends) for _, pair, _ in first))
    whole = [grid for grid in order if grid[1] == WHOLE]
    return [*whole[: GRIDS // 2], *[grid for grid in order if grid[1] != WHOLE][: GRIDS // 2]]


def better(entries: Scored, count: int) -> list[Pair]:
    """The best pairs, as many on the whole range as with other ends."""
    order = [pair for _, pair, _ in sorted(entries, key=lambda entry: entry[0])]
    order = list(dict.fromkeys(order))
    whole = [pair for pair in order if pair.ends == WHOLE]
    return [*whole[: count // 2], *[pair for pair in order if pair.ends != WHOLE][: count // 2]]


def tuned(task: Task, nfe: int, pairs: Sequence[Pair], rows: Tensor) -> dict[Pair, Table]:
    """The pairs between the ends that a search finds."""
    found = {}
    for pair in pairs:
        solver, levels = SOLVERS[pair.solver], pair.kappas[:-1]
        begin = ends.Spaced(task.schedule, FIXED[pair.spacing], levels[0], levels[-1])
        steps = list(ends.search(task.seen, solver, nfe, begin, rows, RUNS))
        if steps:
            _, between, table = steps[-1]
            kappas = (*between.levels(steps_for(solver, nfe)), 0.0)
            found[Pair(pair.solver, pair.spacing, OWN, kappas)] = table
    return found


def winners(entries: Scored) -> dict[str, Any]:
    """The best by mark, by RMSE and by median; each pair with its errors."""
    rules = dict(
        mark=lambda e: e[0],
        rmse=lambda e: summary(e[2])["rmse"],
        median=lambda e: summary(e[2])["median"],
    )
    best = {name: min(entries, key=rule) for name, rule in rules.items()}
    return {name: asdict(pair) | summary(errors) for name, (_, pair, errors) in best.items()}


# ---------------------------------------------------------------------------------------- the file


def read() -> dict[str, Any]:
    stored: dict[str, Any] = json.loads(STORED.read_text()) if STORED.exists() else {}
    return stored


def stored_pair(task: Task, nfe: int, among: str, by: str) -> Pair:
    """``among``: best or whole; ``by``: mark, rmse or median. Raises ValueError if it is not there, or of other weights."""
    facts = read().get(task.name, {})
    if facts.get("weights") != task.weights or str(nfe) not in facts.get("nfe", {}):
        raise ValueError(
            f"{STORED.name} has no rivals of {task.name} at {nfe} evaluations: run python -m benchmarks.fit_rivals "
            f"--problems {task.name} --nfe {nfe}"
        )
    entry = facts["nfe"][str(nfe)][among][by]
    return Pair(entry["solver"], entry["spacing"], entry["ends"], tuple(entry["kappas"]))


def keep(task: Task, nfe: int, row: dict[str, Any]) -> None:
    facts = read()
    mine = facts.get(task.name, {})
    if mine.get("weights") != task.weights:
        mine = {"weights": task.weights, "nfe": {}}
    mine["nfe"] = dict(sorted((mine["nfe"] | {str(nfe): row}).items(), key=lambda e: int(e[0])))
    STORED.write_text(
        json.dumps(dict(sorted((facts | {task.name: mine}).items())), indent=1) + "\n"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--problems", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--nfe", nargs="+", type=int, default=list(NFES))
    parser.add_argument("--again", action="store_true", help="rows that are there too")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    for name in options.problems:
        task = Task(name)
        for nfe in options.nfe:
            there = read().get(name, {})
            if (
                not options.again
                and there.get("weights") == task.weights
                and str(nfe) in there["nfe"]
            ):
                continue
            began = time.process_time()
            row = screen(task, nfe)
            row["cpu_seconds"] = round(time.process_time() - began, 1)
            keep(task, nfe, row)
            shown = {k: f"{v['mark']['rmse']:.4f} ({v['mark']['median']:.4f}) {v['mark']['solver']}, {v['mark']['spacing']}, {v['mark']['ends']}" for k, v in row.items() if k in ("best", "whole")}  # fmt: skip
            print(name, nfe, shown, row["evaluations"], row["cpu_seconds"], flush=True)


if __name__ == "__main__":
    main()
