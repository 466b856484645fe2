"""skrample's side of ``benchmarks.lead``: its samplers on its schedules, as the plans that ``skrample_tables.py`` reads off them.

It runs in the Python that SKRAMPLE_PYTHON names, by default in this one: skrample needs Python 3.12, and nothing else here does.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path as File
from typing import Any

from torch import Tensor

from sampling_kit.schedulers.noise_schedule import EDM, NoiseSchedule, RectifiedFlowSchedule
from sampling_kit.schedulers.path import VP, Flow, Path, Point
from sampling_kit.schedulers.points import Points
from sampling_kit.schedulers.solver import Plan
from sampling_kit.schedulers.solver.plan import Stage

from .lead_choice import Seeds, Winner, task_of, winner
from .lead_ours import Choice, play

SKRAMPLE = "skrample"
SCRIPT = File(__file__).with_name("skrample_tables.py")


class Missing(Exception):
    """It is not to be had here; the text says why."""


def tables(schedule: NoiseSchedule, nfes: Sequence[int]) -> list[dict[str, Any]]:
    """Rows as ``skrample_tables.py`` says. Raises Missing."""
    ends = Points(schedule.path, (schedule.kappa_max, schedule.kappa_min)).sigmas()
    flow = isinstance(schedule, RectifiedFlowSchedule)
    kind = "flow" if flow else "edm" if isinstance(schedule, EDM) else "sd"
    shift = schedule.shift if isinstance(schedule, RectifiedFlowSchedule) else 1.0
    task = dict(kind=kind, ends=ends, shift=shift, nfe=list(nfes))
    python = os.environ.get("SKRAMPLE_PYTHON") or sys.executable
    with tempfile.TemporaryDirectory() as folder:
        file = File(folder) / "task.json"
        file.write_text(json.dumps(task), encoding="utf-8")
        done = subprocess.run([python, str(SCRIPT), str(file)], capture_output=True, text=True)
    if done.returncode:
        why = done.stderr.strip().splitlines()[-1:] or ["no message"]
        raise Missing(f"SKRAMPLE_PYTHON, {python}: {why[0]}")
    rows: list[dict[str, Any]] = json.loads(done.stdout)
    return rows


def choice(row: dict[str, Any], onto: Path) -> Choice:
    """A row as a plan on the path ``onto``."""
    path: Path = Flow() if onto == Flow() else VP()
    points = [Point(alpha, sigma) for sigma, alpha, *_ in row["states"]]
    last = len(points) - 1
    stages = tuple(
        Stage(i, at, (start,), tuple(reversed(weights)), commit=i == last, evaluate=i < last)
        for i, (at, (_, _, start, weights)) in enumerate(zip(points, row["states"], strict=True))
    )
    plan = Plan(row["sampler"], path, points[0], stages, order=1).on(onto)
    return Choice(row["sampler"], row["levels"], plan, Points(onto, (points[0].kappa, 0.0)))


def skrample(answers: dict[str, Tensor], nfes: Sequence[int]) -> Iterator[Winner]:
    """Raises Missing."""
    for name, end in answers.items():
        seeds = Seeds(task_of(name, len(end)), end)
        task = seeds.task
        rows = tables(task.schedule, nfes)
        for nfe in nfes:
            pairs = [choice(row, task.path) for row in rows if row["nfe"] == nfe]
            pairs.sort(key=lambda pair: pair.spacing)
            yield winner(SKRAMPLE, nfe, pairs, play, seeds)
