"""What happened in a run, step by step: states, predictions, times, and measures of both.

A host gives each run a :class:`Recorder`, tells it of every evaluation and every step, and gets a
:class:`Trace` at the end, a frozen value on the CPU. The recorder only reads: a run with it is bit for bit the run
without. It waits for the device at every evaluation, so that times are those of the steps.

States take memory. Above the budget every second one is dropped, again and again: then
every k-th step has its state, and every step still has its measures.
"""

from __future__ import annotations

import csv
import io
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..path import Path
from ..solver.run import Denoise, Progress
from ..split import Stopped, mapped
from . import plain
from .error import doubled, embedded, rms, size

MEBI = 2**20


@dataclass(frozen=True)
class Measure:
    """A column of a trace. ``log``: its axis spans decades."""

    name: str
    help: str
    unit: str = ""
    log: bool = False


MEASURES: dict[str, Measure] = {
    "sigma": Measure("σ", "Noise level, as SIGMAS shows it.", log=True),
    "snr": Measure("log₁₀ SNR", "Signal-to-noise ratio (α/σ)², as a power of ten."),
    "x": Measure("‖x‖", "Root mean square of the state, in units of √(α² + σ²)."),
    "x0": Measure("‖D‖", "Root mean square of the prediction of x0."),
    "turn": Measure(
        "curvature", "Angle by which the direction dx/dσ = (x − D)/σ turned since the step before.", "°",
    ),
    "error": Measure(
        "local error",
        "Distance of the step's result from where the exact ODE leads, by the run's own predictions (embedded pair), "
        "in units of √(α² + σ²). Holds the noise that a stochastic solver draws.",
        log=True,
    ),
    "doubling": Measure(
        "local error, doubling", "The same measured by step doubling.", log=True
    ),
    "uncertainty": Measure("its uncertainty", "Of the local error by step doubling.", log=True),
    "to_end": Measure(
        "distance to the end", "Root mean square distance of the prediction D from the result of the run.",
        log=True,
    ),
    "delta": Measure("‖Δ‖", "‖D_c − D_u‖, the length of what guidance multiplies.", log=True),
    "cosine": Measure("cos(D_c, D_u)", "Cosine of the conditional and the unconditional prediction."),
    "weight": Measure("guidance weight", "⟨D − D_u, Δ⟩/‖Δ‖²: CFG's scale for CFG."),
    "seconds": Measure("time", "Wall-clock time of the step.", "s"),
    "nfe": Measure("NFE", "Denoiser evaluations of the step."),
}  # fmt: skip

Values = tuple[float | None, ...]


@dataclass(frozen=True)
class Step:
    """One step as the denoiser saw it first. ``values``: measure → one number per image, None where there is none."""

    sigma: float
    seconds: float
    nfe: int
    values: Mapping[str, Values]


@dataclass(frozen=True)
class Snapshot:
    """The state x and the prediction D of a step, in the host's coordinates; ``stopped``: all it takes to go on."""

    x: Tensor
    d: Tensor
    stopped: Stopped | None = None

    def tensors(self) -> Iterator[Tensor]:
        yield from (self.x, self.d)
        if self.stopped is not None:
            found: list[Tensor] = []

            def note(t: Tensor) -> Tensor:
                found.append(t)
                return t

            mapped(self.stopped, note)
            yield from found


@dataclass(frozen=True)
class View:
    """How the latents of a run are looked at. ``to_latent``: the denoiser's units → the LATENT wire's.

    ``rgb`` [C, 3] and ``bias`` [3] make a picture in [−1, 1] of them without a VAE; ``shapes``: of the parts of packed
    latents, by image.
    """

    to_latent: Callable[[Tensor], Tensor] = lambda x: x
    rgb: Tensor | None = None
    bias: Tensor | None = None
    shapes: tuple[tuple[int, ...], ...] = ()
    reshape: Callable[[Tensor], Tensor] | None = None


@dataclass(frozen=True)
class Trace:
    """A run. ``sigmas``: its SIGMAS; ``end``: x at the last of them; ``kept``: step → its state, of every
    ``every``-th (0: none was within the budget). ``together``: in every step all images are at its level. Tensors
    are on the CPU."""

    solver: str
    path: Path
    sigmas: tuple[float, ...]
    seed: int
    steps: tuple[Step, ...]
    end: Tensor
    kept: Mapping[int, Snapshot]
    every: int
    stochastic: bool | None = None
    view: View = field(default_factory=View)
    together: bool = True
    notes: tuple[str, ...] = ()

    @property
    def nfe(self) -> int:
        return sum(step.nfe for step in self.steps)

    @property
    def seconds(self) -> float:
        return sum(step.seconds for step in self.steps)

    def __len__(self) -> int:
        return len(self.steps)

    def per_image(self, key: str, step: int) -> Values:
        """A measure at a step, per image; one number for what all images share."""
        at = self.steps[step]
        if key == "snr":
            p = self.path.on(at.sigma)
            finite = p.alpha > 0 and p.sigma > 0
            return (2 * math.log10(p.alpha / p.sigma) if finite else None,)
        if key in ("sigma", "seconds", "nfe"):
            return (getattr(at, key),)
        return at.values.get(key, ())

    def curve(self, key: str) -> list[float | None]:
        """A measure over the steps, mean over the images."""
        return [_mean(self.per_image(key, i)) for i in range(len(self))]

    @property
    def measured(self) -> list[str]:
        """The measures that have a number somewhere."""
        return [k for k in MEASURES if any(v is not None for v in self.curve(k))]

    def summary(self) -> str:
        """One or more sentences: what ran, how long, what was kept."""
        per_step = f", {1000 * self.seconds / len(self):.0f} ms each" if len(self) else ""
        kept = {
            0: "no state kept: one alone is above the memory given",
            1: "every state kept",
        }.get(self.every, f"every {self.every}th state kept, which is what the memory given holds")
        parts = [
            f"{self.solver}: {len(self)} steps{per_step}, {self.nfe} evaluations, {self.seconds:.2f} s",
            f"{len(self.end)} image{'s' if len(self.end) > 1 else ''}, {kept}",
            *self.notes,
        ]
        if not self.together:
            parts.append(
                "each image has steps of its own, and a step's numbers hold for the image that made it"
            )
        return "; ".join(parts)

    def rows(self) -> list[dict[str, Any]]:
        """One record per step, means over the images; finite numbers or None."""
        keys = self.measured
        curves = {key: self.curve(key) for key in keys}
        return [plain({"step": i} | {k: curves[k][i] for k in keys}) for i in range(len(self))]

    def csv(self) -> str:
        """The rows with a header line; empty where there is no number."""
        out = io.StringIO()
        writer = csv.DictWriter(out, ["step", *self.measured], lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows())
        return out.getvalue()

    def facts(self) -> dict[str, Any]:
        """Everything but tensors, image by image, for JSON."""
        shared = ("sigma", "snr", "seconds", "nfe")
        curves = {key: self.curve(key) for key in shared}
        steps = [
            {"step": i, "kept": i in self.kept, **{key: curves[key][i] for key in shared}}
            | {key: list(self.per_image(key, i)) for key in self.measured if key not in shared}
            for i in range(len(self))
        ]
        facts = dict(
            solver=self.solver, path=self.path.name, stochastic=self.stochastic, seed=self.seed, images=len(self.end),
            evaluations=self.nfe, seconds=self.seconds, kept_every=self.every, sigmas=list(self.sigmas), steps=steps,
            notes=list(self.notes),
        )  # fmt: skip
        told: dict[str, Any] = plain(facts)
        return told


def _mean(values: Sequence[float | None]) -> float | None:
    there = [v for v in values if v is not None]
    return sum(there) / len(there) if there else None


def numbers(values: Tensor | None) -> Values:
    """A tensor with one value per image as floats; None for what is not finite."""
    if values is None:
        return ()
    return tuple(v if math.isfinite(v) else None for v in values.flatten().tolist())


@dataclass
class _Seen:
    """A step on the run's device, for as long as measures of its neighbours need it."""

    sigma: float
    x: Tensor
    d: Tensor
    values: dict[str, Values]
    began: float
    nfe_before: int


class Recorder:
    """Collects one run over ``sigmas`` on the host path ``path``.

    Order of calls: ``evaluation`` before every evaluation (or :meth:`watched` around the denoiser), ``progress`` or
    ``step`` once per step after its first evaluation, ``passed`` with the whole state on arriving at a level, ``finish``. ``guidance``
    tells (‖Δ‖, cosine, weight) of the newest evaluation, or None. ``budget``: bytes for states.
    """

    WINDOW = 4  # steps whose tensors stay on the device

    def __init__(
        self,
        path: Path,
        sigmas: Sequence[float],
        budget: int,
        *,
        doubling: bool = False,
        guidance: Callable[[], tuple[Tensor | None, ...] | None] = lambda: None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.path, self.sigmas, self.budget = path, tuple(sigmas), budget
        self.doubling, self.guidance, self.clock = doubling, guidance, clock
        self.nfe, self.idle, self.began, self.first = 0, 0.0, clock(), clock()
        self.latest: tuple[Tensor, float] | None = None
        self.seen: list[_Seen] = []
        self.kept: dict[int, Snapshot] = {}
        self.every, self.bytes = (1 if budget else 0), 0
        self.stopped: tuple[int, Stopped] | None = None
        self.copies: dict[int, tuple[Tensor, Tensor]] = {}

    # ---------------------------------------------------------------------------- told by the host

    def evaluation(self, x: Tensor, sigma: float) -> None:
        """The denoiser is about to be asked at x [B, …] and ``sigma``."""
        settle(x)
        self.latest = x, sigma
        self.began = self.clock() - self.idle
        self.first = self.began if self.nfe == 0 else self.first
        self.nfe += 1

    def watched(self, denoise: Denoise) -> Denoise:
        """The same denoiser, its evaluations told to the recorder."""

        def asked(x: Tensor, sigma: float) -> Tensor:
            self.evaluation(x, sigma)
            return denoise(x, sigma)

        return asked

    @contextmanager
    def aside(self) -> Iterator[None]:
        """What is done inside does not count as time of the run."""
        start = self.clock()
        try:
            yield
        finally:
            self.idle += self.clock() - start

    def progress(self, p: Progress) -> None:
        """A step of one of our solvers has evaluated D at the level it starts from."""
        self._step(p.x, p.sigma, p.denoised)

    def step(self, d: Tensor) -> None:
        """A step of a sampler of others has evaluated ``d``: taken to be D where the denoiser was asked last."""
        if self.latest is not None:
            x, sigma = self.latest
            self._step(x.clone(), sigma, d.clone())  # it may go on in place

    def _step(self, x: Tensor, sigma: float, d: Tensor) -> None:
        settle(d)
        with self.aside():
            delta, cosine, weight = self.guidance() or (None, None, None)
            values = dict(
                x=numbers(rms(x) / size(self.path, sigma)),
                x0=numbers(rms(d)),
                delta=numbers(delta),
                cosine=numbers(cosine),
                weight=numbers(weight),
            )
            index = len(self.seen)
            began = (self.began, self.nfe - 1) if index else (self.first, 0)
            self.seen.append(_Seen(sigma, x, d, values, *began))
            self._keep(index, x, d)
            self._measure(index)

    def passed(self, stopped: Stopped) -> None:
        """The run has arrived at a level; called before the step from there."""
        with self.aside():
            self.stopped = None
            wanted = stopped.level < len(self.sigmas) - 1 and self._wants(stopped.level)
            if wanted:
                self.stopped = stopped.level, mapped(stopped, self._copy)

    def finish(
        self, end: Tensor, solver: str, seed: int, denoise: Denoise | None = None, **more: Any
    ) -> Trace:
        """The trace of the run that ended in state ``end`` [B, …]. ``denoise`` for step doubling."""
        settle(end)
        over = self.clock() - self.idle
        self._error(len(self.seen) - 2)
        result = end.detach().to("cpu", torch.float32, copy=True)
        self._distances(result)
        if self.doubling:
            more["notes"] = (*more.get("notes", ()), *self._double(end, denoise))
        bounds = [*(s.began for s in self.seen[1:]), over]
        counts = [*(s.nfe_before for s in self.seen[1:]), self.nfe]
        steps = tuple(
            Step(s.sigma, max(until - s.began, 0.0), count - s.nfe_before, s.values)
            for s, until, count in zip(self.seen, bounds, counts, strict=False)
        )
        return Trace(
            solver, self.path, self.sigmas, seed, steps, result, dict(self.kept), self.every, **more
        )  # fmt: skip

    # ------------------------------------------------------------------------------------- measures

    def _measure(self, i: int) -> None:
        """What a new step says about itself and those before."""
        if i:
            a, b = (direction(self.seen[k]) for k in (i - 1, i))
            self.seen[i].values["turn"] = numbers(angle(a, b))
        self._error(i - 2)
        if i >= self.WINDOW:  # free the device
            old = self.seen[i - self.WINDOW]
            old.x = old.d = torch.empty(0)

    def _error(self, i: int) -> None:
        """The local error of step i, once two steps more are known or the run is over."""
        if not 0 <= i < len(self.seen) - 1:
            return
        near = [k for k in range(i - 1, i + 3) if 0 <= k < len(self.seen)]
        ds = {k: self.seen[k].d for k in near if self.seen[k].d.numel()}
        sigmas = [s.sigma for s in self.seen]
        found = embedded(self.path, sigmas, i, self.seen[i].x, self.seen[i + 1].x, ds)
        if found is not None:
            self.seen[i].values["error"] = numbers(found)

    def _distances(self, end: Tensor) -> None:
        for i, s in enumerate(self.seen):
            if i in self.kept:
                s.values["to_end"] = numbers(rms(self.kept[i].d - end))

    def _double(self, end: Tensor, denoise: Denoise | None) -> tuple[str, ...]:
        """Step doubling wherever both ends of a step are kept; says where it is not."""
        if denoise is None or self.every != 1:
            why = (
                "its denoiser cannot be asked again"
                if denoise is None
                else "not every state is kept"
            )
            return (f"no step doubling: {why}",)
        ends = [self.kept[i].x for i in range(1, len(self.seen))] + [end]
        sigmas = [s.sigma for s in self.seen] + [self.sigmas[-1]]
        for i, (s, arrived) in enumerate(zip(self.seen, ends, strict=True)):
            if not sigmas[i + 1] < sigmas[i]:
                continue
            x, arrived = (t.to(end) for t in (self.kept[i].x, arrived))
            error, uncertainty = doubled(self.path, denoise, x, sigmas[i], sigmas[i + 1], arrived)
            s.values |= dict(doubling=numbers(error), uncertainty=numbers(uncertainty))
        return ()

    # --------------------------------------------------------------------------------------- memory

    def _keep(self, index: int, x: Tensor, d: Tensor) -> None:
        if not self._wants(index):
            return
        level, stopped = self.stopped or (-1, None)
        snapshot = Snapshot(self._copy(x), self._copy(d), stopped if level == index else None)
        self.kept[index] = snapshot
        mine = {id(t) for t in snapshot.tensors()}
        self.copies = {key: pair for key, pair in self.copies.items() if id(pair[1]) in mine}
        while self.every and self.bytes > self.budget:
            self._thin()

    def _wants(self, index: int) -> bool:
        return self.every > 0 and index % self.every == 0

    def _thin(self) -> None:
        """Drop every second state; all of them if one alone is too large."""
        self.every = 2 * self.every if len(self.kept) > 1 else 0
        self.kept = {i: s for i, s in self.kept.items() if self.every and i % self.every == 0}
        held = {id(t): t.nbytes for s in self.kept.values() for t in s.tensors()}
        self.bytes = sum(held.values())

    def _copy(self, t: Tensor) -> Tensor:
        """``t`` on the CPU. Neighbouring states share tensors; so do their copies."""
        known = self.copies.get(id(t))
        if known is not None and known[0] is t:
            return known[1]
        copied = t.detach().to("cpu", copy=True)
        self.copies[id(t)] = t, copied
        self.bytes += copied.nbytes
        return copied


def direction(s: _Seen) -> Tensor:
    """Unit vectors along dx/dσ = (x − D)/σ, [B, n]."""
    return torch.nn.functional.normalize((s.x - s.d).float().flatten(1))


def angle(a: Tensor, b: Tensor) -> Tensor:
    """Degrees between unit vectors [B, n], also small ones (Kahan: 2·atan2(‖a − b‖, ‖a + b‖))."""
    return (2 * torch.atan2((a - b).norm(dim=1), (a + b).norm(dim=1))).rad2deg()


def settle(t: Tensor) -> None:
    """Wait until ``t`` has been computed."""
    if t.device.type != "cpu" and t.numel():
        t.flatten()[0].item()
