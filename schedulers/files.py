"""Files that appear whole or not at all, and files of strangers: every number finite, every size bounded."""

from __future__ import annotations

import json
import math
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from torch import Tensor

DEEPEST = 100  # JSON values inside each other
CONTAINERS = dict, list  # what JSON puts them into
MOST_VALUES = 2**19  # of a JSON text, counted by its commas and brackets before any is made
LARGEST, LARGEST_TEXT = 2**32, 2**24  # bytes of a file of tensors, and of the JSON in its header
LARGEST_HEADER = 2 * LARGEST_TEXT  # the JSON with its quotes escaped, and the tensors
LARGEST_TABLES = 2**26  # bytes of a file that holds tables of numbers, no pictures and no networks
#: Types of tensors: what NumPy and every device know.
KINDS = {"F64", "F32", "F16", "BF16", "I64", "I32", "U8", "BOOL"}


@contextmanager
def whole(file: Path) -> Iterator[Path]:
    """A path beside ``file`` to write to; at the end of the block it takes the place of ``file``.

    An error or a kill in between leaves ``file`` as it was; after an error nothing else is left either.
    """
    part = file.with_name(f".{secrets.token_hex(8)}.part")
    try:
        yield part
        os.replace(part, file)
    finally:
        part.unlink(missing_ok=True)


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


def count_values(text: str | bytes) -> None:
    """Raises ValueError for a JSON text of more than MOST_VALUES values. Cheap: nothing is parsed."""
    if isinstance(text, bytes):
        marks = text.count(b",") + text.count(b"[") + text.count(b"{")
    else:
        marks = text.count(",") + text.count("[") + text.count("{")
    if marks > MOST_VALUES:
        raise ValueError(f"more than {MOST_VALUES} values")


def check_header(file: Path) -> None:
    """Raises ValueError for a safetensors file whose header is larger or has more entries than any of ours.

    Layout: 8 bytes little-endian length, then so many bytes of JSON. What is cut short is left to safetensors.
    """
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if length > LARGEST_HEADER:
            raise ValueError(f"its header has more than {LARGEST_TEXT >> 20} MB of text")
        count_values(stream.read(length))


def read_tensors(
    file: Path, header: str, what: str, largest: int = LARGEST
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """(facts, tensors) of a safetensors file that holds ``facts`` as JSON in its header under ``header``.

    ``largest``: bytes that the file may have. Raises ValueError, naming the file, if it is missing, damaged, too
    large, no ``what``, or has other tensors than plain numbers.
    """
    from safetensors import SafetensorError, safe_open

    try:
        size = file.stat().st_size
        if size > largest:
            limit = f"{largest >> 30} GB" if largest >> 30 else f"{largest >> 20} MB"
            raise ValueError(f"it is larger than {limit}")
        check_header(file)
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
