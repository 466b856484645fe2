"""A run's noise levels from a schedule, a number of steps and a spacing."""

from __future__ import annotations

import numpy as np

from ..noise_schedule import Array, NoiseSchedule
from ..points import Points
from ..settings import Settings

FINAL = ("zero", "sigma_min")


class Spacing(Settings):
    """Base class. ``levels`` gives n values of κ, largest first, the final zero not included."""

    def levels(self, schedule: NoiseSchedule, n: int) -> Array:
        raise NotImplementedError

    def to_smallest(self, schedule: NoiseSchedule, n: int) -> Array:
        """n + 1 values of κ for a run of n steps that ends at the smallest level in place of 0."""
        return self.levels(schedule, n + 1)

    def part(self, steps: int, n: int, denoise: float) -> int:
        """How many of a run's ``steps`` are taken below denoise = 1, the last ones, where n were asked for."""
        return n


def space(
    schedule: NoiseSchedule, n: int, spacing: Spacing, *, denoise: float = 1.0, final: str = "zero"
) -> Points:
    """Noise levels of a run of ``n`` steps (n + 1 points).

    denoise in (0, 1]: as in ComfyUI, the last n steps of a run of int(n/denoise) steps, so the
    number of steps stays n and the start moves down. final: end at exactly 0, or at the schedule's
    smallest noise level. Raises ValueError when n does not fit the schedule.
    """
    if n < 1:
        raise ValueError(f"steps = {n}: a run needs at least 1 step")
    if not 0 < denoise <= 1:
        raise ValueError(f"denoise = {denoise}: must be above 0 and at most 1")
    if final not in FINAL:
        raise ValueError(f"final = {final!r}: choose one of {', '.join(FINAL)}")
    total = max(int(n / denoise), n)
    kappas = [*spacing.levels(schedule, total), 0.0]
    if final == "sigma_min":
        kappas = [*spacing.to_smallest(schedule, total)]
    taken = spacing.part(len(kappas) - 1, n, denoise) if denoise < 1 else len(kappas) - 1
    return Points(schedule.path, tuple(kappas[-(taken + 1) :]))


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
