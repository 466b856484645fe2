r"""Fitting without gradients: damped Gauss–Newton on the end point, from evaluations alone.

Works wherever the model runs (fp8, GGUF, offloaded weights). Two kinds of move, each judged on the held-out
trajectories and taken only if it is better there:

*numbers*: levels, weights of x and of the D's of every row at once. A column of the Jacobian is one number
moved a little and the run repeated from the row it enters. Which numbers: ``table_numbers.py``.

*bands*: one C×C matrix per frequency band and term of every row (``solver/band_mix.py``), hundreds of numbers
at once. Their Jacobian is not measured but modelled: a change δy_i of row i's state changes the end by
A_i·δy_i with A_i one C×C matrix per band, found from one perturbed run per row. Everything then follows
from the spectra's products summed over radial frequency, in closed form; for the last row it is exact.

Both minimise Σ ρ(‖r‖) + λ·e²·Σ (v/s)² with r the difference to the teacher's end, e² its mean square, ρ the
pseudo-Huber function per image (a few images that end elsewhere must not rule), and s the size a number may
be expected to change by; a move's λ is the best of three. Numbers first: at few evaluations they gain most.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path as File
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..measure import plain
from ..settings import inner, knob
from ..solver.fitted import Table
from ..store import LARGEST_TABLES, Format
from .bands import Rings, added, answer, band_equations, shaken
from .fit_files import arrays_of, table_in, tensors_of
from .gauss_newton import Equations, ends_off, loss, measured, trusted
from .problem import Problem, error_from, rmse, summary
from .run_fit import Array, Attempt, Fit, best_attempt, judging, likeliest, start_errors
from .table_numbers import mean_table, moved, names
from .track import tracked, walk, walked

#: What a number may be expected to change by: ln κ, a weight of x, a weight of D.
SPREAD = {"level": 0.5, "x": 0.1, "d": 0.3}
#: The largest change of ln κ in one move.
STRIDE = 1.0
#: A kind of move that gained nothing this many times in a row is given up.
PATIENCE = 3
#: The fewest trajectories per Jacobian where their number is not given.
LEAST = 8
#: A move by the equations of the one before.
AGAIN = "numbers again"
#: Predictions whose bands a row mixes, and the λ that are tried for them.
BAND_WINDOW, BAND_DAMPINGS = 3, (1e-3, 1e-2, 1e-1)


@dataclass(frozen=True)
class Forward(Fit["ForwardState"]):
    """Gauss–Newton on the end point, from evaluations alone: works on any model that can be sampled."""

    title: ClassVar[str] = "Forward"
    numbers: int = knob(4, "Most moves of levels and weights.", low=0, high=100)
    bands: int = knob(1, "Most moves of frequency bands, after those.", low=0, high=20)
    images: int = knob(
        0, "Trajectories per Jacobian. 0: as many as the budget pays for.", low=0, high=4096
    )
    budget: int = knob(
        0,
        "Evaluations of one image each, the teacher's included. 0: 10 000 for up to 6 evaluations per run, and "
        "growing as their square beyond.",
        low=0,
        high=10**9,
    )
    window: int = knob(4, "Predictions a row may use.", low=1, high=64)
    memory: float = knob(
        0.5,
        "How much of the equations of the moves before is kept.",
        low=0.0,
        high=1.0,
        advanced=True,
    )
    probe: float = knob(
        0.02, "How far a number is moved to see what it does.", low=1e-5, high=0.5, advanced=True
    )
    seed: int = knob(0, "Of the choice of trajectories.", low=0, high=2**31, advanced=True)
    huber: float = knob(
        2.0,
        "δ over the median error: images that end further off than that count in proportion to their error, nearer "
        "ones to its square. Larger: the RMSE counts more, the median less.",
        low=0.01,
        high=1e6,
        advanced=True,
    )
    #: How often the equations of a move are used again, corrected by what the move did: a tenth of their price or less.
    again: int = inner(2, low=0, high=20)
    #: How far-off images count: 1 in proportion to their error, 0 to its logarithm (``gauss_newton.loss``). Kept fits are
    #: found by the settings' text, which it is no part of.
    shape: float = field(default=1.0, repr=False, metadata=dict(low=0, high=1))

    def allowed(self, nfe: int) -> int:
        """Evaluations a fit for ``nfe`` may use; the columns of its Jacobian cost about nfe²."""
        return self.budget or int(10_000 * max(1.0, nfe / 6) ** 2)

    def begin(self, problem: Problem, table: Table) -> ForwardState:
        errors, none = start_errors(problem, table), np.zeros(0)
        spent = problem.evaluations
        state = ForwardState(table, table, errors, errors, none, none, none, evaluations=spent)
        return restarted(state, self)

    def moves(self, problem: Problem, state: ForwardState) -> Iterator[ForwardState]:
        while True:
            images = self.images or affordable(problem, state, self)
            afforded = replace(self, images=images)
            kind = next_move(problem, state, afforded)
            if kind is None:
                return
            state = MOVES[kind](problem, state, afforded)
            yield state

    def share(self, problem: Problem, state: ForwardState) -> float:
        spent = problem.evaluations
        return spent / max(self.allowed(state.table.nfe), spent + 1)

    def save(self, file: File, state: ForwardState) -> None:
        save(file, state)

    def load(self, file: File, problem: Problem, table: Table) -> ForwardState:
        return load(file)


class MoveRecord(NamedTuple):
    """One move: its kind, what was spent by its end, the errors of the best of its candidates on the held-out trajectories, the
    damping λ afterwards, and whether it was taken."""

    kind: str
    evaluations: int
    rmse: float
    median: float
    damping: float
    taken: bool


@dataclass(frozen=True, eq=False)
class ForwardState:
    """A fit between two moves; :meth:`Forward.moves` goes on from it.

    ``start`` is the table that ``change`` [P] counts from, ``table`` the best so far, ``errors`` its RMSE per
    held-out trajectory, ``first`` that of the fit's start. ``matrix`` [P, P] and ``vector`` [P] are the normal equations
    kept from moves before; ``damping`` is the λ that the next move tries first.
    """

    start: Table
    table: Table
    errors: Array
    first: Array
    change: Array
    matrix: Array
    vector: Array
    damping: float = 3e-3
    evaluations: int = 0
    records: tuple[MoveRecord, ...] = ()

    @property
    def before(self) -> dict[str, float]:
        return summary(self.first)

    @property
    def after(self) -> dict[str, float]:
        return summary(self.errors)


# ---------------------------------------------------------------------------------------- the loop


def restarted(state: ForwardState, settings: Forward) -> ForwardState:
    """With the best table as the one that changes count from."""
    size = len(names(state.table, settings.window))
    return replace(
        state,
        start=state.table,
        change=np.zeros(size),
        matrix=np.zeros((size, size)),
        vector=np.zeros(size),
    )


def next_move(problem: Problem, state: ForwardState, settings: Forward) -> str | None:
    """The kind of the next move, None at the end: first numbers, then bands.

    A kind ends after its most moves, or when three in a row gained nothing; numbers leave enough of the
    budget for one move of bands.
    """
    most = kinds(problem, settings)
    left = settings.allowed(state.table.nfe) - problem.evaluations
    prices = {kind: cost(kind, problem, state.table, settings) for kind in most}
    last = state.records[-1].kind if state.records else "numbers"
    last = "numbers" if last == AGAIN else last
    for kind in list(most)[list(most).index(last) :]:
        done = [record for record in state.records if record.kind == kind]
        idle = len(done) >= PATIENCE and not any(record.taken for record in done[-PATIENCE:])
        kept = prices["bands"] if kind == "numbers" and most["bands"] else 0
        if len(done) < most[kind] and not idle and prices[kind] + kept <= left:
            return kind
    return None


def affordable(problem: Problem, state: ForwardState, settings: Forward) -> int:
    """Trajectories per Jacobian that the budget pays for in all moves that are left; no more than there are to fit."""
    left, slope = settings.allowed(state.table.nfe) - problem.evaluations, 0
    for kind, most in kinds(problem, settings).items():
        moves = max(most - sum(record.kind == kind for record in state.records), 0)
        few, more = (
            cost(kind, problem, state.table, replace(settings, images=n))
            for n in (LEAST, LEAST + 1)
        )
        left, slope = left - moves * few, slope + moves * (more - few)
    paid = LEAST + max(left // slope, 0) if slope else LEAST
    return min(paid, max(len(problem.train), LEAST))


def kinds(problem: Problem, settings: Forward) -> dict[str, int]:
    """The most moves of each kind, in their order: bands for pictures and video only."""
    pictures = problem.start.ndim in (4, 5)
    return {"numbers": settings.numbers, "bands": settings.bands if pictures else 0}


def cost(kind: str, problem: Problem, table: Table, settings: Forward) -> int:
    """Evaluations of one move; one that is shortened takes what the budget has left for it."""
    k, n = table.nfe, min(settings.images, len(problem.train))
    judges = judging(problem, k, len(DAMPINGS))
    if kind == "bands":
        return len(problem.train) * k + n * k * (k - 1) // 2 + judges
    columns = sum(k - name.enters for name in names(table, settings.window))
    return n * (k + columns) + judges + settings.again * (n * k + judges)


DAMPINGS = (0.1, 1.0, 10.0)
Candidate = tuple[float, Table, Array]


def judged(
    problem: Problem,
    state: ForwardState,
    candidates: Sequence[Candidate],
    settings: Forward,
    kind: str,
) -> ForwardState:
    """The state with the best candidate (damping, table, change) if it is better than what there is, or a part of the way to it."""
    scale = delta(state, settings)
    mark = lambda errors: score(errors, scale, settings.shape)  # noqa: E731

    def likely(some: Sequence[Candidate]) -> tuple[Candidate, Array, bool] | None:
        """The best of them, its errors, and whether it is better than what there is."""
        seen = likeliest(problem, [table for _, table, _ in some], mark)
        if seen is None:
            return None
        attempt = Attempt(some[seen[0]], seen[1], mark(seen[1]))
        better = best_attempt([attempt], mark(state.errors), state.before["rmse"]) is not None
        return attempt.candidate, attempt.errors, better

    found = likely(candidates)
    if found and not found[2] and affords(problem, settings, state):
        found = likely(shorter(state, found[0], settings.window)) or found
    as_it_is = (state.damping, state.table, state.change), state.errors, False
    (damping, table, change), shown, taken = found or as_it_is
    if taken:
        after = replace(state, table=table, change=change, errors=shown, damping=damping)
    else:
        after = replace(state, damping=state.damping * 10)
    move = MoveRecord(kind, problem.evaluations, **summary(shown), damping=damping, taken=taken)
    return replace(after, evaluations=problem.evaluations, records=(*state.records, move))


def shorter(state: ForwardState, candidate: Candidate, window: int) -> list[Candidate]:
    """Half and a quarter of the way from where the state is: what typical seeds gain grows with the way, what rare ones
    lose grows faster."""
    damping, table, change = candidate
    if change is state.change:  # a move of bands
        half = mean_table(state.table, table)
        return [(damping, t, change) for t in (half, mean_table(state.table, half))]
    parts = [state.change + part * (change - state.change) for part in (0.5, 0.25)]
    tables = [moved(state.start, window, part) for part in parts]
    return [(damping, t, part) for t, part in zip(tables, parts, strict=True) if t is not None]


def affords(problem: Problem, settings: Forward, state: ForwardState) -> bool:
    """Whether the budget pays for judging two shorter moves."""
    k = state.table.nfe
    return problem.evaluations + judging(problem, k, 2) <= settings.allowed(k)


def delta(state: ForwardState, settings: Forward) -> float:
    """The error from which on an image counts in proportion to it."""
    return settings.huber * (state.after["median"] or 1.0)


def score(errors: Array, scale: float, shape: float = 1.0) -> float:
    """Mean loss, at shape 1 the pseudo-Huber function; infinite for a run that failed."""
    value = float(loss(torch.from_numpy(errors) / scale, shape).mean())
    return value if math.isfinite(value) else math.inf


def chosen(problem: Problem, state: ForwardState, settings: Forward) -> Tensor:
    """The trajectories of one move."""
    generator = torch.Generator().manual_seed(settings.seed + 1000 * len(state.records))
    order = torch.randperm(len(problem.train), generator=generator)
    return problem.train[order[: settings.images]]


# ----------------------------------------------------------------------------------------- numbers


def move_numbers(problem: Problem, state: ForwardState, settings: Forward) -> ForwardState:
    """One Gauss–Newton move of levels and weights, and further ones by the same equations, mended."""
    table, window = state.start, settings.window
    rows = chosen(problem, state, settings)
    equations = measured(problem, table, state.change, rows, window, settings.probe)
    before, kind = state, "numbers"
    for left in range(settings.again, -1, -1):
        state = judged(problem, *solved(before, state, equations, settings), settings, kind)
        if not left or not state.records[-1].taken:
            break
        off = ends_off(problem, state.table, rows)
        equations.step_to(state.change, off, spread_of(table, window))
        kind = AGAIN
    return state


def spread_of(table: Table, window: int) -> Array:
    return np.array([SPREAD[name.kind] for name in names(table, window)])


def solved(
    before: ForwardState, state: ForwardState, equations: Equations, settings: Forward
) -> tuple[ForwardState, list[Candidate]]:
    """The state with these equations, and where they lead by several λ. ``before``: the state before the move, with
    the equations of those before."""
    table, v, window = state.start, equations.at, settings.window
    matrix, slope, square = equations.normal(delta(state, settings), settings.shape)
    # the model ½vᵀMv − bᵀv of this move, added to those before, which were made around other v
    vector = settings.memory * before.vector + matrix @ v - slope
    matrix = settings.memory * before.matrix + matrix
    spread = spread_of(table, window)
    least = 1e-12 * np.diag(matrix).max()  # keeps a perfect fit's equations regular
    levels = [i for i, name in enumerate(names(table, window)) if name.kind == "level"]
    candidates: list[Candidate] = []
    for factor in DAMPINGS:
        damping = min(max(state.damping * factor, 1e-6), 1e3)
        ridge = np.diag(damping * square / spread**2 + least)
        step = np.linalg.solve(matrix + ridge, vector - matrix @ v)
        longest = np.abs(step[levels]).max(initial=0.0)
        change = v + step * min(1.0, STRIDE / max(longest, 1e-12))
        there = moved(table, window, change)
        if there is not None:
            candidates.append((damping, there, change))
    return replace(state, matrix=matrix, vector=vector), candidates


# ------------------------------------------------------------------------------------------- bands


def move_bands(problem: Problem, state: ForwardState, settings: Forward) -> ForwardState:
    """One move of the frequency bands of all rows."""
    table, k = state.table, state.table.nfe
    first = chosen(problem, state, settings)
    rest = problem.train[~torch.isin(problem.train, first)]
    scale = delta(state, settings)
    rings = Rings.of(*problem.start.shape[-2:])
    channels = problem.start.shape[1]
    products: Array | float = 0.0
    square = 0.0
    probes = np.zeros((k, len(rings.slices), 2 * channels, 2 * channels))
    generator = torch.Generator().manual_seed(settings.seed + len(state.records))
    for some in (*first.split(problem.batch), *rest.split(problem.batch)):
        if not len(some):
            continue
        track = tracked(problem, table, some)
        r = track.y[-1] - problem.target(some)
        w = trusted(rmse(r), scale, settings.shape).sqrt().reshape(-1, *[1] * (r.ndim - 1))
        square += float((w * r).square().sum())
        terms = torch.cat([rings.spectrum(w * t) for t in (*track.d, r)])
        products = products + rings.products(terms)
        if torch.isin(some, first).all():
            changes = [shaken(d, settings.probe, generator) for d in track.d[:-1]]
            programs = [
                walk(problem, table, some, track, i, track.y[i] + change)
                for i, change in enumerate(changes, 1)
            ]
            moves = walked(problem, some, programs)
            for i, (change, move) in enumerate(zip(changes, moves, strict=True), 1):
                pair = [rings.spectrum(t) for t in (change, move.y[-1] - track.y[-1])]
                probes[i] += rings.products(torch.cat(pair))
    answers = [answer(rings, p, channels) for p in probes[1:]]
    answers.append(np.broadcast_to(np.eye(channels), (len(rings.slices), channels, channels)))
    system = band_equations(rings, np.asarray(products), answers, BAND_WINDOW)
    candidates: list[Candidate] = []
    for damping in BAND_DAMPINGS:
        rows = system.solve(damping * square / SPREAD["d"] ** 2)
        mix = [added(m, d) for m, d in zip(table.mix, rows, strict=True)]
        candidates.append((damping, replace(table, mix=tuple(mix)), state.change))
    after = judged(problem, state, candidates, settings, "bands")
    return restarted(replace(after, damping=state.damping), settings)


MOVES: Mapping[str, Callable[[Problem, ForwardState, Forward], ForwardState]] = {
    "numbers": move_numbers,
    "bands": move_bands,
}


# ------------------------------------------------------------------------------------------ files

ARRAYS = ("errors", "first", "change", "matrix", "vector")
FORMAT = Format(
    "sampling_kit_fit_state",
    "unfinished fit",
    advice="delete {file} to fit from the start",
    infinity=True,
    largest=LARGEST_TABLES,
)


def save(file: File, state: ForwardState) -> None:
    """Write a fit that is not finished. The error of a run that failed, ∞, is null in the header."""
    tensors = tensors_of("start", state.start) | tensors_of("table", state.table)
    tensors |= {name: torch.from_numpy(np.array(getattr(state, name))) for name in ARRAYS}
    records = [plain(record._asdict()) for record in state.records]
    facts = dict(damping=state.damping, evaluations=state.evaluations, records=records)
    FORMAT.write(file, tensors, facts)


def load(file: File) -> ForwardState:
    """Read a fit that is not finished. Raises BadFile saying what is wrong with the file."""
    with FORMAT.opened(file) as stored:
        arrays, facts = arrays_of(stored), stored.facts
        records = ({name: error_from(value) for name, value in r.items()} for r in facts["records"])
        return ForwardState(
            table_in("start", arrays),
            table_in("table", arrays),
            **{name: arrays[name] for name in ARRAYS},
            damping=float(facts["damping"]),
            evaluations=int(facts["evaluations"]),
            records=tuple(MoveRecord(**record) for record in records),
        )
