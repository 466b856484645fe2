"""Pages whose code runs: what their blocks print stands below them, and what they claim is checked.

A page holds blocks of Python, each perhaps followed by a block of what it prints::

    ```python
    print(f"{1 / 3:.2f}")
    ```
    ```text
    0.33
    ```

The blocks of a page share their names, in order. A claim of the prose that no output shows stands beside it as a comment,
``<!-- check: an expression of those names that must be true -->``. A translated page has the same blocks, outputs and checks.

    python -m sampling_kit.benchmarks.course                                     # what is stale or not true
    python -m sampling_kit.benchmarks.course --write docs/course/06-order.md     # run, and write what is printed, into zh/ too
"""

from __future__ import annotations

import argparse
import contextlib
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "course"
BLOCK = re.compile(
    r"```python\n(.*?)```\n(?:```text\n(.*?)```\n)?|<!-- check: (.*?) -->", re.DOTALL
)
NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?:e[-+]?\d+)?(?!\w)")


@dataclass(frozen=True)
class Block:
    """Code and the text that the page says it prints, or a check (``code`` empty)."""

    code: str
    printed: str = ""
    check: str = ""


@dataclass(frozen=True)
class Outcome:
    """What a page's blocks of code print, in order, and what of the page is not so."""

    printed: tuple[str, ...]
    faults: tuple[str, ...]


def pages() -> list[Path]:
    """The pages in English."""
    return sorted(FOLDER.glob("*.md"))


def blocks(text: str) -> list[Block]:
    """The blocks and checks of a page, in order."""
    return [Block(m[1] or "", m[2] or "", m[3] or "") for m in BLOCK.finditer(text)]


def outcome(text: str) -> Outcome:
    """Runs the blocks of a page. An error in one is raised."""
    names: dict[str, Any] = {"__name__": "__page__"}
    printed, faults = [], []
    for block in blocks(text):
        if block.check:
            if not eval(block.check, names):
                faults.append(f"not true: {block.check}")
            continue
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(compile(block.code, block.code.splitlines()[0], "exec"), names)
        printed.append(out.getvalue())
        if not agree(block.printed, printed[-1]):
            faults.append(f"it says\n{block.printed}and prints\n{printed[-1]}")
    return Outcome(tuple(printed), tuple(faults))


def agree(stated: str, printed: str) -> bool:
    """Equal but for numbers, which may differ by two in their last digit or by a twentieth: kernels round differently."""
    if NUMBER.sub("#", stated).split() != NUMBER.sub("#", printed).split():
        return False
    pairs = zip(NUMBER.findall(stated), NUMBER.findall(printed), strict=True)
    return all(_close(a, b) for a, b in pairs)


def _close(a: str, b: str) -> bool:
    x, y = abs(float(a)), abs(float(b))
    if "e" in a + b:  # of rounding errors the size counts
        return x <= 10 * y and y <= 10 * x
    unit = 10.0 ** -len(a.partition(".")[2])
    return abs(float(a) - float(b)) <= max(2.001 * unit if "." in a else 0.0, x / 20)


def rewritten(text: str, printed: Sequence[str]) -> str:
    """The page with these outputs below its blocks."""
    left = iter(printed)

    def block(match: re.Match[str]) -> str:
        if match[3]:
            return match[0]
        out = next(left)
        return f"```python\n{match[1]}```\n" + (f"```text\n{out}```\n" if out else "")

    return BLOCK.sub(block, text)


def translated(chinese: str, english: str) -> str:
    """The Chinese page with the English page's blocks, outputs and checks in the places of its own."""
    theirs = iter([match[0] for match in BLOCK.finditer(english)])
    return BLOCK.sub(lambda match: next(theirs), chinese)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--write", action="store_true", help="write what the blocks print")
    parser.add_argument("pages", nargs="*", type=Path, default=pages())
    options, wrong = parser.parse_args(arguments), 0
    for page in options.pages:
        text = page.read_text(encoding="utf-8")
        made = outcome(text)
        if options.write:
            text = rewritten(text, made.printed)
            page.write_text(text, encoding="utf-8")
            chinese = page.parent / "zh" / page.name
            if chinese.exists():
                same = translated(chinese.read_text(encoding="utf-8"), text)
                chinese.write_text(same, encoding="utf-8")
        faults = [f for f in made.faults if not options.write or f.startswith("not true")]
        wrong += len(faults)
        print(*(f"{page.name}: {fault}" for fault in faults), sep="\n", end="\n" if faults else "")
    raise SystemExit(bool(wrong))


if __name__ == "__main__":
    main()
