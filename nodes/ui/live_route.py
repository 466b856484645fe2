"""What a node would show, from widget values alone: the pack's one route, a pure function of its request.

The page sends the part of the graph that leads to a node, in the API's format:

    {"node": "2", "graph": {"1": {"class_type": "SamplingKitNoiseSchedule", "inputs": {"kind": "vp_linear", …}},
                            "2": {"class_type": "SamplingKitSteps", "inputs": {"noise_schedule": ["1", 0], …}}}}

and gets what the node's ``ui`` would hold after a run, with {"unknown": …} where a run is needed to know; {"missing": …}
where an input is not connected; or {"error": …} with status 400. {"requests": [request, …]} gets {"answers": [answer, …]}, an error
among them where one is bad, and {"later": true} for those that took too long together.

Only the nodes in ``VALUES`` are evaluated; nothing is read or loaded. A node that only a run can tell may say "remembered", the name under
which its last run left its noise schedule (``remembered.py``).
Everything is bounded, since anyone who reaches the page reaches this.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from ...schedulers import noise_schedule, spacing
from ...schedulers.measure.run_levels import MOST_LEVELS, Run, plan_record, record
from ...schedulers.solver import Plan, Solver
from .remembered import recall

ROUTE = "/sampling_kit/preview"
#: Bytes of a request, nodes in it, characters of a text.
MOST_BYTES, MOST_NODES, MOST_TEXT, MOST_REQUESTS = 65536, 64, 16384, 64
#: Levels that all nodes of a request make together, and seconds of this thread after which no further node is begun.
MOST_TOGETHER, MOST_SECONDS = 2 * MOST_LEVELS, 1.0

Graph = dict[str, Any]


class Unknown(Exception):
    """A value that only a run can tell; the text says what it comes from."""


class Missing(Exception):
    """A required input that is not there; the text says which."""


def answer(body: bytes) -> tuple[int, dict[str, Any]]:
    """(HTTP status, JSON) for a request's body."""
    try:
        if len(body) > MOST_BYTES:
            raise ValueError(f"the request has more than {MOST_BYTES} bytes")
        request = json.loads(body, parse_constant=_refuse)
        if isinstance(request, dict) and request.keys() == {"requests"}:
            return 200, {"answers": _answers(_part(request, "requests", list))}
        return 200, preview(request)
    except RecursionError:
        return 400, {"error": "the request is nested too deeply"}
    except (ValueError, TypeError, ArithmeticError) as error:
        return 400, {"error": str(error)}


def _answers(requests: list[Any]) -> list[dict[str, Any]]:
    """An answer to each; after MOST_SECONDS of this thread the rest are to be asked for again."""
    if len(requests) > MOST_REQUESTS:
        raise ValueError(f"requests: {len(requests)}, at most {MOST_REQUESTS}")
    started = time.thread_time()
    answers: list[dict[str, Any]] = []
    for request in requests:
        if answers and time.thread_time() - started > MOST_SECONDS:
            answers.append({"later": True})
            continue
        try:
            answers.append(preview(request))
        except (ValueError, TypeError, ArithmeticError) as error:
            answers.append({"error": str(error)})
    return answers


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is not a number that JSON has")


def preview(request: Any) -> dict[str, Any]:
    """What the node ``request["node"]`` would show. Raises ValueError for a bad request, else Unknown."""
    graph, name = _part(request, "graph", dict), _part(request, "node", str)
    if more := sorted(request.keys() - {"graph", "node"}):
        raise ValueError(f"{more[0][:40]}: a request has graph and node, nothing else")
    if len(graph) > MOST_NODES:
        raise ValueError(f"graph: {len(graph)} nodes, at most {MOST_NODES} are looked at")
    walk = Walk(graph)
    try:
        told = _shown(walk.value(name)) | ({"unknown": walk.unknown[0]} if walk.unknown else {})
        if walk.remembered:
            told["remembered"] = walk.remembered[0]
    except Unknown as unknown:
        told = {"unknown": str(unknown)}
    except Missing as missing:
        told = {"missing": str(missing)}
    if _kind(graph, name) == "SamplingKitScheduleEditor":  # the curve needs no schedule
        curve = graph[name]["inputs"].get("curve", spacing.Drawn().curve)
        told["curve"] = spacing.Drawn(_checked("curve", curve, "STRING", {})).sampled()
    return told


def _shown(value: Any) -> dict[str, Any]:
    if isinstance(value, Plan):
        return {"plan": plan_record(value)}
    if isinstance(value, dict):
        return value
    runs = [value] if isinstance(value, Run) else value
    if not isinstance(runs, list):
        raise ValueError(f"node: {type(value).__name__} has nothing to show")
    return record(runs)


def _part(owner: Any, name: str, kind: type) -> Any:
    value = owner.get(name) if isinstance(owner, dict) else None
    if not isinstance(value, kind):
        raise ValueError(f"{name}: expected {'text' if kind is str else 'an object'}")
    return value


def _kind(graph: Graph, name: str) -> str:
    return str(_part(_part(graph, name, dict), "class_type", str))


@dataclass
class Walk:
    """Evaluates nodes of a graph, each once. ``unknown`` names the sources left out of a list of inputs, ``remembered``
    those whose noise schedule is that of their last run."""

    graph: Graph
    known: dict[str, Any] = field(default_factory=dict)
    levels: float = 0.0
    started: float = field(default_factory=time.thread_time)
    unknown: list[str] = field(default_factory=list)
    remembered: list[str] = field(default_factory=list)

    def value(self, name: str) -> Any:
        """The value of a node's first output, after those of its inputs."""
        if name not in self.known:
            self.known[name] = None  # and so it stays for a node that leads to itself
            self.known[name] = self._value(name)
        return self.known[name]

    def _value(self, name: str) -> Any:
        kind, title = _kind(self.graph, name), self.graph[name].get("title")
        if kind not in VALUES:
            name_of_it = title if isinstance(title, str) else kind
            schedule = recall(self.graph[name].get("remembered"))
            if schedule is None:
                raise Unknown(name_of_it)
            self.remembered.append(name_of_it)
            return schedule
        given = _part(self.graph[name], "inputs", dict)
        there = dict(_inputs(_declared(kind), given, "", self))
        for id, type_, facts in _declared(kind):
            if id not in there and type_ not in WIDGETS and not facts["optional"]:
                raise Missing(f"{id} of “{title or kind}”")
        self._charge(there)
        return VALUES[kind][1](**there)

    def _charge(self, inputs: Graph) -> None:
        """Raises ValueError where a node would be one too many: bounds of each alone leave their sum unbounded."""
        steps, denoise = inputs.get("steps", 0), inputs.get("denoise", 1.0)
        if isinstance(steps, int) and isinstance(denoise, int | float) and denoise > 0:
            self.levels += min(steps / denoise, MOST_LEVELS)  # a node alone says so itself
        if self.levels > MOST_TOGETHER:
            raise ValueError(
                f"steps: the nodes before this one make more than {MOST_TOGETHER} levels in all; the run itself can"
            )
        if time.thread_time() - self.started > MOST_SECONDS:
            raise ValueError(f"this takes more than {MOST_SECONDS:g} s; it is known after a run")

    def linked(self, source: Any, kind: str, input: str) -> Any:
        """What a link brings to an input of type ``kind``."""
        if not (isinstance(source, list) and len(source) == 2 and isinstance(source[0], str)):
            raise ValueError(f"{input}: expected a link of type {kind}")
        found = self.value(source[0])
        if not isinstance(found, CARRIED.get(kind, ())):
            from_kind = _kind(self.graph, source[0])
            raise ValueError(f"{input}: needs a {kind}, which {from_kind} does not give")
        return found

    def listed(self, links: Graph, kind: str, input: str) -> Graph:
        """The same for the links of a growing input, without those that only a run can tell."""
        found = {}
        for part, link in links.items():
            try:
                found[part] = self.linked(link, kind, f"{input}.{part}")
            except Unknown as unknown:
                self.unknown.append(str(unknown))
        return found


#: Input types that have a value without a link.
WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "COMFY_DYNAMICCOMBO_V3"}
Declared = tuple[tuple[str, str, dict[str, Any]], ...]  # (name, type, facts as in /object_info)


@cache
def _declared(kind: str) -> Declared:
    inputs = VALUES[kind][0].define_schema().inputs
    facts = (item.as_dict() | {"optional": item.optional} for item in inputs)
    return tuple((item.id, item.io_type, fact) for item, fact in zip(inputs, facts, strict=True))


def _inputs(declared: Declared, given: Graph, prefix: str, walk: Walk) -> Iterator[tuple[str, Any]]:
    """(name, checked value) of the inputs that are there; those with parts as a dict of them."""
    for id, kind, facts in declared:
        name = prefix + id
        if kind == "COMFY_AUTOGROW_V3":
            parts = [facts["template"]["prefix"] + str(i) for i in range(facts["template"]["max"])]
            links = {part: given[f"{name}.{part}"] for part in parts if f"{name}.{part}" in given}
            of = next(iter(facts["template"]["input"]["required"].values()))[0]
            yield id, walk.listed(links, of, name)
        elif name not in given:
            continue
        elif isinstance(given[name], list):
            yield id, walk.linked(given[name], kind, name)
        elif kind == "COMFY_DYNAMICCOMBO_V3":
            options = {option["key"]: option["inputs"] for option in facts["options"]}
            choice = _checked(name, given[name], "COMBO", {"options": list(options)})
            groups = options[choice].values()
            inside = tuple((n, *entry) for group in groups for n, entry in group.items())
            yield id, {id: choice, **dict(_inputs(inside, given, f"{name}.", walk))}
        else:
            yield id, _checked(name, given[name], kind, facts)


def _checked(name: str, value: Any, kind: str, facts: dict[str, Any]) -> Any:
    """A widget's value, if it is one that the widget can have."""
    shown = repr(value) if len(repr(value)) < 60 else f"{repr(value)[:57]}…"
    if kind == "COMBO":
        fits = value in facts["options"] if isinstance(value, str) else False
        wanted = "one of " + ", ".join(facts["options"])
    elif kind == "BOOLEAN":
        fits, wanted = isinstance(value, bool), "true or false"
    elif kind == "STRING":
        fits = isinstance(value, str) and len(value) <= MOST_TEXT
        wanted = f"a text of at most {MOST_TEXT} characters"
    elif kind in ("INT", "FLOAT"):
        low, high = facts.get("min", -math.inf), facts.get("max", math.inf)
        kinds = int if kind == "INT" else (int, float)
        fits = isinstance(value, kinds) and not isinstance(value, bool) and low <= value <= high
        wanted = f"a {'whole ' if kind == 'INT' else ''}number from {low} to {high}"
    else:
        fits, wanted = False, f"a link of type {kind}"
    if not fits:
        raise ValueError(f"{name} = {shown}: must be {wanted}")
    return value


# ------------------------------------------------------------------------------- what is evaluated


def bounded(run: Callable[..., Run]) -> Callable[..., Run]:
    """``run`` for as many steps as are shown before a run. Raises ValueError for more."""

    def value(**inputs: Any) -> Run:
        levels = inputs.get("steps", 1) / inputs.get("denoise", 1.0)
        if levels > MOST_LEVELS:
            raise ValueError(
                f"steps / denoise = {levels:g}: shown before a run up to {MOST_LEVELS}; the run itself can have more"
            )
        return run(**inputs)

    return value


#: What links carry here: SIGMAS know their schedule, SAMPLERs are the solvers themselves.
CARRIED: dict[str, type] = {
    "NOISE_SCHEDULE": noise_schedule.NoiseSchedule,
    "SIGMAS": Run,
    "SAMPLER": Solver,
}

#: Node id → the node and what its first output, or the node itself, is: NoiseSchedule, Run(s), Solver, Plan, or facts for the page.
VALUES: dict[str, tuple[Any, Callable[..., Any]]] = {}


def show_live(node_id: str, node: Any, value: Callable[..., Any]) -> None:
    """Lets the page ask for ``value`` of a node's inputs before a run; the file of the node calls this."""
    VALUES[node_id] = (node, value)
