"""A chain of rules, and one run of it: levels, memory, counting, and the evaluations themselves.

A host makes one per sampling run, ``run = guidance.begin(path, sigmas)``, and calls
``run(x, sigma, evaluate)`` for every D. Everything that changes during a run is here, and nothing
outlives it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..path import VE, Path
from ..per_image import dot, norm, ratio
from ..several_levels import answered, by_level
from .base import COND, UNCOND, Call, Evaluate, InAttention, Perturbation, Rule, leaf
from .level import Ladder, Level

#: every(x, sigmas, names) → D of every branch at states [len(sigmas)·B, …] of several levels, in one call.
EvaluateLevels = Callable[[Tensor, Sequence[float], Sequence[str]], Mapping[str, Tensor]]


@dataclass(frozen=True)
class Guidance:
    """A chain of rules; the empty chain is the conditional prediction itself.

    Order: rules that only add a term (PAG, SEG, Skip-Layer, Composition, Classifier) commute; others do
    not. What is usually meant: Perpendicular Negative, then one of CFG and its relatives, then rules that
    add, then Rescale and Dynamic Thresholding, and last DDNM, DPS or ΠGDM.
    """

    rules: tuple[Rule, ...] = ()

    def then(self, rule: Rule) -> Guidance:
        return Guidance((*self.rules, rule))

    @property
    def reads(self) -> frozenset[str]:
        """Every branch the chain may need in a run; always includes ``cond``."""
        return frozenset({COND}).union(*(rule.reads for rule in self.rules))

    @property
    def perturbations(self) -> dict[str, Perturbation]:
        """Branch name → what to do to the network while it is evaluated."""
        return {p.branch: p for rule in self.rules for p in rule.perturbations}

    @property
    def beside(self) -> frozenset[str]:
        """Every condition that goes along inside of calls of ``cond``."""
        return frozenset().union(*(rule.beside for rule in self.rules))

    def in_attention(self, at: Level) -> InAttention | None:
        """What is done inside the attention of ``cond``'s call at a level."""
        inside = [rule.in_attention(at) for rule in self.rules]
        return next((guide for guide in inside if guide is not None), None)

    def require_one_attention(self) -> None:
        """Raises ValueError where two rules change the attention of a run."""
        inside = [rule for rule in self.rules if rule.beside]
        others = [rule for rule in self.rules if rule.perturbations]
        if len(inside) > 1 or (inside and others):
            first, second = (inside + others)[:2]
            raise ValueError(
                f"guidance: {first.title} and {second.title} both change the attention of the model; one chain can have one "
                "of them"
            )

    def begin(
        self,
        path: Path | None = None,
        sigmas: Sequence[float] = (),
        *,
        share_pure_noise: bool = False,
        probe: bool = False,
    ) -> GuidanceRun:
        """The chain for one run over SIGMAS of a model on ``path``; see :class:`GuidanceRun`."""
        return GuidanceRun(self, path or VE(), sigmas, share_pure_noise, probe)

    def branches(self, sigma: float, path: Path | None = None) -> frozenset[str]:
        """Branches the chain needs at ``sigma`` (SIGMAS units) outside a run."""
        return self.begin(path).branches(sigma)

    def combine(
        self, x: Tensor, sigma: float, preds: Mapping[str, Tensor], path: Path | None = None
    ) -> Tensor:
        """One D from predictions, outside a run."""
        return self.begin(path).combine(x, sigma, preds)


@dataclass
class Record:
    """One evaluation of the chain: what was called, what was saved, and, if probed, what it did.

    ``calls`` counts network calls by branch. A network call is one branch at one x and σ for the whole batch,
    however many forward passes carry it: branches of one level share a pass where they can, and one that does
    not fit into memory takes several. So the number says what a run costs, alike on every host.
    ``reads`` are the branches the chain needs somewhere in the run, ``images`` is Σ calls·images per call
    and ``shared`` the images that sharing left out.
    Probed, per image [B]: ``delta`` = ‖D_c − D_u‖, ``cosine`` of D_c and D_u, and the effective weight
    ⟨D − D_u, D_c − D_u⟩/‖D_c − D_u‖² of the whole chain; None where ``uncond`` was not evaluated. ``own``: the images that
    stood at this level, if not all; the others have no numbers (NaN).
    """

    level: Level
    calls: Counter[str] = field(default_factory=Counter)
    reads: frozenset[str] = frozenset()
    images: int = 0
    shared: int = 0
    delta: Tensor | None = None
    cosine: Tensor | None = None
    weight: Tensor | None = None
    own: tuple[int, ...] | None = None

    @property
    def skipped(self) -> list[str]:
        """Branches that were not needed here, so not evaluated."""
        return sorted(self.reads - set(self.calls))

    def row(self) -> dict[str, Any]:
        """The record as JSON."""
        at = self.level
        row = dict(step=at.step, sigma=at.sigma, calls=dict(self.calls), skipped=self.skipped)
        values = dict(delta=self.delta, cosine=self.cosine, effective_weight=self.weight)
        return {**row, **{key: _numbers(value) for key, value in values.items()}}


def observed(cond: Tensor, uncond: Tensor, d: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(‖Δ‖, cos(D_c, D_u), effective weight), each [B], of a guided D; see :class:`Record`."""
    delta = cond - uncond
    cosine = ratio(dot(cond, uncond), norm(cond) * norm(uncond))
    return norm(delta), cosine, dot(d - uncond, delta) / dot(delta, delta)


def _numbers(values: Tensor | None) -> list[float | None] | None:
    """Finite numbers or None: JSON knows no others."""
    if values is None:
        return None
    return [v if math.isfinite(v) else None for v in values.flatten().tolist()]


class GuidanceRun:
    """A chain during one run.

    ``guidance`` may be replaced between calls by a chain of the same length (ComfyUI's CFG Override).
    ``share_pure_noise``: at α = 0 (flow, t = 1) an exact D is E[x0 | condition] and does not depend on
    x, so one image is evaluated and used for the whole batch. Only for batches with one and the same
    condition; a network that is not exact there then gives each image the first one's prediction.
    ``probe``: keep ‖Δ‖, cosine and effective weight of every evaluation. ``keep_graph`` (set it before the
    first call): D can be differentiated by x, for those who fit a solver through the model. ``error``: what the run
    estimates of its own, once it is done (``measure/run_error.py``).
    """

    keep_graph = False
    error: Any = None

    def __init__(
        self,
        guidance: Guidance,
        path: Path,
        sigmas: Sequence[float],
        share_pure_noise: bool = False,
        probe: bool = False,
    ) -> None:
        self.guidance, self.ladder = guidance, Ladder.make(path, sigmas)
        self.share_pure_noise, self.probe = share_pure_noise, probe
        self.memory: list[dict[str, Tensor]] = [{} for _ in guidance.rules]
        self.records: list[Record] = []

    def remembered(self) -> dict[str, Tensor]:
        """What the rules keep between evaluations, by rule and name; for :meth:`go_on`."""
        rules = zip(self.guidance.rules, self.memory, strict=True)
        return {
            f"{i}.{type(rule).__name__}.{name}": value
            for i, (rule, memory) in enumerate(rules)
            for name, value in memory.items()
        }

    def go_on(self, sigmas: Sequence[float], remembered: Mapping[str, Tensor]) -> None:
        """This is a part of a run over ``sigmas``, with what the rules kept in the parts before; a rule of another kind
        in the place of one starts anew."""
        self.ladder = Ladder.make(self.ladder.path, sigmas)
        for i, rule in enumerate(self.guidance.rules):
            start = f"{i}.{type(rule).__name__}."
            mine = {k.removeprefix(start): t for k, t in remembered.items() if k.startswith(start)}
            self.memory[i] = mine

    def __call__(self, x: Tensor, sigma: float, evaluate: Evaluate) -> Tensor:
        """D [B, …] at x, with every branch from ``evaluate`` (see ``base.Evaluate``)."""
        with self.scope(x, sigma) as x:
            return self.combine(x, sigma, self.predict(x, sigma, evaluate), evaluate)

    def branches(self, sigma: float) -> frozenset[str]:
        """Branches needed at ``sigma`` (SIGMAS units); always includes ``cond``."""
        at = self.ladder.at(sigma)
        return frozenset({COND}).union(*(rule.branches(at) for rule in self.guidance.rules))

    @contextmanager
    def scope(self, x: Tensor, sigma: float) -> Iterator[Tensor]:
        """Where a rule needs D as a function: gradients on, and x as a leaf. Elsewhere x itself."""
        at = self.ladder.at(sigma)
        if not any(rule.gradient and rule.active(at) for rule in self.guidance.rules):
            yield x
            return
        with leaf(x) as x:
            yield x

    def predict(
        self, x: Tensor, sigma: float, evaluate: Evaluate, also: Sequence[str] = ()
    ) -> Mapping[str, Tensor]:
        """The branches needed at ``sigma``, and those the host wants ``also``, in one call."""
        names = self.branches(sigma).union(also)
        self.records.append(Record(self.ladder.at(sigma), reads=self.guidance.reads))
        return self._counted(evaluate, x, sigma, sorted(names))

    def together(self, sigmas: Sequence[float]) -> bool:
        """Whether one call of the network can hold states of these levels: not where a rule needs a gradient, acts inside
        of the network by level, or one image stands for all."""
        levels = [self.ladder.at(sigma) for sigma in sigmas]
        apart = [rule.gradient or bool(rule.beside) for rule in self.guidance.rules]
        return not any(apart) and not (
            self.share_pure_noise and any(a.point.alpha == 0 for a in levels)
        )

    def several(
        self, x: Tensor, sigmas: Sequence[float], evaluate: Evaluate, every: EvaluateLevels, batch: int = 0
    ) -> Tensor:  # fmt: skip
        """D of states x [len(sigmas)·B, …], level by level, or of rows at levels of their own (see ``several_levels.py``): the
        branches by one call of ``every``, each level combined by itself.

        Raises ValueError for a rule that remembers its evaluations: they come again and again, in no order."""
        names = sorted(frozenset().union(*map(self.branches, sigmas)))
        preds = every(x, sigmas, names)

        def one(rows: slice, sigma: float) -> Tensor:
            levels = sigmas[rows] if len(sigmas) == len(x) else [sigma] * len(x[rows])
            own = tuple(i for i, level in enumerate(levels) if level == sigma)
            record = Record(self.ladder.at(sigma), reads=self.guidance.reads)
            record.calls.update(names)
            record.images = len(names) * len(own)
            record.own = own if len(own) < len(levels) else None
            self.records.append(record)
            return self.combine(x[rows], sigma, {n: preds[n][rows] for n in names}, evaluate)

        out = answered(by_level(len(x), sigmas, batch), one)
        self.require_no_memory()
        return out

    def require_no_memory(self) -> None:
        """Raises ValueError where a rule remembers its evaluations."""
        for rule, memory in zip(self.guidance.rules, self.memory, strict=True):
            if memory:
                raise ValueError(
                    f"guidance: {rule.title} remembers its evaluations, which Parallel Steps (Picard) and Speculative Steps ask for again "
                    "and again: set its momentum to 0, or take the solver itself"
                )

    def _counted(
        self, evaluate: Evaluate, x: Tensor, sigma: float, names: Sequence[str]
    ) -> Mapping[str, Tensor]:
        at, record = self.ladder.at(sigma), self.records[-1]
        shared = self.share_pure_noise and at.point.alpha == 0
        once = x[:1] if shared else x
        preds = evaluate(once, sigma, names)
        record.calls.update(names)
        record.images += len(names) * len(once)
        record.shared += len(names) * (len(x) - len(once))
        return {n: preds[n].expand(x.shape) if shared else preds[n] for n in names}

    def combine(
        self,
        x: Tensor,
        sigma: float,
        preds: Mapping[str, Tensor],
        evaluate: Evaluate | None = None,
    ) -> Tensor:
        """One D from the predictions of :meth:`branches`; rules that are off are skipped.

        ``evaluate`` only for rules that evaluate the network again elsewhere.
        """
        at, d = self.ladder.at(sigma), preds[COND]
        again = None if evaluate is None else partial(self._counted, evaluate)
        for rule, memory in zip(self.guidance.rules, self.memory, strict=True):
            if rule.active(at):
                d = rule.apply(d, Call(x, at, self.ladder.path, preds, memory, again))
        if (
            d.requires_grad
            and not self.keep_graph
            and any(r.gradient and r.active(at) for r in self.guidance.rules)
        ):
            d = d.detach()  # the graph was for the rules; one that the caller asked for stays
        if self.probe and self.records and UNCOND in preds:
            self._observe(self.records[-1], preds[COND].detach(), preds[UNCOND].detach(), d)
        return d

    @staticmethod
    def _observe(record: Record, cond: Tensor, uncond: Tensor, d: Tensor) -> None:
        numbers = list(observed(cond, uncond, d))
        if record.own is not None:
            there = torch.zeros(len(d), dtype=torch.bool, device=d.device)
            there[list(record.own)] = True
            there = there.reshape(-1, *(1,) * (d.ndim - 1))
            numbers = [n.where(there, torch.nan) for n in numbers]
        record.delta, record.cosine, record.weight = numbers

    def numbers_at(self, sigma: float) -> tuple[Tensor | None, ...]:
        """(‖Δ‖, cosine, weight) [B] of each image's newest evaluation at ``sigma``; of the newest of all if there was none."""
        found: tuple[Tensor | None, ...] = ()
        for record in reversed(self.records):
            if record.level.sigma != sigma:
                continue
            numbers = record.delta, record.cosine, record.weight
            pairs = zip(found or numbers, numbers, strict=True)
            found = tuple(n if n is None or m is None else n.where(~n.isnan(), m) for n, m in pairs)
            if record.own is None:
                return found
        newest = self.records[-1]
        return found or (newest.delta, newest.cosine, newest.weight)

    def report(self) -> dict[str, Any]:
        """Network calls (see :class:`Record`) made and saved, and one row per evaluation; JSON, finite
        numbers only."""
        calls: Counter[str] = sum((r.calls for r in self.records), Counter())
        return dict(
            evaluations=len(self.records),
            network_calls=calls.total(),
            calls=dict(sorted(calls.items())),
            saved_calls=sum(len(r.skipped) for r in self.records),
            images=sum(r.images for r in self.records),
            shared_images=sum(r.shared for r in self.records),
            error=None if self.error is None else asdict(self.error),
            steps=[r.row() for r in self.records],
        )
