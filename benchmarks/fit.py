"""Fitted solvers against every training-free pair of solver and spacing, on the embedded network.

    python -m benchmarks.fit [--quick] [--json] [--screen [NFE …]] [--elsewhere]

Errors are those to the float64 end points of ``benchmarks.reference``: 256 seeds, ten classes, without
guidance and with CFG 2; no fit has seen one of them. ``ratio`` is the fit's RMSE over that of the best
training-free pair, the worse of both guidances. A pair is any deterministic setting of any solver of ours,
of diffusers or of ComfyUI with any of ``problems.SPACINGS``, as in ``benchmarks.quality``.

``--screen`` finds the best pairs (all of them on a few seeds, the better ones on more) and writes them to
``embedded/solvers/comparison.json``; ``--elsewhere`` adds what else takes long: how fits do on classes and
guidances they were not fitted for, and Fréchet distances. Without them the best pairs there are measured again beside the fits;
``--quick`` takes 64 seeds and the best pair of each kind.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sampling_kit.embedded import fits, postcards, trained
from sampling_kit.schedulers import noise_schedule as schedules
from sampling_kit.schedulers.denoiser.network import Network, load
from sampling_kit.schedulers.fit import gradient
from sampling_kit.schedulers.fit.problem import Problem as FitProblem
from sampling_kit.schedulers.inspect.metrics import frechet, random_features
from sampling_kit.schedulers.path import VE
from sampling_kit.schedulers.solver.fitted import FittedSolver

from . import peers, problems

STORED = fits.FOLDER / "comparison.json"
METHODS = ("gradient", "forward")
#: Seeds of the three rounds of a screening, and how many pairs go on per guidance and number of evaluations.
ROUNDS, KEPT = (4, 32, 256), (16, 3)
#: Of the first round, how many are tried with CFG.
WIDE = 64
QUICK, ALL_SEEDS = 64, 256
#: For guidances without reference: seeds there.
FEW = 32
BARS = {4: 0.6, 5: 0.6, 6: 0.6, 8: 0.75, 10: 0.75}
FORWARD_BARS = {4: 0.7, 5: 0.7, 6: 0.7, 8: 0.85, 10: 0.85}


# ---------------------------------------------------------------------------------------- the task


@lru_cache(maxsize=1)
def network() -> Network:
    return load(trained.file("network"), VE(), Network)


@lru_cache(maxsize=1)
def reference() -> dict[str, Tensor]:
    """End points [256, 3, 32, 32] by guidance. Raises ValueError if they are of other weights."""
    from .reference import read

    return read()[1]


@lru_cache(maxsize=8)
def network_problem(name: str, seeds: int | None = None) -> problems.Problem:
    """Problem "network-cond", "network-cfg2", or with "-fast" in bfloat16, for the first ``seeds`` seeds."""
    _, guidance, *fast = name.split("-")
    rows = torch.arange(seeds or ALL_SEEDS)
    denoise = fits.field(network(), rows, fits.GUIDANCE[guidance], fast=bool(fast))

    @torch.no_grad()
    def call(x: Tensor, sigma: float) -> Tensor:
        parts = zip(x.float().split(32), rows.split(32), strict=True)
        return torch.cat([denoise(y, float(sigma), some) for y, some in parts]).to(x.dtype)

    return problems.Problem(name, VE(), schedules.EDM(), call, fits.starts(rows).double())


def task(scale: float, seeds: Tensor, ends: Tensor, fast: bool = False) -> FitProblem:
    """All seeds held out."""
    rows = torch.arange(len(seeds))
    denoise = fits.field(network(), seeds, scale, fast)
    return FitProblem(
        VE(), denoise, fits.START, fits.starts(seeds), ends.float(), rows, rows, batch=32
    )


@torch.no_grad()
def ends_of(fit: FittedSolver, at: FitProblem) -> Tensor:
    return at.run(fit.table, at.held)


def errors(ends: Tensor, exact: Tensor) -> dict[str, float]:
    each = problems.rmse(ends.double(), exact.double())
    return {"rmse": float(each.square().mean().sqrt()), "median": problems.median(each)}


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
    from .quality import our_results

    return our_results(answers, **settings)


def rank(results: Iterable[problems.Result], budget: int) -> list[dict[str, Any]]:
    """Those within the budget, best RMSE first."""
    able = [r for r in results if r.nfe <= budget and not r.failure]
    able.sort(key=lambda r: r.rms)
    return [
        dict(side=r.side, solver=r.solver, spacing=r.spacing, nfe=r.nfe, rmse=r.rms, median=r.error)
        for r in able
    ]


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
    first, *others = ROUNDS
    sides = ("ours", "diffusers", "ComfyUI")
    found = rank([r for s in sides for r in play(s, "network-cond-fast", budget, first)], budget)
    best = {}
    for guidance in fits.GUIDANCE:
        pairs = found
        if guidance != "cond":
            pairs = replay(found[:WIDE], f"network-{guidance}-fast", budget, first)
        for seeds, kept in zip(others, KEPT, strict=True):
            fast = "-fast" if seeds < ALL_SEEDS else ""
            pairs = replay(pairs[:kept], f"network-{guidance}{fast}", budget, seeds)
        best[guidance] = pairs
    return best


# ------------------------------------------------------------------------------------- one report


def row(guidance: str, nfe: int, seeds: int, pairs: list[dict[str, Any]]) -> dict[str, Any]:
    """Fits and the best pairs at one number of evaluations."""
    torch.set_num_threads(1)
    free = replay(pairs, f"network-{guidance}", nfe, seeds)
    best = free[0]
    exact = reference()[guidance][:seeds]
    at = task(fits.GUIDANCE[guidance], torch.arange(seeds), exact)
    found: dict[str, Any] = dict(
        guidance=guidance, nfe=nfe, training_free=best, least_median=min(p["median"] for p in free)
    )
    for method in METHODS:
        fit = member(guidance, method, nfe)
        if fit is None:
            continue
        mine = errors(ends_of(fit, at), exact)
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


def report(quick: bool) -> dict[str, Any]:
    started, stored = time.perf_counter(), read_stored()
    seeds = QUICK if quick else ALL_SEEDS
    jobs = [(g, n) for n in sorted(fits.NFES, reverse=True) for g in ("cfg2", "cond")]
    with ProcessPoolExecutor(max_workers=2) as pool:
        given = [(g, n, seeds, stored["pairs"][g][str(n)][: 1 if quick else 3]) for g, n in jobs]
        rows = list(pool.map(row, *zip(*given, strict=True)))
    rows.sort(key=lambda r: (r["guidance"], r["nfe"]))
    return dict(
        ratio=worst(rows, "gradient", "ratio"),
        median_ratio=worst(rows, "gradient", "median_ratio"),
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
    from .reference import digest as of

    return of(trained.file("network"))


# ------------------------------------------------------------------------- elsewhere than fitted


def generalisation(nfe: int = 6) -> dict[str, Any]:
    """Fits where they were not made for, beside the best training-free pair found for where they were."""
    return {"guidance": other_guidance(nfe), "classes": other_classes(nfe)}


def other_guidance(nfe: int) -> list[dict[str, Any]]:
    """The CFG 2 fit at other scales, and its start there; end points by the fits' own teacher in float32."""
    fit = fits.ready("cfg2").at(nfe)
    seeds, rows = torch.arange(FEW), []
    for scale in (1.5, 2.0, 3.0):
        exact = fits.teacher(fits.field(network(), seeds, scale), fits.starts(seeds))[0]
        at = task(scale, seeds, exact)
        free = free_errors(scale, exact, nfe)
        rows.append(dict(scale=scale, fit=errors(ends_of(fit, at), exact), training_free=free))
    return rows


def free_errors(scale: float, exact: Tensor, nfe: int) -> dict[str, float]:
    """The best of ours at this scale, among those that the fits may start from with the schedule's own ends."""
    at = task(scale, torch.arange(len(exact)), exact)
    found = [
        errors(at.run(table, at.held), exact)
        for name, table in fits.beginnings(nfe).items()
        if "karras" in name
    ]
    return min(found, key=lambda e: e["rmse"])


def other_classes(nfe: int, iterations: int = 40) -> dict[str, Any]:
    """A fit to classes 0 to 4 without guidance, tested on the reference's classes 5 to 9 and on 0 to 4."""
    first = fits.FIRST_SEED
    seeds = torch.tensor([s for s in range(first, first + 320) if s % 10 < 5])
    denoise = fits.field(network(), seeds, 1.0, fast=True)
    x = fits.starts(seeds)
    rows = torch.arange(len(seeds))
    half = FitProblem(
        VE(), denoise, fits.START, x, fits.teacher(denoise, x)[0], rows[:-40], rows[-40:], batch=32
    )
    start = fits.ready("cond", "forward").at(nfe).card["start"]
    settings = gradient.Gradient(iterations=iterations)
    found = gradient.fit(half, fits.beginnings(nfe)[start], settings)
    fit, exact = FittedSolver(found.table), reference()["cond"]
    rows = torch.arange(len(exact))
    result: dict[str, Any] = {}
    for name, mine in (("fitted classes", rows % 10 < 5), ("other classes", rows % 10 >= 5)):
        at = task(1.0, rows[mine], exact[mine])
        result[name] = errors(ends_of(fit, at), exact[mine])
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
        at = task(fits.GUIDANCE[guidance], torch.arange(ALL_SEEDS), exact)
        for nfe in fits.NFES:
            entry: dict[str, Any] = dict(guidance=guidance, nfe=nfe)
            tables = {m: f.table for m in METHODS if (f := member(guidance, m, nfe))}
            tables["training_free"] = fits.beginnings(nfe)["iPNDM-3, karras 10"]
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
        fit, forward = r.get("gradient"), r.get("forward")
        print(
            f"{r['guidance']:8} {r['nfe']:3}  {pair(r['training_free'])}    {pair(fit)}    {ratio(fit)}  "
            f"{pair(forward)}    {ratio(forward)}   {r['training_free']['solver']}, {r['training_free']['spacing']}"
        )
    print("RMSE over seeds (median over seeds); ratio of the RMSEs (of the medians)")
    bars = zip((data["ratio"], data["forward"]["ratio"]), (BARS, FORWARD_BARS), strict=True)
    for found, wanted in bars:
        print({n: f"{v:.2f} of {wanted[int(n)]}" for n, v in found.items()})
    for name in ("generalisation", "frechet"):
        print(f"{name}: {json.dumps(data[name])}")
    print(f"{data['seconds']} s")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="64 seeds, the best pair only")
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
    data = report(options.quick)
    print(json.dumps(data)) if options.json else show(data)


if __name__ == "__main__":
    main()
