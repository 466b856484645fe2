"""A name that this ComfyUI does not have costs the nodes that need it, each with one clear error, and never the pack."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import wraps
from types import ModuleType
from typing import Any

log = logging.getLogger("sampling_kit")

#: ComfyUI's top-level modules that the pack uses.
THEIRS = ("comfy", "comfy_api", "comfy_execution", "comfy_extras", "folder_paths", "server")


class MissingName(RuntimeError):
    """This ComfyUI lacks a name that a node needs."""


def missing_name(error: BaseException) -> str | None:
    """The name of ComfyUI's whose absence an error is about, dotted; None for any other error."""
    if isinstance(error, ImportError) and _is_theirs(error.name):
        attribute = re.search(r"cannot import name '(\w+)'", str(error))
        return f"{error.name}.{attribute[1]}" if attribute else error.name
    if not isinstance(error, AttributeError):
        return None
    owner = error.obj
    if isinstance(owner, ModuleType):
        return f"{owner.__name__}.{error.name}" if _is_theirs(owner.__name__) else None
    kinds = owner.__mro__ if isinstance(owner, type) else type(owner).__mro__
    for kind in kinds:
        if _is_theirs(kind.__module__):
            return f"{kind.__module__}.{kind.__qualname__}.{error.name}"
    return None


def _is_theirs(module: str | None) -> bool:
    return (module or "").split(".")[0] in THEIRS


@contextmanager
def needed_by(title: str) -> Iterator[None]:
    """Inside, the absence of a name of ComfyUI's is a MissingName that says so, for the node ``title``."""
    try:
        yield
    except (ImportError, AttributeError) as error:
        name = missing_name(error)
        if name is None:
            raise
        raise MissingName(
            f"{title}: this ComfyUI has no {name}, which the node needs; update the Sampling Kit, or use a ComfyUI that has it"
        ) from error


def guarded(node: type[Any], title: str) -> type[Any]:
    """The node class itself; from now on it names itself where ComfyUI lacks a name."""
    function = node.execute.__func__
    execute = getattr(function, "sampling_kit_execute", function)

    @wraps(execute)
    def named(cls: type[Any], *args: Any, **inputs: Any) -> Any:
        with needed_by(title):
            return execute(cls, *args, **inputs)

    named.sampling_kit_execute = execute  # type: ignore[attr-defined]
    node.execute = classmethod(named)
    return node


def usable(nodes: Iterable[type[Any]]) -> list[type[Any]]:
    """The nodes that can be declared with this ComfyUI, guarded; the log names the others."""
    out = []
    for node in nodes:
        try:
            with needed_by(node.__name__):
                schema = node.define_schema()
        except Exception as error:
            log.error("%s is left out: %s", node.__name__, error)
            continue
        out.append(guarded(node, schema.display_name or schema.node_id))
    return out
