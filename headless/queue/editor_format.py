"""The editor's format of a workflow, made an API graph with a server's list of nodes."""

from __future__ import annotations

from typing import Any

from ..editor_graph import to_prompt
from ..object_info import registry_of
from ..workflow import Prompt, WorkflowError
from .access import Access, address
from .faults import Refuses, Unreachable
from .node_list import object_info


def to_api(ui: dict[str, Any], server: str, access: Access | None = None) -> Prompt:
    """The API graph of an editor's graph. Raises WorkflowError, also where the server's list cannot be read."""
    try:
        nodes = object_info([server], access)
    except (Unreachable, Refuses) as error:
        raise WorkflowError(
            "the editor's format is converted with the server's list of nodes, but "
            f"{address(server).base}/object_info cannot be read: {error}"
        ) from None
    return to_prompt(ui, registry_of(nodes))
