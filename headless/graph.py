"""Check and run a workflow without ComfyUI.

What passes `check` here passes ComfyUI's validation too; the reverse does not hold where ComfyUI
would let a mistake through until a node runs.
"""

from __future__ import annotations

import graphlib
import hashlib
import inspect
import json
import secrets
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import Any

from ..schedulers.printable import one_line
from .context import Context, current, use
from .core_names import CONTROL, core_classes
from .extras import EXTRAS, absent, install
from .grids import GridError, with_grids
from .prompt import (
    AUTOGROW,
    DYNAMIC,
    GROUP,
    InputError,
    Registry,
    Slot,
    constant,
    in_bounds,
    links,
    listed,
    missing,
    nest,
    short,
    similar,
    slots,
    title,
    upstream,
)
from .workflow import NodeFailure, Prompt, Workflow, WorkflowError, load, reason_of

__all__ = [
    "Context",
    "NodeError",
    "NodeFailure",
    "Workflow",
    "WorkflowError",
    "check",
    "current",
    "execute",
    "load",
    "use",
]

MOST_ERRORS = 100  # that are looked for and told
ELSEWHERE = (
    "Run the workflow in a ComfyUI: `sampling-kit run WORKFLOW --comfyui FOLDER` starts one, "
    "`sampling-kit queue WORKFLOW --server URL` asks one"
)
REPEAT = "`sampling-kit sweep` repeats a whole workflow with other values. "


@dataclass(frozen=True)
class NodeError:
    """One thing that is wrong with a node. `kind` is ComfyUI's error type; str() is one line."""

    kind: str
    node: str
    title: str
    class_type: str
    message: str
    hint: str
    input: str | None = None
    value: Any = None

    def __str__(self) -> str:
        place = f'node {self.node} "{self.title}" ({self.class_type})'
        if self.input is not None:
            place += f', input "{self.input}"'
        return one_line(f"{place}: {self.message}. {self.hint}")


def check(workflow: Workflow, registry: Registry, where: str = "") -> list[NodeError]:
    """What is wrong, at most MOST_ERRORS, before anything runs; an empty list means that it can run.

    As in ComfyUI only nodes that an output node needs are looked at, but a class that does not
    exist is an error anywhere; the rest is checked all the same. ``where``: whose nodes ``registry`` holds, if they are a
    server's. Put the run's context in `use` first if node classes ask for it.
    """
    errors = _mistakes(workflow, registry, where)
    if errors or where:
        return errors  # a server makes its own grids
    try:
        whole = with_grids(workflow, registry)
    except GridError as wrong:
        return [_Checker(workflow.prompt, registry).error(wrong.node, wrong.error)]
    return [] if whole is workflow else _mistakes(whole, registry)


def _mistakes(workflow: Workflow, registry: Registry, where: str = "") -> list[NodeError]:
    checker = _Checker(workflow.prompt, registry, where)
    unknown = list(islice(checker.unknown_classes(), MOST_ERRORS))
    needed = _needed(workflow.prompt, registry)
    if not needed and not unknown:
        hint = "Add a node that saves or shows a result, such as SaveImage"
        name = workflow.source.name
        return [NodeError("prompt_no_outputs", "-", name, "workflow", "No output node", hint)]
    nodes = [
        key
        for key, node in workflow.prompt.items()
        if key in needed and node["class_type"] in registry
    ]
    wrong = chain.from_iterable(map(checker.node_errors, nodes))
    return list(islice(chain(unknown, wrong, checker.cycles(needed)), MOST_ERRORS))


class _Checker:
    """The questions that `check` asks."""

    def __init__(self, prompt: Prompt, registry: Registry, where: str = "") -> None:
        self.prompt, self.registry, self.where = prompt, registry, where

    def error(self, node: str, wrong: InputError, name: str | None = None) -> NodeError:
        kind, message, hint = wrong.args
        entry = self.prompt[node]
        value = entry["inputs"].get(name) if name else None
        label = title(self.prompt, node, self.registry)
        return NodeError(kind, node, label, entry["class_type"], message, hint, name, value)

    def unknown_classes(self) -> Iterator[NodeError]:
        """One error for all that only a ComfyUI runs, one for what steers a run, one for each class that does not exist."""
        unknown = {
            k: n["class_type"]
            for k, n in self.prompt.items()
            if n["class_type"] not in self.registry
        }
        core = {} if self.where else {k: c for k, c in unknown.items() if c in core_classes()}
        control = {k: c for k, c in core.items() if c in CONTROL}
        for names, what, hint in (
            (control, "steers the run of other nodes", REPEAT + ELSEWHERE),
            ({k: c for k, c in core.items() if k not in control}, "is ComfyUI's own", ELSEWHERE),
        ):
            if names:
                key, name = next(iter(names.items()))
                others = [other for other in dict.fromkeys(names.values()) if other != name]
                also = f", like {listed(others)}" if others else ""
                message = f"It {what}{also}, and does not run here"
                yield self.error(key, InputError("missing_node_type", message, hint))
        for key in (key for key in unknown if key not in core):
            hint = f"`sampling-kit nodes` lists the nodes that run here. {ELSEWHERE}"
            hint = f"{self.where} has no such node" if self.where else hint
            hint = similar(unknown[key], self.registry) + hint
            yield self.error(key, InputError("missing_node_type", "Node class not found", hint))

    def cycles(self, needed: Collection[str]) -> Iterator[NodeError]:
        try:
            list(_order(self.prompt, needed))
        except graphlib.CycleError as cycle:
            names = [f"{key} ({self.prompt[key]['class_type']})" for key in cycle.args[1]]
            path = " -> ".join(names if len(names) <= 20 else [*names[:19], "…", names[-1]])
            message = f"Dependency cycle detected: {path}"
            wrong = InputError("dependency_cycle", message, "Remove one of these links")
            yield self.error(cycle.args[1][0], wrong)

    def node_errors(self, key: str) -> Iterator[NodeError]:
        node = self.prompt[key]
        node_class, inputs = self.registry[node["class_type"]], node["inputs"]
        if lacking := absent(getattr(node_class, "LIBRARIES", ())):
            hint = install(EXTRAS.get(lacking[0], lacking[0]))
            message = f"Needs {' and '.join(lacking)}, not installed"
            yield self.error(key, InputError("missing_extra", message, hint))
        present = list(slots(node_class.define_schema().inputs, inputs))
        names = [slot.id for slot in present]
        unchecked = _self_checked(node_class, names) | getattr(
            node_class, "OPEN_INPUTS", frozenset()
        )
        listed_by_server = getattr(node_class, "LISTED", False)
        values: dict[str, Any] = {}
        fine = True
        for slot in present:
            try:
                if slot.type == GROUP or (slot.type == AUTOGROW and slot.id not in inputs):
                    continue  # only its inputs are set
                if slot.id in inputs:
                    values[slot.id] = self.value(slot, inputs[slot.id], slot.id not in unchecked)
                elif not slot.item.optional:
                    raise missing(slot)
            except InputError as wrong:
                fine = False
                yield self.error(key, wrong, slot.id)
        for name in links(self.prompt, key):
            if name not in names and not listed_by_server:
                fine = False
                hint = similar(name, names) + "Remove the link"
                yield self.error(
                    key, InputError("unknown_input", "No such input to link to", hint), name
                )
        if fine and (complaint := _custom(node_class, key, present, values)):
            yield self.error(key, complaint)

    def value(self, slot: Slot, value: Any, bounded: bool) -> Any:
        """What validate_inputs is given: the converted constant, or None for a good link."""
        if isinstance(value, list) and not slot.options.get("multiselect"):
            self.check_link(slot, value)
            return None
        converted = constant(slot, value)
        if bounded or slot.type == DYNAMIC:
            in_bounds(slot, converted)
        return converted

    def check_link(self, slot: Slot, value: list[Any]) -> None:
        if len(value) != 2 or not isinstance(value[0], str) or type(value[1]) is not int:
            hint = 'Write ["node id", output index], or {"__value__": [...]} if it is no link'
            raise InputError("bad_linked_input", f"{short(value)} is not a link", hint)
        source, index = value
        if slot.type == DYNAMIC:
            hint = f"Choose one of {listed(slot.choices)}"
            raise InputError("bad_linked_input", "This choice cannot be linked", hint)
        if source not in self.prompt:
            hint = f"Nodes in this workflow: {listed(self.prompt)}"
            raise InputError("bad_linked_input", f"Linked node {source!r} does not exist", hint)
        if self.prompt[source]["class_type"] not in self.registry:
            return  # that it is unknown is said
        types = self.output_types(source)
        if not 0 <= index < len(types):
            hint = f"Its outputs, from 0: {', '.join(types) or 'none'}"
            raise InputError("bad_linked_input", f"Node {source} has no output {index}", hint)
        received = {kind.strip() for kind in types[index].split(",")}
        expected = {kind.strip() for kind in slot.type.split(",")}
        if "*" not in received | expected and not received & expected:
            message = f"Received type {types[index]} from node {source}, expected {slot.type}"
            hint = f"Link an output of type {slot.type}"
            raise InputError("return_type_mismatch", message, hint)

    def output_types(self, node: str) -> list[str]:
        schema = self.registry[self.prompt[node]["class_type"]].define_schema()
        return [output.io_type for output in schema.outputs]


def _self_checked(node_class: type[Any], names: Iterable[str]) -> set[str]:
    """The inputs whose bounds ComfyUI leaves to the node: those that validate_inputs takes."""
    function = getattr(node_class, "validate_inputs", None)
    if function is None:
        return set()
    parameters = inspect.signature(function).parameters
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    return {name for name in names if takes_all or name in parameters}


def _custom(
    node_class: type[Any], key: str, present: Sequence[Slot], values: Mapping[str, Any]
) -> InputError | None:
    """What the node's own validate_inputs finds wrong; it sees None for a link."""
    if not hasattr(node_class, "validate_inputs"):
        return None
    from ..nodes.host.alone.io import bind

    checked = {name: values[name] for name in _self_checked(node_class, values)}
    arguments = nest(_chosen(present, values), checked)
    try:
        verdict = bind(node_class, unique_id=key).validate_inputs(**arguments)
    except Exception as error:
        verdict = f"validate_inputs raised {reason_of(error, named=True)}"
    if verdict is True:
        return None
    message = "Custom validation failed" + (f" - {verdict}" if verdict is not False else "")
    return InputError("custom_validation_failed", message, "Change the inputs it names")


def _chosen(present: Iterable[Slot], values: Mapping[str, Any]) -> list[Slot]:
    """Without the optional choices that were not made."""
    return [slot for slot in present if slot.type != DYNAMIC or slot.id in values]


#: What nodes returned in the run before, by everything that it depends on.
Kept = dict[str, tuple[Any, ...]]


def execute(
    workflow: Workflow, registry: Registry, context: Context, kept: Kept | None = None
) -> dict[str, dict[str, list[Any]]]:
    """Run every node that an output needs, once; returns {node id: what it shows} (`ui`).

    `check` must have found nothing. A result is dropped when no node waits for it any more. `kept`
    (pass the same dict to the next run) spares the nodes that would only return what they returned in
    the run before: a model is loaded once. Raises NodeFailure when a node raises; KeyboardInterrupt
    passes through.
    """
    import torch

    with use(context):
        workflow = with_grids(workflow, registry)
    prompt = workflow.prompt
    needed = _needed(prompt, registry)
    waiting = Counter(source for key in needed for source in links(prompt, key).values())
    results: dict[str, tuple[Any, ...]] = {}
    shown = {}
    signatures: dict[str, str] = {}
    with torch.inference_mode():
        for key in _order(prompt, needed):
            with use(replace(context, node=prompt[key].get("override_display_id", key))):
                if kept is not None:
                    signatures[key] = _signature(prompt, registry, key, signatures)
                if stop := _blocked(prompt, key, results):
                    if stop.why:
                        told = f"{_label(prompt, key, registry)} failed: {stop.why}"
                        raise NodeFailure(told) from ValueError(stop.why)
                    outputs = registry[prompt[key]["class_type"]].define_schema().outputs
                    results[key] = (stop,) * len(outputs)
                elif kept is not None and signatures[key] in kept:
                    results[key] = kept[signatures[key]]
                else:
                    output = _run_node(workflow, registry, key, results)
                    if output.ui and "override_display_id" not in prompt[key]:
                        shown[key] = output.ui
                    results[key] = output.args
                    schema = registry[prompt[key]["class_type"]].define_schema()
                    if kept is not None and not (schema.is_output_node or schema.not_idempotent):
                        kept[signatures[key]] = output.args
                    del output  # so that nothing but `results` keeps a tensor alive
            waiting.subtract(links(prompt, key).values())
            for done in [node for node in results if not waiting[node]]:
                del results[done]
    for old in (kept or {}).keys() - set(signatures.values()):
        del kept[old]  # type: ignore[union-attr]
    return shown


def _blocked(prompt: Prompt, key: str, results: Mapping[str, tuple[Any, ...]]) -> Any:
    """What keeps a node from running, among what it gets; None where it runs."""
    from ..nodes.host.alone.io import Blocked

    links_in = (v for v in prompt[key]["inputs"].values() if isinstance(v, list) and len(v) == 2)
    values = (results[v[0]][v[1]] for v in links_in if v[0] in results)
    return next((value for value in values if isinstance(value, Blocked)), None)


def _signature(prompt: Prompt, registry: Registry, key: str, signatures: Mapping[str, str]) -> str:
    """A digest of the node's class, its values, the files that it reads and all that is upstream."""
    node = prompt[key]
    linked = links(prompt, key)
    facts: list[Any] = [node["class_type"]]
    for name, value in sorted(node["inputs"].items()):
        facts.append(
            [name, signatures[linked[name]], value[1]] if name in linked else [name, value]
        )
    fingerprint = getattr(registry[node["class_type"]], "fingerprint_inputs", None)
    if fingerprint is not None:
        values = {n.split(".")[0]: v for n, v in node["inputs"].items() if n not in linked}
        try:
            facts.append(repr(fingerprint(**values)))
        except Exception:  # running the node will say what is wrong
            facts.append(secrets.token_hex(16))
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _run_node(
    workflow: Workflow, registry: Registry, key: str, results: Mapping[str, tuple[Any, ...]]
) -> Any:
    """Call one node with its links and constants resolved."""
    from ..nodes.host.alone.io import NodeOutput, bind

    node = workflow.prompt[key]
    context = current()
    extra = {"workflow": context.workflow} if context.workflow else None
    node_class = registry[node["class_type"]]
    schema = node_class.define_schema()
    present = list(slots(schema.inputs, node["inputs"]))
    values = {}
    for slot in present:
        if slot.id in node["inputs"]:
            value = node["inputs"][slot.id]
            is_link = isinstance(value, list)
            values[slot.id] = results[value[0]][value[1]] if is_link else constant(slot, value)
    bound = bind(node_class, unique_id=key, prompt=context.prompt, extra_pnginfo=extra)
    try:
        output = bound.execute(**nest(_chosen(present, values), values))
        if not isinstance(output, NodeOutput) or len(output.args) < len(schema.outputs):
            raise TypeError(f"it must return a NodeOutput of {len(schema.outputs)} values")
    except Exception as error:
        reason = reason_of(error, named=type(error) not in (ValueError, RuntimeError))
        raise NodeFailure(_label(workflow.prompt, key, registry) + f" failed: {reason}") from error
    return output


def _label(prompt: Prompt, key: str, registry: Registry) -> str:
    """A node in an error."""
    return one_line(f'node {key} "{title(prompt, key, registry)}" ({prompt[key]["class_type"]})')


def _needed(prompt: Prompt, registry: Registry) -> set[str]:
    """The output nodes, those of unknown classes too, and everything upstream of them."""
    classes = {node["class_type"] for node in prompt.values()}
    saving = {
        name
        for name in classes
        if name not in registry or registry[name].define_schema().is_output_node
    }
    outputs = [key for key, node in prompt.items() if node["class_type"] in saving]
    return upstream(prompt, outputs)


def _order(prompt: Prompt, needed: Collection[str]) -> Iterator[str]:
    """`needed`, sources first, each branch to its end before the next; graphlib.CycleError."""
    sorter: graphlib.TopologicalSorter[str] = graphlib.TopologicalSorter()
    for key in prompt:
        if key in needed:
            sorter.add(key, *links(prompt, key).values())
    sorter.prepare()
    ready: list[str] = []
    while sorter.is_active():
        ready.extend(reversed(sorter.get_ready()))
        key = ready.pop()
        yield key
        sorter.done(key)
