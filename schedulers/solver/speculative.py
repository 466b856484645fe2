r"""Speculative sampling of a stochastic chain: several steps drafted and asked in one batch, each accepted or put right.

A step of a solver that draws noise is a Gaussian, x' ~ N(m(x, D), s²·I). With a guess in place of D it is N(m̂, s²·I), which
costs no evaluation, and so are the steps after it: a draft of the next W states. One batch asks for D at all of them. Then each
step is judged in turn, with its own z and a uniform u, and Δ = (m̂ − m)/s (both means from the same, accepted, state):

    x' = m̂ + s·z                    if log u ≤ −⟨z, Δ⟩ − |Δ|²/2                             (the draft is accepted)
    x' = m + s·(z − 2⟨e, z⟩·e)      otherwise, e = Δ/|Δ|                                      (reflected; the round ends)

In both cases together x' is N(m, s²·I) exactly: the two are the reflection maximal coupling of the Gaussians (Bou-Rabee, Eberle
& Zimmer 2020; Heng & Jacob 2019), and a draft is accepted with 2Φ(−|Δ|/2), the most that any coupling can do. Along e it is the
acceptance with φ(z)/φ(z + Δ) of speculative decoding, and the reflection is a draw from what that leaves over; across e the two
Gaussians agree. So the run ends in the solver's own distribution, for any guess: there is no tolerance. It is not the run in
sequence of the same seed, unless every draft is accepted.

**The guess.** It may depend on all that is known but for the step's own z and u. So it is the answer that the last round had at
the same step, at a draft that was not taken, and further on the newest answer. Noise goes by its position in the run, so drafts
of two rounds differ by little, and a level's guess gets better each time it is asked, as in Picard sweeps (``parallel.py``).
The guess for step n was found at a state made of the draws up to n, and step n is judged with draw n + 1, once: independent.
De Bortoli et al. 2025 freeze D at the last state; that is this rule where no round asked before.

**Images.** Each accepts on its own and stands at a level of its own, or a picture would depend on its batch-mates, and the batch
would wait where any of its images does. A batch holds W states of every image; one that is done is asked at its last state.

Price: |Δ| is a norm over all values of an image, and grows with their root: a guess that is off by r in RMS is accepted where
r·w ≲ 2s/√d, w the step's weight of D. Steps must be small beside their noise, or the guess good (docs/parallel.md).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise, zip_longest
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from ..noise import DrawNoise
from ..per_image import dot, project
from ..points import Points
from ..settings import Settings, knob
from .base import Solver, host_plan
from .ddpm import DDPM
from .parallel import Count, InRounds, Kept, PicardSweeps, ended
from .plan import Plan
from .run import Ask, Program, Progress, Read
from .state import State, joined

JUDGED = 1 << 30  # the position of the draw that judges draw 0 of a run; further ones follow


@dataclass(frozen=True)
class Speculation(Settings):
    """A run that draws noise, in fewer calls one after another: several steps are drafted and asked in one batch, and each is
    accepted or replaced so that the result is distributed exactly as the run in sequence.

    No tolerance, but another picture of the same distribution. More evaluations in all: worth it only where a batch costs much
    less than its images one by one, and for many small steps.
    """

    title: ClassVar[str] = "Speculative Steps"
    aliases: ClassVar[tuple[str, ...]] = (
        "speculative sampling", "speculative decoding", "reflection coupling", "draft model", "parallel sampling",
        "sequential calls", "latency",
    )  # fmt: skip
    window: int = knob(
        8,
        "States of an image in one batch. Memory and time of a call grow with it.",
        low=2,
        high=256,
    )


@dataclass(frozen=True)
class DraftCount(Count):
    """Of one run, with how many drafted steps were accepted of those that were judged, over all images."""

    accepted: int = 0
    judged: int = 0

    def __str__(self) -> str:
        return f"{super().__str__()}; {self.accepted} of {self.judged} drafted steps accepted"


@dataclass(frozen=True)
class Speculative(InRounds):
    """A run of ``solver``, a plan with noise before every evaluation, by speculation. Raises ValueError for any other."""

    title: ClassVar[str] = Speculation.title
    paper: ClassVar[str] = "De Bortoli, Galashov, Gretton & Doucet 2025 (arXiv 2501.05370)"
    equals: ClassVar[str] = "no node or pipeline; for language models, speculative decoding"
    why: ClassVar[str] = "DDPM, or DDIM with eta above 0"
    solver: Solver = field(default_factory=DDPM)
    settings: Speculation = field(default_factory=Speculation)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.solver.stochastic:
            raise ValueError(
                f"sampler: {self.solver.words} draws no noise, and a step without noise has nothing to accept; raise its eta "
                f"(DDIM, Euler Ancestral, DPM-Solver++ multistep), take DDPM, or take {PicardSweeps.title}"
            )

    def sweeps(
        self, points: Points, state: State, noise: DrawNoise | None = None
    ) -> Program[tuple[State, DraftCount]]:
        """See the base class. Raises ValueError for a plan with a step that draws no noise."""
        plan = host_plan(self.solver, points)
        require_noise(self.solver, plan, state.stage)
        if noise is None:
            raise ValueError(f"{self.title} draws noise: pass a noise source")
        run = _Batch(plan, state, noise)
        while run.ahead:
            yield from self._round(run)
        return run.end(), run.count

    def _round(self, run: _Batch) -> Program[None]:
        """The next states of every image at once, and what of them is accepted."""
        y, ask = run.asked(self.settings.window)
        answer = yield y, ask
        rows = answer.split(1)
        margins = [c.judge(rows[i :: len(run.chains)]) for i, c in enumerate(run.chains)]
        numbers = (yield Read(tuple(m[0] for own in margins for m in own))) if any(margins) else ()
        run.take(margins, numbers)
        yield from run.passed()


def require_noise(solver: Solver, plan: Plan, first: int = 0) -> None:
    """Raises ValueError for a plan in which two evaluations do not have a single move with noise between them."""
    last = max((i for i, stage in enumerate(plan.stages) if stage.evaluate), default=first)
    for before, stage in pairwise(plan.stages[first : last + 1]):
        if stage.noise and stage.evaluate and before.evaluate:
            continue
        raise ValueError(
            f"sampler: {solver.words} moves from σ = {before.at.sigma:g} to {stage.at.sigma:g} without fresh noise, and such a "
            "move has nothing to accept; take a solver that draws noise before every evaluation (DDPM, DDIM or "
            f"Euler Ancestral with eta above 0, DPM-Solver++ multistep with eta above 0), or {PicardSweeps.title}"
        )


class _Step(NamedTuple):
    """A step from an accepted state: the state that the solver makes; y − y of its draft, z, and s, where it was drafted."""

    state: State
    off: Tensor | None = None
    z: Tensor | None = None
    size: float = 1.0

    def margin(self, log_uniform: Tensor) -> Tensor:
        """[B]: not below 0 where the draft is accepted."""
        assert self.off is not None and self.z is not None
        delta = self.off / self.size
        return -(dot(self.z, delta) + dot(delta, delta) / 2).flatten() - log_uniform

    def reflected(self) -> State:
        """Where a draft was not accepted; without one the solver's own state."""
        if self.off is None or self.z is None:
            return self.state
        assert self.state.y is not None
        along = project(self.size * self.z, self.off)
        return replace(self.state, y=self.state.y - (2 * along).to(self.state.y))


class _Draws:
    """One image's draws of a run, from those of the whole batch, whose images may stand at different ones."""

    def __init__(self, draws: Kept, judging: Kept, like: Tensor, image: int) -> None:
        self.draws, self.judging, self.like = draws, judging, like
        self.rows = slice(image, image + 1)
        self.deviation = draws.deviation

    def __call__(self, position: int, like: Tensor) -> Tensor:
        """[1, …], as the solver gets it."""
        return self.draws(position, self.like)[self.rows]

    def log_uniform(self, position: int) -> Tensor:
        """[1]: of the uniform number that judges this draw, the distribution function of a normal of its own."""
        z = self.judging(JUDGED + position, self.like.new_empty((len(self.like), 1)))[self.rows, 0]
        return torch.special.log_ndtr(wide(z) / self.deviation)


class _Chain:
    """One image: its state with the y that comes next, guesses of D from there on, and the draft of this round."""

    def __init__(self, plan: Plan, state: State, draws: _Draws) -> None:
        self.plan, self.draws = plan, draws
        self.state = plan.formed(state, draws)
        self.ahead = sum(stage.evaluate for stage in plan.stages[state.stage :])
        self.guesses: list[Tensor] = []
        self.drafted: list[tuple[Tensor, Ask]] = []
        self.answers: list[Tensor] = []
        self.steps: list[_Step] = []

    def draft(self, window: int) -> int:
        """How many states it asks: the next, and those that follow from guesses; one that is done repeats its last."""
        if not self.ahead:
            self.drafted = self.drafted[-1:]
            return 1
        program = self.plan.walk(self.state, self.draws)
        self.drafted = [next(program)]
        for guess in self.guesses[: min(window, self.ahead) - 1]:
            self.drafted.append(program.send(guess))
        program.close()
        return len(self.drafted)

    def judge(self, answers: Sequence[Tensor]) -> list[Tensor]:
        """The margins [1] of the drafted steps, each as if those before were accepted."""
        self.answers = list(answers[: len(self.drafted)]) if self.ahead else []
        self.steps, margins, state = [], [], self.state
        for d, draft in zip_longest(self.answers, self.drafted[1 : len(self.answers)]):
            walk = self.plan.walk(state, self.draws, state.stage + 1)
            state = self.plan.formed(ended(walk, (d,)), self.draws)
            if draft is None:
                self.steps.append(_Step(state))
                break
            step = self._step(state, draft[0])
            self.steps.append(step)
            margins.append(step.margin(self.draws.log_uniform(state.draws)))
            state = replace(state, y=draft[0])
        return margins

    def _step(self, state: State, draft: Tensor) -> _Step:
        assert state.y is not None
        size = self.plan.stages[state.stage].noise * self.draws.deviation
        z = wide(self.draws(state.draws, draft)) / self.draws.deviation
        return _Step(state, wide(draft) - wide(state.y), z, size)

    def take(self, accepted: int) -> list[tuple[Tensor, Ask, Tensor]]:
        """The states that now stand with what was answered there; the chain moves on behind them."""
        taken = accepted + 1
        stand = [
            (y, ask, d) for (y, ask), d in zip(self.drafted, self.answers[:taken], strict=False)
        ]
        self.state = self.steps[accepted].reflected()
        self.ahead -= taken
        later = self.answers[taken:]
        self.guesses = later + [self.answers[-1]] * (self.ahead - len(later))
        return stand

    def end(self) -> State:
        """The state after every stage."""
        return ended(self.plan.walk(self.state, self.draws), ())


class _Batch:
    """The chains of a run, and what of them is to be reported: a step once all images have taken it."""

    def __init__(self, plan: Plan, state: State, noise: DrawNoise) -> None:
        like, kept, judging = state.anchors[0], Kept(noise), Kept(noise)
        self.chains = [
            _Chain(plan, state.image(i), _Draws(kept, judging, like, i)) for i in range(len(like))
        ]
        self.told: dict[int, dict[int, tuple[Tensor, Ask, Tensor]]] = {}
        self.count = DraftCount(0, 0, self.ahead)

    @property
    def ahead(self) -> int:
        """Evaluations that the image furthest behind has not taken."""
        return max(chain.ahead for chain in self.chains)

    def asked(self, window: int) -> tuple[Tensor, Ask]:
        """The next states of all images, one of each after the other."""
        slots = max([chain.draft(window) for chain in self.chains])
        rows = [c.drafted[min(j, len(c.drafted) - 1)] for j in range(slots) for c in self.chains]
        size, levels = len(self.chains), [ask.sigma for _, ask in rows]
        states = levels[::size]
        if levels == [level for level in states for _ in range(size)]:
            levels = states if slots > 1 else []
        behind = min((ask for _, ask in rows), key=lambda ask: ask.step)
        ask = replace(rows[0][1], step=behind.step, begins=False, levels=tuple(levels), batch=size)
        count = self.count
        self.count = replace(count, rounds=count.rounds + 1, evaluations=count.evaluations + slots)
        return torch.cat([y for y, _ in rows]), ask

    def take(self, margins: Sequence[Sequence[Tensor]], numbers: Sequence[float]) -> None:
        """Every image moves on behind the first of its drafts that was not accepted: ``numbers`` are the ``margins``."""
        numbers = list(numbers)
        for i, (chain, own) in enumerate(zip(self.chains, margins, strict=True)):
            met = [numbers.pop(0) >= 0 for _ in own]
            if not chain.ahead:
                continue
            accepted = met.index(False) if False in met else len(met)
            judged = min(accepted + 1, len(met))
            self.count = replace(
                self.count,
                accepted=self.count.accepted + accepted,
                judged=self.count.judged + judged,
            )
            for y, ask, d in chain.take(accepted):
                if ask.begins:
                    self.told.setdefault(ask.step, {})[i] = y, ask, d

    def passed(self) -> Iterator[Progress]:
        """The steps that all images have taken by now and had not before."""
        for step in sorted(self.told):
            if len(self.told[step]) == len(self.chains):
                told = self.told.pop(step)
                ys, asks, ds = zip(*(told[i] for i in range(len(self.chains))), strict=True)
                yield Progress(step, asks[0].steps, torch.cat(ys), asks[0].level, torch.cat(ds))

    def end(self) -> State:
        """The state after every stage."""
        return joined([chain.end() for chain in self.chains])


def wide(x: Tensor) -> Tensor:
    """x for sums over an image: float32 at least."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
