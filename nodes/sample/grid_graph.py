"""The graph of a grid: a copy of the nodes that a knob changes for each of its values, one cell after the other.

A graph is {id: {"class_type", "inputs", "_meta"}}, as the API has it, and a link [id, output]. No run is needed to make it, so
ComfyUI gets it while the node runs, and a run without ComfyUI before anything runs.
"""

from __future__ import annotations

import graphlib
import hashlib
import itertools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Graph = Mapping[str, Mapping[str, Any]]
CELL, SHEET = "SamplingKitGridCell", "SamplingKitGridSheet"
MOST_CELLS, MOST_TEXT = 400, 16384


@dataclass(frozen=True)
class Knob:
    """An input of a node, and the values that it takes, as they were written and as the node takes them."""

    node: str
    input: str
    texts: tuple[str, ...]
    values: tuple[Any, ...]

    def labels(self) -> list[str]:
        return [f"{self.input.rpartition('.')[2]} {text}" for text in self.texts]


@dataclass(frozen=True)
class Wanted:
    """What the node's widgets ask for. ``picture``: the link that a cell's picture comes from."""

    picture: tuple[str, int]
    columns: str
    column_values: str
    rows: str
    row_values: str
    name: str
    height: int
    anew: bool


def split_values(text: str) -> tuple[str, ...]:
    """The values of a text: its lines, or where it is one line what stands between ; in it."""
    parts = text.splitlines() if "\n" in text.strip() else text.split(";")
    return tuple(part.strip() for part in parts if part.strip())


def check_values(columns: str, column_values: str, rows: str, row_values: str) -> None:
    """Raises ValueError where a knob has no values, values no knob, or cells are too many."""
    for name, knob, text in (("columns", columns, column_values), ("rows", rows, row_values)):
        if len(text) > MOST_TEXT:
            raise ValueError(f"{name[:-1]}_values has {len(text)} characters, at most {MOST_TEXT}")
        if knob.strip() and not split_values(text):
            raise ValueError(
                f"{name} = {knob!r}: write its values into {name[:-1]}_values, with ; between them"
            )
        if split_values(text) and not knob.strip() and name == "rows":
            raise ValueError(
                "row_values has values, but rows names no knob: write NODE.INPUT into rows, such as Sample.cfg"
            )
    if not columns.strip():
        raise ValueError(
            "columns is empty: write NODE.INPUT, such as Sample.steps; NODE is a title or an id"
        )
    cells = len(split_values(column_values)) * max(1, len(split_values(row_values)))
    if cells > MOST_CELLS:
        raise ValueError(f"the grid has {cells} cells, at most {MOST_CELLS}")


def links(node: Mapping[str, Any]) -> dict[str, str]:
    """{input: id of the node that it comes from}."""
    inputs = node["inputs"].items()
    return {
        name: v[0]
        for name, v in inputs
        if isinstance(v, list) and len(v) == 2 and isinstance(v[0], str)
    }


def upstream(graph: Graph, node: str) -> list[str]:
    """``node`` and all that it needs, sources first. Raises ValueError for links in a circle."""
    sorter: graphlib.TopologicalSorter[str] = graphlib.TopologicalSorter()
    left, seen = [node], set[str]()
    while left:
        key = left.pop()
        if key in seen:
            continue
        seen.add(key)
        sources = [source for source in links(graph[key]).values() if source in graph]
        sorter.add(key, *sources)
        left += sources
    try:
        return list(sorter.static_order())
    except graphlib.CycleError as error:
        raise ValueError(f"the links of node {error.args[1][0]} lead in a circle") from None


def knob_of(graph: Graph, among: Sequence[str], target: str, text: str) -> Knob:
    """The knob NODE.INPUT, NODE an id, a title or a class, among the nodes ``among``. Raises ValueError."""
    for dot in reversed([i for i, letter in enumerate(target) if letter == "."]):
        name, input = target[:dot].strip(), target[dot + 1 :].strip()
        nodes = [key for key in among if name in (key, *_names(graph[key]))]
        nodes = [name] if name in nodes else nodes
        if len(nodes) > 1:
            raise ValueError(
                f"{target!r}: nodes {', '.join(nodes)} are called {name!r}; write the id in place of the title"
            )
        if nodes:
            return _knob(graph, nodes[0], input, target, split_values(text))
    titles = ", ".join(f"{key} “{_names(graph[key])[0]}”" for key in among)
    raise ValueError(
        f"{target!r}: no node before this one is called so; write NODE.INPUT, NODE one of {titles}"
    )


def _names(node: Mapping[str, Any]) -> tuple[str, ...]:
    meta = node.get("_meta")
    title = meta.get("title") if isinstance(meta, Mapping) else None
    return tuple(name for name in (title, node["class_type"]) if isinstance(name, str) and name)


def _knob(graph: Graph, node: str, input: str, target: str, texts: tuple[str, ...]) -> Knob:
    inputs = graph[node]["inputs"]
    if input not in inputs:
        raise ValueError(
            f"{target!r}: node {node} has no input {input!r}; it has {', '.join(inputs)}"
        )
    if input in links(graph[node]):
        raise ValueError(
            f"{target!r}: this input is linked to node {inputs[input][0]}; name the widget of that node"
        )
    return Knob(node, input, texts, tuple(_typed(text, inputs[input], target) for text in texts))


def _typed(text: str, current: Any, target: str) -> Any:
    """``text`` as what ``current`` is: a text, a number, or true or false. Raises ValueError."""
    if isinstance(current, str):
        return text
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    fits = isinstance(value, bool) if isinstance(current, bool) else type(value) in (int, float)
    if not fits or value in (math.inf, -math.inf) or value != value:
        kind = "true or false" if isinstance(current, bool) else "a number"
        raise ValueError(f"{target!r}: {text[:40]!r} must be {kind}, as {current} is")
    return value


def expanded(
    graph: Graph, grid: str, want: Wanted, there: Callable[[str], bool],
    refused: Callable[[str, str, Any], str] = lambda class_type, input, value: "",
) -> tuple[dict[str, Any], list[Any]]:  # fmt: skip
    """(nodes to add, the link of the sheet) for the grid whose id is ``grid``.

    ``there(file)``: whether a cell's picture was made; ``refused(class, input, value)``: why a node cannot have it. A cell's file is named by a digest of the nodes that make it, so what was made is not made again, whatever the grid.
    Raises ValueError.
    """
    check_values(want.columns, want.column_values, want.rows, want.row_values)
    source, output = want.picture
    among = upstream(graph, source)
    columns = knob_of(graph, among, want.columns, want.column_values)
    rows = knob_of(graph, among, want.rows, want.row_values) if want.rows.strip() else None
    if rows is not None and (rows.node, rows.input) == (columns.node, columns.input):
        raise ValueError(f"rows = {want.rows!r}: columns names the same knob")
    for knob in [columns, *([rows] if rows else [])]:
        for text, value in zip(knob.texts, knob.values, strict=True):
            if why := refused(graph[knob.node]["class_type"], knob.input, value):
                raise ValueError(f"{knob.input} = {text[:60]!r}: {why}")
    nodes: dict[str, Any] = {}
    files: list[list[str]] = []
    last: str | None = None
    for i, j in itertools.product(
        range(len(rows.values) if rows else 1), range(len(columns.values))
    ):
        settings = {(columns.node, columns.input): columns.values[j]}
        if rows:
            settings[rows.node, rows.input] = rows.values[i]
        copies, end = _changed(graph, among, settings, f"{grid}.{i}.{j}.")
        file = f"{want.name}/{_digest({**graph, **copies}, end, output)}.png"
        files += [[]] if j == 0 else []
        files[-1].append(file)
        added = any(file == node["inputs"].get("file") for node in nodes.values())
        if added or (there(file) and not want.anew):
            continue
        before = {} if last is None else {"before": [last, 0]}
        last = f"{grid}.{i}.{j}.cell"
        inputs = {"images": [end, output], "file": file, "anew": want.anew, **before}
        nodes |= copies | {
            last: {"class_type": CELL, "inputs": inputs, "override_display_id": grid}
        }
    layout = {
        "files": files, "columns": columns.labels(), "rows": rows.labels() if rows else [],
        "height": want.height,
    }  # fmt: skip
    done = {} if last is None else {"done": [last, 0]}
    end = f"{grid}.sheet"
    nodes[end] = {
        "class_type": SHEET, "inputs": {"layout": json.dumps(layout, ensure_ascii=False), **done},
        "override_display_id": grid,
    }  # fmt: skip
    return nodes, [end, 0]


def _changed(
    graph: Graph, among: Sequence[str], settings: Mapping[tuple[str, str], Any], prefix: str
) -> tuple[dict[str, Any], str]:
    """Copies of the nodes that ``settings`` change, and of all that come after them; the id of the last of ``among``."""
    names: dict[str, str] = {}
    copies: dict[str, Any] = {}
    touched = {node for node, _ in settings}
    for key in among:
        sources = links(graph[key])
        if key not in touched and not any(source in names for source in sources.values()):
            continue
        names[key] = prefix + key
        inputs = dict(graph[key]["inputs"])
        inputs |= {
            name: [names[source], inputs[name][1]]
            for name, source in sources.items()
            if source in names
        }
        inputs |= {input: value for (node, input), value in settings.items() if node == key}
        copies[names[key]] = {**graph[key], "inputs": inputs, "override_display_id": key}
    return copies, names.get(among[-1], among[-1])


def _digest(graph: Graph, end: str, output: int) -> str:
    """Of the classes, values and links that lead to an output: not of ids and titles."""
    digests: dict[str, str] = {}
    for key in upstream(graph, end):
        sources = links(graph[key])
        inputs = {
            name: [digests.get(sources[name], sources[name]), value[1]]
            if name in sources
            else value
            for name, value in sorted(graph[key]["inputs"].items())
        }
        facts = json.dumps([graph[key]["class_type"], inputs], sort_keys=True, default=str)
        digests[key] = hashlib.sha256(facts.encode()).hexdigest()
    return hashlib.sha256(f"{digests[end]} {output}".encode()).hexdigest()[:20]
