"""The steps of ComfyUI's schedulers that go by its table, on every schedule: also on those that have none."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..noise_schedule import Array, NoiseSchedule, Tabulated
from ..path import Flow
from ..settings import knob
from .levels import Spacing

ENTRIES = 1000  # of the table that ComfyUI makes where a network has none


@dataclass(frozen=True)
class HostTable(Spacing):
    """Every k-th entry of ComfyUI's table: simple counts from the largest level down, ddim_uniform from the smallest up.

    The table is the training's where there is one; on rectified flow 1000 times; elsewhere 1000 levels, even in log σ.
    So simple ends one step above the smallest level, and ddim_uniform begins below the largest.
    """

    title: ClassVar[str] = "ComfyUI's table"
    aliases: ClassVar[tuple[str, ...]] = ("simple", "ddim_uniform")
    rule: str = knob(
        "simple", "ComfyUI's scheduler of this name.", options=("simple", "ddim_uniform")
    )

    def levels(self, schedule: NoiseSchedule, n: int) -> Array:
        kappas = host_table(schedule)
        count = len(kappas)
        if n >= count:
            raise ValueError(f"{n} noise levels do not fit: the table has {count}; use fewer steps")
        if self.rule == "simple":
            return kappas[count - 1 - (np.arange(n) * count / n).astype(int)]
        return kappas[1 + (count // n) * np.arange(n - 1, -1, -1)]

    def between(self, schedule: NoiseSchedule, n: int, first: float, last: float) -> Array:
        if isinstance(schedule, Tabulated) or isinstance(schedule.path, Flow):
            return super().between(schedule, n, first, last)
        return np.geomspace(first, last, n) if n > 1 else np.array([first])


def host_table(schedule: NoiseSchedule) -> Array:
    """κ of the ``sigmas`` of ComfyUI's model_sampling, the smallest first; [−1] may be infinite."""
    if isinstance(schedule, Tabulated):
        return np.exp(schedule.log_kappas)
    if isinstance(schedule.path, Flow):
        return schedule.kappa(schedule.t_max * np.arange(1, ENTRIES + 1) / ENTRIES)
    low, high = math.log(schedule.kappa_min), math.log(schedule.kappa_max)
    return np.exp(np.linspace(low, high, ENTRIES))
