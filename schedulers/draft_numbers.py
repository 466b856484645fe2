"""Which drafts a person picked: numbers as they stand on a sheet, from 1."""

from __future__ import annotations

import re

MOST_SHOWN = 60  # characters of a wrong text


def picked(text: str, count: int) -> list[int]:
    """Positions from 0 of "3, 7" or "1, 4-6" among ``count`` drafts, in the order written; [] for an empty text.

    Raises ValueError, which names the input, for what is no number of a draft, and for one written twice.
    """
    rows: list[int] = []
    for word in re.split(r"[,;\s]+", re.sub(r"\s*[-–]\s*", "-", text.strip())):
        if word:
            rows += _range(word, text, count)
    if len(set(rows)) < len(rows):
        raise ValueError(f"numbers = {text[:MOST_SHOWN]!r}: write each draft once")
    return rows


def _range(word: str, text: str, count: int) -> range:
    ends = re.fullmatch(r"([0-9]{1,6})(?:-([0-9]{1,6}))?", word)
    first, last = (int(ends[1]), int(ends[2] or ends[1])) if ends else (0, 0)
    if 1 <= first <= last <= count:
        return range(first - 1, last)
    drafts = "there is 1 draft" if count == 1 else f"the drafts are 1 to {count}"
    raise ValueError(
        f"numbers = {text[:MOST_SHOWN]!r}: {word[:MOST_SHOWN]!r} is no draft; {drafts}. Write them as on the sheet, such as "
        "3, 7 or 1, 4-6"
    )
