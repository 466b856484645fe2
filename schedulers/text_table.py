"""Tables of text, for people: columns on the screen, and Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any


def text_table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Columns of text; floats with four digits."""
    cells = [list(header), *([_cell(c) for c in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    return "\n".join(
        "  ".join(
            c.rjust(w) if i else c.ljust(w)
            for i, (c, w) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    )


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table, every line ended. Values stand as ``str`` writes them, on one line, ``|`` escaped."""
    lines = [f"| {' | '.join(map(_markdown_cell, cells))} |\n" for cells in (header, *rows)]
    return "".join((lines[0], "|" + "---|" * len(header) + "\n", *lines[1:]))


def _markdown_cell(value: Any) -> str:
    return " ".join(str(value).replace("|", "\\|").splitlines())
