"""A fit judged in one sentence: what it gained over its start and over the best training-free pair, and whether to use it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

WORTH = 0.95  # of the pair's error, in RMSE and in the median: above it is hardly nearer
#: What was kept in place of a fit, in words, where its name is not enough.
KEPT = {"start": "its start", "pair": "the best training-free pair"}


@dataclass(frozen=True)
class Rival:
    """The best training-free pair, with its errors on the held-out trajectories."""

    name: str
    rmse: float
    median: float


def verdict(
    nfe: int,
    before: Mapping[str, float],
    after: Mapping[str, float],
    pair: Rival | None,
    kept: str = "fit",
) -> str:
    """The sentence. ``pair``: the best training-free one at ``nfe`` evaluations. ``kept``: fit, or what was kept of it
    or in its place."""
    text = f"Held-out error {after['rmse']:.4g}: {_less(after['rmse'], before['rmse'])} its start"
    if kept != "fit":
        text = f"The fit ended far off on a few trajectories, so this is {KEPT.get(kept, kept)}. {text}"
    if pair is None:
        return f"{text}; no training-free pair runs with {nfe} evaluations."
    text += f", {_less(after['rmse'], pair.rmse)} the best training-free pair with {nfe} evaluations ({pair.name})"
    worst = max(after["rmse"] / pair.rmse, after["median"] / pair.median)
    if worst <= WORTH:
        return f"{text}: worth using."
    if worst <= 1:
        return f"{text}: hardly nearer, either will do."
    return f"{text}: not worth using, take that pair."


def _less(error: float, other: float) -> str:
    change = round(100 * (1 - error / other))
    return f"{abs(change)} % {'less' if change > 0 else 'more'} than" if change else "that of"
