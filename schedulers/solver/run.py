"""Who asks and who answers: a solver is a program of questions, and a driver answers them.

A program is a generator. It yields what it wants to know and is sent the answer:

    d = yield y, Ask(level, step, steps)       D at the state y [B, …]
    (v, …) = yield Read((t, …))                0-d tensors as floats
    yield Progress(…)                          nothing: the callback sees it

A driver calls the denoiser. It checks for an interrupt before every evaluation, reports every step once,
and sees that no prediction is NaN or infinite. :func:`drive` is the loop of every run;
:func:`drive_async` awaits the denoiser, and :func:`drive_together` answers several programs by one call.
Whatever asks in between (a trace, a stop at every level, a method inside another) is a program around a
program: it passes questions on by ``yield from``.

D is looked at in evaluations 1, 2, 4, every eighth after that and the last, since to look costs a kernel. On
a device other than the CPU the result is read at the end or with the program's next :class:`Read`: nothing
else waits for the device.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Generator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from ..noise import DrawNoise
from ..several_levels import by_level, level_by_level

Denoise = Callable[[Tensor, float], Tensor]


@dataclass(frozen=True)
class Progress:
    """What a callback sees once per step, after the step's first evaluation.

    ``x`` is the state the denoiser saw, ``sigma`` its noise level in the program's coordinates.
    """

    step: int
    steps: int
    x: Tensor
    sigma: float
    denoised: Tensor


@dataclass(frozen=True)
class Run:
    """What the caller of a run brings.

    denoise(x, sigma) → x0; noise(position, like) → standard normal, needed by solvers that draw noise;
    callback once per step; check before every evaluation (raise there to stop). ``finite``: whether a
    prediction that is NaN or infinite is an error. several(y, levels) → D of states [len(levels)·B, …] at several levels,
    level by level, in one call of the network, or of rows each at a level of its own; None: a call for each.
    """

    denoise: Denoise
    noise: DrawNoise | None = None
    callback: Callable[[Progress], None] | None = None
    check: Callable[[], None] | None = None
    finite: bool = True
    several: Callable[[Tensor, tuple[float, ...]], Tensor] | None = None

    def answer(self, y: Tensor, ask: Ask) -> Tensor:
        """D of a question."""
        if not ask.levels:
            return self.denoise(y, ask.sigma)
        if self.several is not None:
            return self.several(y, ask.levels)
        return level_by_level(self.denoise, y, ask.levels, ask.batch)


@dataclass(frozen=True)
class Ask:
    """A question but for its state y: where it stands in the run, and what is done with the answer.

    ``level``: the state's σ. ``noise_label``: the σ that the denoiser is told, if it is another. ``begins``: a step
    begins here, which is reported. ``limit``: D is limited to ±limit (0: not). ``images``: whose D is
    wanted; the rest of y stands there for the host, and the rest of the answer may hold anything. ``look``:
    whether D is finite is known at the program's next :class:`Read`. ``levels``: y is the states at several, told
    so, one after the other; ``level`` is that of the first. With ``batch`` images in a state there may be a level for
    every row instead (see ``several_levels.py``).
    """

    level: float
    step: int = 0
    steps: int = 1
    begins: bool = True
    noise_label: float | None = None
    limit: float = 0.0
    images: slice | None = None
    look: bool = False
    levels: tuple[float, ...] = ()
    batch: int = 0

    @cached_property
    def sigma(self) -> float:
        """The noise level the denoiser is told."""
        return self.level if self.noise_label is None else self.noise_label


@dataclass(frozen=True)
class Read:
    """Numbers [] to be read back from the device, in the one transfer that tells whether D was finite so far."""

    numbers: tuple[Tensor, ...] = ()


T = TypeVar("T")
Program = Generator[tuple[Tensor, Ask] | Progress | Read, Any, T]


def drive(program: Program[T], run: Run) -> T:
    """The program's result. Raises FloatingPointError for a D that is NaN or infinite, ValueError for one of
    another shape than its state."""
    exchange = Exchange(program, run)
    while exchange.open:
        exchange.answer(run.answer(exchange.y, exchange.ask))
    return exchange.result


async def drive_async(
    program: Program[T], run: Run, denoise: Callable[[Tensor, float], Awaitable[Tensor]]
) -> T:
    """:func:`drive`, bit for bit, where D is awaited: ``denoise`` stands in place of the run's."""
    exchange = Exchange(program, run)
    while exchange.open:
        if exchange.ask.levels:
            exchange.answer(await _apart_async(exchange.y, exchange.ask, denoise))
        else:
            exchange.answer(await denoise(exchange.y, exchange.ask.sigma))
    return exchange.result


async def _apart_async(
    y: Tensor, ask: Ask, denoise: Callable[[Tensor, float], Awaitable[Tensor]]
) -> Tensor:
    program = by_level(len(y), ask.levels, ask.batch)
    rows, level = next(program)
    while True:
        try:
            rows, level = program.send(await denoise(y[rows], level))
        except StopIteration as end:
            return end.value


def drive_together(programs: Sequence[Program[T]], run: Run) -> list[T]:
    """The results of independent programs. Those that stand at one level are answered by one call.

    The step furthest behind comes first, then the order of ``programs``: what is in a batch follows from
    the programs alone. Equal to :func:`drive` of each within the rounding by which an image's D depends on
    the batch it is in. The denoiser gets their states one after the other, in the order of ``programs``.
    """
    exchanges = [Exchange(program, run) for program in programs]
    while waiting := [exchange for exchange in exchanges if exchange.open]:
        first = min(waiting, key=lambda exchange: exchange.ask.step)
        group = [exchange for exchange in waiting if exchange is first or exchange.alike(first)]
        y = torch.cat([exchange.y for exchange in group])
        d = run.answer(y, first.ask)
        require_shape(d, y)
        parts = d.split([len(exchange.y) for exchange in group])
        for exchange, part in zip(group, parts, strict=True):
            exchange.answer(part)
    return [exchange.result for exchange in exchanges]


class Exchange(Generic[T]):
    """A program and what every driver does for it between two calls of the denoiser.

    While it is ``open`` the program asks for D at ``y`` (see ``ask``); when it is not, ``result`` is there.
    """

    __slots__ = (
        "_first",
        "_last",
        "_next_look",
        "_unread",
        "ask",
        "callback",
        "check",
        "count",
        "finite",
        "open",
        "result",
        "send",
        "y",
    )  # fmt: skip
    y: Tensor
    ask: Ask
    result: T

    def __init__(self, program: Program[T], run: Run) -> None:
        self.send, self.callback, self.check, self.finite = (
            program.send, run.callback, run.check, run.finite,
        )  # fmt: skip
        self.open, self.count, self._next_look = True, 0, 1
        self._first = 0  # the step of the first D since a look
        self._last: Tensor | None = None  # the newest D, if it was not looked at
        self._unread: list[Look] = []
        self._go_on(None)

    def answer(self, d: Tensor) -> None:
        """What the denoiser returned goes to the program in y's dtype, limited, looked at and reported."""
        y, ask = self.y, self.ask
        if d.shape != y.shape:
            require_shape(d, y)
        if ask.images is not None:
            d = d[ask.images]
        self.count += 1
        if self.finite:
            if self._last is None:
                self._first = ask.step
            if self.count == self._next_look or ask.look:
                self._look(d)
            else:
                self._last = d
        if d.dtype != y.dtype:
            d = d.to(y.dtype)
        if ask.limit:
            d = d.clamp(-ask.limit, ask.limit)
        if ask.begins and self.callback is not None:
            self.callback(Progress(ask.step, ask.steps, y, ask.level, d))
        self._go_on(d)

    def alike(self, other: Exchange[T]) -> bool:
        """Whether one call can answer both."""
        here, there = ((e.ask.sigma, e.y.shape[1:], e.y.dtype) for e in (self, other))
        return here == there and not (self.ask.levels or other.ask.levels)

    def _go_on(self, answer: Any) -> None:
        """Up to the next question for D, or the end."""
        while True:
            try:
                event = self.send(answer)
            except StopIteration as stop:
                self.result, self.open = stop.value, False
                break
            if isinstance(event, tuple):
                self.y, self.ask = event
                if self.check is not None:
                    self.check()
                return
            answer = self._other(event)
        if self._last is not None:
            self._look(self._last)
        self._read()

    def _other(self, event: Progress | Read) -> list[float] | None:
        """What is not a question for D."""
        if isinstance(event, Read):
            return self._read(*event.numbers)
        if self.callback is not None:
            self.callback(event)
        return None

    def _look(self, d: Tensor) -> None:
        """Whether D is finite: now on the CPU; elsewhere to read it would synchronise."""
        total = (d.detach() if d.requires_grad else d).sum(dtype=torch.float32)
        look = Look(self.ask, self._first, self.count, d.dtype, total)
        self._last = None
        if self.count == self._next_look:
            self._next_look += min(self.count, 8)
        if self.ask.look or not total.is_cpu:
            self._unread.append(look)
        else:
            look.require_finite(float(total))

    def _read(self, *numbers: Tensor) -> list[float]:
        """0-d tensors as floats, in one transfer with what was looked at and not read yet."""
        unread, self._unread = self._unread, []
        tensors = [*numbers, *(look.total for look in unread)]
        if not tensors:
            return []
        values = torch.stack([t.float() for t in tensors]).tolist()
        for look, total in zip(unread, values[len(numbers) :], strict=True):
            look.require_finite(total)
        return values[: len(numbers)]


class Look(NamedTuple):
    """The sum of a D, which is finite if D is; and the first step since the look before."""

    ask: Ask
    first: int
    evaluation: int
    dtype: torch.dtype
    total: Tensor

    def require_finite(self, total: float) -> None:
        """Raises FloatingPointError naming step, σ and dtype if the denoiser's output was not finite."""
        if math.isfinite(total):
            return
        step, first = self.ask.step, self.first
        steps = f"{first}-{step}" if first < step else f"{step}"
        where = f"step {steps} of {self.ask.steps}, evaluation {self.evaluation}"
        raise not_finite(where, self.ask.level, self.dtype)


def require_shape(d: Tensor, y: Tensor) -> Tensor:
    """d. Raises ValueError if it is of another shape than y."""
    if d.shape != y.shape:
        raise ValueError(
            f"the denoiser returned shape {tuple(d.shape)} for x of shape {tuple(y.shape)}"
        )
    return d


def not_finite(where: str, sigma: float, dtype: torch.dtype) -> FloatingPointError:
    """The error for a prediction that is NaN or infinite: where in the run, σ and dtype, and what to try."""
    hint = "check the prediction type and the range of the noise levels"
    if dtype != torch.float64:
        hint = (
            "if the network runs in float16 use bfloat16 or float32 (float16 ends at 65504); else "
            + hint
        )
    return FloatingPointError(
        f"the denoiser returned NaN or infinity at {where} "
        f"(σ = {sigma:g}, {str(dtype).removeprefix('torch.')}): {hint}"
    )
