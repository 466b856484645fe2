"""The editor's format of a workflow made an API graph, as the web page does when it queues one.

What the page draws and a server does not run goes: notes, reroutes, primitives, muted and bypassed nodes, and the
frames of subgraphs, whose nodes get ids such as "5:12". Widgets are saved by their place, so the nodes' schemas are
needed: this package's, or a server's (object_info.py). Written from the format alone, no code of the page in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .json_values import mapping, sequence
from .prompt import AUTOGROW, DYNAMIC, SEEDS, WIDGETS, Registry, is_drawn
from .workflow import MOST_NODES, Convert, Prompt, WorkflowError

MUTED, BYPASSED = 2, 4  # modes of a node
DRAWN = {"Note", "MarkdownNote", "Reroute", "PrimitiveNode"}  # classes that no server runs
CONTROLS = {"fixed", "increment", "decrement", "randomize"}
BUTTONS = ("upload3dmodel", "uploadExtraResources", "clear")
DEEPEST = 32  # subgraphs in each other
INPUTS, OUTPUTS = -10, -20  # ids of a subgraph's own ends
Link = tuple[Any, int]  # id of the node it comes from, output


@dataclass(frozen=True)
class Source:
    """Where a link ends up: an output of a node that runs, or a ``value`` of a primitive."""

    node: str = ""
    output: int = 0
    value: Any = None
    is_value: bool = False


@dataclass
class Frame:
    """A graph or subgraph: its nodes by id, its links by id, and the node that stands for it outside."""

    prefix: str
    nodes: dict[Any, Mapping[str, Any]]
    links: dict[Any, Link]
    ends: dict[int, Any]  # subgraphs: output → id of the link to it
    inputs: tuple[Any, ...]  # subgraphs: names of their inputs
    takers: dict[
        int, list[tuple[Any, int]]
    ]  # subgraphs: input → the nodes and places inside that take it
    outer: Frame | None = None
    node: Mapping[str, Any] | None = None
    inner: dict[Any, Frame] = field(default_factory=dict)


def converter(nodes: Registry) -> Convert:
    """What `load` needs to take the editor's format."""
    return lambda ui: to_prompt(ui, nodes)


def to_prompt(ui: Mapping[str, Any], nodes: Registry) -> Prompt:
    """The API graph of an editor's graph. Raises WorkflowError for one that is damaged or too large."""
    try:
        definitions = mapping(ui.get("definitions")).get("subgraphs")
        subgraphs = {d["id"]: d for d in _rows(definitions)}
        prompt: Prompt = {}
        for frame in _frames(_frame("", ui), subgraphs):
            for id, node in frame.nodes.items():
                if _runs(node) and id not in frame.inner:
                    prompt[f"{frame.prefix}{id}"] = _entry(frame, node, nodes)
    except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
        if isinstance(error, WorkflowError):
            raise
        raise WorkflowError(
            f"the editor's graph is damaged ({type(error).__name__}: {error})"
        ) from None
    return prompt


# --------------------------------------------------------------------------- graphs in each other


def _frame(
    prefix: str,
    graph: Mapping[str, Any],
    outer: Frame | None = None,
    node: Mapping[str, Any] | None = None,
) -> Frame:
    nodes = {n["id"]: n for n in graph["nodes"]}
    links, ends = dict[Any, Link](), dict[int, Any]()
    takers: dict[int, list[tuple[Any, int]]] = {}
    for row in graph["links"]:
        if isinstance(row, dict):
            id, origin, slot, target, end = (
                row[k] for k in ("id", "origin_id", "origin_slot", "target_id", "target_slot")
            )
        else:
            id, origin, slot, target, end = row[:5]
        links[id] = origin, int(slot)
        if target == OUTPUTS:
            ends[int(end)] = id
        if origin == INPUTS and target in nodes:
            takers.setdefault(int(slot), []).append((target, int(end)))
    inputs = tuple(row.get("name") for row in _rows(graph.get("inputs")))
    return Frame(prefix, nodes, links, ends, inputs, takers, outer, node)


def _frames(top: Frame, subgraphs: Mapping[str, Mapping[str, Any]]) -> list[Frame]:
    """The graph and every subgraph in use, each as often as it is used."""
    left, every, count = [(top, 0)], list[Frame](), 0
    while left:
        frame, depth = left.pop()
        every.append(frame)
        count += len(frame.nodes)
        if count > MOST_NODES or depth > DEEPEST:
            raise WorkflowError(f"it has more than {MOST_NODES} nodes or subgraphs {DEEPEST} deep")
        for id, node in frame.nodes.items():
            if node["type"] in subgraphs and node.get("mode", 0) not in (MUTED, BYPASSED):
                inner = _frame(f"{frame.prefix}{id}:", subgraphs[node["type"]], frame, node)
                frame.inner[id] = inner
                left.append((inner, depth + 1))
    return every


def _runs(node: Mapping[str, Any]) -> bool:
    return node["type"] not in DRAWN and node.get("mode", 0) not in (MUTED, BYPASSED)


# --------------------------------------------------------------------------------------- one node


def _entry(frame: Frame, node: Mapping[str, Any], nodes: Registry) -> dict[str, Any]:
    node_class = nodes.get(node["type"])
    schema = node_class.define_schema() if node_class is not None else None
    inputs = dict(_values(node, schema))
    for place in _rows(node.get("inputs")):
        source = _follow(frame, place.get("link"), nodes) if place.get("link") is not None else None
        if source is None:
            continue
        inputs[place["name"]] = (
            _wrapped(source.value) if source.is_value else [source.node, source.output]
        )
    shown = node.get("title") or (schema.display_name if schema is not None else "") or node["type"]
    return {"class_type": node["type"], "inputs": inputs, "_meta": {"title": str(shown)}}


def _values(node: Mapping[str, Any], schema: Any) -> Iterator[tuple[str, Any]]:
    """(input, value) of a node's widgets."""
    saved = node.get("widgets_values") or []
    drawn = {p["widget"]["name"] for p in _rows(node.get("inputs")) if mapping(p.get("widget"))}
    if isinstance(saved, dict):
        yield from ((name, _wrapped(value)) for name, value in saved.items())
    elif schema is not None:
        values = [value for value in saved if not _is_button(value, schema)]
        yield from _placed(schema.inputs, values[::-1], drawn, "")
    else:  # a class that nobody knows: the page writes widgets in order, and the check will name it
        names = [p["widget"]["name"] for p in _rows(node.get("inputs")) if p.get("widget")]
        yield from ((name, _wrapped(value)) for name, value in zip(names, saved, strict=False))


def _is_button(value: Any, schema: Any) -> bool:
    """Whether a saved value is the name of a button below a 3D view, which is no input."""
    return value in BUTTONS and any(item.io_type == "LOAD_3D" for item in schema.inputs)


def _placed(
    inputs: Sequence[Any], left: list[Any], drawn: set[str], prefix: str
) -> Iterator[tuple[str, Any]]:
    """Values taken off the end of ``left``, one for each widget; defaults once they are used up."""
    for item in inputs:
        name, options = prefix + item.id, item.as_dict()
        kind = options.get("widgetType", item.io_type)
        known = kind in WIDGETS and kind != "*" and not options.get("forceInput")
        known = known or is_drawn(item)
        if item.io_type == AUTOGROW or not (known or name in drawn):
            continue
        if not left and not _has_first(item):
            continue
        value = left.pop() if left else _first(item)
        yield name, _wrapped(value)
        if item.io_type == DYNAMIC:
            for option in item.extra["options"]:
                if option.key == value:
                    yield from _placed(option.inputs, left, drawn, f"{name}.")
        controlled = options.get("control_after_generate", item.id in SEEDS)
        if controlled and left and isinstance(left[-1], str) and left[-1] in CONTROLS:
            left.pop()
            if item.io_type == "COMBO" and left and left[-1] == "":
                left.pop()  # what the list is filtered by


def _has_first(item: Any) -> bool:
    """Whether the page draws a widget with a value where a graph from before the input has none."""
    return "default" in item.as_dict() or is_drawn(item) or item.io_type == DYNAMIC


def _first(item: Any) -> Any:
    """That value."""
    choices = [option.key for option in item.extra["options"]] if item.io_type == DYNAMIC else []
    return item.as_dict().get("default", choices[0] if choices else None)


def _unwrapped(value: Any) -> Any:
    """What :func:`_wrapped` was given."""
    return value["__value__"] if isinstance(value, dict) and "__value__" in value else value


def _wrapped(value: Any) -> Any:
    """A list as a value, which would else be a link."""
    return {"__value__": value} if isinstance(value, list) else value


# ------------------------------------------------------------------------------------------ links


def _follow(frame: Frame, link: Any, nodes: Registry) -> Source | None:
    """What stands at the other end of a link, through everything that does not run; None for nothing."""
    for _ in range(10 * MOST_NODES):
        if link is None or link not in frame.links:
            return None
        origin, slot = frame.links[link]
        if origin == INPUTS:
            if frame.outer is None or frame.node is None:
                return None
            place = _outside(frame, slot)
            if place is None or place.get("link") is None:
                return _promoted(frame, slot) or _inside(frame, slot, nodes)
            link, frame = place["link"], frame.outer
            continue
        node = frame.nodes.get(origin)
        if node is None or node.get("mode", 0) == MUTED:
            return None
        if origin in frame.inner:
            frame = frame.inner[origin]
            link = frame.ends.get(slot)
        elif node.get("mode", 0) == BYPASSED:
            link = _past(node, slot)
        elif node["type"] == "Reroute":
            link = _rows(node.get("inputs"))[0].get("link")
        elif node["type"] == "PrimitiveNode":
            values = node.get("widgets_values") or [None]
            return Source(value=values[0], is_value=True)
        else:
            return Source(f"{frame.prefix}{origin}", slot)
    raise WorkflowError("links of the editor's graph lead in a circle")


def _outside(frame: Frame, slot: int) -> Mapping[str, Any] | None:
    """The input of the node that stands for a subgraph, by its name, as a node may show a part of them."""
    places = _rows(frame.node.get("inputs")) if frame.node is not None else []
    if slot < len(frame.inputs):
        named = [p for p in places if p.get("name") == frame.inputs[slot]]
        return named[0] if named else None
    return places[slot] if slot < len(places) else None


def _promoted(frame: Frame, slot: int) -> Source | None:
    """The value of a widget that a subgraph's own node shows; None where the node inside keeps it (proxyWidgets)."""
    node = frame.node or {}
    saved, shown = node.get("widgets_values"), sorted(i for i in frame.takers if _widgets(frame, i))
    proxies = mapping(node.get("properties")).get("proxyWidgets")
    if not isinstance(saved, list) or proxies or len(saved) != len(shown) or slot not in shown:
        return None
    return Source(value=saved[shown.index(slot)], is_value=True)


def _widgets(frame: Frame, slot: int) -> list[tuple[Any, str]]:
    """(node, input) of the widgets inside that an input of a subgraph feeds."""
    places = [
        (target, _rows(frame.nodes[target].get("inputs"))[end:][:1])
        for target, end in frame.takers.get(slot, ())
    ]
    return [
        (target, p["name"]) for target, rows in places for p in rows if mapping(p.get("widget"))
    ]


def _inside(frame: Frame, slot: int, nodes: Registry, depth: int = 0) -> Source | None:
    """The value of the widget inside that an input feeds, for others that it feeds too and that have none."""
    for target, name in _widgets(frame, slot) if depth <= DEEPEST else ():
        if target in frame.inner:
            inner = frame.inner[target]
            if name in inner.inputs:
                return _inside(inner, inner.inputs.index(name), nodes, depth + 1)
            continue
        node_class = nodes.get(frame.nodes[target]["type"])
        schema = node_class.define_schema() if node_class is not None else None
        values = dict(_values(frame.nodes[target], schema))
        if name in values:
            return Source(value=_unwrapped(values[name]), is_value=True)
    return None


def _past(node: Mapping[str, Any], slot: int) -> Any:
    """The link that takes the place of a bypassed node's output: its input of the same place, else the first, of that type."""
    places = _rows(node.get("inputs"))
    kind = _rows(node.get("outputs"))[slot].get("type")
    order = [*places[slot : slot + 1], *places]
    alike = [p for p in order if p.get("type") == kind or "*" in (kind, p.get("type"))]
    exact = [p for p in alike if p.get("type") == kind]
    return next((p.get("link") for p in (*exact, *alike) if p.get("link") is not None), None)


def _rows(raw: Any) -> list[Any]:
    return [row for row in sequence(raw) if isinstance(row, dict)]
