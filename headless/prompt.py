"""An API graph seen through its nodes' schemas: titles, links, and inputs with their names, conversion and bounds."""

from __future__ import annotations

import copy
import difflib
import math
import reprlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .workflow import Prompt

if TYPE_CHECKING:
    from ..nodes.host.alone.io import Input

Registry = Mapping[str, type[Any]]  # node class by id

DYNAMIC = "COMFY_DYNAMICCOMBO_V3"
AUTOGROW = "COMFY_AUTOGROW_V3"
GROUP = "COMFY_DYNAMICGROUP_V3"  # of newer servers: rows of the same fields
WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", DYNAMIC, "*")
#: Types of inputs that only the page can draw, without an option that says so.
PAGE_DRAWN = {"LOAD_3D", "WEBCAM", "AUDIO_RECORD"}
CONVERTERS = {"INT": int, "FLOAT": float, "STRING": str, "BOOLEAN": bool}
CUT = reprlib.Repr()
CUT.maxlist = CUT.maxdict = CUT.maxtuple = 8
CUT.maxlong = CUT.maxother = CUT.maxstring = 60
NEAR = 0.75  # of 1, by difflib: one key in four beside the right one
SEEDS = "seed", "noise_seed"  # names of inputs


# ------------------------------------------------------------------------------------------- nodes


def title(prompt: Prompt, node: str, registry: Registry) -> str:
    """What the user calls the node: its own title, else the display name, else the class."""
    class_type = prompt[node]["class_type"]
    meta = prompt[node].get("_meta")
    written = meta.get("title") if isinstance(meta, dict) else None
    if isinstance(written, str) and written.strip():
        return written
    node_class = registry.get(class_type)
    display = node_class.define_schema().display_name if node_class is not None else ""
    return str(display or class_type or "(no class)")


def links(prompt: Prompt, node: str) -> dict[str, str]:
    """{input: node} for the inputs of `node` that link to a node of the graph."""
    inputs = prompt[node]["inputs"].items()
    pairs = {
        name: value[0] for name, value in inputs if isinstance(value, list) and len(value) == 2
    }
    return {name: key for name, key in pairs.items() if isinstance(key, str) and key in prompt}


def upstream(prompt: Prompt, nodes: Iterable[str]) -> set[str]:
    """`nodes` and everything that they link to, however far."""
    left, reached = list(nodes), set[str]()
    while left:
        key = left.pop()
        if key not in reached:
            reached.add(key)
            left.extend(links(prompt, key).values())
    return reached


# ------------------------------------------------------------------------------------------ inputs


@dataclass(frozen=True)
class Slot:
    """An input under its name in a workflow: inputs of a DynamicCombo's option and of an Autogrow
    have dots."""

    id: str
    item: Input

    @property
    def type(self) -> str:
        """The wire type, such as "INT"."""
        return self.item.io_type

    @property
    def options(self) -> dict[str, Any]:
        """min, max, default and so on."""
        return self.item.as_dict()

    @property
    def choices(self) -> list[Any]:
        """What a combo may be set to; empty for other types."""
        if self.type == DYNAMIC:
            return [option.key for option in self.item.extra["options"]]
        return list(self.options.get("options") or ()) if self.type == "COMBO" else []


class InputError(Exception):
    """Something is wrong with an input: kind, message, hint."""


def slots(inputs: Sequence[Input], values: Mapping[str, Any], prefix: str = "") -> Iterator[Slot]:
    """The inputs that exist when those in `values` are set: every input, each chosen option's, of an Autogrow
    those that are needed or set, and the fields of every row of a group that is set."""
    for item in inputs:
        slot = Slot(prefix + item.id, item)
        yield slot
        if slot.type == DYNAMIC:
            for option in item.extra["options"]:
                if option.key == values.get(slot.id):
                    yield from slots(option.inputs, values, f"{slot.id}.")
        elif slot.type == AUTOGROW:
            yield from _grown(slot, values)
        elif slot.type == GROUP:
            yield from _rows(slot, values)


def _rows(slot: Slot, values: Mapping[str, Any]) -> Iterator[Slot]:
    """Fields have the names <group>.<row>.<field>; a row exists where one of its fields is set."""
    start = f"{slot.id}."
    rows = {name[len(start) :].partition(".")[0] for name in values if name.startswith(start)}
    for row in sorted(row for row in rows if row.isdecimal()):
        yield from (Slot(f"{start}{row}.{item.id}", item) for item in slot.item.extra["fields"])


def _grown(slot: Slot, values: Mapping[str, Any]) -> Iterator[Slot]:
    template = slot.item.extra["template"]
    names = getattr(template, "names", None)  # as servers list them
    for i in range(template.max if names is None else len(names)):
        name = f"{slot.id}.{f'{template.prefix}{i}' if names is None else names[i]}"
        item = copy.copy(template.input)
        item.optional = item.optional or i >= template.min
        if name in values or not item.optional:
            yield Slot(name, item)


def missing(slot: Slot) -> InputError:
    default = slot.options.get("default")
    hint = f"Set or link it, type {slot.type}"
    if slot.choices:
        hint = f"Choose one of {listed(slot.choices)}"
    elif default is not None:
        hint = f"Set it; the editor starts with {short(default)}"
    return InputError("required_input_missing", "Required input is missing", hint)


def constant(slot: Slot, value: Any) -> Any:
    """`value` as the node receives it, converted as ComfyUI does; raises InputError."""
    if isinstance(value, dict) and "__value__" in value:
        value = value["__value__"]
    kind = slot.options.get("widgetType", slot.type)
    drawn = "default" in slot.options or is_drawn(slot.item)
    if not drawn and not {one.strip() for one in kind.split(",")} & {*WIDGETS}:
        message = f"Expected a link of type {kind}, received {short(value)}"
        raise InputError("return_type_mismatch", message, f"Link an output of type {kind}")
    try:
        if kind == "BOOLEAN" and isinstance(value, str):
            raise ValueError("text is never true or false")  # ComfyUI takes "false" for true
        converted = CONVERTERS[kind](value) if kind in CONVERTERS else value
        if isinstance(converted, float) and not math.isfinite(converted):
            raise ValueError("it is not finite")
    except (TypeError, ValueError, OverflowError) as error:
        message = f"Failed to convert {short(value)} to a {kind} value ({error})"
        hint = "Use true or false" if kind == "BOOLEAN" else f"Use a finite {kind.lower()}"
        raise InputError("invalid_input_type", message, hint) from None
    return converted


def is_drawn(item: Input) -> bool:
    """Whether the page draws a widget of its own, or of the pack's, for an input that is no plain value."""
    return item.io_type in PAGE_DRAWN or "socketless" in item.as_dict()


def in_bounds(slot: Slot, value: Any) -> None:
    """Raises InputError when `value` is too small, too large or not among the choices."""
    options = slot.options
    if slot.type in ("COMBO", DYNAMIC):
        if value not in slot.choices:
            hint = similar(value, slot.choices) + f"Choose one of {listed(slot.choices)}"
            raise InputError("value_not_in_list", f"Value not in list: {short(value)}", hint)
    elif slot.type in ("INT", "FLOAT"):
        low, high = options.get("min"), options.get("max")
        if low is not None and value < low:
            message = f"Value {value} smaller than min of {low}"
            raise InputError("value_smaller_than_min", message, f"Use {low} or more")
        if high is not None and value > high:
            message = f"Value {value} bigger than max of {high}"
            raise InputError("value_bigger_than_max", message, f"Use {high} or less")


def nest(present: Iterable[Slot], values: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments for execute: {"kind": "a", "kind.rho": 7} -> kind={"kind": "a", "rho": 7}.

    An absent optional input is left out, but inside a choice it is None, as in ComfyUI.
    """
    arguments: dict[str, Any] = {}
    for slot in present:
        *parents, name = slot.id.split(".")
        target = arguments
        for parent in parents:
            target = target[parent]
        value = values.get(slot.id)
        if slot.type == AUTOGROW:
            target[name] = {}
        elif slot.type == DYNAMIC:
            target[name] = {name: value}
        elif parents or slot.id in values:
            target[name] = value
    return arguments


def similar(name: Any, names: Iterable[Any]) -> str:
    """ "Did you mean ...? " when one of `names` is near `name`, as a slip of the keys is, else nothing."""
    close = difflib.get_close_matches(str(name)[:100], [str(n) for n in names], 1, NEAR)
    return f"Did you mean {close[0]!r}? " if close else ""


def listed(names: Iterable[Any]) -> str:
    """The names, at most 20 of them."""
    every = list(names)
    more = f", ... ({len(every)} in all)" if len(every) > 20 else ""
    return ", ".join(map(str, every[:20])) + more if every else "(nothing)"


def short(value: Any) -> str:
    """The value's repr, cut to fit in a message; of a large value only the beginning is looked at."""
    text = (
        repr(value[:60] + "…" if len(value) > 60 else value)
        if isinstance(value, str)
        else CUT.repr(value)
    )
    return text if len(text) <= 60 else f"{text[:57]}..."
