"""Values of a text that somebody wrote: each is checked where it is read, and an error says where it stands."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any

LARGEST = 1e9  # of a number: sums and products of a table's stay far from where floats end
FRACTION = re.compile(r"([+-]?\d{1,18})/(\d{1,18})")


def quoted(value: Any) -> str:
    """A value for an error, cut short."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def as_object(where: str, value: Any, required: Iterable[str], more: Iterable[str] = ()) -> Any:
    """A JSON object with these keys and no others."""
    required = tuple(required)
    allowed = (*required, *more)
    if not isinstance(value, dict):
        raise ValueError(f"{where} = {quoted(value)}: write an object with {', '.join(allowed)}")
    for key in value:
        if key not in allowed:
            raise ValueError(f"{where}: {quoted(key)} is no key; there are {', '.join(allowed)}")
    for key in required:
        if key not in value:
            raise ValueError(f"{where}: {key!r} is missing")
    return value


def as_list(where: str, value: Any, most: int, least: int = 0) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{where} = {quoted(value)}: write a list, [ … ]")
    if not least <= len(value) <= most:
        raise ValueError(f"{where} has {len(value)} entries; write {least} to {most}")
    return value


def as_number(where: str, value: Any, infinite: bool = False) -> float:
    """A finite number of at most LARGEST, or a fraction as a text; ``infinite``: "inf" too."""
    got = math.nan
    if isinstance(value, int | float) and not isinstance(value, bool):
        got = float(value)
    if isinstance(value, str):
        match = FRACTION.fullmatch(value.replace(" ", ""))
        if match and int(match[2]):
            got = int(match[1]) / int(match[2])
        if infinite and value == "inf":
            return math.inf
    if abs(got) <= LARGEST:
        return got
    more = ', or "inf" for pure noise' if infinite else ""
    raise ValueError(
        f'{where} = {quoted(value)}: write a finite number such as 0.5 or a fraction such as "1/3"{more}; at most {LARGEST:.0e}'
    )


def as_numbers(
    where: str, value: Any, most: int, least: int = 0, infinite: bool = False
) -> tuple[float, ...]:
    entries = as_list(where, value, most, least)
    return tuple(as_number(f"{where}[{i}]", v, infinite) for i, v in enumerate(entries))


def as_count(where: str, value: Any, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"{where} = {quoted(value)}: write a whole number from {low} to {high}")
    return value


def as_flag(where: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{where} = {quoted(value)}: write true or false")
    return value


def as_name(where: str, value: Any) -> str:
    if not isinstance(value, str) or len(value) > 80 or not value.isprintable():
        raise ValueError(f"{where} = {quoted(value)}: write one line of at most 80 characters")
    return value


def as_choice(where: str, value: Any, options: Iterable[str]) -> str:
    options = tuple(options)
    if not isinstance(value, str) or value not in options:
        raise ValueError(f"{where} = {quoted(value)}: choose one of {', '.join(options)}")
    return value
