r"""Choices in prompts: {a|b}, {a {b|c}|d}, {2::a|b} (a is taken twice as often); \{ \| \} are the signs themselves.

As on ComfyUI's page they count in text inputs that say so ("dynamicPrompts": CLIPTextEncode's text and its kind). Braces
without a "|" between them stay, so that JSON is no choice. Which one is taken follows from the job's seed, the node and the
input alone: the same command takes the same again.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from .prompt import Registry, slots
from .workflow import Workflow, WorkflowError

DEEPEST = 50  # choices in each other
SIGN = re.compile(r"\\[{}|]|[{}|]")
WEIGHT = re.compile(r"\s*([0-9]{1,9}(?:\.[0-9]{1,9})?)\s*::")
Draw = Callable[[], float]  # the next number of [0, 1)


@dataclass
class Choice:
    """What stands between two braces: alternatives, each of texts and choices."""

    options: list[list[str | Choice]] = field(default_factory=lambda: [[]])


def with_choices(
    workflow: Workflow, nodes: Registry, seed: int | None, wanted: bool = True
) -> tuple[Workflow, dict[str, str]]:
    """(the workflow with every choice made, {"node.input": the text that came of it}); as it is unless ``wanted``.

    ``seed``: the job's; None takes a digest of the graph, its own seeds among it. Raises WorkflowError for choices
    DEEPEST in each other.
    """
    if not wanted:
        return workflow, {}
    prompt = workflow.prompt
    source = json.dumps(prompt, sort_keys=True) if seed is None else str(seed)
    chosen: dict[str, str] = {}
    changed = copy.deepcopy(prompt)
    for node, name in _places(workflow, nodes):
        before = prompt[node]["inputs"][name]
        try:
            text = choose(before, draws(f"{source}\n{node}\n{name}"))
        except WorkflowError as error:
            raise WorkflowError(f'node {node}, input "{name}": {error}') from None
        if text != before:
            changed[node]["inputs"][name] = chosen[f"{node}.{name}"] = text
    return workflow.with_prompt(changed), chosen


def may_choose(workflow: Workflow) -> bool:
    """Whether a text has a sign of a choice, so that the nodes' schemas are needed."""
    values = (v for node in workflow.prompt.values() for v in node["inputs"].values())
    return any(isinstance(value, str) and SIGN.search(value) for value in values)


def _places(workflow: Workflow, nodes: Registry) -> Iterator[tuple[str, str]]:
    """(node, input) of the texts in which choices count."""
    for key, node in workflow.prompt.items():
        node_class = nodes.get(node["class_type"])
        if node_class is None:
            continue
        for slot in slots(node_class.define_schema().inputs, node["inputs"]):
            value = node["inputs"].get(slot.id)
            if isinstance(value, str) and slot.options.get("dynamicPrompts") and SIGN.search(value):
                yield key, slot.id


def draws(source: str) -> Draw:
    """Numbers of [0, 1) that follow from a text alone, in every version of Python."""
    count = 0

    def draw() -> float:
        nonlocal count
        count += 1
        digest = hashlib.sha256(f"{count}\n{source}".encode("utf-8", "surrogatepass")).digest()
        return int.from_bytes(digest[:6], "big") / 2**48

    return draw


def choose(text: str, draw: Draw) -> str:
    """``text`` with every choice made, from left to right, the outer ones first."""
    return "".join(_texts(_parts(text), draw))


def _parts(text: str) -> list[str | Choice]:
    """The text as plain pieces and choices; a brace that is not closed is text."""
    top = Choice()
    stack, at = [top], 0
    for sign in SIGN.finditer(text):
        here = stack[-1]
        here.options[-1].append(text[at : sign.start()])
        at = sign.end()
        if sign[0] == "{":
            if len(stack) > DEEPEST:
                raise WorkflowError(f"choices {{…|…}} more than {DEEPEST} in each other")
            stack.append(Choice())
        elif sign[0] == "|" and len(stack) > 1:
            here.options.append([])
        elif sign[0] == "}" and len(stack) > 1:
            stack.pop()
            stack[-1].options[-1].extend([here] if len(here.options) > 1 else _plain(here, "}"))
        else:
            here.options[-1].append(sign[0][-1])
    stack[-1].options[-1].append(text[at:])
    while len(stack) > 1:
        left = stack.pop()
        stack[-1].options[-1].extend(_plain(left, ""))
    return top.options[0]


def _plain(choice: Choice, end: str) -> Iterator[str | Choice]:
    """What is no choice, as it was written."""
    for i, option in enumerate(choice.options):
        yield "|" if i else "{"
        yield from option
    yield end


def _texts(parts: list[str | Choice], draw: Draw) -> Iterator[str]:
    for part in parts:
        if isinstance(part, str):
            yield part
        else:
            yield from _texts(_taken(part, draw), draw)


def _taken(choice: Choice, draw: Draw) -> list[str | Choice]:
    """One alternative, by weight; equal weights where all are 0."""
    weighed = [_weighed(option) for option in choice.options]
    total = math.fsum(weight for weight, _ in weighed)
    left = draw() * (total or len(weighed))
    for weight, option in weighed:
        left -= weight if total else 1.0
        if left < 0:
            return option
    return weighed[-1][1]


def _weighed(option: list[str | Choice]) -> tuple[float, list[str | Choice]]:
    """(its weight, the alternative without it). A weight stands at its beginning, as in 2::red."""
    first = "".join(part for part in option[:1] if isinstance(part, str))
    match = WEIGHT.match(first)
    if match is None:
        return 1.0, option
    return float(match[1]), [first[match.end() :], *option[1:]]
