"""JSON of strangers: every number finite, nothing nested without end."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any, NoReturn

DEEPEST = 100  # JSON values inside each other
CONTAINERS = dict, list  # what JSON puts them into
MOST_VALUES = 2**19  # of a text, counted by its commas and brackets before any is made


def refuse(number: str) -> NoReturn:
    raise ValueError(f"{number[:40]} is not a JSON number or too large; write a finite one")


def parse_json(text: str, not_finite: Callable[[str], Any] = refuse) -> Any:
    """The value of a JSON text. Numbers are finite and fit into a float; nothing lies more than DEEPEST deep.

    There are at most MOST_VALUES values, counted before any is made. ``not_finite`` gets the text of NaN, Infinity and numbers beyond a float, and gives what stands for them.
    Raises ValueError.
    """

    count_values(text)

    def number(kind: type[int] | type[float]) -> Callable[[str], Any]:
        return lambda digits: kind(digits) if math.isfinite(float(digits)) else not_finite(digits)

    numbers: dict[str, Any] = dict(parse_float=number(float), parse_int=number(int))
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


def count_values(text: str) -> None:
    """Raises ValueError for a JSON text of more than MOST_VALUES values. Cheap: nothing is parsed."""
    if text.count(",") + text.count("[") + text.count("{") > MOST_VALUES:
        raise ValueError(f"more than {MOST_VALUES} values")
