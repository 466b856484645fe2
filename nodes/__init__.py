"""The nodes: widgets in, engine values out. No mathematics here.

A folder is a category of the node menu, so the menu is the map. Each file of a room lists its nodes in
``NODES``; a new node is its file and nothing else. ``host/`` is the door to ComfyUI, ``ui/`` what nodes share.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

ROOMS = ("schedule", "denoiser", "guidance", "solver", "noise", "sample", "image", "inspect", "fit")


def _nodes() -> Iterator[type[Any]]:
    for room in ROOMS:
        for module in iter_modules([str(Path(__file__).parent / room)]):
            yield from getattr(import_module(f".{room}.{module.name}", __name__), "NODES", ())


NODES = tuple(_nodes())
