"""The state of a run between two of its stages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class State:
    """Everything a run needs to go on: tensors newest first, the next stage, noise draws made.

    A run that stopped on arriving at a noise level has formed the next stage's ``y`` already. ``x`` is
    the state at that level; y moves by ``lift`` for every unit that x is moved.
    """

    anchors: tuple[Tensor, ...]
    history: tuple[Tensor, ...] = ()
    stage: int = 0
    draws: int = 0
    y: Tensor | None = None
    arrived: Tensor | None = None
    lift: float = 1.0

    @property
    def x(self) -> Tensor:
        """The state at the noise level that was reached."""
        return self.anchors[0] if self.arrived is None else self.arrived

    def moved(self, x: Tensor) -> State:
        """The same state and history with x in place of its own, which was edited in between."""
        if self.y is None:
            return replace(self, anchors=(x, *self.anchors[1:]))
        return replace(self, y=self.y + self.lift * (x - self.x), arrived=x)

    def image(self, i: int) -> State:
        """The state of one image of the batch, [1, …]."""
        rows = slice(i, i + 1)
        anchors, history = (tuple(t[rows] for t in ts) for ts in (self.anchors, self.history))
        y, arrived = (None if t is None else t[rows] for t in (self.y, self.arrived))
        return replace(self, anchors=anchors, history=history, y=y, arrived=arrived)


def joined(states: Sequence[State]) -> State:
    """The state of a batch, from those of its images after one and the same stage."""
    first = states[0]
    anchors = zip(*(state.anchors for state in states), strict=True)
    history = zip(*(state.history for state in states), strict=True)
    return State(
        tuple(map(torch.cat, anchors)), tuple(map(torch.cat, history)), first.stage, first.draws
    )
