"""What a run is watched by: it collects a :class:`Trace`.

A host gives each run a :class:`Recorder`, reports every evaluation and every step to it, and gets a
:class:`Trace` at the end, a frozen value on the CPU. The recorder only reads: a run with it is bit for bit the run
without. It waits for the device at every evaluation, so that times are those of the steps.

States take memory. Above the budget every second one is dropped, again and again: then
every k-th step has its state, and every step still has its measures.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..path import Path
from ..solver.run import Denoise, Progress
from ..split import Stopped, mapped
from .error import doubled, embedded, rms, size
from .trace import Snapshot, Step, Trace, Values, numbers


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
    tells (‖Δ‖, cosine, weight) of the newest evaluation at a level, or None. ``budget``: bytes for states.
    """

    WINDOW = 4  # steps whose tensors stay on the device

    def __init__(
        self,
        path: Path,
        sigmas: Sequence[float],
        budget: int,
        *,
        doubling: bool = False,
        guidance: Callable[[float], tuple[Tensor | None, ...] | None] = lambda sigma: None,
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

    # ---------------------------------------------------------------------------- reported by the host

    def evaluation(self, x: Tensor, sigma: float) -> None:
        """The denoiser is about to be asked at x [B, …] and ``sigma``."""
        settle(x)
        self.latest = x, sigma
        self.began = self.clock() - self.idle
        self.first = self.began if self.nfe == 0 else self.first
        self.nfe += 1

    def watched(self, denoise: Denoise) -> Denoise:
        """The same denoiser, its evaluations reported to the recorder."""

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
            delta, cosine, weight = self.guidance(sigma) or (None, None, None)
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
            kept = stopped.level < len(self.sigmas) - 1 and self._wants(stopped.level)
            if kept:
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
        error = embedded(self.path, sigmas, i, self.seen[i].x, self.seen[i + 1].x, ds)
        if error is not None:
            self.seen[i].values["error"] = numbers(error)

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
        copy = self.copies.get(id(t))
        if copy is not None and copy[0] is t:
            return copy[1]
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
