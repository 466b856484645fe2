"""Names of the node classes that come with ComfyUI 0.33, those of its paid services among them."""

from __future__ import annotations

from functools import cache
from pathlib import Path

FILE = Path(__file__).with_name(
    "core_classes.txt"
)  # one a line; tests/host holds it against a server


@cache
def core_classes() -> frozenset[str]:
    """Every class of ComfyUI's own nodes, whether a stand-in of it runs here or not."""
    return frozenset(FILE.read_text(encoding="utf-8").splitlines())
