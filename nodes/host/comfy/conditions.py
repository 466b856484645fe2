"""What the host's prepared conditions hold: the tensors of each image, and copies that a graph can hold."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import comfy.conds
from torch import Tensor

from ....schedulers.guidance import ordinary


def image_rows(cond: dict[str, Any]) -> Iterator[tuple[str, Tensor]]:
    """(what, tensor [B, …]) of a condition's parts that may differ from image to image."""
    for what, held in cond["model_conds"].items():
        if not isinstance(held, comfy.conds.CONDConstant):
            found = held.cond if isinstance(held.cond, list) else [held.cond]
            yield from ((what, t) for t in found if isinstance(t, Tensor) and t.ndim)
    if isinstance(cond.get("mask"), Tensor):
        yield "mask", cond["mask"]
    control = cond.get("control")
    while control is not None:
        hint = getattr(control, "cond_hint_original", None)
        if isinstance(hint, Tensor):
            yield "control", hint
        control = getattr(control, "previous_controlnet", None)


def readable(conds: list[dict[str, Any]], gradient: bool) -> list[dict[str, Any]]:
    """Conditions whose tensors a graph can hold, if there is to be one."""
    return [_readable(cond) for cond in conds] if gradient else conds


def _readable(cond: dict[str, Any]) -> dict[str, Any]:
    held = {key: copy.copy(value) for key, value in cond["model_conds"].items()}
    for value in held.values():
        value.cond = ordinary(value.cond)
    return ordinary(cond) | {"model_conds": held}
