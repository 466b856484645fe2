"""Plans: a solver written as a table of numbers, and the program that walks it.

A stage forms one state and may evaluate the denoiser there:

    y = Σ_j x_j·anchor_j + Σ_j d_j·D_j + noise·z        (newest anchor and newest D first)
        + the terms' frequency bands, channels mixed    (fitted solvers only, see ``band_mix.py``)
    commit:   y becomes the newest anchor
    evaluate: D(y) becomes the newest entry of the history

Almost every published solver is such a table, so a solver never loops: it plans. The numbers are
Python floats computed once, in float64; ``walk`` forms the states (see ``kernels.py``) and asks for D at
each (see ``run.py``), without device synchronisation, and ends in a state that another walk continues bit
for bit.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..noise import DrawNoise, Span
from ..path import Path, Point, rescale
from ..points import host_sigmas
from ..text_table import markdown_table
from .band_mix import Mix, Spectra
from .kernels import ANCHOR, DATA, Move, moves
from .run import Ask, Run, drive
from .state import State


@dataclass(frozen=True)
class Stage:
    """One row of a plan. ``at`` is the noise level of the state it forms; ``step`` counts from 0."""

    step: int
    at: Point
    x: tuple[float, ...] = (1.0,)
    d: tuple[float, ...] = ()
    noise: float = 0.0
    commit: bool = True
    evaluate: bool = True
    noise_label: Point | None = None
    mix: Mix | None = None

    @property
    def sigma(self) -> float:
        """The noise level the denoiser is told: that of the state, unless ``noise_label`` says another."""
        return (self.noise_label or self.at).sigma


@dataclass(frozen=True)
class Plan:
    """A solver's table for one run.

    ``order`` is the order of accuracy its solver claims, ``clip_x0`` (0 = off) limits every D to
    [−clip_x0, clip_x0] before it is used. The run starts with one anchor at ``start``.
    """

    solver: str
    path: Path
    start: Point
    stages: tuple[Stage, ...]
    order: int
    clip_x0: float = 0.0

    @property
    def nfe(self) -> int:
        """Denoiser evaluations of the whole run."""
        return sum(stage.evaluate for stage in self.stages)

    @property
    def stochastic(self) -> bool:
        """Whether any stage draws noise."""
        return any(stage.noise for stage in self.stages)

    @cached_property
    def steps(self) -> int:
        return max((stage.step + 1 for stage in self.stages if stage.evaluate), default=0)

    @cached_property
    def spans(self) -> tuple[Span, ...]:
        """Between which levels each noise draw of the run is made, as (κ, κ'): the part of its stage's way down that no
        earlier draw was made for, so that no two overlap. None: there is none (noise put back, a second draw)."""
        spans: list[Span] = []
        here = lowest = self.start.kappa
        for stage in self.stages:
            to = stage.at.kappa
            if stage.noise:
                top = min(here, lowest)
                spans.append((top, to) if to < top else None)
                lowest = min(lowest, to)
            if stage.commit:
                here = to
        return tuple(spans)

    @cached_property
    def moves(self) -> tuple[Move, ...]:
        """The stages, ready to run."""
        return moves(self.stages, self.clip_x0)

    @cached_property
    def reach(self) -> tuple[int, int]:
        """How many states and predictions a run keeps."""
        names = [name for move in self.moves for name in move.names]
        far = [
            1 + max((back for kind, back in names if kind == k), default=0) for k in (ANCHOR, DATA)
        ]
        return far[0], far[1]

    def solve(self, run: Run, x: Tensor) -> Tensor:
        """The state at the last level of a run from x [B, …] at ``start``. x is not modified."""
        return self.advance(run, State((x,))).x

    def advance(self, run: Run, state: State, until: int | None = None) -> State:
        """The state after stages ``state.stage`` … ``until`` (default: all)."""
        return drive(self.walk(state, run.noise, until), run)

    def walk(
        self, state: State, noise: DrawNoise | None = None, until: int | None = None
    ) -> Generator[tuple[Tensor, Ask], Any, State]:
        """The questions of stages ``state.stage`` … ``until`` (default: all); ends in the state after them."""
        if self.stochastic and noise is None:
            raise ValueError(f"{self.solver} draws noise: pass a noise source")
        anchors, history, draws, ready = (
            list(state.anchors), list(state.history), state.draws, state.y,
        )  # fmt: skip
        keep_x, keep_d = self.reach
        last = len(self.moves) if until is None else max(until, state.stage)
        spectra = Spectra() if any(m.mix for m in self.moves) else None
        for move in self.moves[state.stage : last]:
            if ready is None:
                y, draws = form(move, anchors, history, noise, draws, spectra)
            else:
                y, ready = ready, None
            if move.retire is not None:
                history[0] = torch.sub(anchors[0], history[0], alpha=move.retire)
            if move.commit:
                anchors.insert(0, y)
                del anchors[keep_x:]
            if move.ask is None:
                continue
            d = yield y, move.ask
            history.insert(0, d)
            del history[keep_d:]
            if spectra is not None:
                spectra.forget(anchors, history)
        if ready is not None:  # no stage was run
            return state
        return State(tuple(anchors), tuple(history), last, draws)

    def formed(self, state: State, noise: DrawNoise | None = None) -> State:
        """``state`` with the y of its next stage; after every stage itself."""
        if state.stage >= len(self.moves) or state.y is not None:
            return state
        move = self.moves[state.stage]
        y, draws = form(move, state.anchors, state.history, noise, state.draws)
        return replace(state, y=y, draws=draws)

    def arrive(self, state: State, level: Point, noise: DrawNoise | None = None) -> State:
        """``state`` before a stage that starts from ``level``, with that stage's y formed and x at the level.

        The stage may lie above its level (churn raises it by fresh noise); without that noise it is the
        state at the level, scaled by ``lift``.
        """
        if state.stage >= len(self.moves) or state.y is not None:
            return state
        move, at = self.moves[state.stage], self.stages[state.stage].at
        made = self.formed(state, noise)
        if math.isclose(at.sigma, level.sigma, rel_tol=1e-9):
            return replace(made, arrived=made.y)
        lift = at.alpha / level.alpha
        x = form(move, state.anchors, state.history, None, 0)[0] / lift
        return replace(made, arrived=x, lift=lift)

    def on(self, path: Path) -> Plan:
        """The same plan in another path's coordinates: x there is c·x here, so weights scale by c."""
        if path == self.path:
            return self
        start, c = rescale(self.start, path)
        scales, stages = [c], []
        for stage in self.stages:
            at, c = rescale(stage.at, path)
            stages.append(
                replace(
                    stage,
                    at=at,
                    noise_label=stage.noise_label and path.at(stage.noise_label.kappa),
                    x=tuple(w * c / s for w, s in zip(stage.x, scales, strict=False)),
                    d=tuple(w * c for w in stage.d),
                    noise=stage.noise * c,
                    mix=stage.mix and stage.mix.scaled([c / s for s in scales], c),
                )
            )
            if stage.commit:
                scales.insert(0, c)
        return replace(self, path=path, start=start, stages=tuple(stages))

    def rows(self) -> Iterator[dict[str, float | int | str]]:
        """The table as one flat record per stage, for printing, saving and plotting.

        σ is the noise level as SIGMAS carries it; path α and path σ are the two coefficients on this plan's path,
        in which its weights are stated.
        """
        levels = host_sigmas(self.path, [stage.at.kappa for stage in self.stages])
        for i, (stage, sigma) in enumerate(zip(self.stages, levels, strict=True)):
            row: dict[str, float | int | str] = {"stage": i, "step": stage.step, "σ": sigma}
            row |= {"path α": stage.at.alpha, "path σ": stage.at.sigma}
            row |= {f"x[{j}]": w for j, w in enumerate(stage.x)}
            row |= {f"D[{j}]": w for j, w in enumerate(stage.d)}
            if stage.mix:
                row |= {"mix": repr(stage.mix)}
            yield row | dict(
                noise=stage.noise, commit=int(stage.commit), evaluate=int(stage.evaluate)
            )

    def columns(self) -> list[str]:
        """The names in :meth:`rows`, of all stages, in reading order."""
        kept = [
            max((len(s.x) for s in self.stages), default=0),
            max((len(s.d) for s in self.stages), default=0),
        ]
        history = [
            f"{name}[{j}]" for name, count in zip("xD", kept, strict=True) for j in range(count)
        ]
        history += ["mix"] if any(s.mix for s in self.stages) else []
        return ["stage", "step", "σ", "path α", "path σ", *history, "noise", "commit", "evaluate"]

    def table(self, digits: int = 6) -> str:
        """The plan as a Markdown table."""
        order = self.columns()
        cell = lambda v: f"{v:.{digits}f}" if isinstance(v, float) else v  # noqa: E731
        rows = ([cell(row.get(name, "")) for name in order] for row in self.rows())
        return markdown_table(order, rows).rstrip("\n")


def form(
    move: Move,
    anchors: Sequence[Tensor],
    history: Sequence[Tensor],
    noise: DrawNoise | None,
    draws: int,
    spectra: Spectra | None = None,
) -> tuple[Tensor, int]:
    """(state of this stage, noise draws made so far)."""
    y = move.form(anchors, history)
    if move.mix is not None:
        y = y + move.mix.apply(anchors, history, spectra or Spectra())
    if not move.noise or noise is None:
        return y, draws
    z = noise(draws + 1, anchors[0])
    if move.borrows:
        return torch.add(y, z, alpha=move.noise), draws + 1
    return y.add_(z, alpha=move.noise), draws + 1
