"""`--set` and `--seed`: the same workflow with other values."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from .prompt import SEEDS, Registry, slots, title
from .workflow import Prompt, Workflow, WorkflowError

Values = list[tuple[str, str, Any]]  # node id, input, value


def with_settings(workflow: Workflow, nodes: Registry, settings: Sequence[str]) -> Workflow:
    """The workflow with every --set applied; raises WorkflowError for one that names nothing."""
    values = [_parse_setting(text, workflow.prompt, nodes) for text in settings]
    typed = workflow.typed | {value for _, _, value in values if isinstance(value, str)}
    changed = replace(_with_values(workflow, values), typed=typed)
    for node, name, _ in values:
        node_class = nodes.get(changed.prompt[node]["class_type"])
        if node_class is None:
            continue  # the check says so
        inputs = changed.prompt[node]["inputs"]
        names = [slot.id for slot in slots(node_class.define_schema().inputs, inputs)]
        if name not in names:
            raise WorkflowError(
                f"--set: node {node} has no input {name!r}; it has: {', '.join(names)}"
            )
    return changed


def _parse_setting(text: str, prompt: Prompt, nodes: Registry) -> tuple[str, str, Any]:
    """(node id, input, value) of NODE.INPUT=VALUE; NODE is the longest id or title that fits."""
    target, equals, value = text.partition("=")
    dots = [match.start() for match in re.finditer(r"\.", target)]
    if not equals or not dots:
        raise WorkflowError(f"--set {text!r} does not have the form NODE.INPUT=VALUE")
    for dot in reversed(dots):
        matches = _find(target[:dot], prompt, nodes)
        if len(matches) > 1:
            raise WorkflowError(
                f"--set: {target[:dot]!r} is the title of nodes {', '.join(matches)}; use the id"
            )
        if matches:
            return matches[0], target[dot + 1 :], _parse_value(value)
    titles = ", ".join(f'{node} "{title(prompt, node, nodes)}"' for node in prompt)
    raise WorkflowError(f"--set: no node is called {target[: dots[-1]]!r}; there are: {titles}")


def _find(name: str, prompt: Prompt, nodes: Registry) -> list[str]:
    """The node with this id, else all with this title."""
    return [name] if name in prompt else [n for n in prompt if title(prompt, n, nodes) == name]


def _parse_value(text: str) -> Any:
    """JSON where it is JSON, else the text itself."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def with_seed(workflow: Workflow, nodes: Registry, seed: int | None) -> Workflow:
    """The workflow with every seed that is not linked set; WorkflowError if there is none."""
    if seed is None:
        return workflow
    values: Values = []
    for key, node in workflow.prompt.items():
        node_class = nodes.get(node["class_type"])
        if node_class is None:  # a server may know it
            values += [(key, name, seed) for name in SEEDS if type(node["inputs"].get(name)) is int]
            continue
        for slot in slots(node_class.define_schema().inputs, node["inputs"]):
            named = slot.id.split(".")[-1] in SEEDS
            marked = slot.type == "INT" and (named or slot.options.get("control_after_generate"))
            if marked and not isinstance(node["inputs"].get(slot.id), list):
                values.append((key, slot.id, seed))
    if not values:
        raise WorkflowError("--seed: no node of this workflow has a seed")
    return _with_values(workflow, values)


def _with_values(workflow: Workflow, values: Values) -> Workflow:
    """The workflow with inputs set. The editor's graph goes if it no longer says the same."""
    prompt = copy.deepcopy(workflow.prompt)
    for node, name, value in values:
        prompt[node]["inputs"][name] = value
    return replace(workflow, prompt=prompt, ui=workflow.ui if prompt == workflow.prompt else None)
