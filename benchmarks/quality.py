"""Error against the number of evaluations: ours, diffusers' and ComfyUI's, each with its best spacing.

    python -m benchmarks.quality [--json] [--problems mixture mixture-flow postcards]

Every deterministic setting of every solver runs with every spacing of ``problems.SPACINGS``, and so does
every peer. A row says who comes nearest to the exact end point within a budget of evaluations; a run that
needs fewer may win, as it would for a user. "behind" lists the budgets at which a peer is ahead.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Hashable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache, partial
from itertools import product
from typing import Any

import torch
from torch import Tensor

from sampling_kit.schedulers.points import Points
from sampling_kit.schedulers.solver import ALL, Plan, Solver
from sampling_kit.schedulers.solver.run import Run
from sampling_kit.schedulers.solver.selection import variants

from .peers import comfy_results, diffusers_results
from .problems import (
    BUDGETS,
    PROBLEMS,
    SPACINGS,
    Answer,
    Contestant,
    Denoise,
    Problem,
    Result,
    answer,
    contest,
)

OURS, PEERS = "ours", ("diffusers", "ComfyUI")
TIE = 1e-3  # relative: one method in float32 and in float64 differs by about as much

Results = list[Result]


# ---- ours


def our_contestants(solvers: Sequence[type[Solver]] = ALL) -> list[Contestant]:
    """Every deterministic variant that is a plan; two names for one plan are one run."""
    still = [v for solver in solvers for v in variants(solver) if not v.stochastic]
    return [contestant(v) for v in still if v.planned]


def contestant(solver: Solver) -> Contestant:
    def play(task: Problem, points: Points, denoise: Denoise) -> Tensor:
        return plan_of(solver, points).solve(Run(denoise), task.start)

    def key(points: Points) -> Hashable:
        try:
            stages = plan_of(solver, points).stages
        except ValueError:  # playing it will say so
            return solver, points
        return tuple((round(s.at.sigma, 9), digits(s.x), digits(s.d)) for s in stages)

    return Contestant(solver.call, solver.nfe, play, plan_key=key)


@lru_cache(maxsize=1)
def plan_of(solver: Solver, points: Points) -> Plan:
    return solver.plan(points)


def digits(weights: Sequence[float]) -> Hashable:
    return tuple((j, round(w, 9)) for j, w in enumerate(weights) if w)


def our_results(answers: dict[str, Tensor], **settings: Any) -> Results:
    return contest(OURS, our_contestants(), answers, **settings)


# ---- all of them


def measure(names: Sequence[str], **settings: Any) -> tuple[dict[str, Answer], Results]:
    """Answers and all results, on as many cores as there are."""
    with ProcessPoolExecutor(initializer=torch.set_num_threads, initargs=(1,)) as pool:
        found = pool.map(partial(answer, seeds=settings.get("seeds")), names)
        answers = dict(zip(names, found, strict=True))
        ends = {name: a.end for name, a in answers.items()}
        halves = tuple(SPACINGS)[:3], tuple(SPACINGS)[3:]
        jobs = [pool.submit(side, ends, **settings) for side in (comfy_results, diffusers_results)]
        for name, half in product(names, halves):
            jobs.append(pool.submit(our_results, {name: ends[name]}, spacings=half, **settings))
        return answers, [r for job in jobs for r in job.result()]


# ---- who wins


def table(results: Results, names: Sequence[str], budgets: Sequence[int]) -> list[dict[str, Any]]:
    """One row per problem and budget: each side's best, and ours against the best peer."""
    rows = []
    for name, budget in product(names, budgets):
        found = [(side, nearest(results, name, budget, side)) for side in (OURS, *PEERS)]
        best = {side: entry for side, entry in found if entry}
        peer = min((s for s in PEERS if s in best), key=lambda s: best[s]["error"], default="")
        ratio = best[OURS]["error"] / best[peer]["error"] if peer and OURS in best else None
        row = dict(problem=name, nfe=budget, ratio=ratio, winner=winner(ratio), peer=peer)
        rows.append(row | best)
    return rows


def nearest(results: Results, name: str, budget: int, side: str) -> dict[str, Any] | None:
    mine = [r for r in results if (r.problem, r.side) == (name, side)]
    able = [r for r in mine if r.nfe <= budget and not r.failure]
    best = min(able, key=lambda r: r.error, default=None)
    if best is None:
        return None
    return dict(solver=best.solver, spacing=best.spacing, nfe=best.nfe, error=best.error)


def winner(ratio: float | None) -> str:
    if ratio is None:
        return ""
    return "peer" if ratio > 1 + TIE else "ours" if ratio < 1 - TIE else "tie"


def behind(rows: list[dict[str, Any]]) -> list[list[Any]]:
    """[problem, nfe, ours, peer, ratio] of every row a peer wins."""
    return [
        [row["problem"], row["nfe"], entry(row, OURS), entry(row, row["peer"]), row["ratio"]]
        for row in rows
        if row["winner"] == "peer"
    ]


def entry(row: dict[str, Any], side: str) -> str:
    return f"{side}: {row[side]['solver']}, {row[side]['spacing']}"


def report(names: Sequence[str], budgets: Sequence[int] = BUDGETS) -> dict[str, Any]:
    started = time.perf_counter()
    answers, results = measure(names, budgets=budgets)
    rows = table(results, names, budgets)
    failures = Counter(f"{r.side} {r.solver} on {r.problem}" for r in results if r.failure)
    return dict(
        behind=behind(rows),
        rows=rows,
        answers={name: a.uncertainty for name, a in answers.items()},
        failures=dict(failures),
        runs=dict(Counter(r.side for r in results)),
        seconds=round(time.perf_counter() - started, 1),
    )


def show(data: dict[str, Any]) -> None:
    for name, uncertainty in data["answers"].items():
        print(f"\n{name} (the answer itself is known to {uncertainty:.0e})")
        for row in (r for r in data["rows"] if r["problem"] == name):
            ratio = "" if row["ratio"] is None else f"{row['ratio']:.3f}"
            print(f"NFE {row['nfe']:2}  {row['winner']:4}  {ratio}")
            for side in (s for s in (OURS, *PEERS) if s in row):
                print(f"    {row[side]['error']:.5f}  {entry(row, side)}")
    print("\nruns that failed:", data["failures"] or "none")
    print(f"runs: {data['runs']}, {data['seconds']} s; a peer leads {len(data['behind'])} rows")


def main() -> None:
    parser = argparse.ArgumentParser(description="Error against the number of evaluations.")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--problems", nargs="+", choices=PROBLEMS, default=PROBLEMS)
    options = parser.parse_args()
    data = report(options.problems)
    print(json.dumps(data)) if options.json else show(data)


if __name__ == "__main__":
    main()
