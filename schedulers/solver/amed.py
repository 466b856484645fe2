"""AMED: one well-chosen direction per step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from ..number_list import words
from ..path import Flow
from ..points import Points
from ..settings import knob
from .base import Solver
from .formula import Builder
from .plan import Plan


@dataclass(frozen=True)
class AMED(Solver):
    """AMED-Solver: a whole step along one direction that is taken inside it.

    From σ to σ': an Euler step to τ = σ'^r·σ^(1−r), D there (told the level a·τ), and the whole step
    along that direction scaled by c. r, c and a are one number per step, the last one repeated: values
    that a fit found for a model. Vectors have no mean value theorem: the step is nearly right because
    trajectories nearly lie in a plane, as the paper measures. r = ½, c = a = 1 is DPM-Solver-2 with the geometric midpoint.
    """

    title: ClassVar[str] = "AMED"
    aliases: ClassVar[tuple[str, ...]] = (
        "amed",
        "mean value theorem",
        "AMED-Solver",
        "learned solver",
    )
    paper: ClassVar[str] = "Zhou et al. 2024 (arXiv 2312.00094), eq. 8-11"
    equals: ClassVar[str] = "AMED-Solver without its network; r = 1/2: ComfyUI dpm_2"
    positions: str = knob("0.5", "r per step, between 0 and 1: where the direction is taken.")
    scales: str = knob("1", "c per step: factor on the step.")
    levels: str = knob("1", "a per step: factor on the noise level the network is told.")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, low, high in (
            ("positions", 0.0, 1.0),
            ("scales", 0.0, 10.0),
            ("levels", 0.1, 10.0),
        ):
            for value in numbers(name, getattr(self, name)):
                if not low < value < high:
                    raise ValueError(f"AMED: {name} = {value}: must lie between {low} and {high}")

    @property
    def order(self) -> int:
        """2 at the default numbers; fitted ones are made for few steps, not for many."""
        settings = [numbers(n, getattr(self, n)) for n in ("positions", "scales", "levels")]
        return 2 if settings == [(0.5,), (1.0,), (1.0,)] else 0

    def nfe(self, steps: int) -> int:
        return 2 * steps - 1

    def plan(self, points: Points) -> Plan:
        self._check(points)
        grid = points.host
        build = Builder(self, grid)
        x = build.start
        r, c, a = (numbers(n, getattr(self, n)) for n in ("positions", "scales", "levels"))
        for i, (p, q) in enumerate(grid.steps):
            x, d = build.advance(x, p, i)
            if q.sigma == 0:
                x = d
                continue
            tau = q.sigma ** pick(r, i) * p.sigma ** (1 - pick(r, i))
            middle = x + (tau - p.sigma) / p.sigma * (x - d)
            level = tau * pick(a, i)
            noise_label = grid.path.on(min(level, 1.0) if grid.path == Flow() else level)
            d = build.evaluate(middle, grid.path.on(tau), i, noise_label)
            x = x + pick(c, i) * (q.sigma - p.sigma) / tau * (middle - d)
        return build.finish(x).on(points.path)


def numbers(name: str, text: str) -> tuple[float, ...]:
    """Numbers separated by commas or spaces; ValueError naming the field otherwise."""
    try:
        values = tuple(float(word) for word in words(text))
    except ValueError:
        values = ()
    if not values or not all(math.isfinite(v) for v in values):
        raise ValueError(f"AMED: {name} = {text!r}: give one number per step, separated by commas")
    return values


def pick(values: tuple[float, ...], i: int) -> float:
    """Entry i, or the last one."""
    return values[min(i, len(values) - 1)]
