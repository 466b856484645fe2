"""Levels by the name of the model that they were made for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..noise_schedule import Array, NoiseSchedule
from ..path import Flow
from ..points import Points
from ..settings import knob
from .levels import Spacing
from .named_rows import BY_NAME, ROWS, Levels, Row
from .written import monotone_cubic

NEAR = 1e-3  # lists are printed with few digits: their first level may lie this much above a schedule's largest


@dataclass(frozen=True)
class Named(Spacing):
    """The published levels of a model: Align Your Steps, GITS, optimal steps, LCM, and the lists of distilled models.

    A number of steps that was not published is read off the monotone cubic through the list, in log σ; LCM and Turbo
    take levels of theirs. docs/named-levels.md says where each list stands and which solver it was made for.
    """

    title: ClassVar[str] = "named list"
    aliases: ClassVar[tuple[str, ...]] = (
        "vendor sigmas", "distilled", *(word for row in ROWS for word in (row.name, *row.words)),
    )  # fmt: skip
    name: str = knob(
        ROWS[0].name,
        "Whose levels: the model's own list, or one searched for it.",
        options=tuple(BY_NAME),
    )

    def levels(self, schedule: NoiseSchedule, n: int) -> Array:
        return self._kappas(schedule, n, BY_NAME[self.name].closed)

    def to_smallest(self, schedule: NoiseSchedule, n: int) -> Array:
        """The list with its last level, where that is the model's smallest."""
        return self._kappas(schedule, n + 1, False)

    def between(self, schedule: NoiseSchedule, n: int, first: float, last: float) -> Array:
        raise ValueError("a named list says itself where it begins and ends: set ends = schedule")

    def _kappas(self, schedule: NoiseSchedule, n: int, ends: bool) -> Array:
        row = BY_NAME[self.name]
        self._check(row, schedule)
        numbers = picked(row, n, schedule, ends)
        top = Points(schedule.path, (schedule.kappa_max,)).sigmas()[0]
        if numbers[0] > top * (1 + NEAR):
            raise ValueError(
                f"{self.where('name')}: the list starts at σ = {numbers[0]:g}, but the noise schedule ends at "
                f"{top:g}; it is for {row.model}: choose the list of your model"
            )
        return np.array(Points.from_sigmas(schedule.path, np.minimum(numbers, top)).kappas)

    def _check(self, row: Row, schedule: NoiseSchedule) -> None:
        flow = isinstance(schedule.path, Flow)
        if flow != (row.unit == "flow"):
            paths = ("rectified flow", "VP or VE") if flow else ("VP or VE", "rectified flow")
            raise ValueError(
                f"{Named.title}: name = {row.name!r}: the noise schedule is {paths[0]}, but the list is for {row.model}, which is "
                f"{paths[1]}; choose the list of your model"
            )
        if row.unit == "timestep" and not (schedule.discrete and schedule.t_max == 999):
            raise ValueError(
                f"{Named.title}: name = {row.name!r}: the list holds timesteps of a table of 1000, which this noise schedule "
                f"({schedule.title}) does not have; use the schedule of {row.model}"
            )


def picked(row: Row, n: int, schedule: NoiseSchedule, ends: bool) -> Array:
    """n σ of SIGMAS; ``ends``: one more is the list's last level, and left out. Raises ValueError where there are too few."""
    if row.pick != "curve":
        return _sigmas(row, _taken(row, n), schedule)
    spare = int(ends)
    long = [levels for levels in row.lists if len(levels) >= n + spare]
    levels = long[0] if long else row.lists[-1]
    numbers = _sigmas(row, levels, schedule)
    if len(numbers) == 1 < n + spare:
        raise ValueError(
            f"{Named.title}: name = {row.name!r}: the list has one level and cannot be drawn out to {n + spare}; use 1 step, "
            "with denoise = 1 and final = zero"
        )
    return resampled(numbers, n + spare)[:n]


def resampled(sigmas: Array, count: int) -> Array:
    """``count`` levels on the monotone cubic through log σ of falling ``sigmas``, all above 0; the ends stay.

    A list of that many comes back as it is; one level cannot become several.
    """
    if count == len(sigmas):
        return sigmas
    places = np.linspace(0, len(sigmas) - 1, count)
    curve = np.exp(monotone_cubic(np.arange(float(len(sigmas))), np.log(sigmas), places))
    curve[0] = sigmas[0]
    if count > 1:
        curve[-1] = sigmas[-1]
    return curve


def _taken(row: Row, n: int) -> Levels:
    """n levels of the row's one list: spread evenly over it from the first on, or the first n."""
    levels = row.lists[0]
    if n > len(levels):
        raise ValueError(
            f"{Named.title}: name = {row.name!r}: steps = {n}; the list has {len(levels)} levels, which steps / denoise "
            "may not exceed (nor reach, with final = sigma_min)"
        )
    if row.pick == "first":
        return levels[:n]
    return tuple(levels[i] for i in np.linspace(0, len(levels), n, endpoint=False).astype(int))


def _sigmas(row: Row, levels: Levels, schedule: NoiseSchedule) -> Array:
    numbers = np.array(levels)
    return schedule.kappa(numbers) if row.unit == "timestep" else numbers
