r"""Recorded runs of a teacher: what fits compare with, on disk, in bounded memory.

A recording is a folder with one description and one safetensors file per few trajectories. Row r starts
from the noise of seed + r, whatever its batch, so a file is a function of its rows and the description:
a recording that was interrupted goes on with the files that are missing, and a longer one adds files.

Between two recorded levels a trajectory is known as well as at them, since the ODE gives its slope. In
u = x/√(α² + σ²) and s = log t, t = κ/(1 + κ), which are finite at pure noise,

    du/ds = g·(c·u − D),   c = 1/√(1 + κ²),  g = (1 + κ)·c

(dy/dκ = (y − D)/κ for y = x/α, and u = c·y), so a cubic through two values and two slopes gives u to
O(h⁴) and, by its own slope, D to O(h³): grids are not tied to the recorded levels.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path as File

import numpy as np
import torch
from torch import Tensor

from ..noise import PerImageNoise
from ..path import VE, VP, Flow, Path, rescale
from ..points import Points
from ..solver import Run, Solver, State
from ..store import BadFile, Format
from ..strict_json import parse_json
from ..whole_file import write_whole
from .problem import Field, Problem

VERSION = 1
NAME = "recording.json"
#: The most bytes of a description.
LONGEST = 2**20
#: Some rows: ``x`` and ``d`` [levels, rows, …], ``origin`` the digest of what they are of.
ROWS = Format(
    "sampling_kit_trajectories",
    "part of recorded trajectories",
    diverged="use a finer teacher or another dtype",
    largest=2**44,  # read a level at a time
    loose=("origin", "rows"),
)
DTYPES = {"float32": torch.float32, "float64": torch.float64}


@dataclass(frozen=True)
class Origin:
    """What a recording is of: everything that decides its numbers, and where they come from.

    The states are those of ``path``, VE or flow, at ``kappas``, largest first. Row r starts from
    scale·N(0, I; seed + r) of ``shape`` (one image). ``teacher`` is the solver's repr; it takes
    ``substeps`` steps from each level to the next and goes down to κ = ``floor`` before it steps to 0.
    ``model`` and ``condition`` are fingerprints; ``prediction`` and ``guidance`` are for people.
    """

    path: str
    kappas: tuple[float, ...]
    shape: tuple[int, ...]
    seed: int
    scale: float
    teacher: str
    substeps: int = 1
    floor: float = 0.0
    dtype: str = "float32"
    model: str = ""
    prediction: str = ""
    guidance: str = ""
    condition: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "kappas", tuple(map(float, self.kappas)))
        object.__setattr__(self, "shape", tuple(map(int, self.shape)))
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype = {self.dtype!r}: choose one of {', '.join(DTYPES)}")
        if self.substeps < 1:
            raise ValueError(f"substeps = {self.substeps}: at least 1")
        if len(self.kappas) < 2 or self.points.rising:
            raise ValueError("levels: a recording needs 2 or more noise levels, largest first")

    @property
    def points(self) -> Points:
        """The recorded levels."""
        named = {path.name: path for path in (VE, Flow)}
        if self.path not in named:
            raise ValueError(f"path = {self.path!r}: choose {' or '.join(named)}")
        return Points(named[self.path](), self.kappas)

    def digest(self) -> str:
        """Of all fields; files carry it."""
        text = json.dumps(dataclasses.asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def start(self, rows: Tensor) -> Tensor:
        """x_T [len(rows), *shape] at the first level, on the CPU."""
        like = torch.empty(len(rows), *self.shape)
        noise = PerImageNoise(self.seed, tuple(rows.tolist()))(0, like)
        return noise.to(DTYPES[self.dtype]) * self.scale

    def differences(self, other: Origin) -> list[str]:
        """ "teacher: 'a', not 'b'" for every field that differs."""
        fields = [f.name for f in dataclasses.fields(self)]
        pairs = [(name, getattr(self, name), getattr(other, name)) for name in fields]
        return [f"{name}: {a!r}, not {b!r}" for name, a, b in pairs if a != b]


def teacher_points(origin: Origin) -> tuple[Points, list[int]]:
    """The teacher's levels and, among them, the indices of the recorded ones.

    Steps are divided evenly in log κ; the first, from pure noise, evenly in t = κ/(1 + κ). The last,
    to 0, goes to ``floor`` first.
    """
    k, levels, visited, at = origin.substeps, origin.kappas, [origin.kappas[0]], [0]
    for a, b in pairwise(levels):
        if b > 0:
            visited += divided(a, b, k)
        else:
            low = min(origin.floor or a, a)
            visited += [*(divided(a, low, k) if low < a else []), 0.0]
        at.append(len(visited) - 1)
    return Points(origin.points.path, tuple(visited)), at


def divided(a: float, b: float, k: int) -> list[float]:
    """k levels after κ = a, the last one b > 0."""
    if math.isinf(a):
        t = np.linspace(1.0, b / (1 + b), k + 1)[1:-1]
        return [*(t / (1 - t)).tolist(), b]
    return [*np.geomspace(a, b, k + 1)[1:-1].tolist(), b]


# ---------------------------------------------------------------------------------------- recording


def record(
    folder: File,
    origin: Origin,
    solver: Solver,
    field: Field,
    count: int,
    *,
    batch: int = 8,
    device: torch.device | str = "cpu",
    check: Callable[[], None] | None = None,
    report: Callable[[int, int], None] | None = None,
) -> Trajectories:
    """Rows 0 … count − 1 in ``folder``, made by ``batch`` where they are not there yet.

    field(x, sigma, rows) → D in the coordinates of ``origin.path``; check before every evaluation (raise
    there to stop, the next call goes on); report(rows done, count). Raises ValueError if the folder holds
    a recording of something else.
    """
    if solver.stochastic:
        raise ValueError(
            f"teacher: {solver.title} draws noise; a teacher solves the ODE (set eta, churn or s_noise to 0)"
        )
    if count < 1 or batch < 1:
        raise ValueError(f"count = {count}, batch = {batch}: both at least 1")
    if repr(solver) != origin.teacher:
        raise ValueError(f"teacher: it is {solver!r}, the description says {origin.teacher}")
    folder.mkdir(parents=True, exist_ok=True)
    batch = _begin(folder, origin, batch)
    for first in range(0, count, batch):
        rows = torch.arange(first, min(first + batch, count))
        file = _file(folder, first)
        if _rows_in(file, origin) < len(rows):
            x, d = run_teacher(origin, solver, field, rows, device, check)
            ROWS.write(file, {"x": x, "d": d}, {"origin": origin.digest(), "rows": len(rows)})
        if report is not None:
            report(int(rows[-1]) + 1, count)
    return Trajectories(folder, origin, count, batch)


def run_teacher(
    origin: Origin,
    solver: Solver,
    field: Field,
    rows: Tensor,
    device: torch.device | str = "cpu",
    check: Callable[[], None] | None = None,
) -> tuple[Tensor, Tensor]:
    """(x [levels, rows, …], D at all levels but a last 0), on the CPU, in the recording's dtype."""
    points, kept = teacher_points(origin)
    denoise = Remembered(lambda x, sigma: field(x, sigma, rows))
    run = Run(denoise, check=check)
    state, xs, ds = State((origin.start(rows).to(device),)), [], []
    for n, index in enumerate(kept):
        if index:
            state = solver.advance(points, run, state, index)
        xs.append(state.x.cpu())
        if origin.kappas[n] > 0:
            if check is not None:
                check()
            ds.append(denoise(state.x, points.path.at(points.kappas[index]).sigma).cpu())
    return torch.stack(xs), torch.stack(ds).to(xs[0].dtype)


class Remembered:
    """D(x, σ) that keeps its last value: the level where one part of a run ends starts the next one."""

    def __init__(self, denoise: Callable[[Tensor, float], Tensor]) -> None:
        self.denoise = denoise
        self.last: tuple[Tensor, float, Tensor] | None = None

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        if self.last is None or self.last[0] is not x or self.last[1] != sigma:
            self.last = x, sigma, self.denoise(x, sigma)
        return self.last[2]


def _begin(folder: File, origin: Origin, batch: int) -> int:
    """Write the description, or compare it with the one that is there; returns the rows of a file."""
    file = folder / NAME
    if file.exists():
        there, batch = _description(file)
        if wrong := there.differences(origin):
            raise ValueError(
                f"folder: {folder} holds a recording of something else ({'; '.join(wrong)}): "
                "give another folder, or delete this one"
            )
        return batch
    facts = {"version": VERSION, "batch": batch, "origin": dataclasses.asdict(origin)}
    write_whole(file, json.dumps(facts, indent=1))  # strict JSON but for Infinity
    return batch


def _description(file: File) -> tuple[Origin, int]:
    try:
        if file.stat().st_size > LONGEST:
            raise ValueError(f"it has more than {LONGEST >> 20} MB")
        facts = parse_json(file.read_text(encoding="utf-8"), float)
        version = int(facts["version"])
        if version > VERSION:
            raise ValueError(f"format version {version}, this Sampling Kit reads up to {VERSION}")
        batch = int(facts["batch"])
        if batch < 1:
            raise ValueError(f"batch = {batch}")
        return Origin(**facts["origin"]), batch
    except (OSError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(
            f"folder: {file} is not a description of recorded trajectories "
            f"({type(error).__name__}: {error})"
        ) from None


def _file(folder: File, first: int) -> File:
    return folder / f"rows-{first:06}.safetensors"


def _rows_in(file: File, origin: Origin) -> int:
    """Rows in a file of this recording; 0 if it is not there, damaged or of another."""
    try:
        with ROWS.opened(file) as stored:
            same = stored.facts["origin"] == origin.digest()
            return int(stored.facts["rows"]) if same else 0
    except BadFile:
        return 0


# ------------------------------------------------------------------------------------------ reading


@dataclass(frozen=True)
class Trajectories:
    """``count`` recorded rows in ``folder``; tensors are read when they are asked for, and not kept."""

    folder: File
    origin: Origin
    count: int
    batch: int

    @classmethod
    def open(cls, folder: File, count: int | None = None) -> Trajectories:
        """A recording that is there: its first ``count`` rows, by default all. ValueError if it has fewer."""
        origin, batch = _description(folder / NAME)
        there = 0
        while there % batch == 0 and (more := _rows_in(_file(folder, there), origin)):
            there += more
        if there < (count or 1):
            raise ValueError(
                f"folder: {folder} holds {there} rows of {count or 1}: go on recording"
            )
        return cls(folder, origin, count or there, batch)

    @property
    def path(self) -> Path:
        return self.origin.points.path

    @property
    def points(self) -> Points:
        return self.origin.points

    def x(self, level: int, rows: Tensor | None = None) -> Tensor:
        """States [len(rows), …] at a recorded level (default: all rows)."""
        return self._read("x", level, rows)

    def d(self, level: int, rows: Tensor | None = None) -> Tensor:
        """D there; at level 0, where D is x, the states."""
        kappas = self.origin.kappas
        return self._read("x" if kappas[level] == 0 else "d", level % len(kappas), rows)

    def start(self, rows: Tensor | None = None) -> Tensor:
        return self.x(0, rows)

    def end(self, rows: Tensor | None = None) -> Tensor:
        """Where the teacher ended."""
        return self.x(-1, rows)

    def at(self, kappa: float, rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(x, D) at any noise level between the recorded ends, see the head of this file."""
        kappas = self.origin.kappas
        if not kappas[-1] <= kappa <= kappas[0]:
            raise ValueError(
                f"noise level κ = {kappa:g}: recorded are {kappas[0]:g} to {kappas[-1]:g}"
            )
        right = max(bisect_left([-k for k in kappas], -kappa), 1)
        ends = [(kappas[i], self.x(i, rows), self.d(i, rows)) for i in (right - 1, right)]
        return between(self.path, ends[0], ends[1], kappa)

    def problem(
        self,
        field: Field,
        train: int,
        held: int,
        batch: int,
        check: Callable[[], None] | None = None,
    ) -> Problem:
        """What to fit: the first ``train`` rows to fit, the next ``held`` to judge by."""
        rows = torch.arange(train + held)
        if train + held > self.count:
            raise ValueError(
                f"rows: {train} to fit and {held} to judge by are more than the {self.count} recorded"
            )

        def states(kappa: float, some: Tensor) -> Tensor:
            return self.at(kappa, some)[0] * rescale(self.path.at(kappa), VP())[1]

        start, end, top = self.start(rows), self.end(rows), self.origin.kappas[0]
        parts = rows[:train], rows[train:]
        return Problem(self.path, field, top, start, end, *parts, states, batch, check)

    def _read(self, name: str, level: int, rows: Tensor | None) -> Tensor:
        picked = torch.arange(self.count) if rows is None else rows.cpu()
        if len(picked) and (int(picked.min()) < 0 or int(picked.max()) >= self.count):
            raise IndexError(f"rows {picked.tolist()}: recorded are 0 to {self.count - 1}")
        level %= len(self.origin.kappas)
        out = torch.empty(len(picked), *self.origin.shape, dtype=DTYPES[self.origin.dtype])
        for first in sorted({r - r % self.batch for r in picked.tolist()}):
            here = (picked >= first) & (picked < first + self.batch)
            with ROWS.opened(_file(self.folder, first)) as stored:
                out[here] = stored.part(name, level)[picked[here] - first]
        return out


Node = tuple[float, Tensor, Tensor]


def between(path: Path, a: Node, b: Node, kappa: float) -> tuple[Tensor, Tensor]:
    """(x, D) at κ between the nodes (κ, x, D), which lie on one trajectory of ``path``, κ_a > κ_b."""
    for node in (a, b):
        if kappa == node[0]:
            return node[1], node[2]
    at = path.at(kappa)
    if b[0] == 0:  # D is taken to be constant, as by the step that led to 0
        p = path.at(a[0])
        share = at.sigma / p.sigma
        return share * a[1] + (at.alpha - p.alpha * share) * b[1], b[1]
    # u and du/ds at both ends; h < 0
    (s0, u0, m0), (s1, u1, m1) = (_node(path, node) for node in (a, b))
    h, s = s1 - s0, log_time(kappa)
    r = (s - s0) / h
    u = (
        (1 + 2 * r) * (1 - r) ** 2 * u0 + r * (1 - r) ** 2 * h * m0
        + r * r * (3 - 2 * r) * u1 + r * r * (r - 1) * h * m1
    )  # fmt: skip
    slope = (
        6 * r * (r - 1) / h * (u0 - u1) + (1 - r) * (1 - 3 * r) * m0 + r * (3 * r - 2) * m1
    )  # fmt: skip
    c, g = _factors(kappa)
    return math.hypot(at.alpha, at.sigma) * u, c * u - slope / g


def _node(path: Path, node: Node) -> tuple[float, Tensor, Tensor]:
    """(s, u, du/ds)."""
    kappa, x, d = node
    p = path.at(kappa)
    u = x / math.hypot(p.alpha, p.sigma)
    c, g = _factors(kappa)
    return log_time(kappa), u, g * (c * u - d)


def log_time(kappa: float) -> float:
    """s = log(κ/(1 + κ)): finite at pure noise."""
    return 0.0 if math.isinf(kappa) else -math.log1p(1 / kappa)


def _factors(kappa: float) -> tuple[float, float]:
    """(c, g)."""
    if math.isinf(kappa):
        return 0.0, 1.0
    c = 1 / math.hypot(1, kappa)
    return c, (1 + kappa) * c
