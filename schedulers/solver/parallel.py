r"""Picard iteration: the evaluations of a run asked many at a time, from guesses that are put right by the answers.

A plan with all its predictions known is arithmetic: every state y_n follows from D_0 … D_{n−1} and the noise draws, which are
fixed. So a run is the fixed point of

    D_n ← D(y_n(D_0, …, D_{n−1}), σ_n)     for all n at once.

One sweep evaluates the next W states in one batch, their predictions so far being guesses. The first of them is right, since
only answers lead to it; and so is every next one while the guesses before it were met within the tolerance. These are taken,
the window moves on behind them, and a state that enters it begins with the newest prediction as its guess. After at most N sweeps
all N are taken: with tolerance 0 the run in sequence, whatever the solver, its order and its noise.

ParaDiGMS (Shih et al. 2023) does this for one-step solvers, with guesses of the states and a test on them; here the table of any
plan does the arithmetic, and D is what is guessed, which changes little from level to level.

Price: fewer calls one after another, more evaluations in all. It is faster where a batch of W takes less time than as many calls
as a sweep takes predictions, which a network that fills its device with one image does not (docs/parallel.md).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from ..counts import counted
from ..noise import DrawNoise
from ..points import Points
from ..settings import Settings, knob
from .base import Around, Solver, host_plan
from .multistep import DPMSolverMultistep
from .run import Ask, Program, Progress, Read
from .state import State

if TYPE_CHECKING:
    from .plan import Plan


@dataclass(frozen=True)
class PicardSweeps(Settings):
    """The same run in fewer calls one after another: several steps are asked in one batch, from guesses that are put right.

    The end differs from the run in sequence by about the tolerance; at 0 not at all. More evaluations in all: worth it only where
    a batch costs much less than its images one by one, as for small networks on a large GPU.
    """

    title: ClassVar[str] = "Parallel Steps (Picard)"
    aliases: ClassVar[tuple[str, ...]] = (
        "ParaDiGMS", "picard", "parallel sampling", "parallel", "fixed point", "sequential calls", "latency",
    )  # fmt: skip
    window: int = knob(
        8, "Evaluations in one batch. Memory and time of a call grow with it.", low=2, high=256
    )
    tolerance: float = knob(
        0.01,
        "Largest RMS change of an image's prediction that counts as none; 0: the run in sequence, to rounding.",
        low=0.0, high=10.0, step=0.001,
    )  # fmt: skip


@dataclass(frozen=True)
class Count:
    """Of one run: calls one after another, evaluations in all, and those of the run in sequence."""

    rounds: int
    evaluations: int
    sequential: int

    def __str__(self) -> str:
        return (
            f"{counted(self.rounds, 'round')} with {counted(self.evaluations, 'evaluation')} in place of "
            f"{self.sequential} one after another"
        )


class InRounds(Around):
    """Base class of solvers that run ``solver``, which is a plan, in rounds of several evaluations each."""

    #: Why a solver that is no plan cannot be run so, and what to take.
    why: ClassVar[str] = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.solver.planned:
            raise ValueError(
                f"sampler: {self.solver.title} chooses its moves from the data as it goes, so its later states cannot be "
                f"guessed; take a solver that is a table, such as {self.why}"
            )

    @property
    def order(self) -> int:
        return self.solver.order

    @property
    def stochastic(self) -> bool:
        return self.solver.stochastic

    @property
    def drawing(self) -> Solver:
        """Draws are counted as in the run in sequence."""
        return self.solver

    def nfe(self, steps: int) -> int:
        """In sequence; the rounds' depend on the data."""
        return self.solver.nfe(steps)

    def steps(
        self, points: Points, state: State, noise: DrawNoise | None = None, level: int | None = None
    ) -> Program[State]:
        """The questions of a run to its end. A part of one, to ``level``, is made in sequence."""
        if level is not None and level < len(points) - 1:
            return (yield from self.solver.steps(points, state, noise, level))
        state, count = yield from self.sweeps(points, state, noise)
        logging.getLogger("sampling_kit").info("%s: %s", self.title, count)
        return state

    def sweeps(
        self, points: Points, state: State, noise: DrawNoise | None = None
    ) -> Program[tuple[State, Count]]:
        """The questions of :meth:`steps`; ends in the last state and what it took."""
        raise NotImplementedError


@dataclass(frozen=True)
class Parallel(InRounds):
    """A run of ``solver``, which is a plan, by Picard sweeps. Raises ValueError for one that chooses as it goes."""

    title: ClassVar[str] = PicardSweeps.title
    paper: ClassVar[str] = "Shih et al. 2023 (ParaDiGMS, arXiv 2305.16317)"
    equals: ClassVar[str] = "diffusers' community pipelines of ParaDiGMS, for DDIM and DDPM"
    why: ClassVar[str] = "DPM-Solver++ multistep, DDIM or UniPC"
    solver: Solver = field(default_factory=DPMSolverMultistep)
    settings: PicardSweeps = field(default_factory=PicardSweeps)

    def sweeps(
        self, points: Points, state: State, noise: DrawNoise | None = None
    ) -> Program[tuple[State, Count]]:
        """See the base class."""
        run = _Run(host_plan(self.solver, points), state, noise and Kept(noise))
        while run.ahead:
            yield from self._sweep(run)
        return run.end(), Count(run.rounds, run.evaluations, run.total)

    def _sweep(self, run: _Run) -> Program[None]:
        """One round: the next states at once, and what of them is taken."""
        states = run.states(self.settings.window)
        levels = tuple(ask.sigma for _, ask in states)
        ask = replace(states[0][1], begins=False, levels=levels if len(levels) > 1 else ())
        answer = yield torch.cat([y for y, _ in states]), ask
        answers = answer.chunk(len(levels))
        changes = [rms(d - guess) for d, guess in zip(answers, run.guesses, strict=False)]
        taken = 1
        if changes[: len(levels) - 1]:
            numbers = yield Read(tuple(changes[: len(levels) - 1]))
            met = [n <= self.settings.tolerance for n in numbers]
            taken += met.index(False) if False in met else len(met)
        for (y, ask), d in zip(states[:taken], answers, strict=False):
            if ask.begins:
                yield Progress(ask.step, ask.steps, y, ask.level, d)
        run.take(answers, taken)


class _Run:
    """Where a run stands: what was taken, and guesses of what comes next."""

    def __init__(self, plan: Plan, state: State, noise: DrawNoise | None) -> None:
        self.plan, self.state, self.noise = plan, state, noise
        stages = range(state.stage, len(plan.stages))
        self.asks = [i for i in stages if plan.stages[i].evaluate]
        self.total, self.taken = len(self.asks), 0
        self.guesses: list[Tensor] = []
        self.rounds = self.evaluations = 0

    @property
    def ahead(self) -> int:
        """Evaluations that are not taken yet."""
        return self.total - self.taken

    def states(self, window: int) -> list[tuple[Tensor, Ask]]:
        """The next states, from the guesses; the first of a run alone, since there is no guess to go on from."""
        program = self.plan.walk(self.state, self.noise)
        states = [next(program)]
        for guess in self.guesses[: min(window, self.ahead) - 1]:
            states.append(program.send(guess))
        program.close()
        self.rounds += 1
        self.evaluations += len(states)
        return states

    def take(self, answers: Sequence[Tensor], count: int) -> None:
        """The first answers are taken, the others are the next guesses, and the newest goes on behind them."""
        self.taken += count
        self.state = self._after(answers[:count])
        later = list(answers[count:])
        self.guesses = later + [answers[-1]] * (self.ahead - len(later))

    def end(self) -> State:
        """The state after every stage."""
        return self._after(()) if self.state.stage < len(self.plan.stages) else self.state

    def _after(self, predictions: Sequence[Tensor]) -> State:
        """The state from which the next evaluation is made, after these."""
        until = self.asks[self.taken] if self.taken < self.total else len(self.plan.stages)
        return ended(self.plan.walk(self.state, self.noise, until), predictions)


def ended(program: Program[State], predictions: Sequence[Tensor]) -> State:
    """What a walk of a plan ends in, with these answers."""
    for answer in (None, *predictions):
        try:
            program.send(answer)
        except StopIteration as stop:
            return stop.value
    raise AssertionError("a plan asked for more than its stages evaluate")


class Kept:
    """A noise source whose last draws are kept: every sweep needs those of its window again."""

    MOST = 64

    def __init__(self, draw: DrawNoise) -> None:
        self.draw, self.deviation = draw, float(getattr(draw, "deviation", 1.0))
        self.known: dict[int, Tensor] = {}

    def __call__(self, position: int, like: Tensor) -> Tensor:
        if position not in self.known:
            if len(self.known) >= self.MOST:
                del self.known[min(self.known)]
            self.known[position] = self.draw(position, like)
        return self.known[position]


def rms(x: Tensor) -> Tensor:
    """The largest root mean square of an image: []."""
    return x.flatten(1).float().square().mean(1).max().sqrt()
