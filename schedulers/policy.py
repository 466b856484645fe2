"""Auto: which solver, spacing and ends to take, from what is known before a run.

A policy is a table of rows, each good up to a number of denoiser evaluations: for schedules that begin at pure noise
and for others, without and with guidance. It asks no network. Its rows are measured (``python -m benchmarks.policy``). Tables
are kept by version: a picture that says which version it was made with can be made again.

Below denoise = 1 a run begins at the time that is this share of the schedule's, as with ComfyUI's simple; on
variance-exploding schedules, whose networks know no time, at this share of log σ.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from .noise_schedule import Array, NoiseSchedule
from .path import VE
from .points import Points
from .settings import knob
from .solver import GaussianAdams, GradientEstimation, Solver, UniPC
from .solver.published import name_of
from .spacing import ByRule, Ends, NoiseShare, Spacing, WholeRange

PURE_NOISE = 1000.0  # κ: from here on a level counts as pure noise
STRONG = 2.5  # CFG above this is strong
LATEST = 4  # version of POLICIES
SIDE = 128  # √(height · width) of the latent, where it is not said: 1024² pixels


@dataclass(frozen=True)
class Row:
    """For at most ``nfe`` evaluations. The scale of a NoiseShare is in units of the data's deviation; ``last``: the last level as
    a share of the rule's, 0 for the schedule's own ends."""

    nfe: float
    solver: Solver
    spacing: Spacing
    last: float = 1.0

    def ends(self, std: float, side: int) -> Ends:
        if not self.last:
            return WholeRange()
        return ByRule(std * self.last, max(round(side / self.last), 1))  # the first level stays


@dataclass(frozen=True)
class Rows:
    """Without and with guidance, the fewest evaluations first, the last good for any number; and the spacing where
    the solver is not known: for one of order 2 without guidance. ``strong``: with CFG above STRONG, or guidance of a scale that
    is not known; (): as guided."""

    plain: tuple[Row, ...]
    guided: tuple[Row, ...]
    spacing: Spacing
    strong: tuple[Row, ...] = ()

    def at(self, nfe: int, guided: bool, cfg: float) -> Row:
        rows = self.plain
        if guided:
            rows = self.guided if 0 < cfg <= STRONG else self.strong or self.guided
        return next(row for row in rows if nfe <= row.nfe)


@dataclass(frozen=True)
class Policy:
    """For schedules that begin at pure noise (rectified flow, zero terminal SNR), for the variance-exploding (None: as the
    others), and for the others."""

    pure: Rows
    other: Rows
    exploding: Rows | None = None

    def rows(self, schedule: NoiseSchedule) -> Rows:
        if schedule.kappa_max > PURE_NOISE:
            return self.pure
        return (self.exploding or self.other) if schedule.path == VE() else self.other


@dataclass(frozen=True)
class Choice:
    """What ``auto`` resolved to. ``first`` and ``last`` are κ, the ends of a run of ``steps`` steps; ``text`` says all
    of it in a line."""

    solver: Solver
    spacing: Spacing
    ends: Ends
    version: int
    steps: int
    first: float
    last: float
    text: str

    def points(self, schedule: NoiseSchedule, steps: int, denoise: float = 1.0) -> Points:
        """The levels of a run, as Steps gives them, that ends at 0."""
        if not 0 < denoise <= 1:
            raise ValueError(f"denoise = {denoise}: must be above 0 and at most 1")
        if steps < 1:
            raise ValueError(f"steps = {steps}: a run needs at least 1 step")
        levels = _spread(schedule, steps, denoise, self.spacing, self.ends)
        return Points(schedule.path, (*levels, 0.0))


def choose(
    schedule: NoiseSchedule,
    nfe: int,
    *,
    guided: bool = False,
    cfg: float = 0.0,
    denoise: float = 1.0,
    version: int = 0,
    data_std: float = 0.0,
    side: int = SIDE,
) -> Choice:
    """Solver, spacing and ends for ``nfe`` denoiser evaluations on ``schedule``; version 0 is the newest.

    ``guided``: the prediction is a guided one; ``cfg``: by this scale, 0 if that is not known. ``data_std``: the
    standard deviation of the data, 0 for the usual one of such schedules; ``side``: √(height · width) of what is
    sampled. Raises ValueError for a version not known here.
    """
    rows = _policy(version or LATEST, schedule)
    if nfe < 1:
        raise ValueError(f"nfe = {nfe}: a run needs at least 1 evaluation")
    row = rows.at(nfe, guided, cfg)
    steps = next((n for n in range(nfe, 0, -1) if row.solver.nfe(n) <= nfe), 1)
    std = data_std or usual_std(schedule)
    spacing, ends = _scaled(row.spacing, std), row.ends(std, side)
    first, last = _range(schedule, ends, steps, denoise)
    sigma = Points(schedule.path, (last,)).sigmas()[0]
    text = f"auto: {name_of(row.solver)}, {spacing.title}, ends at σ {sigma:.2g}"
    return Choice(row.solver, spacing, ends, version or LATEST, steps, first, last, text)


def solvers() -> tuple[Solver, ...]:
    """Every solver that a version takes."""
    kinds = [(p.pure, p.other, p.exploding or p.other) for p in POLICIES.values()]
    rows = [row for kind in kinds for k in kind for row in (*k.plain, *k.guided, *k.strong)]
    return tuple(dict.fromkeys(row.solver for row in rows))


def usual_std(schedule: NoiseSchedule) -> float:
    """Pixels on variance-exploding schedules: from EDM's 0.5 to 1, measured best at 0.7; elsewhere latents, scaled to 1."""
    return 0.7 if schedule.path == VE() else 1.0


def _scaled(spacing: Spacing, std: float) -> Spacing:
    return (
        replace(spacing, scale=spacing.scale * std) if isinstance(spacing, NoiseShare) else spacing
    )


@dataclass(frozen=True)
class Auto(Spacing):
    """The policy's levels for a solver of order 2 without guidance, by the schedule and the number of steps.

    With ends = schedule they are the policy's: both close with fewer steps, as by rule. Below denoise = 1 a run begins
    at the time that is this share of the schedule's, as with ComfyUI's simple. So far every version has the same levels
    here: those that version 3 has for its own solvers did not pay with others (docs/choosing.md).
    """

    title: ClassVar[str] = "auto"
    aliases: ClassVar[tuple[str, ...]] = ("best", "default")
    version: int = knob(
        1,
        "Of the policy: an older one gives what it gave.",
        low=1,
        high=LATEST,
        advanced=True,
        fresh=LATEST,
    )
    side: int = knob(
        SIDE,
        "Height and width of the latent, √(height · width); a latent that is connected says it itself.",
        low=1,
        high=100000,
        advanced=True,
    )

    def levels(self, schedule: NoiseSchedule, n: int) -> Array:
        return np.array(self.run(schedule, n, 1.0, True, WholeRange())[:-1])

    def between(self, schedule: NoiseSchedule, n: int, first: float, last: float) -> Array:
        return self._spacing(schedule).between(schedule, n, first, last)

    def run(
        self, schedule: NoiseSchedule, n: int, denoise: float, to_zero: bool, ends: Ends
    ) -> list[float]:
        if isinstance(ends, WholeRange):
            ends = ByRule(usual_std(schedule), self.side)
        count = n if to_zero else n + 1
        levels = _spread(schedule, count, denoise, self._spacing(schedule), ends)
        return [*levels, 0.0] if to_zero else [*levels]

    def _spacing(self, schedule: NoiseSchedule) -> Spacing:
        return _scaled(_policy(self.version, schedule).spacing, usual_std(schedule))


def _policy(version: int, schedule: NoiseSchedule) -> Rows:
    if version not in POLICIES:
        known = ", ".join(map(str, POLICIES))
        raise ValueError(
            f"policy version {version} is not known here, only {known}: update the pack"
        )
    return POLICIES[version].rows(schedule)


def _spread(
    schedule: NoiseSchedule, count: int, denoise: float, spacing: Spacing, ends: Ends
) -> Array:
    """``count`` κ above 0."""
    if denoise == 1:
        return np.array(spacing.run(schedule, count, 1.0, True, ends)[:-1])
    return spacing.between(schedule, count, *_range(schedule, ends, count, denoise))


def _range(schedule: NoiseSchedule, ends: Ends, steps: int, denoise: float) -> tuple[float, float]:
    """κ of the first and the last level."""
    first, last = ends.range(schedule, steps, steps)
    if denoise < 1:
        first = start_level(schedule, denoise)
        last = min(last, max(first / MOST_OF_START, schedule.kappa_min))
    return first, min(last, first)


def start_level(schedule: NoiseSchedule, denoise: float) -> float:
    """κ where a run of image to image begins."""
    if schedule.path == VE():
        top, bottom = math.log(schedule.kappa_max), math.log(schedule.kappa_min)
        return math.exp(bottom + denoise * (top - bottom))
    return float(schedule.kappa(schedule.t_min + denoise * (schedule.t_max - schedule.t_min)))


MOST_OF_START = 4.0  # from image to image the last level lies at least this factor below the first

SHARE = NoiseShare(2.5, 0.5)
PURE = (
    Row(4, GaussianAdams(), SHARE),
    Row(15, UniPC(), SHARE),
    Row(math.inf, GaussianAdams(), SHARE),
)
#: Version 2: data is wide along few directions, so with the fewest evaluations the levels lie densest around 5 s; and where
#: evaluations are many the schedule's own ends, whose start knows the mean of the data.
WIDE = NoiseShare(5.0, 0.5)
PURE_2 = (
    Row(5, GaussianAdams(2.0), WIDE),
    Row(12, GaussianAdams(), SHARE),
    Row(math.inf, GaussianAdams(), SHARE, last=0.0),
)
OTHER_2 = (
    Row(5, GaussianAdams(2.0), WIDE),
    Row(7, GaussianAdams(), SHARE),
    Row(12, GaussianAdams(), SHARE, last=0.4),
    Row(math.inf, GaussianAdams(), WIDE),
)
EXPLODING_2 = (  # three values, or wide steps, leave noise in pictures of real networks with 4 evaluations
    Row(5, GaussianAdams(predictor=2, corrector=2), SHARE),
    Row(12, GaussianAdams(), SHARE),
    Row(math.inf, GaussianAdams(), SHARE, last=0.0),
)
#: Version 3, chosen for its worst case. Where guidance is strong D is steep, and a corrector or a third value overshoots: errors of two data
#: deviations with 5 evaluations and CFG 5 on mixtures, ten times STEADY's with 20 and CFG 7 on the embedded network. Long steps do not pay
#: for a third value without guidance either.
STEADY, SHORT = GaussianAdams(predictor=2, corrector=0), GaussianAdams(predictor=2, corrector=2)
FEW_GUIDED = Row(9, STEADY, WIDE, last=2.0)
MOST_STRONG = Row(30, STEADY, WIDE, last=2.0)

#: Version 4. Long steps need a Gaussian's answer, shorter ones the values themselves, so the prior is half as wide as the data from 6 levels on; two
#: values, as a third extrapolates too far. With guidance they are best extrapolated as if the levels were evenly spaced (coordinate "index").
#: Where it is strong, D turns most at high noise, and the first steps are DDIM's.
CALM, HALF = GaussianAdams(2.0, 2, 3, lower_order_early=True), GaussianAdams(0.5, 2, 3)
EVEN = GaussianAdams(0.25, 2, 3, coordinate="index")
MIDDLE = NoiseShare(3.5, 0.5)
MILD_5 = Row(5, GaussianAdams(predictor=2, corrector=3), WIDE)
STRONG_4 = (
    Row(3, CALM, WIDE, last=2.0),
    Row(6, STEADY, WIDE, last=2.0),
    Row(30, CALM, WIDE, last=2.0),
)


def _fourth(plain: tuple[Row, ...], mild: tuple[Row, ...], most: Row) -> Rows:
    """``most``: good for any number, with guidance as without."""
    return Rows((*plain, most), (*mild, most), SHARE, (*STRONG_4, most))


def _alike(rows: tuple[Row, ...]) -> Rows:
    """With guidance as without."""
    return Rows(plain=rows, guided=rows, spacing=SHARE)


POLICIES: dict[int, Policy] = {
    1: Policy(
        pure=Rows(plain=PURE, guided=PURE, spacing=SHARE),
        other=Rows(
            plain=(Row(6, GradientEstimation(), SHARE), Row(math.inf, GaussianAdams(), SHARE)),
            guided=(Row(math.inf, GaussianAdams(), SHARE),),
            spacing=SHARE,
        ),
    ),
    2: Policy(pure=_alike(PURE_2), other=_alike(OTHER_2), exploding=_alike(EXPLODING_2)),
    3: Policy(
        pure=Rows(
            plain=(Row(6, SHORT, WIDE, last=2.0), *PURE_2[1:]),
            guided=(FEW_GUIDED, *PURE_2[1:]),
            strong=(MOST_STRONG, *PURE_2[2:]),
            spacing=SHARE,
        ),
        other=Rows(
            plain=(Row(6, SHORT, WIDE), *OTHER_2[1:]),
            guided=(FEW_GUIDED, *OTHER_2[2:]),
            strong=(MOST_STRONG, *OTHER_2[3:]),
            spacing=SHARE,
        ),
        exploding=Rows(
            plain=(Row(6, SHORT, WIDE, last=2.0), *EXPLODING_2[1:]),
            guided=(FEW_GUIDED, *EXPLODING_2[1:]),
            strong=(MOST_STRONG, *EXPLODING_2[2:]),
            spacing=SHARE,
        ),
    ),
    4: Policy(
        pure=_fourth(
            plain=(
                Row(5, SHORT, WIDE, last=2.0),
                Row(8, HALF, MIDDLE, last=2.0),
                Row(12, HALF, SHARE, last=2.0),
            ),
            mild=(MILD_5, Row(12, EVEN, MIDDLE)),
            most=PURE_2[-1],
        ),
        other=_fourth(
            plain=(Row(5, CALM, WIDE), Row(12, HALF, SHARE)),
            mild=(MILD_5, Row(12, EVEN, MIDDLE)),
            most=OTHER_2[-1],
        ),
        exploding=_fourth(
            plain=(
                Row(4, HALF, SHARE),
                Row(6, HALF, MIDDLE, last=2.0),
                Row(8, HALF, SHARE, last=2.0),
                Row(12, HALF, SHARE),
                Row(17, GaussianAdams(0.5), SHARE),
            ),
            mild=(
                Row(4, CALM, WIDE, last=2.0),
                MILD_5,
                Row(7, HALF, SHARE),
                Row(12, GaussianAdams(0.5), SHARE),
            ),
            most=Row(math.inf, GaussianAdams(0.5), SHARE, last=0.0),
        ),
    ),
}
