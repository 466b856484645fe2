"""`--set`, `--seed` and `--only`: the same workflow with other values, or a part of it."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from .picture_text import DAMAGED, picture_texts
from .prompt import AUTOGROW, DYNAMIC, SEEDS, Registry, Slot, slots, title, upstream
from .workflow import Prompt, Workflow, WorkflowError

#: Inputs of nodes that do nothing but hold or pass on a number.
NUMBERS = {*SEEDS, "value", "int", "number"}
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
        present = list(slots(node_class.define_schema().inputs, inputs))
        names = [slot.id for slot in present]
        if name not in names and not any(_may_hold(slot, name) for slot in present):
            raise WorkflowError(
                f"--set: node {node} has no input {name!r}; it has: {', '.join(names)}"
            )
    return changed


def _may_hold(slot: Slot, name: str) -> bool:
    """Whether an input is of a nested kind that is not understood here, and ``name`` is in it."""
    nested = slot.type.startswith("COMFY_") and slot.type not in (AUTOGROW, DYNAMIC)
    return nested and name.startswith(f"{slot.id}.")


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
    """JSON where it is JSON, else the text itself; no input takes an object, so that is a text, too."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return text if isinstance(value, dict) else value


PICK, A1111 = "SamplingKitPickDrafts", "SamplingKitA1111Settings"


def with_pick(workflow: Workflow, numbers: str | None) -> Workflow:
    """The workflow with the drafts' numbers set. Raises WorkflowError unless it has one Pick Drafts."""
    if numbers is None:
        return workflow
    key = _only_one(workflow, PICK, "--pick", "Pick Drafts", "numbers=3,7")
    return _with_values(workflow, [(key, "numbers", numbers)])


def with_infotext(workflow: Workflow, file: Path | None) -> Workflow:
    """The workflow with the settings of a picture, or of a text file, in its Settings from A1111 Text.

    Raises WorkflowError unless it has one such node, and for a file that holds none.
    """
    if file is None:
        return workflow
    key = _only_one(workflow, A1111, "--a1111", "Settings from A1111 Text", "text=…")
    try:
        texts = picture_texts(file)
        text = file.read_text("utf8") if texts is None else texts.get("parameters", "")
    except (OSError, ValueError, *DAMAGED) as error:
        raise WorkflowError(f"--a1111: {file} cannot be read: {error}") from None
    if not text.strip():
        raise WorkflowError(f"--a1111: {file} carries no settings of A1111")
    return _with_values(workflow, [(key, "text", text)])


def _only_one(workflow: Workflow, kind: str, option: str, name: str, example: str) -> str:
    """The id of the one node of a kind. Raises WorkflowError."""
    keys = [key for key, node in workflow.prompt.items() if node["class_type"] == kind]
    if len(keys) != 1:
        has = f"nodes {', '.join(keys)} are; use --set NODE.{example}" if keys else "none is"
        raise WorkflowError(f"{option}: one node of the workflow must be a {name}, but {has}")
    return keys[0]


def with_seed(workflow: Workflow, nodes: Registry, seed: int | None) -> Workflow:
    """The workflow with every seed set, those too that come from another node, such as PrimitiveInt.

    Raises WorkflowError if there is none.
    """
    if seed is None:
        return workflow
    places = dict.fromkeys(
        place
        for key, node in workflow.prompt.items()
        for name in _seed_inputs(node, nodes)
        if (place := _source(workflow.prompt, key, name)) is not None
    )
    if not places:
        raise WorkflowError("--seed: no node of this workflow has a seed")
    return _with_values(workflow, [(node, name, seed) for node, name in places])


def _seed_inputs(node: Mapping[str, Any], nodes: Registry) -> Iterator[str]:
    """Names of a node's inputs that take a seed."""
    node_class = nodes.get(node["class_type"])
    plain = [name for name in SEEDS if name in node["inputs"]]
    if node_class is None:  # a server may know it
        yield from plain
        return
    if getattr(node_class, "LISTED", False):  # by a server, perhaps of another version
        yield from plain
    for slot in slots(node_class.define_schema().inputs, node["inputs"]):
        named = slot.id.split(".")[-1] in SEEDS
        if slot.type == "INT" and (named or slot.options.get("control_after_generate")):
            yield slot.id


def _source(prompt: Prompt, node: str, name: str) -> tuple[str, str] | None:
    """(node, input) that holds the number of a seed: the input itself, or that of the node it is linked to.

    A node in between passes a number on if it has one such input (PrimitiveInt's value, a seed node's seed) and
    nothing but seeds takes it. None where the number is computed, or is the number of something else too.
    """
    for _ in range(len(prompt)):
        value = prompt[node]["inputs"].get(name)
        if not isinstance(value, list):
            return None if isinstance(value, str | bool | dict) else (node, name)
        if len(value) != 2 or value[0] not in prompt:
            return None
        node = value[0]
        takers = [
            k
            for n in prompt.values()
            for k, v in n["inputs"].items()
            if isinstance(v, list) and v[:1] == [node]
        ]
        if not {key.split(".")[-1] for key in takers} <= NUMBERS:
            return None
        inputs = prompt[node]["inputs"]
        numbers = [key for key in inputs if key.split(".")[-1] in NUMBERS]
        if len(numbers) != 1:
            return None
        name = numbers[0]
    return None  # links in a circle


def _with_values(workflow: Workflow, values: Values) -> Workflow:
    """The workflow with inputs set."""
    prompt = copy.deepcopy(workflow.prompt)
    for node, name, value in values:
        prompt[node]["inputs"][name] = value
    return workflow.with_prompt(prompt)


def only(workflow: Workflow, nodes: Registry, names: Sequence[str]) -> Workflow:
    """The part of the workflow that the outputs ``names`` (ids or titles) need; all of it without names.

    Raises WorkflowError for a name that is no node, or a node that is no output.
    """
    if not names:
        return workflow
    chosen: set[str] = set()
    for name in names:
        matches = _find(name, workflow.prompt, nodes)
        if not matches:
            raise WorkflowError(
                f"--only: no node is called {name[:80]!r}; {_outputs(workflow, nodes)}"
            )
        for key in matches:
            if not _is_output(workflow.prompt[key], nodes):
                label = title(workflow.prompt, key, nodes)
                raise WorkflowError(
                    f'--only: node {key} "{label}" is no output; {_outputs(workflow, nodes)}'
                )
        chosen |= {*matches}
    part = upstream(workflow.prompt, chosen)
    return workflow.with_prompt({k: node for k, node in workflow.prompt.items() if k in part})


def _is_output(node: Mapping[str, Any], nodes: Registry) -> bool:
    """Whether a node saves or shows something; one of an unknown class may."""
    node_class = nodes.get(node["class_type"])
    return node_class is None or bool(node_class.define_schema().is_output_node)


def _outputs(workflow: Workflow, nodes: Registry) -> str:
    outputs = [key for key, node in workflow.prompt.items() if _is_output(node, nodes)]
    named = ", ".join(f'{key} "{title(workflow.prompt, key, nodes)}"' for key in outputs)
    return f"outputs are: {named or 'none'}"
