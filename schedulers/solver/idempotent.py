"""Idempotent: x ← f(x) again and again."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..noise import DrawNoise
from ..points import Points
from ..settings import knob
from .data_dependent import DataDependent
from .run import Ask, Program, Read, Run, drive
from .state import State


@dataclass(frozen=True)
class Idempotent(DataDependent):
    """Repeats x ← f(x) with f = D at the noise level of the step: for one-step generators that are trained to leave their
    own results as they are, f(f(z)) = f(z).

    Every application after the first reports the residual ‖f(x) − x‖ per value, which is ‖f(f(z)) − f(z)‖;
    a generator that is idempotent has 0. With a diffusion MODEL, D at a low level pulls towards the data,
    and at a high one towards their mean; what comes out is no sample. The prediction is fed back as it
    is, without noise or scaling.
    """

    title: ClassVar[str] = "Idempotent"
    aliases: ClassVar[tuple[str, ...]] = (
        "IGN",
        "idempotent generative network",
        "one-step generator",
        "fixed point",
        "projection",
    )
    paper: ClassVar[str] = "Shocher et al. 2023 (arXiv 2311.01462)"
    equals: ClassVar[str] = "one application is any solver's run of one step"
    repeats: int = knob(
        2, "Applications of f at each noise level of SIGMAS above 0.", low=1, high=1000
    )
    tolerance: float = knob(
        0.0,
        "Goes on to the next level once every image's residual is at most this; 0: always all repeats.",
        low=0.0, high=1000.0, step=0.001,
    )  # fmt: skip

    @property
    def order(self) -> int:
        return 0

    def nfe(self, steps: int) -> int:
        """At most."""
        return steps * self.repeats

    def walk(
        self, points: Points, state: State, noise: DrawNoise | None = None, level: int | None = None
    ) -> Program[State]:
        done, steps = state.stage, len(points) - 1
        last = steps if level is None else level
        x = state.x / points[done].alpha if done else state.x
        x, residuals = yield from self.iterate(points, x, done, last, done > 0)
        if last > done and points[last].alpha:
            x = points[last].alpha * x  # a state at the level reached, whose data part is x
        if residuals:
            text = "; ".join(", ".join(f"{r:.3g}" for r in row) for row in residuals)
            logging.getLogger(__name__).info(
                f"Idempotent: ‖f(x) − x‖ per value of each image: {text}"
            )
        return State((x,), stage=max(done, last))

    def residuals(self, points: Points, run: Run, x: Tensor) -> list[list[float]]:
        """‖f(x) − x‖ per value before each application, for a picture x [B, …] as it is."""
        return drive(self.iterate(points, x, fed=True), run)[1]

    def iterate(
        self,
        points: Points,
        x: Tensor,
        start: int = 0,
        end: int | None = None,
        fed: bool = False,
    ) -> Program[tuple[Tensor, list[list[float]]]]:
        """Ends in f(…f(x)), and the residuals: a row per application after the first, one number per image.

        ``fed``: x is a prediction or a picture already, so that the first application has a residual too.
        """
        self._check(points)
        residuals: list[Tensor] = []
        steps = len(points) - 1
        end = steps if end is None else end
        for i in range(start, end):
            at = points[i]
            for _ in range(self.repeats if at.sigma else 0):
                d = yield x, Ask(at.sigma, i, steps)
                if fed:
                    residuals.append(rms(d - x))
                x, fed = d, True
                if self.tolerance and residuals:
                    (most,) = yield Read((residuals[-1].max(),))
                    if most <= self.tolerance:
                        break
        return x, torch.stack(residuals).tolist() if residuals else []


def rms(x: Tensor) -> Tensor:
    """Root mean square per image: [B]."""
    return x.flatten(1).float().square().mean(1).sqrt()
