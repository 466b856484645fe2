"""Between which levels a run is spread: the schedule's own ends, or others.

A schedule's range is what its network was trained on. A run of few evaluations does better on a part of it:
far above the data D is almost their mean, whatever x is, and far below their finest detail it repeats itself.
A run that begins below the schedule's largest level takes its x there as pure noise of that level.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from ..noise_schedule import NoiseSchedule
from ..points import Points
from ..settings import Settings, knob

NEAR = 1e-4  # what is typed has few digits: it may lie this far outside of the schedule


class Ends(Settings):
    """Base class. ``range`` says the first and the last level (κ) above 0 of a run of n steps, the last of ``total``."""

    def range(self, schedule: NoiseSchedule, n: int, total: int) -> tuple[float, float]:
        return schedule.kappa_max, schedule.kappa_min


@dataclass(frozen=True)
class WholeRange(Ends):
    """The spacing's own first and last level, as its description says."""

    title: ClassVar[str] = "schedule's"


@dataclass(frozen=True)
class SkipLast(Ends):
    """A spacing that would visit the schedule's smallest level stops one step above it, and goes to 0 from there.

    That is what ComfyUI's simple and sgm_uniform do. Other spacings stay as they are.
    """

    title: ClassVar[str] = "smallest level skipped"


@dataclass(frozen=True)
class ByRule(Ends):
    """The fewer the steps, the narrower the range, both ends closing smoothly: no evaluation is spent where few are.

    With s the standard deviation of the data, n levels and h = ln(first/last)/(n − 1), the step in λ:
    last = 0.6·s·h/(n − 1), at most s/2, and first = 2·s·side·√((n − 1)/h), but never beyond the schedule's range. A
    detail of deviation d keeps at least the share d/√(d² + last²) of itself. Below denoise = 1 the run begins where it
    does without the rule.
    """

    # Why. Three errors in units of s: the run between the ends, of order 2 where steps are long, B·h²; the last level,
    # whose D lacks what is finer than it, a·last/s (the energy of pictures is even in the logarithm of scale); the
    # start, whose x lacks the data: the mean of a picture of side² values, s·side wide, is off by
    # (s·side/first)²/2 of itself. Their sum is least where a·last/s = 2Bh/(n − 1) and b·(s·side/first)² = Bh/(n − 1).
    # The two constants left are measured (python -m benchmarks.ends).

    title: ClassVar[str] = "by rule"
    data_std: float = knob(
        1.0,
        "Standard deviation of the data: of the latents or pixel values that the network was trained on.",
        low=1e-6,
        high=1e6,
        step=0.01,
    )
    side: int = knob(
        128,
        "Height and width of the latent or of the pixels, √(height · width): the mean of a larger picture is decided at "
        "a higher level.",
        low=1,
        high=100000,
    )

    def range(self, schedule: NoiseSchedule, n: int, total: int) -> tuple[float, float]:
        highest, lowest = schedule.kappa_max, schedule.kappa_min
        first, last = highest, self.data_std * LARGEST_LAST
        for _ in range(ROUNDS if n > 1 else 0):
            top = min(first, FIRST * self.data_std * self.side * n)  # pure noise has no h
            h = max(math.log(top / last), 1e-3) / (n - 1)
            first = FIRST * self.data_std * self.side * math.sqrt((n - 1) / h)
            last = self.data_std * min(LAST * h / (n - 1), LARGEST_LAST)
            first, last = min(first, highest), max(last, lowest)
        return within(schedule, first if total == n else highest, last)


#: Of :class:`ByRule`.
FIRST, LAST, LARGEST_LAST, ROUNDS = 2.0, 0.6, 0.5, 40


@dataclass(frozen=True)
class Typed(Ends):
    """Your own first and last level."""

    title: ClassVar[str] = "own"
    first: float = knob(
        0.0, "σ of the first level, as in SIGMAS; 0: the schedule's largest.", low=0.0, step=0.01
    )
    last: float = knob(
        0.0,
        "σ of the last level before the end at 0, as in SIGMAS; 0: the schedule's smallest.",
        low=0.0,
        step=0.001,
    )

    def range(self, schedule: NoiseSchedule, n: int, total: int) -> tuple[float, float]:
        top, bottom = Points(schedule.path, (schedule.kappa_max, schedule.kappa_min)).sigmas()
        first, last = self.first or top, self.last or bottom
        if not bottom * (1 - NEAR) <= last < first <= top * (1 + NEAR):
            raise ValueError(
                f"ends = own: first = {first:g}, last = {last:g}: must be falling, and within the schedule's σ, {top:.6g} "
                f"to {bottom:.6g}; 0 stands for the schedule's own"
            )
        sigmas = [min(first, top), max(last, bottom)]
        kappas = Points.from_sigmas(schedule.path, sigmas).kappas
        return (kappas[0] if first < top else schedule.kappa_max), max(
            kappas[1], schedule.kappa_min
        )


def within(schedule: NoiseSchedule, first: float, last: float) -> tuple[float, float]:
    """Both κ cut to the schedule's range; the whole of it where nothing would be left between them."""
    first, last = min(first, schedule.kappa_max), max(last, schedule.kappa_min)
    return (first, last) if last < first else (schedule.kappa_max, schedule.kappa_min)


ENDS: dict[str, type[Ends]] = {
    "schedule": WholeRange,
    "skip": SkipLast,
    "rule": ByRule,
    "own": Typed,
}


def side_of(shape: Sequence[int]) -> int:
    """√(height · width) of latents [C, …, H, W], to whole numbers, at least 1; of sequences [C, L] √L."""
    return max(round(math.sqrt(math.prod(shape[1:][-2:]))), 1)
