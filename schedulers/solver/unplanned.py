"""Solvers that are not tables, since what they do next depends on the data, and how they call the denoiser."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..path import Point
from ..points import Points
from .base import Solver
from .plan import Denoise, DrawNoise, Progress, State, not_finite


@dataclass(frozen=True)
class Unplanned(Solver):
    """Base class: a subclass writes ``walk`` in place of ``plan``."""

    planned: ClassVar[bool] = False

    def walk(
        self,
        points: Points,
        denoise: Denoise,
        state: State,
        noise: DrawNoise | None = None,
        callback: Callable[[Progress], None] | None = None,
        check: Callable[[], None] | None = None,
        level: int | None = None,
    ) -> State:
        """From ``state``, whose ``stage`` is the number of its noise level, on to ``level`` (default: the
        last), in the coordinates of ``points.path``."""
        raise NotImplementedError

    def solve(
        self,
        points: Points,
        denoise: Denoise,
        x: Tensor,
        noise: DrawNoise | None = None,
        callback: Callable[[Progress], None] | None = None,
        check: Callable[[], None] | None = None,
    ) -> Tensor:
        return self.walk(points.host, denoise, State((x,)), noise, callback, check).x

    def advance(
        self,
        points: Points,
        denoise: Denoise,
        state: State,
        noise: DrawNoise | None = None,
        callback: Callable[[Progress], None] | None = None,
        check: Callable[[], None] | None = None,
        level: int | None = None,
    ) -> State:
        return self.walk(points.host, denoise, state, noise, callback, check, level)


class Evaluations:
    """D(y, σ) in y's dtype, counted; ``check`` runs before each. Raises ValueError for a wrong shape.

    Whether a D was finite is known when :meth:`settle` reads it back.
    """

    def __init__(self, denoise: Denoise, check: Callable[[], None] | None = None) -> None:
        self.denoise, self.check, self.count = denoise, check, 0
        self._unread: list[tuple[str, float, torch.dtype, Tensor]] = []

    def __call__(self, y: Tensor, at: Point, rows: slice = slice(None)) -> Tensor:
        """``rows`` of the prediction for the whole batch y [B, …]; the others are not looked at."""
        if self.check is not None:
            self.check()
        d = self.denoise(y, at.sigma)
        if d.shape != y.shape:
            raise ValueError(
                f"the denoiser returned shape {tuple(d.shape)} for x of shape {tuple(y.shape)}"
            )
        self.count += 1
        d = d[rows]
        total = d.sum(dtype=torch.float32)
        self._unread.append((f"evaluation {self.count}", at.sigma, d.dtype, total))
        return d.to(y.dtype)

    def settle(self, *numbers: Tensor) -> list[float]:
        """0-d tensors as floats, in the one transfer that also tells whether all D so far were finite.

        Raises FloatingPointError for the first that was not.
        """
        unread, self._unread = self._unread, []
        waiting = [*numbers, *(total for *_, total in unread)]
        if not waiting:
            return []
        values = torch.stack([v.float() for v in waiting]).tolist()
        for (where, sigma, dtype, _), total in zip(unread, values[len(numbers) :], strict=True):
            if not math.isfinite(total):
                raise not_finite(where, sigma, dtype)
        return values[: len(numbers)]
