"""Names of the node classes that come with ComfyUI, those of its paid services among them.

Those of 0.33, and those that the help pages of newer ones name (comfyui-embedded-docs 0.5.15, November 2026).
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

FILE = Path(__file__).with_name(
    "core_classes.txt"
)  # one a line; tests/host holds it against a server

#: Nodes that repeat, choose or leave out parts of a graph while it runs, and those that ComfyUI makes for them.
CONTROL = frozenset(
    {
        "StartLoop", "EndLoop", "LoopIteration", "LoopProgress", "LoopResult",
        "BranchNode", "ComfySwitchNode", "ComfySoftSwitchNode",
    }
)  # fmt: skip


@cache
def core_classes() -> frozenset[str]:
    """Every class of ComfyUI's own nodes, whether a stand-in of it runs here or not."""
    return frozenset(FILE.read_text(encoding="utf-8").splitlines()) | CONTROL
