"""The example workflows that ship with the package, by name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

FOLDER = Path(__file__).parent.parent / "example_workflows"


def names() -> list[str]:
    """Names of the examples, in order."""
    return sorted(path.stem for path in (FOLDER / "api").glob("*.json"))


def example(name: str) -> Path | None:
    """The API graph of an example; None if there is none of this name."""
    return FOLDER / "api" / f"{name}.json" if name in names() else None


def described() -> Iterator[tuple[str, str]]:
    """(name, what it shows) of every example; the words are the heading of its note."""
    for name in names():
        yield name, _heading(FOLDER / f"{name}.json")


def _heading(path: Path) -> str:
    """The first line of the note in an editor's graph; "" where there is none."""
    if not path.is_file():
        return ""
    for node in json.loads(path.read_text(encoding="utf-8"))["nodes"]:
        if node["type"] == "MarkdownNote":
            return str(node["widgets_values"][0]).splitlines()[0].lstrip("# ")
    return ""
