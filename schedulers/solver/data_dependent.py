"""Solvers that are not tables, since what they do next depends on the data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..noise import DrawNoise
from ..points import Points
from .base import Solver
from .run import Program
from .state import State


@dataclass(frozen=True)
class DataDependent(Solver):
    """Base class: a subclass writes ``walk`` in place of ``plan``."""

    planned: ClassVar[bool] = False

    def walk(
        self, points: Points, state: State, noise: DrawNoise | None = None, level: int | None = None
    ) -> Program[State]:
        """The questions from ``state``, whose ``stage`` is the number of its noise level, on to ``level``
        (default: the last), in the coordinates of ``points.path``; ends in the state there."""
        raise NotImplementedError

    def steps(
        self, points: Points, state: State, noise: DrawNoise | None = None, level: int | None = None
    ) -> Program[State]:
        return self.walk(points.host, state, noise, level)
