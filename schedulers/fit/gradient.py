r"""Fitting with autograd: all numbers of a table at once, against where the run ends.

One gradient costs about as much as three runs, whatever the number of numbers, so levels, weights and
frequency bands move together. Every evaluation is checkpointed (Chen et al. 2016): what is kept of a
run is one state per evaluation, and the activations of one evaluation at a time.

The numbers are corrections to a table, all 0 at the start: ``corrections.py``.

The loss per image is q = mean square difference to the teacher's end (with a feature network also that of the
features), made robust by 2δ(√(q + δ²) − δ) (pseudo-Huber): a few images that end elsewhere must not rule.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path as File
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..measure import plain
from ..settings import knob
from ..solver.fitted import Table
from ..store import LARGEST_TABLES, Format
from .corrections import Corrections, blank, knots_of, table_from
from .problem import Problem, error_from, summary
from .run_fit import Array, Fit, best_attempt, relative, start_errors, tried
from .run_through import follows_level, gradient_ready, row_factors, run_through

FORMAT = Format(
    "sampling_kit_gradient_fit",
    "gradient fit",
    advice="delete {file} to fit from the start",
    infinity=True,
    largest=LARGEST_TABLES,
)


@dataclass(frozen=True)
class Gradient(Fit["GradientState"]):
    """Gradient descent on levels, weights and frequency bands together, through the whole run; needs a model that
    can be differentiated."""

    title: ClassVar[str] = "Gradient"
    gradients: ClassVar[bool] = True
    iterations: int = knob(120, "Gradients in all.", low=0, high=100_000)
    batch: int = knob(16, "Trajectories per gradient.", low=1, high=4096)
    bands: bool = knob(True, "Fit frequency bands too, with mixed channels.")
    level_rate: float = knob(0.05, "Length of a step of all ln κ of the levels.", low=0.0, high=1.0)
    weight_rate: float = knob(0.003, "Length of a step of all weights.", low=0.0, high=100.0)
    band_rate: float = knob(0.005, "Length of a step of all bands.", low=0.0, high=100.0)
    huber: float = knob(
        2.0, "δ over the start's median error; 0: plain squares.", low=0.0, high=1e6
    )
    feature_weight: float = knob(
        0.1, "Weight of the features' mean square, where a feature network is given.", low=0.0
    )
    every: int = knob(10, "Gradients between two looks at the held-out trajectories.", low=1)
    patience: int = knob(6, "Looks without a gain before it stops.", low=1)
    seed: int = knob(0, "Of the order of trajectories.", low=0, high=2**31, advanced=True)

    def begin(self, problem: Problem, table: Table) -> GradientState:
        with torch.inference_mode(False), torch.no_grad():
            return beginning(gradient_ready(problem), table, self)

    def moves(self, problem: Problem, state: GradientState) -> Iterator[GradientState]:
        """The state at every look at the held-out trajectories.

        ``problem.field`` is called with σ as a tensor [1] and must be differentiable in x, and in σ if levels
        are to move. Raises ValueError for a model without gradients.
        """
        with torch.inference_mode(False), torch.enable_grad():
            problem = gradient_ready(problem)
            moved = follows_level(problem, state.start)
            while state.iteration < self.iterations and not stalled(state, self):
                for _ in range(min(self.every, self.iterations - state.iteration)):
                    rows = batch_of(problem.train, self, state.iteration)
                    gradients = gradient(problem, state, rows, self, moved)
                    state = descended(state, gradients, self)
                state = look(problem, state)
                yield state

    def share(self, problem: Problem, state: GradientState) -> float:
        return state.iteration / max(self.iterations, 1)

    def save(self, file: File, state: GradientState) -> None:
        save(file, state, self)

    def load(self, file: File, problem: Problem, table: Table) -> GradientState:
        return load(file, table, self)


class LookRecord(NamedTuple):
    """Errors on the held-out trajectories after so many gradients, whether they were the best so far, and
    what was spent by then."""

    kind: str
    iteration: int
    evaluations: int
    rmse: float
    median: float
    taken: bool


@dataclass(frozen=True, eq=False)
class GradientState:
    """A fit between two looks; :meth:`Gradient.moves` goes on from it.

    ``numbers``, ``first``, ``second``: the corrections, their momentum, and the mean square of each tensor's gradient. ``table`` is the best so
    far. ``factors``: the L of every row.
    """

    start: Table
    table: Table
    numbers: dict[str, Tensor]
    first: dict[str, Tensor]
    second: dict[str, Tensor]
    best: dict[str, Tensor]
    factors: dict[str, Tensor]
    records: tuple[LookRecord, ...]
    iteration: int = 0

    @property
    def before(self) -> dict[str, float]:
        return {"rmse": self.records[0].rmse, "median": self.records[0].median}

    @property
    def after(self) -> dict[str, float]:
        last = [record for record in self.records if record.taken][-1]
        return {"rmse": last.rmse, "median": last.median}

    @property
    def evaluations(self) -> int:
        return self.records[-1].evaluations

    @property
    def corrections(self) -> Corrections:
        return Corrections(self.start, self.numbers, self.factors)


# ---------------------------------------------------------------------------------------- the fit


def beginning(problem: Problem, table: Table, settings: Gradient) -> GradientState:
    """Iteration 0: the table itself, and the scales of its rows."""
    errors = start_errors(problem, table)
    some = batch_of(problem.train, settings, 0)[: problem.batch]
    knots = knots_of(problem, table)
    factors = row_factors(problem, table, some, knots if settings.bands else ())
    zeros = blank(table, factors, problem.start.shape[1])
    first = LookRecord("start", 0, problem.evaluations, **summary(errors), taken=True)
    none = {name: torch.zeros(()).double() for name in zeros}
    return GradientState(table, table, zeros, zeros, none, zeros, factors, (first,))


def look(problem: Problem, state: GradientState) -> GradientState:
    """Judge the numbers on the held-out trajectories; keep them if the worse of RMSE and median, each in units
    of the start's, is the best so far."""

    def mark(errors: Array) -> float:
        return relative(summary(errors), state.before)

    try:
        with torch.no_grad():
            attempts = tried(problem, [table_from(state.corrections)], mark)
    except ValueError:  # levels that rise
        attempts = []
    seen = summary(attempts[0].errors if attempts else np.array([np.inf]))
    best = best_attempt(attempts, relative(state.after, state.before))
    entry = LookRecord(
        "gradient", state.iteration, problem.evaluations, **seen, taken=best is not None
    )
    state = replace(state, records=(*state.records, entry))
    if best is None:
        return state
    return replace(state, table=attempts[best].candidate, best=state.numbers)


def stalled(state: GradientState, settings: Gradient) -> bool:
    recent = state.records[-settings.patience :]
    return len(state.records) > settings.patience and not any(record.taken for record in recent)


def batch_of(rows: Tensor, settings: Gradient, iteration: int) -> Tensor:
    """The rows of one gradient: every epoch in another order, a function of the iteration alone."""
    size = min(settings.batch, len(rows))
    epoch, part = divmod(iteration, len(rows) // size)
    generator = torch.Generator().manual_seed(settings.seed + epoch)
    order = torch.randperm(len(rows), generator=generator)
    return rows[order[part * size : (part + 1) * size]]


#: Which rate a tensor of numbers goes by.
GROUPS = {"levels": "levels", "x": "weights", "weights": "weights", "bands": "bands"}


def group(name: str) -> str:
    return GROUPS[name.split(".")[0]]


def descended(
    state: GradientState, gradients: Mapping[str, Tensor], settings: Gradient
) -> GradientState:
    """One step of gradient descent with momentum 0.9, whose length is the rate of its group: Adam with one second
    moment (β = 0.99) per group. The rate rises over five steps and then falls as a half cosine."""
    n = state.iteration + 1
    rates = {
        "levels": settings.level_rate,
        "weights": settings.weight_rate,
        "bands": settings.band_rate,
    }
    pace = min(1.0, n / 5) * (1 + math.cos(math.pi * (n - 1) / settings.iterations)) / 2
    first = {k: 0.9 * state.first[k] + 0.1 * g for k, g in gradients.items()}
    second = {k: 0.99 * state.second[k] + 0.01 * (g * g).sum() for k, g in gradients.items()}
    size = dict.fromkeys(rates, 0.0)
    for name in sorted(second):  # in one order, also after a file
        size[group(name)] += float(second[name]) / (1 - 0.99**n)
    numbers = {}
    for name, m in first.items():
        length = rates[group(name)] * pace / (math.sqrt(size[group(name)]) + 1e-30)
        numbers[name] = state.numbers[name] - length * m / (1 - 0.9**n)
    return replace(state, numbers=numbers, first=first, second=second, iteration=n)


def gradient(
    problem: Problem, state: GradientState, rows: Tensor, settings: Gradient, moved: bool = True
) -> dict[str, Tensor]:
    """Of the mean loss over the rows; of the levels only if ``moved``. Parts of ``problem.batch`` rows one after
    another."""
    leaves = {name: t.clone().requires_grad_() for name, t in state.numbers.items()}
    sums = {name: torch.zeros_like(t) for name, t in leaves.items()}
    delta = settings.huber * state.before["median"]
    for part in rows.split(problem.batch):
        target = problem.target(part)
        ends = run_through(problem, Corrections(state.start, leaves, state.factors), part)
        q = (ends - target).flatten(1).square().mean(1)
        if problem.features is not None:
            with torch.no_grad():
                expected = problem.features(target)
            off = (problem.features(ends) - expected).flatten(1).square().mean(1)
            q = q + settings.feature_weight * off
        losses = 2 * delta * ((q + delta**2).sqrt() - delta) if delta else q
        mean = losses.sum() / len(rows)
        slopes = torch.autograd.grad(mean, list(leaves.values()), allow_unused=True)
        for name, g in zip(leaves, slopes, strict=True):
            if g is not None and (moved or name != "levels"):
                sums[name] += g.nan_to_num(0.0, 0.0, 0.0)
    return sums


# ------------------------------------------------------------------------------------------ files

PARTS = ("numbers", "first", "second", "best", "factors")


def save(file: File, state: GradientState, settings: Gradient) -> None:
    """Everything that :func:`load` needs to go on."""
    tensors = {f"{g}/{n}": t for g in PARTS for n, t in getattr(state, g).items()}
    facts = {
        "start": state.start.digest,
        "settings": asdict(settings),
        "iteration": state.iteration,
        "records": plain(state.records),  # ∞, the error of a run that failed, is null
    }
    FORMAT.write(file, tensors, facts)


def load(file: File, table: Table, settings: Gradient) -> GradientState:
    """The state of an interrupted fit from ``table``. Raises BadFile if the file is of another one."""
    with FORMAT.opened(file) as stored:
        facts = stored.facts
        if facts["start"] != table.digest or facts["settings"] != asdict(settings):
            raise ValueError("it is the fit of another start or with other settings")
        groups: dict[str, dict[str, Tensor]] = {part: {} for part in PARTS}
        for name, t in stored.tensors().items():
            group, _, key = name.partition("/")
            groups[group][key] = t
        records = tuple(LookRecord(*map(error_from, entry)) for entry in facts["records"])
        done = int(facts["iteration"])
        state = GradientState(table, table, records=records, iteration=done, **groups)
        return replace(state, table=table_from(replace(state, numbers=state.best).corrections))
