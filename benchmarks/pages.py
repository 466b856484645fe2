"""Parts of pages that commands write: what stands between two marks is measured, the rest by hand."""

from __future__ import annotations

from pathlib import Path

DOCS = Path(__file__).resolve().parents[1] / "docs"
CHOOSING, FIT, QUALITY = DOCS / "choosing.md", DOCS / "fit.md", DOCS / "quality.md"

Marks = tuple[str, str]


def marks(name: str) -> Marks:
    return f"<!-- {name} -->", f"<!-- /{name} -->"


def written(page: str, between: Marks, text: str) -> str:
    """The page with ``text`` between its marks. Raises ValueError if it has them not once."""
    if any(page.count(mark) != 1 for mark in between):
        raise ValueError(f"the page has not one {between[0]} and one {between[1]}")
    head, rest = page.split(between[0])
    return "".join(
        [head, between[0], "\n\n", text.strip(), "\n\n", between[1], rest.split(between[1])[1]]
    )


def write(page: Path, between: Marks, text: str) -> None:
    page.write_text(written(page.read_text(encoding="utf-8"), between, text), encoding="utf-8")
