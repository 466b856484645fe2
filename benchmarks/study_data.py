"""The study's data as it is published: one file, small, that a citation can name by its digest.

docs/study.csv.xz unpacks to lines of text: facts as JSON behind "# ", then a table with a head, a row per run, numbers with three
digits. Empty is what was not measured; ``failure`` says why a run could not be. The digest is SHA-256 of the unpacked text.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import lzma
import platform
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path as File
from typing import Any

import numpy as np
import torch

from sampling_kit.schedulers.whole_file import write_whole

from . import pages

DATA = pages.DOCS / "study.csv.xz"
MOST = 20 * 2**20  # bytes of text


@dataclass(frozen=True)
class Row:
    """A run, or why there is none. ``us``: µs of the processor per evaluation outside the network."""

    network: str
    guidance: str
    solver: str
    spacing: str
    ends: str
    nfe: int
    calls: int | None = None
    rmse: float | None = None
    median: float | None = None
    frechet: float | None = None
    us: float | None = None
    failure: str = ""

    @property
    def world(self) -> tuple[str, str]:
        return self.network, self.guidance


NAMES = tuple(f.name for f in fields(Row))
COUNTS, NUMBERS = ("nfe", "calls"), ("rmse", "median", "frechet", "us")


@dataclass(frozen=True)
class Study:
    """``facts``: the size, the versions and, by world, starts and distances."""

    facts: dict[str, Any]
    rows: tuple[Row, ...]
    digest: str


def text_of(facts: dict[str, Any], rows: Iterable[dict[str, Any]]) -> str:
    """The unpacked file, rows in order."""
    lines = io.StringIO()
    lines.write(f"# {json.dumps(facts, sort_keys=True)}\n")
    table = csv.writer(lines, lineterminator="\n")
    table.writerow(NAMES)
    table.writerows(sorted([_cell(row.get(name), name) for name in NAMES] for row in rows))
    return lines.getvalue()


def _cell(value: Any, name: str) -> str:
    if value is None:
        return ""
    return f"{value:.3g}" if name in NUMBERS else str(value)


def facts_of(work: File, size: str) -> dict[str, Any]:
    """What the work folder says beside its rows."""
    worlds = [json.loads(file.read_text(encoding="utf-8")) for file in work.glob("world-*.json")]
    return {
        "size": size,
        "worlds": {w.pop("name"): w for w in sorted(worlds, key=lambda w: w["name"])},
        "torch": torch.__version__.split("+")[0],
        "numpy": np.__version__,
        "machine": platform.machine(),
    }


def write(facts: dict[str, Any], rows: Iterable[dict[str, Any]], file: File = DATA) -> str:
    """Returns the digest."""
    text = text_of(facts, rows).encode()
    write_whole(file, lzma.compress(text, preset=9 | lzma.PRESET_EXTREME))
    return hashlib.sha256(text).hexdigest()


@lru_cache(maxsize=1)
def read(file: File = DATA) -> Study:
    """Raises ValueError for a file of another kind."""
    with lzma.open(file) as stream:
        raw = stream.read(MOST)
    head, *lines = raw.decode().splitlines()
    table = csv.reader(lines)
    if not head.startswith("# ") or tuple(next(table)) != NAMES:
        raise ValueError(
            f"{file} is no study of this version: python -m benchmarks.study --publish"
        )
    rows = tuple(_row(cells) for cells in table)
    return Study(json.loads(head[2:]), rows, hashlib.sha256(raw).hexdigest())


def _row(cells: Sequence[str]) -> Row:
    values: dict[str, Any] = dict(zip(NAMES, cells, strict=True))
    for name in COUNTS:
        values[name] = int(values[name]) if values[name] else None
    for name in NUMBERS:
        values[name] = float(values[name]) if values[name] else None
    return Row(**values)
