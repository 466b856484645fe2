"""The node classes that a workflow may name here."""

from __future__ import annotations

from functools import cache
from typing import Any

from ..nodes import NODES
from .core import CORE_NODES
from .prompt import Registry


def registry() -> Registry:
    """{node id: class} of this pack's nodes and of the stand-ins for ComfyUI's core nodes."""
    return dict(_by_id())


@cache
def _by_id() -> Registry:
    """Each schema is made once: a tenth of a second for all."""
    nodes: tuple[type[Any], ...] = (*CORE_NODES, *NODES)
    return {node.define_schema().node_id: node for node in nodes}
