"""What the page's menu needs to turn a KSampler into Sample, and Sample into the nodes it stands for.

It travels in the definition of Sample's ``solver``, under ``KEY``, where the page reads it (web/js/convert.js).
"""

from __future__ import annotations

from dataclasses import fields
from functools import cache
from typing import Any

from ...schedulers.solver import Solver
from ...schedulers.solver.published import NEAR, ROWS, by_foreign_name

KEY = "sampling_kit"
SOLVER = "sampling_kit_solver"  # of a node's ``ui``: the solver of its last run, by name

#: ComfyUI's schedulers whose levels are those of a spacing with its defaults, also below denoise = 1
#: (tests/host/test_wires.py).
SAME_LEVELS = {
    "simple": "host_table",
    "karras": "karras",
    "exponential": "exponential",
    "kl_optimal": "kl_optimal",
}


@cache
def foreign_names() -> dict[str, Any]:
    """{"samplers": {ComfyUI's: [ours, what differs]}, "spacings": SAME_LEVELS, "nodes": {ours: [node, {widget: value}]}}."""
    theirs = [name for row in ROWS for name in row.comfy] + [near.name for near in NEAR]
    rows = {name: by_foreign_name(name) for name in theirs}
    return {
        "samplers": {name: [row.name, differs] for name, (row, differs) in rows.items()},
        "spacings": SAME_LEVELS,
        "nodes": {row.name: [f"SamplingKit{type(row.solver).__name__}", _set(row.solver)] for row in ROWS},
    }  # fmt: skip


def _set(solver: Solver) -> dict[str, Any]:
    """The settings in which a solver differs from its node's defaults."""
    values = {field.name: getattr(solver, field.name) for field in fields(solver)}
    return {f.name: values[f.name] for f in fields(solver) if values[f.name] != f.default}
