"""The editor's format of a workflow, made an API graph."""

from __future__ import annotations

from typing import Any

from ..workflow import Prompt, WorkflowError
from .access import Access, address
from .faults import Refuses, Unreachable
from .node_list import object_info


def to_api(ui: dict[str, Any], server: str, access: Access | None = None) -> Prompt:
    """The API graph of an editor's graph, by comfy-cli's converter and the server's node list."""
    try:
        from comfy_cli.workflow_to_api import convert_ui_to_api
    except ImportError:
        raise WorkflowError(
            "this is the editor's format: `pip install comfy-cli` lets this command convert it; or export it "
            "with Workflow > Export (API) in ComfyUI"
        ) from None
    try:
        nodes = object_info([server], access)
    except (Unreachable, Refuses) as error:
        raise WorkflowError(
            "the editor's format is converted with the server's list of nodes, but "
            f"{address(server).base}/object_info cannot be read: {error}"
        ) from None
    converted: Prompt = convert_ui_to_api(ui, nodes)
    return converted
