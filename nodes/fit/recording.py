"""TRAJECTORIES: what Record Trajectories hands to the nodes that fit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from ...schedulers.fit.problem import Problem
from ...schedulers.fit.trajectories import Trajectories, teacher_points
from ...schedulers.noise_schedule import NoiseSchedule
from .. import host
from ..host.guider_field import Facts, Ready

CATEGORY = "Sampling Kit/fit"
T = TypeVar("T")


@dataclass(frozen=True)
class Recording:
    """TRAJECTORIES: recorded rows, and the GUIDERs they are of, which a fit evaluates again."""

    trajectories: Trajectories
    guiders: tuple[Any, ...]
    schedule: NoiseSchedule
    facts: Facts

    def ready(self, then: Callable[[Ready], T]) -> T:
        """``then`` while the guiders can be asked."""
        recorded = self.trajectories
        origin = recorded.origin
        return host.runs.with_field(self.guiders, origin.shape, recorded.batch, origin.seed, then)

    def problem(self, ready: Ready, held: int) -> Problem:
        """The last ``held`` rows judge, the others are fitted."""
        count, batch = self.trajectories.count, self.trajectories.batch
        if not 0 < held < count:
            raise ValueError(
                f"held_out = {held}: of {count} recorded trajectories, between 1 and {count - 1} can judge the fit"
            )
        return self.trajectories.problem(ready.field, count - held, held, batch, ready.check)

    def describe(self) -> str:
        o, facts = self.trajectories.origin, self.facts
        shape = "×".join(map(str, o.shape))
        return (
            f"{self.trajectories.count} trajectories of {shape}, {len(o.kappas)} levels, in {self.trajectories.folder}\n"
            f"model {facts.model} ({facts.prediction}, {o.path}), {facts.guidance}\n"
            f"teacher {o.teacher}, {o.substeps} steps between levels; seeds {o.seed} to {o.seed + self.trajectories.count - 1}"
        )


def checked(trajectories: Any) -> Recording:
    if not isinstance(trajectories, Recording):
        raise TypeError(f"trajectories: expected TRAJECTORIES, got {type(trajectories).__name__}")
    return trajectories


def teacher_cost(recording: Recording) -> int:
    """One-image evaluations of the recording."""
    points, _ = teacher_points(recording.trajectories.origin)
    return recording.trajectories.count * (len(points) - 1)
