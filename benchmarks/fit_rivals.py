"""The best training-free pairs of a network: every solver × spacing × ends of the kit, by the seeds a fit sees.

    python -m benchmarks.fit_rivals [--problems hsc ztf cond cfg2] [--nfe 2 3 4 5 6 8 10] [--like hsc cond]

Chosen over the trajectories that a fit is made of and chosen by, in rounds: a few solvers on every spacing and ends; every
solver on the best of those; the better ones on more trajectories; the ends of the best moved to where they gain ("own");
the best of what is left on all trajectories. Rounds run on a stratified sample (``fit.strata``), as the starts of fits do, and
what goes on is by turns the best by RMSE and the best by median. Ends are the schedule's, the smallest level skipped, by rule,
own. ``rivals.json`` keeps the best pair of all and the best on the schedule's whole range, by RMSE, by median and by
∛(RMSE²·median); a row is written when it is there, and made again with --again, beside what was kept of it.
``--like`` leaves out the first two rounds: what goes into the third are the pairs that won on these networks with about as
many evaluations (up to half more or less), on the whole range and by rule. It takes half of the evaluations; the row says so.
"""

from __future__ import annotations

import argparse
import ast
import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path as File
from typing import Any, TypeVar

import torch
from torch import Tensor

from sampling_kit.schedulers import spacing as spacings
from sampling_kit.schedulers.fit import ends
from sampling_kit.schedulers.fit.compare import every_solver
from sampling_kit.schedulers.fit.grid import FIXED, steps_for
from sampling_kit.schedulers.fit.problem import Problem, summary
from sampling_kit.schedulers.fit.shared_runs import errors_of
from sampling_kit.schedulers.fit.strata import Sample, hardness, sample
from sampling_kit.schedulers.points import Points
from sampling_kit.schedulers.solver import (
    ALL,
    AdamsBashforth,
    DPMSolver,
    DPMSolverMultistep,
    GaussianAdams,
    GradientEstimation,
    Solver,
)
from sampling_kit.schedulers.solver.fitted import Table, table_of

from .fit_tasks import NAMES, Task

T = TypeVar("T")
STORED = File(__file__).parent / "rivals.json"
NFES = (2, 3, 4, 5, 6, 8, 10)
#: The first round's solvers.
SCOUTS: tuple[Solver, ...] = (
    AdamsBashforth(2),
    DPMSolverMultistep(),
    GaussianAdams(),
    GaussianAdams(0.5),
    GradientEstimation(),
    DPMSolver(2),
)
#: Trajectories of the rounds; grids of the first that go on; pairs that go on from the second and the third; pairs by
#: RMSE and as many by median whose ends are moved, in how many runs each on how many trajectories.
FEW, MORE, GRIDS, SECOND, THIRD, TUNED, RUNS, FOR_ENDS = 3, 16, 6, 16, 6, 2, 8, 12
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


Scored = dict[Pair, Tensor]
Rule = Callable[[Pair], float]


def rules(entries: Scored, some: Sample | None = None) -> dict[str, Rule]:
    """What pairs are chosen by; over all trajectories that the sample stands for."""

    def seen(pair: Pair) -> dict[str, float]:
        errors = entries[pair]
        return summary(errors, some.weights(len(errors)) if some else None)

    def mark(pair: Pair) -> float:
        return (seen(pair)["rmse"] ** 2 * seen(pair)["median"]) ** (1 / 3)

    return {"rmse": lambda p: seen(p)["rmse"], "median": lambda p: seen(p)["median"], "mark": mark}


def scored(task: Task, pairs: dict[Pair, Table], rows: Tensor) -> Scored:
    """The errors of every pair."""
    return dict(zip(pairs, errors_of(task.seen, list(pairs.values()), rows), strict=True))


@torch.no_grad()
def screen(task: Task, nfe: int, like: Sequence[str] = ()) -> dict[str, Any]:
    """The best pairs, as ``rivals.json`` keeps them."""
    seen, spent = torch.cat([task.seen.held, task.seen.train]), task.seen.evaluations
    some = sample(seen, hardness(task.seen, task.schedule, nfe, seen).cpu(), MORE)
    able = winners_of(task, nfe, like) if like else first_rounds(task, nfe, some)
    third = scored(task, able, some.rows)
    others = earlier(task, nfe) | tuned(task, nfe, third, some)
    last, names = able | others, [*better(third, some, THIRD), *others]
    final = scored(task, {pair: last[pair] for pair in names}, seen)
    whole = {pair: errors for pair, errors in final.items() if pair.ends == WHOLE}
    row: dict[str, Any] = dict(best=winners(final), whole=winners(whole))
    row["evaluations"] = task.seen.evaluations - spent
    return row | ({"like": list(like)} if like else {})


def first_rounds(task: Task, nfe: int, some: Sample) -> dict[Pair, Table]:
    """What goes into the third round: scouts on every grid, then every solver on the best grids."""
    grids = [(spacing, kind) for kind in ends_of(task) for spacing in FIXED]
    first = scored(task, pairs_of(task, nfe, (s.call for s in SCOUTS), grids), some.rows[:FEW])
    best = kept_grids(better(first, some, 2 * len(first)))
    both = first | scored(task, pairs_of(task, nfe, SOLVERS, best), some.rows[:FEW])
    return {pair: pair.table(task.seen) for pair in better(both, some, SECOND)}


def winners_of(task: Task, nfe: int, names: Sequence[str]) -> dict[Pair, Table]:
    """The pairs that won on other networks, here."""
    stored = [entry for name in names for entry in read().get(name, {}).get("nfe", {}).items()]
    rows = [row for count, row in stored if nfe <= 1.5 * int(count) <= 2.25 * nfe]
    entries = [row[a][b] for row in rows for a in ("best", "whole") for b in ("rmse", "median")]
    able: dict[Pair, Table] = {}
    for solver, spacing in dict.fromkeys((e["solver"], e["spacing"]) for e in entries):
        if solver in SOLVERS and spacing in FIXED:
            able |= pairs_of(task, nfe, [solver], [(spacing, WHOLE), (spacing, "rule")])
    return able


def kept_grids(order: Sequence[Pair]) -> list[tuple[str, str]]:
    """The grids of the first pairs, half of them on the schedule's whole range."""
    grids = dict.fromkeys((pair.spacing, pair.ends) for pair in order)
    return halved(list(grids), GRIDS, lambda grid: grid[1])


def better(entries: Scored, some: Sample, count: int) -> list[Pair]:
    """The best pairs by turns of RMSE and median, as many on the whole range as with other ends."""
    by = rules(entries, some)
    ranks = [sorted(entries, key=by[name]) for name in ("rmse", "median")]
    order = [pair for turn in zip(*ranks, strict=True) for pair in turn]
    return halved(list(dict.fromkeys(order)), count, lambda pair: pair.ends)


def halved(order: Sequence[T], count: int, ends: Callable[[T], str]) -> list[T]:
    """The first ``count``, half of them on the schedule's whole range."""
    whole = [one for one in order if ends(one) == WHOLE]
    others = [one for one in order if ends(one) != WHOLE]
    return [*whole[: -(-count // 2)], *others[: -(-count // 2)]]


def tuned(task: Task, nfe: int, entries: Scored, some: Sample) -> dict[Pair, Table]:
    """The best pairs by RMSE and by median, between the ends that a search by the same rule finds."""
    found: dict[Pair, Table] = {}
    few, by = some.rows[:FOR_ENDS], rules(entries, some)
    for name in ("rmse", "median"):
        for pair in sorted(entries, key=by[name])[:TUNED]:
            solver, levels = SOLVERS[pair.solver], pair.kappas[:-1]
            begin = ends.Spaced(task.schedule, FIXED[pair.spacing], levels[0], levels[-1])
            rule = lambda e, name=name: summary(e, some.weights(len(e)))[name]  # noqa: E731
            for _, between, table in list(
                ends.search(task.seen, solver, nfe, begin, few, RUNS, rule)
            )[-1:]:
                kappas = (*between.levels(steps_for(solver, nfe)), 0.0)
                found[Pair(pair.solver, pair.spacing, OWN, kappas)] = table
    return found


def winners(entries: Scored) -> dict[str, Any]:
    """The best by each rule; each pair with its errors."""
    best = {name: min(entries, key=rule) for name, rule in rules(entries).items()}
    return {name: asdict(pair) | summary(entries[pair]) for name, pair in best.items()}


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


def earlier(task: Task, nfe: int) -> dict[Pair, Table]:
    """What an earlier screen kept: it runs in the last round again, so that no screen undoes another."""
    try:
        pairs = {stored_pair(task, nfe, a, b) for a in ("best", "whole") for b in ("rmse", "median", "mark")}  # fmt: skip
    except ValueError:
        return {}
    return {pair: pair.table(task.seen) for pair in sorted(pairs, key=repr)}


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
    parser.add_argument(
        "--like", nargs="+", choices=NAMES, default=[], help="only pairs that won on these"
    )
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
            row = screen(task, nfe, options.like)
            row["cpu_seconds"] = round(time.process_time() - began, 1)
            keep(task, nfe, row)
            shown = {k: f"{v['mark']['rmse']:.4f} ({v['mark']['median']:.4f}) {v['mark']['solver']}, {v['mark']['spacing']}, {v['mark']['ends']}" for k, v in row.items() if k in ("best", "whole")}  # fmt: skip
            print(name, nfe, shown, row["evaluations"], row["cpu_seconds"], flush=True)


if __name__ == "__main__":
    main()
