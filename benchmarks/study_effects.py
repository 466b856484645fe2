"""What the study's runs say: which part of the error is the solver's, which the levels', and who is near whom.

Within each world the logarithm of the RMSE (at most CAP, where a run may as well not have been made) is fitted by least squares as a
sum of an effect of the solver and one of the place, spacing with ends. An effect is told as a factor: how many times the (geometric) mean error
over all places a solver has, and over all solvers a place. Worlds count alike. Not all pairs need be there, so a sample of the runs will do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, median

import numpy as np

from .study import AUTO
from .study_data import Row

CAP, LEAST = 1.0, 2  # RMSE; places of a solver

Key = Callable[[Row], Hashable]
MODELS: dict[str, tuple[Key, ...]] = {
    "solver": (lambda r: r.solver,),
    "spacing": (lambda r: r.spacing,),
    "ends": (lambda r: r.ends,),
    "spacing with ends": (lambda r: (r.spacing, r.ends),),
    "solver + spacing with ends": (lambda r: r.solver, lambda r: (r.spacing, r.ends)),
}


def with_error(rows: Iterable[Row], nfe: int) -> list[Row]:
    """Deterministic runs of a number of evaluations, auto's left out."""
    return [r for r in rows if r.nfe == nfe and r.rmse and r.solver != AUTO]


def worlds(rows: Iterable[Row]) -> list[tuple[str, str]]:
    return list(dict.fromkeys(r.world for r in rows))


@dataclass(frozen=True)
class Fit:
    """``share`` of the variance within worlds that the sum explains, less what as many free numbers explain of anything (adjusted R²);
    ``effects``: log10, about their mean, by key of each part."""

    share: float
    effects: tuple[dict[Hashable, float], ...]


def fit(rows: Sequence[Row], keys: Sequence[Key]) -> Fit:
    errors = np.array([math.log10(min(r.rmse or CAP, CAP)) for r in rows])
    names = [list(dict.fromkeys(key(r) for r in rows)) for key in keys]
    blocks = [
        np.array([[key(r) == name for name in some] for r in rows], dtype=float)
        for key, some in zip(keys, names, strict=True)
    ]
    design = np.hstack(blocks)
    for world in worlds(rows):
        mine = [i for i, r in enumerate(rows) if r.world == world]
        for values in (errors, design):
            values[mine] -= values[mine].mean(0)
            values[mine] /= math.sqrt(len(mine))
    found = np.linalg.lstsq(design, errors, rcond=None)[0]
    free = (
        len(rows) - len(worlds(rows)),
        len(rows) - len(worlds(rows)) - sum(map(len, names)) + len(names),
    )
    left = float(np.square(errors - design @ found).sum() / max(np.square(errors).sum(), 1e-300))
    left *= free[0] / max(free[1], 1)
    parts, at = [], 0
    for some in names:
        values = found[at : at + len(some)]
        parts.append(dict(zip(some, (values - values.mean()).tolist(), strict=True)))
        at += len(some)
    return Fit(max(1 - left, 0.0), tuple(parts))


def shares(rows: Sequence[Row]) -> dict[str, float]:
    """Of each of MODELS."""
    return {name: fit(rows, keys).share for name, keys in MODELS.items()}


def geometric(values: Iterable[float]) -> float:
    logs = [math.log(v) for v in values]
    return math.exp(fmean(logs)) if logs else math.nan


def best_of(rows: Sequence[Row]) -> dict[str, float]:
    """Solver → its least RMSE over that of its world, mean over worlds."""
    ratios = dict[str, list[float]]()
    for world in worlds(rows):
        mine = [r for r in rows if r.world == world]
        least = min(r.rmse or CAP for r in mine)
        for solver in {r.solver for r in mine}:
            errors = [r.rmse or CAP for r in mine if r.solver == solver]
            if len(errors) >= LEAST:
                ratios.setdefault(solver, []).append(min(min(errors), CAP) / least)
    return {solver: geometric(some) for solver, some in ratios.items()}


def by_distance(
    rows: Iterable[Row], nfe: int, of_ends: dict[tuple[str, str], float]
) -> dict[str, tuple[float, float, int]]:
    """Solver → median and least Fréchet distance over its places ÷ that of the exact ends, means over worlds, and how many runs."""
    some = [
        r for r in rows if r.nfe == nfe and r.frechet and r.world in of_ends and r.solver != AUTO
    ]
    found = dict[str, tuple[float, float, int]]()
    for solver in dict.fromkeys(r.solver for r in some):
        mine = [r for r in some if r.solver == solver]
        parts = [
            [(r.frechet or 0.0) / of_ends[world] for r in mine if r.world == world]
            for world in worlds(mine)
        ]
        medians, leasts = (geometric(f(part) for part in parts) for f in (median, min))
        found[solver] = (medians, leasts, len(mine))
    return found


def time_of(rows: Iterable[Row], network: str) -> dict[str, float]:
    """Solver → median µs per evaluation outside the network."""
    times = dict[str, list[float]]()
    for r in rows:
        if r.us is not None and r.network == network:
            times.setdefault(r.solver, []).append(r.us)
    return {solver: median(some) for solver, some in times.items()}
