"""Grids of a workflow that runs without ComfyUI: their cells are nodes of the graph before anything runs."""

from __future__ import annotations

from typing import Any

from .prompt import InputError, Registry
from .workflow import Workflow

GRID = "SamplingKitGrid"
MOST_NODES = 100_000


class GridError(Exception):
    """A grid that cannot be made: the id of its node, and what is wrong."""

    def __init__(self, node: str, error: InputError) -> None:
        super().__init__(node, error)
        self.node, self.error = node, error


def with_grids(workflow: Workflow, registry: Registry) -> Workflow:
    """The workflow with the nodes of its grids in place of them, or itself where it has none. Raises GridError.

    Where a cell's picture is there already, nothing makes it.
    """
    prompt = dict(workflow.prompt)
    while grids := [key for key, node in prompt.items() if node["class_type"] == GRID]:
        _put_in(prompt, grids[0])
        if len(prompt) > MOST_NODES:
            more = f"Its grids make more than {MOST_NODES} nodes"
            raise GridError(
                grids[0], InputError("custom_validation_failed", more, "Use fewer values")
            )
    same = prompt.keys() == workflow.prompt.keys()
    return workflow if same else workflow.with_prompt(prompt)


def _put_in(prompt: dict[str, Any], key: str) -> None:
    """The nodes of a grid in its place; what is linked to it is linked to its sheet."""
    from ..nodes.sample.grid import Grid, grid_of
    from ..nodes.sample.grid_graph import Wanted

    inputs = {item.id: item.as_dict().get("default") for item in Grid.define_schema().inputs}
    inputs |= prompt[key]["inputs"]
    inputs["height"] = int(inputs["height"])
    source, output = inputs.pop("images")
    try:
        nodes, link = grid_of(prompt, key, Wanted((source, output), **inputs))
    except ValueError as error:
        message = f"The grid cannot be made: {error}"
        raise GridError(
            key, InputError("custom_validation_failed", message, "Change the inputs it names")
        ) from None
    del prompt[key]
    prompt |= nodes
    for name, node in prompt.items():
        linked = {
            i: link for i, v in node["inputs"].items() if isinstance(v, list) and v[:1] == [key]
        }
        if linked:
            prompt[name] = {**node, "inputs": {**node["inputs"], **linked}}
