"""The state of a run between two of its stages."""

from __future__ import annotations

from dataclasses import dataclass, replace

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
