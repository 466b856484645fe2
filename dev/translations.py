"""English → another language: locales/<language>/strings.json as a table that notes what it lacks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent / "locales"
LANGUAGES = ("zh",)  # beside English, in full
PARTLY = (
    "ja",
    "ko",
    "es",
)  # names of nodes, and what the most used are for; the page shows English for the rest


@dataclass(frozen=True)
class Translation:
    """``names`` of nodes, inputs and outputs, and ``texts``; what is in neither stays English, and is ``missing``.

    A name may be one of a node only: "SamplingKitSteps.scale" goes before "scale". Without tables everything
    stays English.
    """

    names: Mapping[str, str] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)
    missing: dict[tuple[str, str], None] = field(default_factory=dict)
    asked: set[tuple[str, str]] = field(default_factory=set)

    @classmethod
    def of(cls, language: str) -> Translation:
        return cls(**json.loads((ROOT / language / "strings.json").read_text(encoding="utf-8")))

    def name(self, english: str, node: str = "") -> str:
        of_node = f"{node}.{english}"
        self.asked.add(("names", of_node))
        return (
            self.names[of_node]
            if of_node in self.names
            else self._look("names", self.names, english)
        )

    def text(self, english: str | None) -> str:
        return self._look("texts", self.texts, english) if english else ""

    def _look(self, kind: str, table: Mapping[str, str], english: str) -> str:
        self.asked.add((kind, english))
        if english not in table:
            self.missing[kind, english] = None
        return table.get(english, english)
