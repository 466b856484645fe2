"""What the page's menu needs to turn a KSampler into Sample, and Sample into the nodes it stands for.

It travels in the definition of Sample's ``solver``, under ``KEY``, where the page reads it (web/js/convert.js).
"""

from __future__ import annotations

from functools import cache
from typing import Any

from ...schedulers import policy
from ...schedulers.solver.published import NEAR, ROWS, by_foreign_name, name_of
from ...schedulers.spacing.schedule_names import ROWS as SPACINGS

KEY = "sampling_kit"
#: Of a node's ``ui``: the solver of its last run, by name, and the levels where the node chose them, as text.
SOLVER, LEVELS = "sampling_kit_solver", "sampling_kit_levels"

#: ComfyUI's schedulers whose levels are those of a spacing with its defaults, also below denoise = 1
#: (tests/host/test_wires.py).
SAME_LEVELS = {row.comfy: row.spacing for row in SPACINGS if row.comfy and not row.differs}


@cache
def foreign_names() -> dict[str, Any]:
    """{"samplers": {ComfyUI's: [ours, what differs]}, "spacings": SAME_LEVELS, "nodes": {ours: [node, {widget: value}]}}."""
    theirs = [name for row in ROWS for name in row.comfy] + [near.name for near in NEAR]
    rows = {name: by_foreign_name(name) for name in theirs}
    solvers = {name_of(s): s for s in policy.solvers()} | {row.name: row.solver for row in ROWS}
    return {
        "samplers": {name: [row.name, differs] for name, (row, differs) in rows.items()},
        "spacings": SAME_LEVELS,
        "nodes": {n: [f"SamplingKit{type(s).__name__}", s.changed] for n, s in solvers.items()},
    }  # fmt: skip
