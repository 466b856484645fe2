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

from . import host

if host.PRESENT:
    from .host.comfy import models, places, runs

    host.use(models, runs, places)
else:
    from .host.alone import models as models_alone
    from .host.alone import places as places_alone
    from .host.alone import runs as runs_alone

    host.use(models_alone, runs_alone, places_alone)

ROOMS = ("schedule", "denoiser", "guidance", "solver", "noise", "sample", "image", "inspect", "fit")


def _nodes() -> Iterator[type[Any]]:
    for room in ROOMS:
        for module in iter_modules([str(Path(__file__).parent / room)]):
            yield from getattr(import_module(f".{room}.{module.name}", __name__), "NODES", ())


NODES = tuple(_nodes())
