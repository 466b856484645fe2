"""What nodes tell their widgets on the page after a run: one JSON text under one key of ``ui``.

A text, since a list of objects there counts as a picture of the job, and since ``allow_nan=False`` keeps
NaN out, which would break the page's messages and /history.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ...schedulers.measure.run_levels import Run, plan_record, record
from ...schedulers.show.data_uri import data_uri
from ...schedulers.solver import Plan

KEY = "sampling_kit"
PICTURE = "sampling_kit_picture"


def on_page(facts: dict[str, Any]) -> dict[str, Any]:
    """``facts`` as a node's ``ui``. Raises ValueError for a number that is not finite."""
    return {KEY: [json.dumps(facts, allow_nan=False, ensure_ascii=False, separators=(",", ":"))]}


def levels_on_page(runs: Sequence[Run]) -> dict[str, Any]:
    return on_page(record(runs))


def plan_on_page(plan: Plan) -> dict[str, Any]:
    return on_page({"plan": plan_record(plan)})


def report_on_page(text: str, *pictures: Tensor) -> dict[str, Any]:
    """``text``, and pictures [H, W, 3] or [1, H, W, 3] that belong to it, as a node's ``ui``: its panel shows both.

    A picture is a text under a key of ours: ``images`` would make it a result of the job.
    """
    shown = {"text": [text]}
    return shown | {PICTURE: [data_uri(p) for p in pictures]} if pictures else shown
