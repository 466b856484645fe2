r"""Fitting without gradients: damped Gauss–Newton on the end point, from evaluations alone.

Works wherever the model runs (fp8, GGUF, offloaded weights). Two kinds of move, each judged on the held-out
trajectories and taken only if it is better there:

*numbers*: levels, weights of x and of the D's of every row at once. A column of the Jacobian is one number
moved a little and the run repeated from the row it enters. The numbers are those of DDIM's exact step with
corrections, so moving a level moves a step and not only a label:

    κ_i = κ_i°·e^{u_i} ,   x_i = DDIM(κ_{i−1}, κ_i).x + … ,   d_{i0} = DDIM(κ_{i−1}, κ_i).d + …

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
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..settings import Settings, knob
from ..solver.band_mix import Mix, Spectra, band_weights
from ..solver.fitted import Table, ddim
from ..solver.run import Ask, Program, Run, drive_together
from .bands import KNOTS, Rings, added, answer, equations
from .problem import Problem, rmse, summary

Array = NDArray[np.float64]

#: What a number may be expected to change by: ln κ, a weight of x, a weight of D.
SPREAD = {"level": 0.5, "x": 0.1, "d": 0.3}
#: The largest change of ln κ in one move.
STRIDE = 1.0
#: A kind of move that gained nothing this many times in a row is given up.
PATIENCE = 3
#: The fewest trajectories per Jacobian where their number is not given.
LEAST = 8
#: Predictions whose bands a row mixes, and the λ that are tried for them.
BAND_WINDOW, BAND_DAMPINGS = 3, (1e-3, 1e-2, 1e-1)


@dataclass(frozen=True)
class Forward(Settings):
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

    def allowed(self, nfe: int) -> int:
        """Evaluations a fit for ``nfe`` may use; the columns of its Jacobian cost about nfe²."""
        return self.budget or int(10_000 * max(1.0, nfe / 6) ** 2)


class Record(NamedTuple):
    """One move: errors on the held-out trajectories after it, whether it was taken."""

    kind: str
    evaluations: int
    rmse: float
    median: float
    damping: float
    taken: bool


@dataclass(frozen=True, eq=False)
class State:
    """A fit between two moves; ``step`` goes on from it.

    ``start`` is the table that ``change`` [P] counts from, ``table`` the best so far, ``errors`` its RMSE per
    held-out trajectory. ``matrix`` and ``vector`` are the normal equations kept from moves before.
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
    records: tuple[Record, ...] = ()

    @property
    def before(self) -> dict[str, float]:
        return summary(self.first)

    @property
    def after(self) -> dict[str, float]:
        return summary(self.errors)


# ---------------------------------------------------------------------------------------- the loop


def begin(problem: Problem, table: Table, settings: Forward) -> State:
    """The state before the first move, which is exactly ``table``."""
    errors = problem.errors(table, problem.held).cpu().double().numpy()
    if not np.isfinite(errors).all():
        raise ValueError(
            "the start ends in NaN or infinity on the held-out trajectories: fit from another solver"
        )
    empty = np.zeros(0)
    state = State(
        table, table, errors, errors, empty, empty, empty, evaluations=problem.evaluations
    )
    return restarted(state, settings)


def restarted(state: State, settings: Forward) -> State:
    """With the best table as the one that changes count from."""
    size = len(names(state.table, settings.window))
    return replace(
        state,
        start=state.table,
        change=np.zeros(size),
        matrix=np.zeros((size, size)),
        vector=np.zeros(size),
    )


def next_move(problem: Problem, state: State, settings: Forward) -> str | None:
    """The kind of the next move, None at the end: first numbers, then bands.

    A kind ends after its most moves, or when three in a row gained nothing; numbers leave enough of the
    budget for one move of bands.
    """
    most = kinds(problem, settings)
    left = settings.allowed(state.table.nfe) - problem.evaluations
    prices = {kind: cost(kind, problem, state.table, settings) for kind in most}
    last = state.records[-1].kind if state.records else "numbers"
    for kind in list(most)[list(most).index(last) :]:
        done = [record for record in state.records if record.kind == kind]
        idle = len(done) >= PATIENCE and not any(record.taken for record in done[-PATIENCE:])
        kept = prices["bands"] if kind == "numbers" and most["bands"] else 0
        if len(done) < most[kind] and not idle and prices[kind] + kept <= left:
            return kind
    return None


def fit(
    problem: Problem,
    table: Table,
    settings: Forward | None = None,
    progress: Callable[[State], None] | None = None,
    state: State | None = None,
) -> State:
    """The best table found from ``table`` on, or from a ``state`` on that an earlier call has reached.

    ``progress`` sees every state; it may raise to stop, and what it saw last can go on. The result is never
    worse than the start on the held-out trajectories (RMSE).
    """
    settings = settings or Forward()
    for state in states(problem, table, settings, state):  # noqa: B020
        if progress is not None:
            progress(state)
    assert state is not None
    return state


def states(
    problem: Problem, table: Table, settings: Forward, state: State | None = None
) -> Iterator[State]:
    """The start (unless a state is given) and the state after every move."""
    if state is None:
        state = begin(problem, table, settings)
        yield state
    problem.evaluations = max(problem.evaluations, state.evaluations)
    while True:
        afforded = replace(settings, images=settings.images or affordable(problem, state, settings))
        kind = next_move(problem, state, afforded)
        if kind is None:
            return
        state = MOVES[kind](problem, state, afforded)
        yield state


def affordable(problem: Problem, state: State, settings: Forward) -> int:
    """Trajectories per Jacobian that the budget pays for in all moves that are left."""
    left, slope = settings.allowed(state.table.nfe) - problem.evaluations, 0
    for kind, most in kinds(problem, settings).items():
        moves = max(most - sum(record.kind == kind for record in state.records), 0)
        few, more = (
            cost(kind, problem, state.table, replace(settings, images=n))
            for n in (LEAST, LEAST + 1)
        )
        left, slope = left - moves * few, slope + moves * (more - few)
    return LEAST + max(left // slope, 0) if slope else LEAST


def kinds(problem: Problem, settings: Forward) -> dict[str, int]:
    """The most moves of each kind, in their order: bands for pictures and video only."""
    pictures = problem.start.ndim in (4, 5)
    return {"numbers": settings.numbers, "bands": settings.bands if pictures else 0}


def cost(kind: str, problem: Problem, table: Table, settings: Forward) -> int:
    """Evaluations of one move."""
    k, n = table.nfe, min(settings.images, len(problem.train))
    one = len(problem.held) * k  # candidate
    if kind == "bands":
        return len(problem.train) * k + n * k * (k - 1) // 2 + len(BAND_DAMPINGS) * one
    columns = sum(k - name.enters for name in names(table, settings.window))
    return n * (k + columns) + len(DAMPINGS) * one


DAMPINGS = (0.1, 1.0, 10.0)


def judged(
    problem: Problem,
    state: State,
    settings: Forward,
    kind: str,
    candidates: Sequence[tuple[float, Table | None, Array]],
) -> State:
    """The state with the best candidate (damping, table, change) if it is better than what there is."""
    scale = delta(state, settings)
    limit = state.before["rmse"]
    best, found = score(state.errors, scale), None
    tried = []
    for damping, table, change in candidates:
        if table is None:
            continue
        errors = problem.errors(table, problem.held).cpu().double().numpy()
        value = score(errors, scale)
        tried.append((value, damping, errors))
        if value < best and summary(errors)["rmse"] <= limit:
            best, found = value, (damping, table, change, errors)
    shown = min(tried, key=lambda t: t[0], default=(math.inf, state.damping, state.errors))
    if found is None:
        after = replace(state, damping=state.damping * 10)
    else:
        damping, table, change, errors = found
        after = replace(state, table=table, change=change, errors=errors, damping=damping)
    seen = summary(shown[2])
    record = Record(
        kind, problem.evaluations, seen["rmse"], seen["median"], shown[1], found is not None
    )
    return replace(after, evaluations=problem.evaluations, records=(*state.records, record))


def delta(state: State, settings: Forward) -> float:
    """The error from which on an image counts in proportion to it."""
    return settings.huber * (state.after["median"] or 1.0)


def score(errors: Array, scale: float) -> float:
    """Mean pseudo-Huber function; infinite for a run that failed."""
    value = float(np.mean(np.sqrt(1 + (errors / scale) ** 2) - 1))
    return value if math.isfinite(value) else math.inf


def trusted(errors: Tensor, scale: float) -> Tensor:
    """Weights per image of the least squares that the pseudo-Huber function amounts to."""
    return 1 / (1 + (errors / scale) ** 2).sqrt()


def chosen(problem: Problem, state: State, settings: Forward) -> Tensor:
    """The trajectories of one move."""
    generator = torch.Generator().manual_seed(settings.seed + 1000 * len(state.records))
    order = torch.randperm(len(problem.train), generator=generator)
    return problem.train[order[: settings.images]]


# ----------------------------------------------------------------------------------------- numbers


class Name(NamedTuple):
    """One number: ``kind`` level, x or d of ``row``, with ``back`` for a D; ``enters``: the first state it changes."""

    kind: str
    row: int
    back: int = 0

    @property
    def enters(self) -> int:
        return self.row + (self.kind == "d")


def names(table: Table, window: int) -> list[Name]:
    """The numbers that are fitted. The first level is one of them unless it is pure noise: a run may be told a
    lower one than it starts from, and the weight of x_start follows it."""
    k = table.nfe
    lowest = 0 if math.isfinite(table.levels[0]) else 1
    inner = [Name("level", i) for i in range(lowest, k)] + [Name("x", i) for i in range(1, k + 1)]
    known = [max(len(row), min(window, i + 1)) for i, row in enumerate(table.d)]
    return inner + [Name("d", i, j) for i, count in enumerate(known) for j in range(count)]


def moved(table: Table, window: int, change: Array) -> Table | None:
    """The table with its numbers changed, the first level at most its start; None if levels no longer fall."""
    given = dict(zip(names(table, window), map(float, change), strict=True))
    levels = [k * math.exp(given.get(Name("level", i), 0.0)) for i, k in enumerate(table.levels)]
    levels[0] = min(levels[0], max(table.levels[0], table.start))
    old, new = ((table.start, *ks, table.end) for ks in (table.levels, levels))
    x, d = list(table.x), [dict(enumerate(row)) for row in table.d]
    for i in range(len(x)):
        (x0, d0), (x1, d1) = ddim(*old[i : i + 2]), ddim(*new[i : i + 2])
        x[i] += x1 - x0
        if i:
            d[i - 1][0] = d[i - 1].get(0, 0.0) + (d1 - d0)
    for name, v in given.items():
        if name.kind == "x":
            x[name.row] += v
        elif name.kind == "d":
            d[name.row][name.back] = d[name.row].get(name.back, 0.0) + v
    rows = [[row.get(j, 0.0) for j in range(max(row) + 1)] for row in d]
    try:
        return replace(table, levels=tuple(levels), x=tuple(x), d=tuple(map(tuple, rows)))
    except ValueError:
        return None


def mean(a: Table, b: Table) -> Table:
    """Half way from a to b, fits with as many evaluations from the same start: in ln κ, in what their weights differ
    from DDIM's by, and in bands (which must have the same knots)."""
    fitted = names(a, a.nfe)
    levels = [math.log(q / p) for p, q in zip(a.levels, b.levels, strict=True)]
    far = np.array([levels[n.row] if n.kind == "level" else 0.0 for n in fitted])
    there = moved(a, a.nfe, far)
    if a.start != b.start or there is None:
        raise ValueError("the tables have different starts, or levels that cross")
    for i, n in enumerate(fitted):
        if n.kind == "x":
            far[i] = b.x[n.row] - there.x[n.row]
        elif n.kind == "d":
            p, q = ((*t.d[n.row], *[0.0] * t.nfe)[n.back] for t in (there, b))
            far[i] = q - p
    found = moved(a, a.nfe, far / 2)
    assert found is not None
    return replace(found, mix=tuple(halfway(p, q) for p, q in zip(a.mix, b.mix, strict=True)))


def halfway(a: Mix | None, b: Mix | None) -> Mix | None:
    """The mean of a row's bands, where none are zeros."""
    if a is None or b is None:
        one = a or b
        return one and replace(one, x=one.x / 2, d=one.d / 2)
    if a.knots != b.knots:
        raise ValueError(f"bands with different knots: {a.knots} and {b.knots}")

    def both(p: Array, q: Array) -> Array:
        total = np.zeros((max(len(p), len(q)), *p.shape[1:]))
        total[: len(p)] += p / 2
        total[: len(q)] += q / 2
        return total

    return Mix(a.knots, both(a.x, b.x), both(a.d, b.d))


class Course(NamedTuple):
    """A run's states y_0 … y_K and predictions D_0 … D_{K−1}, on VP."""

    y: list[Tensor]
    d: list[Tensor]


def formed(problem: Problem, table: Table, rows: Tensor, i: int, course: Course) -> Tensor:
    """y_i from what ``course`` has before it."""
    if i == 0:
        return table.x[0] * problem.begin(rows)
    state, known = course.y[i - 1], course.d[i - 1 :: -1]
    out = table.x[i] * state
    for w, d in zip(table.d[i - 1], known, strict=False):
        out = out + w * d
    mix = table.mix[i - 1]
    return out if mix is None else out + mix.apply([state], known, Spectra())


def walk(
    problem: Problem, table: Table, rows: Tensor, course: Course, i: int, y: Tensor
) -> Program[Course]:
    """The questions of a run from state y_i = y on, with what ``course`` has before it. Levels are κ."""
    new = Course([*course.y[:i], y], course.d[:i])
    for row in range(i, table.nfe):
        new.d.append((yield new.y[row], Ask(table.levels[row], row, table.nfe)))
        new.y.append(formed(problem, table, rows, row + 1, new))
    return new


def walked(problem: Problem, rows: Tensor, programs: Sequence[Program[Course]]) -> list[Course]:
    """Where runs of the same rows lead. As many at once as ``problem.batch`` has room for share their
    calls, so the numbers do not depend on anything else."""

    def denoise(y: Tensor, kappa: float) -> Tensor:
        return problem.denoise(y, kappa, rows.repeat(len(y) // len(rows)))

    run, size = Run(denoise, finite=False), max(1, problem.batch // len(rows))
    parts = [programs[i : i + size] for i in range(0, len(programs), size)]
    return [course for part in parts for course in drive_together(part, run)]


def whole(problem: Problem, table: Table, rows: Tensor) -> Course:
    """The run of a table from the rows' starts."""
    none = Course([], [])
    start = formed(problem, table, rows, 0, none)
    return walked(problem, rows, [walk(problem, table, rows, none, 0, start)])[0]


def columns(
    problem: Problem, table: Table, change: Array, rows: Tensor, course: Course, settings: Forward
) -> list[Tensor]:
    """∂(end)/∂(every number), each [n, …], by one difference; exact for the last row."""
    end = course.y[-1]
    found: dict[int, Tensor] = {}
    sizes: dict[int, float] = {}
    programs: list[Program[Course]] = []
    fitted = names(table, settings.window)
    for index, name in enumerate(fitted):
        if name.enters == table.nfe:
            found[index] = course.y[-2] if name.kind == "x" else course.d[-1 - name.back]
            continue
        other, size = probed(table, change, index, name, settings)
        if other is None:
            found[index] = torch.zeros_like(end)
            continue
        y = formed(problem, other, rows, name.enters, course)
        programs.append(walk(problem, other, rows, course, name.enters, y))
        sizes[index] = size
    moves = walked(problem, rows, programs)
    for (index, size), move in zip(sizes.items(), moves, strict=True):
        found[index] = (move.y[-1] - end) / size
    return [found[index] for index in range(len(fitted))]


def probed(
    table: Table, change: Array, index: int, name: Name, settings: Forward
) -> tuple[Table | None, float]:
    """The table with one number moved a little, and by how much; None where levels are too close to move."""
    size = settings.probe * (-3 if name.kind == "level" else 1)  # down: the first has a limit
    for step in (size, -size):  # if the levels are closer than that, the other way
        probe = change.copy()
        probe[index] += step
        other = moved(table, settings.window, probe)
        if other is not None:
            return other, step
    return None, size


def numbers(problem: Problem, state: State, settings: Forward) -> State:
    """One Gauss–Newton move of levels and weights."""
    table, v, window = state.start, state.change, settings.window
    fitted = names(table, window)
    rows = chosen(problem, state, settings)
    here = moved(table, window, v)
    assert here is not None
    scale = delta(state, settings)
    matrix = np.zeros((len(fitted), len(fitted)))
    slope, square = np.zeros(len(fitted)), 0.0
    for some in rows.split(problem.batch):
        course = whole(problem, here, some)
        r = course.y[-1] - problem.target(some)
        w = (trusted(rmse(r), scale) / r[0].numel()).sqrt().reshape(-1, *[1] * (r.ndim - 1))
        slopes = columns(problem, table, v, some, course, settings)
        # off the device, which may lack float64; a run that failed (NaN) says nothing
        j, flat = (
            torch.stack([(w * t).flatten().cpu() for t in ts]).double().nan_to_num(0, 0, 0)
            for ts in (slopes, [r])
        )
        matrix += (j @ j.T / len(rows)).numpy()
        slope += (j @ flat[0] / len(rows)).numpy()
        square += float(flat.square().sum()) / len(rows)
    # the model ½vᵀMv − bᵀv of this move, added to those before, which were made around other v
    matrix, vector = (
        settings.memory * state.matrix + matrix,
        settings.memory * state.vector + matrix @ v - slope,
    )
    spread = np.array([SPREAD[name.kind] for name in fitted])
    least = 1e-12 * np.diag(matrix).max()  # keeps a perfect fit's equations regular
    levels = [i for i, name in enumerate(fitted) if name.kind == "level"]
    candidates = []
    for factor in DAMPINGS:
        damping = min(max(state.damping * factor, 1e-6), 1e3)
        ridge = np.diag(damping * square / spread**2 + least)
        step = np.linalg.solve(matrix + ridge, vector - matrix @ v)
        longest = np.abs(step[levels]).max(initial=0.0)
        change = v + step * min(1.0, STRIDE / max(longest, 1e-12))
        candidates.append((damping, moved(table, window, change), change))
    return judged(
        problem, replace(state, matrix=matrix, vector=vector), settings, "numbers", candidates
    )


# ------------------------------------------------------------------------------------------- bands


def bands(problem: Problem, state: State, settings: Forward) -> State:
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
        course = whole(problem, table, some)
        r = course.y[-1] - problem.target(some)
        w = trusted(rmse(r), scale).sqrt().reshape(-1, *[1] * (r.ndim - 1))
        square += float((w * r).square().sum())
        terms = torch.cat([rings.spectrum(w * t) for t in (*course.d, r)])
        products = products + rings.products(terms)
        if torch.isin(some, first).all():
            changes = [shaken(d, settings.probe, generator) for d in course.d[:-1]]
            programs = [
                walk(problem, table, some, course, i, course.y[i] + change)
                for i, change in enumerate(changes, 1)
            ]
            moves = walked(problem, some, programs)
            for i, (change, move) in enumerate(zip(changes, moves, strict=True), 1):
                pair = [rings.spectrum(t) for t in (change, move.y[-1] - course.y[-1])]
                probes[i] += rings.products(torch.cat(pair))
    answers = [answer(rings, p, channels) for p in probes[1:]]
    answers.append(np.broadcast_to(np.eye(channels), (len(rings.slices), channels, channels)))
    found = equations(rings, np.asarray(products), answers, BAND_WINDOW)
    candidates: list[tuple[float, Table | None, Array]] = []
    for damping in BAND_DAMPINGS:
        rows = found.solve(damping * square / SPREAD["d"] ** 2)
        mix = [added(m, d) for m, d in zip(table.mix, rows, strict=True)]
        candidates.append((damping, replace(table, mix=tuple(mix)), state.change))
    after = judged(problem, state, settings, "bands", candidates)
    return restarted(replace(after, damping=state.damping), settings)


def shaken(x: Tensor, size: float, generator: torch.Generator) -> Tensor:
    """x with the bands of every image and channel weighted by their own random number of deviation ``size``."""
    five = x if x.ndim == 5 else x[:, :, None]
    weights = band_weights(KNOTS, *x.shape[-2:]).to(x.dtype)
    gains = torch.randn(len(x), x.shape[1], len(KNOTS), generator=generator, dtype=x.dtype) * size
    gain = torch.einsum("bck,khw->bchw", gains, weights)[:, :, None].to(x.device)
    return torch.fft.irfft2(torch.fft.rfft2(five) * gain, s=x.shape[-2:]).reshape(x.shape)


MOVES: Mapping[str, Callable[[Problem, State, Forward], State]] = {
    "numbers": numbers,
    "bands": bands,
}
