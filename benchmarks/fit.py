"""Fitted solvers against every training-free pair of solver and spacing, on the embedded network.

    python -m benchmarks.fit [--quick] [--json] [--screen [NFE …]] [--elsewhere]

Errors are those to the float64 end points of ``benchmarks.reference``: 256 seeds, ten classes, without
guidance and with CFG 2; no fit has seen one of them. ``ratio`` is the fit's RMSE over that of the best
training-free pair, the worse of both guidances. A pair is any deterministic setting of any solver of ours,
of diffusers or of ComfyUI with any of ``problems.SPACINGS``, as in ``benchmarks.quality``, on the schedule's whole range.
Rivals with their best ends, and networks from elsewhere, are in ``benchmarks.fit_gain``.

``--screen`` finds the best pairs (all of them on a few seeds, the better ones on more) and writes them with their errors to
``embedded/solvers/comparison.json``, which names the weights they are of; ``--elsewhere`` adds what else takes
long: how fits do on classes and guidances they were not fitted for, and Fréchet distances. Otherwise only the fits run,
and with ``--again`` the best pairs beside them. ``--quick`` takes 64 seeds.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sampling_kit.embedded import fits, postcards, trained
from sampling_kit.schedulers.fit.problem import Problem as FitProblem
from sampling_kit.schedulers.fit.problem import summary
from sampling_kit.schedulers.measure.metrics import frechet, random_features
from sampling_kit.schedulers.path import VE
from sampling_kit.schedulers.solver import ALL
from sampling_kit.schedulers.solver.fitted import FittedSolver, Table, table_of
from sampling_kit.schedulers.solver.selection import variants

from . import peers, problems, quality
from . import reference as end_points

STORED = fits.FOLDER / "comparison.json"
METHODS = tuple(fits.EFFORTS)
#: Seeds of a screening's rounds before the last, which takes all, and how many pairs go on from each, per
#: guidance and number of evaluations.
ROUNDS, KEPT = (4, 32), (16, 3)
#: Of the first round, how many are tried with CFG.
WIDE = 64
QUICK, ALL_SEEDS = 64, problems.NETWORK_SEEDS
#: For guidances without reference: seeds there.
FEW = 32
#: Trajectories of half of the classes.
HALF = 160
BARS = {4: 0.6, 5: 0.6, 6: 0.6, 8: 0.75, 10: 0.75}
FORWARD_BARS = {4: 0.7, 5: 0.7, 6: 0.7, 8: 0.85, 10: 0.85}


# ---------------------------------------------------------------------------------------- the task


@lru_cache(maxsize=1)
def reference() -> dict[str, Tensor]:
    """End points [256, 3, 32, 32] by guidance. Raises ValueError if they are of other weights."""
    return end_points.read()[1]


def task(scale: float, seeds: Tensor, ends: Tensor, fast: bool = False) -> FitProblem:
    """All seeds held out."""
    rows = torch.arange(len(seeds))
    denoise = fits.field(problems.network(), seeds, scale, fast)
    return FitProblem(
        VE(), denoise, fits.START, fits.starts(seeds), ends.float(), rows, rows, batch=32
    )


@torch.no_grad()
def errors(table: Table, at: FitProblem) -> dict[str, float]:
    return summary(at.errors(table, at.held))


# -------------------------------------------------------------------------------- training-free


def play(side: str, name: str, budget: int, seeds: int, only: Any = None) -> list[problems.Result]:
    """Runs of one side's contestants. ``only``: [contestant, spacing] pairs, None for all."""
    torch.set_num_threads(1)
    guidance = name.split("-")[1]
    answers = {name: reference()[guidance][:seeds]}
    settings: dict[str, Any] = dict(budgets=[budget], seeds=seeds, only=only)
    if side == "ComfyUI":
        return peers.comfy_results(answers, **settings)
    if side == "diffusers":
        return peers.diffusers_results(answers, **settings)
    return quality.our_results(answers, **settings)


def rank(results: Iterable[problems.Result], budget: int) -> list[dict[str, Any]]:
    """Those within the budget, best RMSE first."""
    able = [r for r in results if r.nfe <= budget and not r.failure]
    able.sort(key=lambda r: r.rms)
    return [
        dict(side=r.side, solver=r.solver, spacing=r.spacing, nfe=r.nfe, rmse=r.rms, median=r.error)
        for r in able
    ]


def measured(pairs: Sequence[dict[str, Any]], guidance: str, budget: int) -> list[dict[str, Any]]:
    """The pairs on all seeds, best first, each with its errors on the QUICK first as ``quick``."""
    name = f"network-{guidance}"
    few, found = (replay(pairs, name, budget, seeds) for seeds in (QUICK, ALL_SEEDS))
    quick = {who(r): {"rmse": r["rmse"], "median": r["median"]} for r in few}
    return [r | {"quick": quick[who(r)]} for r in found]


def who(pair: dict[str, Any]) -> tuple[str, str, str]:
    return pair["side"], pair["solver"], pair["spacing"]


def replay(pairs: Sequence[dict[str, Any]], name: str, budget: int, seeds: int) -> list[Any]:
    """The same pairs on other seeds. Sides that are not installed here are left out."""
    found: list[problems.Result] = []
    for side in dict.fromkeys(p["side"] for p in pairs):
        only = [[p["solver"], p["spacing"]] for p in pairs if p["side"] == side]
        try:
            found += play(side, name, budget, seeds, only)
        except ImportError:
            continue
    return rank(found, budget)


def screen(budget: int) -> dict[str, list[dict[str, Any]]]:
    """The best pairs at one number of evaluations, per guidance: all on few seeds without guidance, the
    better ones on more, and with CFG too."""
    first, second = ROUNDS
    sides = ("ours", "diffusers", "ComfyUI")
    found = rank([r for s in sides for r in play(s, "network-cond-fast", budget, first)], budget)
    best = {}
    for guidance in fits.GUIDANCE:
        pairs = found
        if guidance != "cond":
            pairs = replay(found[:WIDE], f"network-{guidance}-fast", budget, first)
        pairs = replay(pairs[: KEPT[0]], f"network-{guidance}-fast", budget, second)
        best[guidance] = measured(pairs[: KEPT[1]], guidance, budget)
    return best


# ------------------------------------------------------------------------------------- one report


def row(
    guidance: str, nfe: int, seeds: int, pairs: list[dict[str, Any]], again: bool
) -> dict[str, Any]:
    """Fits and the best pairs at one number of evaluations; the pairs as stored, or measured again."""
    torch.set_num_threads(1)
    if again:
        free = replay(pairs, f"network-{guidance}", nfe, seeds)
    else:
        free = [p | p["quick"] if seeds == QUICK else p for p in pairs]
    best = free[0]  # on all seeds
    exact = reference()[guidance][:seeds]
    at = task(fits.GUIDANCE[guidance], torch.arange(seeds), exact)
    found: dict[str, Any] = dict(
        guidance=guidance, nfe=nfe, training_free=best, least_median=min(p["median"] for p in free)
    )
    known: dict[FittedSolver, dict[str, float]] = {}  # one fit may stand in both families
    for method in METHODS:
        fit = member(guidance, method, nfe)
        if fit is None:
            continue
        if fit not in known:
            known[fit] = errors(fit.table, at)
        mine = known[fit]
        ratios = dict(
            ratio=mine["rmse"] / best["rmse"], median_ratio=mine["median"] / found["least_median"]
        )
        found[method] = mine | ratios | {"evaluations": fit.card.get("evaluations")}
    return found


def member(guidance: str, method: str, nfe: int) -> FittedSolver | None:
    """A shipped fit, None if there is none."""
    path = fits.file(guidance, method)
    family = fits.ready(guidance, method) if path.exists() else None
    return family.at(nfe) if family and nfe in family.nfes else None


def worst(rows: Sequence[dict[str, Any]], method: str, key: str) -> dict[str, float]:
    """The largest ratio over guidances, per number of evaluations."""
    found: dict[str, float] = {}
    for r in rows:
        if method in r:
            name = str(r["nfe"])
            found[name] = max(found.get(name, 0.0), r[method][key])
    return found


def report(quick: bool, again: bool = False) -> dict[str, Any]:
    started, stored = time.perf_counter(), read_stored()
    seeds = QUICK if quick else ALL_SEEDS
    jobs = [
        (g, n) for g in ("cfg2", "cond") for n in sorted(fits.NFES, reverse=True)
    ]  # longest first
    # new processes: forks of one whose torch has threads may hang
    fresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=2, mp_context=fresh) as pool:
        given = [(g, n, seeds, stored["pairs"][g][str(n)], again) for g, n in jobs]
        rows = list(pool.map(row, *zip(*given, strict=True)))
    rows.sort(key=lambda r: (r["guidance"], r["nfe"]))
    return dict(
        ratio=worst(rows, "best", "ratio"),
        median_ratio=worst(rows, "best", "median_ratio"),
        forward=dict(
            ratio=worst(rows, "forward", "ratio"),
            median_ratio=worst(rows, "forward", "median_ratio"),
        ),
        rows=rows,
        seeds=[0, seeds],
        generalisation=stored.get("generalisation"),
        frechet=stored.get("frechet"),
        seconds=round(time.perf_counter() - started, 1),
    )


def read_stored() -> dict[str, Any]:
    """What the last screening found. Raises ValueError if it is of other weights."""
    facts: dict[str, Any] = json.loads(STORED.read_text())
    if facts["weights"] != digest():
        raise ValueError(f"{STORED} is of other weights: run python -m benchmarks.fit --screen")
    return facts


def digest() -> str:
    return end_points.digest(trained.file("network"))


# ------------------------------------------------------------------------- elsewhere than fitted


def generalisation(nfe: int = 6) -> dict[str, Any]:
    """Fits where they were not made for, beside the best training-free pair (of ours) found for where they were."""
    return {"nfe": nfe, "guidance": other_guidance(nfe), "classes": other_classes(nfe)}


@lru_cache(maxsize=16)
def free_table(guidance: str, nfe: int) -> Table:
    """The best stored pair of ours."""
    pair = next(p for p in read_stored()["pairs"][guidance][str(nfe)] if p["side"] == "ours")
    every = (v for kind in ALL for v in variants(kind))
    solver = next(v for v in every if v.call == pair["solver"])
    steps = quality.contestant(solver).steps(nfe)
    return table_of(
        solver.plan(problems.network_problem("network-cond", 1).points(pair["spacing"], steps))
    )


def other_guidance(nfe: int) -> list[dict[str, Any]]:
    """The CFG 2 fit at other scales; end points by the fits' own teacher."""
    seeds, rows = torch.arange(FEW), []
    for scale in (1.5, 2.0, 3.0):
        exact = fits.teacher(fits.field(problems.network(), seeds, scale), fits.starts(seeds))
        at = task(scale, seeds, exact)
        tables = dict(fit=fits.ready("cfg2").at(nfe).table, training_free=free_table("cfg2", nfe))
        rows.append(dict(scale=scale) | {name: errors(t, at) for name, t in tables.items()})
    return rows


def other_classes(nfe: int) -> dict[str, Any]:
    """A fit to classes 0 to 4 without guidance, tested on the reference's classes 0 to 4 and on 5 to 9."""
    first = fits.FIRST_SEED
    seeds = torch.tensor([s for s in range(first, first + 2 * HALF) if s % 10 < 5])
    half = fits.problem(problems.network(), "cond", seeds, held=HALF // 4)
    tables = {
        "fit": fits.fitted(half, nfe, fits.EFFORTS["best"]).table,
        "fit_to_all": fits.ready("cond").at(nfe).table,
        "training_free": free_table("cond", nfe),
    }
    exact = reference()["cond"]
    rows = torch.arange(len(exact))
    result: dict[str, Any] = {}
    for name, mine in (("fitted classes", rows % 10 < 5), ("other classes", rows % 10 >= 5)):
        at = task(1.0, rows[mine], exact[mine])
        result[name] = {which: errors(table, at) for which, table in tables.items()}
    return result


def pictures(count: int) -> Tensor:
    """Postcards the network was not trained on [count, 3, 32, 32] in [−1, 1], classes in turn."""
    each = -(-count // len(postcards.CLASSES))
    seeds = range(postcards.HELD_OUT, postcards.HELD_OUT + each)
    stack = np.stack([postcards.scenes(name, seeds, 32) for name in postcards.CLASSES], 1)
    return torch.from_numpy(stack).flatten(0, 1)[:count].permute(0, 3, 1, 2) / 127.5 - 1


def frechets() -> list[dict[str, Any]]:
    """Fréchet distances to real postcards of the fits' end points and of the exact ones."""
    real = random_features(pictures(ALL_SEEDS))
    rows = []
    for guidance in fits.GUIDANCE:
        exact = reference()[guidance]
        rows.append(
            dict(guidance=guidance, nfe="exact", frechet=frechet(random_features(exact), real))
        )
        at = task(fits.GUIDANCE[guidance], torch.arange(ALL_SEEDS), exact, fast=True)
        for nfe in fits.NFES:
            entry: dict[str, Any] = dict(guidance=guidance, nfe=nfe)
            tables = {m: f.table for m in METHODS if (f := member(guidance, m, nfe))}
            tables["training_free"] = free_table(guidance, nfe)
            for name, table in tables.items():
                with torch.no_grad():
                    entry[name] = frechet(random_features(at.run(table, at.held)), real)
            rows.append(entry)
    return rows


def make_stored(nfes: Sequence[int]) -> None:
    """Screen for these numbers of evaluations, keep what was found for others; then what takes long."""
    facts = json.loads(STORED.read_text()) if STORED.exists() else {}
    if facts.get("weights") != digest():
        facts = {"weights": digest(), "pairs": {}}
    for nfe in nfes:
        for guidance, pairs in screen(nfe).items():
            facts["pairs"].setdefault(guidance, {})[str(nfe)] = pairs
            print(guidance, nfe, json.dumps(pairs[0]), flush=True)
        store(facts)


def make_elsewhere() -> None:
    store(read_stored() | dict(generalisation=generalisation(), frechet=frechets()))


def store(facts: dict[str, Any]) -> None:
    STORED.write_text(json.dumps(facts, indent=1) + "\n")


# -------------------------------------------------------------------------------------- printing


def show(data: dict[str, Any]) -> None:
    print(
        "guidance NFE  training-free      fitted             ratio        forward only       ratio"
    )
    pair = lambda e: f"{e['rmse']:.4f} ({e['median']:.4f})" if e else 15 * " "  # noqa: E731
    ratio = lambda e: f"{e['ratio']:.2f} ({e['median_ratio']:.2f})" if e else ""  # noqa: E731
    for r in data["rows"]:
        fit, forward = r.get("best"), r.get("forward")
        print(
            f"{r['guidance']:8} {r['nfe']:3}  {pair(r['training_free'])}    {pair(fit)}    {ratio(fit)}  "
            f"{pair(forward)}    {ratio(forward)}   {r['training_free']['solver']}, {r['training_free']['spacing']}"
        )
    print("RMSE over seeds (median over seeds); ratio of the RMSEs (of the medians)")
    bars = zip((data["ratio"], data["forward"]["ratio"]), (BARS, FORWARD_BARS), strict=True)
    for found, wanted in bars:
        print({n: f"{v:.2f} of {wanted[int(n)]}" for n, v in found.items()})
    show_elsewhere(data["generalisation"], data["frechet"])
    print(f"{data['seconds']} s, {data['seeds'][1]} seeds")


def show_elsewhere(found: dict[str, Any] | None, distances: list[dict[str, Any]] | None) -> None:
    """What --elsewhere has measured, if it has."""
    if found:
        print(f"generalisation at {found['nfe']} evaluations, RMSE (median)")
        places = [(f"CFG {r['scale']}, fitted at 2", r) for r in found["guidance"]]
        for place, tables in [*places, *found["classes"].items()]:
            shown = {name: e for name, e in tables.items() if isinstance(e, dict)}
            words = (f"{name} {e['rmse']:.4f} ({e['median']:.4f})" for name, e in shown.items())
            print(f"  {place}: {', '.join(words)}")
    if distances:
        print("Fréchet distance to real pictures")
        for r in distances:
            values = (f"{k} {v:.4g}" for k, v in r.items() if isinstance(v, float))
            print(f"  {r['guidance']} {r['nfe']}: {', '.join(values)}")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} seeds")
    parser.add_argument("--again", action="store_true", help="measure the best pairs again")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--screen", nargs="*", type=int, help="find the best training-free pairs first"
    )
    parser.add_argument(
        "--elsewhere", action="store_true", help="measure what else is stored first"
    )
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if options.screen is not None:
        make_stored(options.screen or fits.NFES)
    if options.elsewhere:
        make_elsewhere()
    data = report(options.quick, options.again)
    print(json.dumps(data)) if options.json else show(data)


if __name__ == "__main__":
    main()
