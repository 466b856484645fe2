"""A table for every picture: what an oracle gains by it, how much of that is luck, and what a rule gains that is told before.

The tables are a fit and TABLES others around it that differ from its second level on, drawn at random: nothing chose them. So the
first prediction is the same for all, and whoever chooses by it pays no evaluation. Three things stand beside the fit:

- the oracle, which takes what was best for the picture: it gains with any tables that are about as good;
- luck: the oracle where what a table does to a picture is that of another picture (shuffled), and the table that is best for a twin,
  whose start is turned a little towards other noise. A rule that knows a picture no better than a twin does cannot gain more;
- rules: by the start alone, and with the first prediction; nearest pictures, and ridge regression of ln(error / the fit's).
  They learn from LEARNED trajectories, more than a fit sees; their strength is chosen by cross-validation there.

On the embedded network, where an evaluation takes four times as long, rules learn from the SEEN trajectories of a fit, and there is one
kind of twins.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from sampling_kit.schedulers.fit import ends
from sampling_kit.schedulers.fit.problem import Problem
from sampling_kit.schedulers.fit.table_numbers import moved, names
from sampling_kit.schedulers.solver.fitted import Table

from .fit_gain import Errors, errors, fit_of, median, ratio, rmse, shown
from .fit_tasks import EMBEDDED, SEEN, Task

TABLES, SPREAD, LEARNED = 8, 0.15, 256
TURNS, ONE = (0.03, 0.1, 0.3), (0.1,)
#: Of the ridge regression, per picture; ∞ is one table for all.
RIDGES = (0.01, 0.1, 1.0, 10.0, np.inf)
NEIGHBOURS, FOLDS, SHUFFLES, CELLS = 9, 8, 20, 4
#: The least and most ln(error / the fit's) that a rule learns from.
CLIP = 2.0
#: Errors of every table [T, n], the fit's first.
Marks = NDArray[np.float64]


def instances(task: Task, nfe: int, seeds: int) -> dict[str, Any]:
    """The fit, the oracle, luck and rules; all that stands beside the fit with its ratio to it."""
    dear = task.name in EMBEDDED
    many = task.many(SEEN if dear else LEARNED)
    fit, at = fit_of(task, nfe).table, task.judges(seeds)
    tables = around(fit)
    there, known = marks(at, tables), marks(many, tables)
    mine = there[0]
    found = {"oracle": against(there.min(0), mine), "shuffled": shuffled(there)}
    for turn in ONE if dear else TURNS:
        picks = marks(task.twins(seeds, turn), tables).argmin(0)
        found[f"twin {turn:g}"] = against(taken(there, picks), mine)
    for name, look in {"start": starts, "first prediction": first}.items():
        a, b = (look(p, fit) for p in (many, at))
        found[f"nearest by {name}"] = against(taken(there, nearest_rule(a, known, b)), mine)
        found[f"ridge by {name}"] = against(taken(there, ridge_rule(a, known, b)), mine)
    return dict(fit=shown(mine), **found)


def around(fit: Table) -> list[Table]:
    """The fit, and tables whose levels from the second on are moved at random, DDIM's steps with them."""
    levels = np.array([name.kind == "level" and name.row > 0 for name in names(fit, 4)])
    draw = np.random.default_rng(0)
    others = (moved(fit, 4, SPREAD * draw.normal(size=len(levels)) * levels) for _ in range(TABLES))
    return [fit, *(table for table in others if table is not None)]


def marks(problem: Problem, tables: Sequence[Table]) -> Marks:
    return np.stack([errors(problem, table) for table in tables])


def taken(there: Marks, picks: Any) -> Errors:
    return np.asarray(np.take_along_axis(there, picks[None], 0)[0])


def against(mine: Errors, fit: Errors) -> dict[str, Any]:
    """Errors, and their ratios to the fit's with 95 % intervals over seeds."""
    return shown(mine) | dict(ratios=[str(ratio(of, mine, fit)) for of in (rmse, median)])


def shuffled(there: Marks) -> dict[str, float]:
    """The oracle where every table's ratio to the fit is that of a picture drawn at random, mean over SHUFFLES."""
    draw, ratios = np.random.default_rng(0), there[1:] / there[0]
    mixed = (draw.permuted(ratios, axis=1).min(0) for _ in range(SHUFFLES))
    drawn = [there[0] * np.minimum(each, 1.0) for each in mixed]
    return {of.__name__: float(np.mean([of(each) for each in drawn])) for of in (rmse, median)}


# ------------------------------------------------------------------------------------------- looks


def starts(problem: Problem, table: Table) -> Any:
    """What the starts look like [n, F]."""
    return looks(problem.begin(problem.held)).double().numpy()


def first(problem: Problem, table: Table) -> Any:
    """What the starts and the first predictions look like [n, 2·F]."""
    rows = problem.held
    begin = problem.begin(rows)
    seen = problem.denoise(table.x[0] * begin, table.levels[0], rows)
    return torch.cat([looks(begin), looks(seen)], 1).double().numpy()


def looks(pictures: Tensor) -> Tensor:
    """Means of CELLS×CELLS cells, and logarithms of deviations at three scales [n, F]."""
    parts = [F.adaptive_avg_pool2d(pictures, CELLS).flatten(1)]
    for side in (1, 2, 4):
        spread = F.avg_pool2d(pictures, side).std((-2, -1), correction=0)
        parts.append((spread + 1e-6).log())
    return torch.cat(parts, 1)


# ------------------------------------------------------------------------------------------- rules


def scaled(seen: Any, looked: Any) -> tuple[Any, Any]:
    middle, spread = seen.mean(0), seen.std(0) + 1e-12
    return (seen - middle) / spread, (looked - middle) / spread


def nearest_rule(seen: Any, known: Marks, looked: Any, neighbours: int = NEIGHBOURS) -> Any:
    """Which table did best on the trajectories that look most alike [n]."""
    a, b = scaled(seen, looked)
    near = np.argsort(((b[:, None] - a[None]) ** 2).sum(-1), 1)[:, :neighbours]
    return known[:, near].mean(-1).argmin(0)


def ridge_rule(seen: Any, known: Marks, looked: Any) -> Any:
    """Which table a regression expects to be best [n]; of RIDGES that which chooses best where it did not learn."""
    folds = np.arange(len(seen)) % FOLDS

    def chosen(ridge: float) -> Errors:
        picks = np.zeros(len(seen), int)
        for fold in range(FOLDS):
            left, out = folds != fold, folds == fold
            picks[out] = expected(seen[left], known[:, left], seen[out], ridge)
        return taken(known, picks)

    best = min(RIDGES, key=lambda ridge: ends.mark(torch.from_numpy(chosen(ridge))))
    return expected(seen, known, looked, best)


def expected(seen: Any, known: Marks, looked: Any, ridge: float) -> Any:
    """The table with the least expected ln(error / the fit's) [n], the fit where none is below 0."""
    a, b = scaled(seen, looked)
    aims = np.clip(np.log(known / known[0]), -CLIP, CLIP).T
    middle = aims.mean(0)
    if np.isinf(ridge):
        return np.broadcast_to(middle, (len(b), len(middle))).argmin(1)
    gram = a.T @ a + ridge * len(a) * np.eye(a.shape[1])
    return (middle + b @ np.linalg.solve(gram, a.T @ (aims - middle))).argmin(1)
