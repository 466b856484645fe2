"""JSON of strangers: every number finite, nothing nested without end."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Any, NoReturn

DEEPEST = 100  # JSON values inside each other
CONTAINERS = dict, list  # what JSON puts them into
BEYOND = re.compile(r"\d{200}|[eE]\+?\d{3}")  # where it is not found, no number is beyond a float


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
