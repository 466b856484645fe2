"""One defect that can be planted in the pack; see ``defects.py``."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Defect:
    """One change that makes the pack wrong. ``file`` is relative to the repository; ``old`` stands there exactly
    once, or once in the class or function that begins with ``inside``. ``tests`` are pytest's node ids,
    of which at least one must fail with ``new`` in place of ``old``.
    """

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    inside: str = ""

    def planted(self, text: str) -> str:
        """``text`` of the file with the defect. Raises ValueError for a stale row."""
        where = f"{self.name} ({self.file})"
        start, end = 0, len(text)
        if self.inside:
            if text.count(self.inside) != 1:
                raise ValueError(
                    f"{where}: {self.inside!r} is there {text.count(self.inside)} times"
                )
            start = text.index(self.inside)
            after = re.compile(r"^(?=[^\s)\]}#])", re.MULTILINE).search(text, start + 1)
            end = after.start() if after else end
        part = text[start:end]
        if part.count(self.old) != 1:
            raise ValueError(
                f"{where}: {self.old!r} is there {part.count(self.old)} times, not once"
            )
        new = text[:start] + part.replace(self.old, self.new) + text[end:]
        try:
            ast.parse(new)
        except SyntaxError as error:
            raise ValueError(f"{where}: the new file is no Python: {error}") from None
        return new
