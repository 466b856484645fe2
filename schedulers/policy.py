"""Auto: which solver, spacing and ends to take, from what is known before a run.

A policy is a table of rows, each good up to a number of denoiser evaluations, without and with guidance. It asks
no network. Its rows are measured (``python -m benchmarks.policy``). Tables are kept by version: a picture that says
which version it was made with can be made again.

Below denoise = 1 a run begins at the time that is this share of the schedule's, as with ComfyUI's simple; on
variance-exploding schedules, whose networks know no time, at this share of log σ.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from .noise_schedule import NoiseSchedule
from .path import VE
from .points import Points
from .solver import AdamsBashforth, GradientEstimation, Solver, UniPC
from .spacing import ByRule, Ends, Exponential, Spacing
from .spacing.levels import space


@dataclass(frozen=True)
class Row:
    """For at most ``nfe`` evaluations."""

    nfe: float
    solver: Solver
    spacing: Spacing
    ends: Ends


@dataclass(frozen=True)
class Policy:
    """Rows without and with guidance, the fewest evaluations first, the last good for any number."""

    plain: tuple[Row, ...]
    guided: tuple[Row, ...]


@dataclass(frozen=True)
class Choice:
    """What ``auto`` resolved to: ``first`` and ``last`` are κ, the ends of a run of ``steps`` steps."""

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
        if denoise == 1:
            return space(schedule, steps, self.spacing, ends=self.ends)
        if not 0 < denoise < 1:
            raise ValueError(f"denoise = {denoise}: must be above 0 and at most 1")
        if steps < 1:
            raise ValueError(f"steps = {steps}: a run needs at least 1 step")
        first, last = _range(schedule, self.ends, steps, denoise)
        return Points(schedule.path, (*self.spacing.between(schedule, steps, first, last), 0.0))


def choose(
    schedule: NoiseSchedule,
    nfe: int,
    *,
    guided: bool = False,
    denoise: float = 1.0,
    version: int = 0,
) -> Choice:
    """Solver, spacing and ends for ``nfe`` denoiser evaluations on ``schedule``; version 0 is the newest.

    ``guided``: the prediction is a guided one. Raises ValueError for a version that is not known here.
    """
    version = version or LATEST
    if version not in POLICIES:
        raise ValueError(
            f"policy version {version} is not known here; versions: {', '.join(map(str, POLICIES))}. Update the pack"
        )
    if nfe < 1:
        raise ValueError(f"nfe = {nfe}: a run needs at least 1 evaluation")
    rows = POLICIES[version].guided if guided else POLICIES[version].plain
    row = next(row for row in rows if nfe <= row.nfe)
    steps = _steps(row.solver, nfe)
    first, last = _range(schedule, row.ends, steps, denoise)
    text = (
        f"auto: {solver_name(row.solver)}, {row.spacing.title}, ends at σ {_sigma(schedule, last)}"
    )
    return Choice(row.solver, row.spacing, row.ends, version, steps, first, last, text)


def solver_name(solver: Solver) -> str:
    """A solver in a few words: its title, and what differs from its defaults."""
    if isinstance(solver, AdamsBashforth) and solver.weights == "constant":
        return f"iPNDM-{solver.max_order}"
    changed = [
        getattr(solver, f.name) for f in fields(solver) if getattr(solver, f.name) != f.default
    ]
    return " ".join(
        [
            solver.title,
            *(f"{value:g}" if isinstance(value, float) else f"{value}" for value in changed),
        ]
    )


def _steps(solver: Solver, nfe: int) -> int:
    """The most steps that ``nfe`` evaluations pay for, at least 1."""
    return next((n for n in range(nfe, 0, -1) if solver.nfe(n) <= nfe), 1)


def _range(schedule: NoiseSchedule, ends: Ends, steps: int, denoise: float) -> tuple[float, float]:
    first, last = ends.range(schedule, steps, steps)
    if denoise < 1:
        first = start_level(schedule, denoise)
    if last >= first:
        last = min(schedule.kappa_min, first)
    return first, last


def start_level(schedule: NoiseSchedule, denoise: float) -> float:
    """κ where a run of image to image begins."""
    if schedule.path == VE():
        top, bottom = math.log(schedule.kappa_max), math.log(schedule.kappa_min)
        return math.exp(bottom + denoise * (top - bottom))
    return float(schedule.kappa(schedule.t_min + denoise * (schedule.t_max - schedule.t_min)))


def _sigma(schedule: NoiseSchedule, kappa: float) -> str:
    return f"{Points(schedule.path, (kappa,)).sigmas()[0]:.2g}"


RULE = ByRule()
POLICIES: dict[int, Policy] = {
    1: Policy(
        plain=(
            Row(5, GradientEstimation(), Exponential(), RULE),
            Row(9, AdamsBashforth(3), Exponential(), RULE),
            Row(math.inf, AdamsBashforth(4), Exponential(), RULE),
        ),
        guided=(
            Row(6, GradientEstimation(), Exponential(), RULE),
            Row(14, AdamsBashforth(2), Exponential(), RULE),
            Row(math.inf, UniPC(), Exponential(), RULE),
        ),
    ),
}
LATEST = max(POLICIES)
