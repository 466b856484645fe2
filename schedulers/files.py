"""Files of strangers: every number finite, every size bounded."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from torch import Tensor

DEEPEST = 100  # JSON values inside each other
CONTAINERS = dict, list  # what JSON puts them into
BEYOND = re.compile(r"\d{200}|[eE]\+?\d{3}")  # where it is not found, no number is beyond a float
LARGEST, LARGEST_TEXT = 2**32, 2**24  # bytes of a file of tensors, and of the JSON in its header
#: Types of tensors: what NumPy and every device know.
KINDS = {"F64", "F32", "F16", "BF16", "I64", "I32", "U8", "BOOL"}


def refuse(number: str) -> NoReturn:
    raise ValueError(f"{number[:40]} is not a JSON number or too large; write a finite one")


def parse_json(text: str, not_finite: Callable[[str], Any] = refuse) -> Any:
    """The value of a JSON text. Numbers are finite and fit into a float; nothing lies more than DEEPEST deep.

    ``not_finite`` gets the text of NaN, Infinity and numbers beyond a float, and gives what stands for them.
    Raises ValueError.
    """

    def number(kind: type[int] | type[float]) -> Callable[[str], Any]:
        return lambda digits: kind(digits) if math.isfinite(float(digits)) else not_finite(digits)

    numbers: dict[str, Any] = {}
    if BEYOND.search(text):  # Python is slow at this
        numbers = dict(parse_float=number(float), parse_int=number(int))
    try:
        value = json.loads(text, parse_constant=not_finite, **numbers)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    level: list[Any] = [[value]]
    for _ in range(DEEPEST + 1):
        inside = [c.values() if isinstance(c, dict) else c for c in level]
        level = [v for values in inside for v in values if type(v) in CONTAINERS]
        if not level:
            return value
    raise ValueError("nested too deeply")


def read_tensors(file: Path, header: str, what: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """(facts, tensors) of a safetensors file that holds ``facts`` as JSON in its header under ``header``.

    Raises ValueError, naming the file, if it is missing, damaged, too large, no ``what``, or has other
    tensors than plain numbers.
    """
    from safetensors import SafetensorError, safe_open

    try:
        size = file.stat().st_size
        if size > LARGEST:
            raise ValueError(f"it is larger than {LARGEST >> 30} GB")
        with safe_open(file, "pt") as opened:
            text = (opened.metadata() or {}).get(header)
            names = list(opened.keys()) if text is not None else []
            for name in names:
                kind, shape = opened.get_slice(name).get_dtype(), opened.get_slice(name).get_shape()
                if (
                    kind not in KINDS or max(shape, default=0) > size
                ):  # an empty one may say 10⁹ × 0
                    raise ValueError(f"tensor {name} is of type {kind}, shape {shape}")
            tensors = {name: opened.get_tensor(name).clone() for name in names}
        if text is not None and len(text) > LARGEST_TEXT:
            raise ValueError(f"its header has more than {LARGEST_TEXT >> 20} MB of text")
        facts = parse_json(text) if text is not None else None
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"{file.name}: missing, cut short or damaged, or not a safetensors file ({error})"
        ) from None
    if not isinstance(facts, dict):
        raise ValueError(f"{file.name} holds no {what}")
    return facts, tensors
