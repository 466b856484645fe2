"""Noise schedules that only a run can tell, kept after it so that plots on the page stay live.

A node leaves its schedule and tells the page a name for it; the page gives the name back with every question. The names
say nothing, the newest ``MOST`` are kept, and all of them are gone when the server ends.
"""

from __future__ import annotations

from threading import Lock
from typing import Any
from uuid import uuid4

from ...schedulers.noise_schedule import NoiseSchedule

SCHEDULE = "sampling_kit_schedule"  # key of a node's ``ui``
MOST = 64

_schedules: dict[str, NoiseSchedule] = {}
_lock = Lock()


def schedule_on_page(schedule: NoiseSchedule) -> dict[str, Any]:
    """The name of ``schedule``, which is kept, as a node's ``ui``."""
    with _lock:
        name = (
            next((name for name, kept in _schedules.items() if kept is schedule), None)
            or uuid4().hex
        )
        _schedules.pop(name, None)
        _schedules[name] = schedule
        while len(_schedules) > MOST:
            del _schedules[next(iter(_schedules))]
    return {SCHEDULE: [name]}


def recall(name: Any) -> NoiseSchedule | None:
    """The schedule of that name, or None."""
    with _lock:
        return _schedules.get(name) if isinstance(name, str) else None
