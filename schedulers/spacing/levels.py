"""A run's noise levels from a schedule, a number of steps and a spacing."""

from __future__ import annotations

import numpy as np

from ..noise_schedule import Array, NoiseSchedule
from ..points import Points
from ..settings import Settings
from .run_ends import Ends, SkipLast, WholeRange

FINAL = ("zero", "sigma_min")


class Spacing(Settings):
    """Base class. ``levels`` gives n values of κ, largest first, the final zero not included."""

    def levels(self, schedule: NoiseSchedule, n: int) -> Array:
        raise NotImplementedError

    def to_smallest(self, schedule: NoiseSchedule, n: int) -> Array:
        """n + 1 values of κ for a run of n steps that ends at the smallest level in place of 0."""
        return self.levels(schedule, n + 1)

    def between(self, schedule: NoiseSchedule, n: int, first: float, last: float) -> Array:
        """n values of κ from ``first`` to ``last``, both within the schedule's range.

        Here: the spacing's own levels, stretched evenly in time; whole timesteps where the network knows no others.
        """
        times = schedule.time(self.levels(schedule, n))
        ends = schedule.time(np.array([first, last]))
        if n == 1:
            return time_levels(schedule, ends[:1])
        if times[0] == times[-1]:
            raise ValueError(f"{self!r}: all {n} levels are one here, there is nothing to stretch")
        share = (times[0] - times) / (times[0] - times[-1])
        return time_levels(schedule, ends[0] + (ends[1] - ends[0]) * share)

    def run(
        self, schedule: NoiseSchedule, n: int, denoise: float, to_zero: bool, ends: Ends
    ) -> list[float]:
        """κ of a run of n steps, as :func:`space` describes it; its last level above 0 is the end if not ``to_zero``."""
        total = max(int(n / denoise), n)
        kappas = _levels(schedule, n, total, self, to_zero, ends)
        taken = self.part(len(kappas) - 1, n, denoise) if denoise < 1 else len(kappas) - 1
        return kappas[-(taken + 1) :]

    def part(self, steps: int, n: int, denoise: float) -> int:
        """How many of a run's ``steps`` are taken below denoise = 1, the last ones, where n were asked for."""
        return n


def space(
    schedule: NoiseSchedule,
    n: int,
    spacing: Spacing,
    *,
    denoise: float = 1.0,
    final: str = "zero",
    ends: Ends | None = None,
) -> Points:
    """Noise levels of a run of ``n`` steps (n + 1 points).

    denoise in (0, 1]: as in ComfyUI, the last n steps of a run of int(n/denoise) steps, so the
    number of steps stays n and the start moves down. final: end at exactly 0, or at the last level
    above it. ends: where the run begins and which level is the last above 0, by default the spacing's own; below
    denoise = 1 a rule moves the last level only. Raises ValueError when n does not fit the schedule.
    """
    if n < 1:
        raise ValueError(f"steps = {n}: a run needs at least 1 step")
    if not 0 < denoise <= 1:
        raise ValueError(f"denoise = {denoise}: must be above 0 and at most 1")
    if final not in FINAL:
        raise ValueError(f"final = {final!r}: choose one of {', '.join(FINAL)}")
    kappas = spacing.run(schedule, n, denoise, final == "zero", ends or WholeRange())
    return Points(schedule.path, tuple(kappas))


def _levels(
    schedule: NoiseSchedule, n: int, total: int, spacing: Spacing, to_zero: bool, ends: Ends
) -> list[float]:
    """All levels of a run of ``total`` steps, of which the last ``n`` will be taken."""
    count = total if to_zero else total + 1
    if isinstance(ends, SkipLast):
        levels = spacing.levels(schedule, count + 1)
        skips = levels[-1] <= schedule.kappa_min * (1 + 1e-9)
        levels = levels[:-1] if skips else spacing.levels(schedule, count)
    elif not isinstance(ends, WholeRange):
        levels = spacing.between(schedule, count, *ends.range(schedule, n, total))
    elif to_zero:
        levels = spacing.levels(schedule, total)
    else:
        levels = spacing.to_smallest(schedule, total)
    return [*levels, 0.0] if to_zero else [*levels]


def time_levels(schedule: NoiseSchedule, times: Array) -> Array:
    """κ at the given times; rounded to whole timesteps where the network knows no others."""
    if not schedule.discrete:
        return schedule.kappa(times)
    whole = np.round(times)
    if len(np.unique(whole)) < len(whole):
        count = int(schedule.t_max) + 1
        raise ValueError(
            f"{len(times)} noise levels do not fit on whole timesteps here: the schedule has {count}. "
            "Use fewer steps, or a spacing in σ or λ"
        )
    return schedule.kappa(whole)
