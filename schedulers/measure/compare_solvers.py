"""Several solvers side by side: how far each ends from a reference, and what it cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from ..path import Path
from ..text_table import text_table
from . import plain
from .error import rms
from .trace import Trace, numbers


@dataclass(frozen=True)
class Entry:
    """One run and its name; ``errors``: root mean square distance from the reference, per image."""

    name: str
    trace: Trace
    errors: tuple[float | None, ...] = ()

    @property
    def error(self) -> float | None:
        there = [e for e in self.errors if e is not None]
        return sum(there) / len(there) if there else None

    @property
    def per_image(self) -> float:
        """Seconds."""
        return self.trace.seconds / max(len(self.trace.end), 1)

    @property
    def intervals(self) -> int:
        """Steps that its SIGMAS asked for."""
        return max(len(self.trace.sigmas) - 1, 0)

    def facts(self) -> dict[str, Any]:
        """For JSON."""
        clean: dict[str, Any] = plain(
            dict(
                name=self.name, steps=self.intervals, nfe=self.trace.nfe, seconds=self.trace.seconds,
                seconds_per_image=self.per_image, error=self.error, errors=list(self.errors),
                stochastic=self.trace.stochastic, sigmas=list(self.trace.sigmas),
            )
        )  # fmt: skip
        return clean


def entry(name: str, trace: Trace, reference: Trace | None) -> Entry:
    """Raises ValueError if the two runs end at different noise levels or in different shapes."""
    if reference is None:
        return Entry(name, trace)
    ends = [t.sigmas[-1] for t in (trace, reference)]
    if ends[0] != ends[1]:
        raise ValueError(
            f"{name}: its SIGMAS end at {ends[0]:g}, those of the reference at {ends[1]:g}; they must end alike"
        )
    return Entry(name, trace, numbers(rms(trace.end - reference.end)))


def refined(path: Path, sigmas: Sequence[float], steps: int) -> list[float]:
    """``sigmas`` with every step divided evenly in log κ, so that there are ``steps`` or more of them.

    A step to 0 stays whole: a network is not trained below the last positive level.
    """
    parts = max(1, math.ceil(steps / max(len(sigmas) - 1, 1)))
    levels = [float(s) for s in sigmas[:1]]
    for a, b in pairwise(map(float, sigmas)):
        p, q = path.on(a).kappa, path.on(b).kappa
        if b > 0 and a > 0:
            shares = (i / parts for i in range(1, parts))
            levels += [
                path.at(p ** (1 - t) * q**t).sigma if math.isfinite(p) else a + (b - a) * t
                for t in shares
            ]
        levels.append(b)
    return levels


def text(entries: Sequence[Entry], reference: Entry | None) -> str:
    """A row per run, and what the errors are measured against."""
    header = ("solver", "steps", "NFE", "error", "s per image")
    rows = [
        (
            e.name + (" *" if e.trace.stochastic else ""), e.intervals, e.trace.nfe,
            e.error, e.per_image,
        )
        for e in entries
    ]  # fmt: skip
    lines = [text_table(header, rows)]
    if reference is not None:
        lines.append(
            f"error: root mean square distance from {reference.name} with {reference.trace.nfe} evaluations"
        )
    if any(e.trace.stochastic for e in entries):
        lines.append("* draws noise: its distance from an ODE's result is no error")
    return "\n".join(lines)
