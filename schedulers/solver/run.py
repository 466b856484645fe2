"""Who asks and who answers: a solver is a program of questions, and a driver answers them.

A program is a generator. It yields what it wants to know and is sent the answer:

    d = yield y, Ask(level, step, steps)       D at the state y [B, …]
    (v, …) = yield Read((t, …))                0-d tensors as floats
    yield Progress(…)                          nothing: the callback sees it

A driver calls the denoiser. It checks for an interrupt before every evaluation, reports every step once,
and sees that no prediction is NaN or infinite. :func:`drive` is the only loop of the pack that does so;
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
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

Denoise = Callable[[Tensor, float], Tensor]
DrawNoise = Callable[[int, Tensor], Tensor]


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
    prediction that is NaN or infinite is an error.
    """

    denoise: Denoise
    noise: DrawNoise | None = None
    callback: Callable[[Progress], None] | None = None
    check: Callable[[], None] | None = None
    finite: bool = True


@dataclass(frozen=True)
class Ask:
    """A question but for its state y: where it stands in the run, and what is done with the answer.

    ``level``: the state's σ. ``told``: the σ that the denoiser is told, if it is another. ``begins``: a step
    begins here, which is reported. ``limit``: D is limited to ±limit (0: not). ``images``: whose D is
    wanted; the rest of y stands there for the host, and the rest of the answer may hold anything. ``look``:
    whether D is finite is known at the program's next :class:`Read`.
    """

    level: float
    step: int = 0
    steps: int = 1
    begins: bool = True
    told: float | None = None
    limit: float = 0.0
    images: slice | None = None
    look: bool = False

    @property
    def sigma(self) -> float:
        """The noise level the denoiser is told."""
        return self.level if self.told is None else self.told


@dataclass(frozen=True)
class Read:
    """Numbers [] to be read back from the device, in the one transfer that tells whether D was finite so far."""

    numbers: tuple[Tensor, ...] = ()


T = TypeVar("T")
Question = tuple[Tensor, Ask]
Program = Generator[Question | Progress | Read, Any, T]


def drive(program: Program[T], run: Run) -> T:
    """The program's result. Raises FloatingPointError for a D that is NaN or infinite, ValueError for one of
    another shape than its state."""
    exchange, denoise = Exchange(program, run), run.denoise
    question = exchange.question()
    while question is not None:
        y, ask = question
        question = exchange.question(exchange.answer(y, ask, denoise(y, ask.sigma)))
    return exchange.result


async def drive_async(
    program: Program[T], run: Run, denoise: Callable[[Tensor, float], Awaitable[Tensor]]
) -> T:
    """:func:`drive`, bit for bit, where D is awaited: ``denoise`` stands in place of the run's."""
    exchange = Exchange(program, run)
    question = exchange.question()
    while question is not None:
        y, ask = question
        question = exchange.question(exchange.answer(y, ask, await denoise(y, ask.sigma)))
    return exchange.result


def drive_together(programs: Sequence[Program[T]], run: Run) -> list[T]:
    """The results of independent programs. Those that stand at one level are answered by one call.

    The step furthest behind comes first, then the order of ``programs``: what is in a batch follows from
    the programs alone. Equal to :func:`drive` of each within the rounding by which an image's D depends on
    the batch it is in. The denoiser gets their states one after the other, in the order of ``programs``.
    """
    exchanges = [Exchange(program, run) for program in programs]
    questions = [exchange.question() for exchange in exchanges]
    while waiting := {i: q for i, q in enumerate(questions) if q is not None}:
        y, ask = min(waiting.values(), key=lambda question: question[1].step)
        same = {i: q for i, q in waiting.items() if alike(q, y, ask)}
        states = [state for state, _ in same.values()]
        d = run.denoise(torch.cat(states), ask.sigma)
        parts = require_shape(d, torch.cat(states)).split([len(state) for state in states])
        for (i, question), part in zip(same.items(), parts, strict=True):
            questions[i] = exchanges[i].question(exchanges[i].answer(*question, part))
    return [exchange.result for exchange in exchanges]


def alike(question: Question, y: Tensor, ask: Ask) -> bool:
    """Whether one call can answer this question and (y, ask)."""
    state, other = question
    return other.sigma == ask.sigma and (state.shape[1:], state.dtype) == (y.shape[1:], y.dtype)


class Exchange(Generic[T]):
    """What every driver does between two calls of the denoiser, for one program."""

    def __init__(self, program: Program[T], run: Run) -> None:
        self.program, self.run = program, run
        self.count = 0
        self._since: int | None = None  # the step of the first D that was not looked at
        self._last: tuple[Ask, Tensor] | None = None
        self._unread: list[tuple[str, Ask, torch.dtype, Tensor]] = []

    def question(self, answer: Any = None) -> Question | None:
        """The program's next question for D; None at its end, where ``result`` is there."""
        while True:
            try:
                event = self.program.send(answer)
            except StopIteration as stop:
                self.result: T = stop.value
                break
            if isinstance(event, tuple):
                if self.run.check is not None:
                    self.run.check()
                return event
            answer = self._other(event)
        self._finish()
        return None

    def answer(self, y: Tensor, ask: Ask, d: Tensor) -> Tensor:
        """What the denoiser returned, as the program wants it: in y's dtype, limited, looked at, reported."""
        if d.shape != y.shape:
            require_shape(d, y)
        if ask.images is not None:
            d = d[ask.images]
        self.count += 1
        if self.run.finite:
            self._watch(ask, d)
        if d.dtype != y.dtype:
            d = d.to(y.dtype)
        if ask.limit:
            d = d.clamp(-ask.limit, ask.limit)
        if ask.begins and self.run.callback is not None:
            self.run.callback(Progress(ask.step, ask.steps, y, ask.level, d))
        return d

    def _other(self, event: Progress | Read) -> list[float] | None:
        """What is not a question for D."""
        if isinstance(event, Read):
            return self._read(*event.numbers)
        if self.run.callback is not None:
            self.run.callback(event)
        return None

    def _watch(self, ask: Ask, d: Tensor) -> None:
        count = self.count
        if self._since is None:
            self._since = ask.step
        if count % 8 and count not in (1, 2, 4) and not ask.look:
            self._last = ask, d
            return
        self._look(ask, d)
        if not ask.look and d.device.type == "cpu":  # elsewhere to read would synchronise
            self._read()

    def _look(self, ask: Ask, d: Tensor) -> None:
        since = "" if self._since is None or self._since >= ask.step else f"{self._since}-"
        where = f"step {since}{ask.step} of {ask.steps}, evaluation {self.count}"
        self._unread.append((where, ask, d.dtype, d.detach().sum(dtype=torch.float32)))
        self._since = self._last = None

    def _read(self, *numbers: Tensor) -> list[float]:
        """0-d tensors as floats. Raises FloatingPointError for the first D that was looked at and not finite."""
        unread, self._unread = self._unread, []
        tensors = [*numbers, *(total for *_, total in unread)]
        if not tensors:
            return []
        values = torch.stack([t.float() for t in tensors]).tolist()
        for (where, ask, dtype, _), total in zip(unread, values[len(numbers) :], strict=True):
            if not math.isfinite(total):
                raise not_finite(where, ask.level, dtype)
        return values[: len(numbers)]

    def _finish(self) -> None:
        """Looks at the last D too."""
        if self._last is not None:
            self._look(*self._last)
        self._read()


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
