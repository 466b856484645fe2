"""The one door to the outside: ComfyUI where there is one, a stand-in where there is none.

Nodes declare themselves with ``io`` and ask the rest of ``host.models``, ``host.runs`` and ``host.places``,
which ``protocol.py`` describes; nothing else knows which of the two hosts it got. ``comfy/`` builds
ComfyUI's own objects, ``alone/`` the smallest ones that mean the same, for the headless runner.
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .protocol import Models, Places, Runs

PRESENT = importlib.util.find_spec("comfy_api") is not None

if PRESENT:
    from .comfy.api import io
else:
    from .alone import io

__all__ = ["PRESENT", "io", "models", "places", "runs", "use"]

models: Models
runs: Runs
places: Places


def use(models_of: Models, runs_of: Runs, places_of: Places) -> None:
    """Say who answers; ``nodes/__init__.py`` does, before it imports a node."""
    global models, runs, places
    models, runs, places = models_of, runs_of, places_of
