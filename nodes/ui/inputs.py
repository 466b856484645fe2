"""Engine settings as node inputs: each field of a frozen settings class becomes a widget."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from ...schedulers.settings import Settings
from ..host import io

T = TypeVar("T", bound=Settings)


def inputs_for(settings: type[Settings], advanced: bool = False) -> list[Any]:
    """One widget per field, with the field's default, range and help; ``advanced``: all of them under that heading.

    All are optional in API-format JSON, where the default stands in: a workflow from before a field
    was added still runs. New fields go last, since the editor saves widgets by position. A field that is fresh
    (see ``knob``) shows that in a new node.
    """
    shown = (field for field in dataclasses.fields(settings) if "help" in field.metadata)
    return [_input(field, advanced) for field in shown]


def _input(field: dataclasses.Field[Any], advanced: bool = False) -> Any:
    meta, default = field.metadata, field.default
    if "table" in meta:
        return choice(field.name, meta["table"], meta["help"], optional=True)
    if "wire" in meta:
        return io.Custom(meta["wire"]).Input(field.name, optional=True, tooltip=meta["help"])
    fresh = meta["fresh"]
    common = dict(
        default=default if fresh is None else fresh,
        tooltip=meta["help"],
        advanced=meta["advanced"] or advanced or None,
    )
    common = {key: value for key, value in common.items() if value is not None} | {"optional": True}
    if meta["options"] is not None:
        return io.Combo.Input(field.name, options=list(meta["options"]), **common)
    if isinstance(default, bool):
        return io.Boolean.Input(field.name, **common)
    if isinstance(default, str):
        return io.String.Input(field.name, multiline=False, **common)
    kind = io.Int if isinstance(default, int) else io.Float
    limits = dict(
        min=meta["low"], max=meta["high"], step=meta["step"] or (1 if kind is io.Int else 0.01)
    )
    if kind is io.Float:
        limits["round"] = False
    return kind.Input(field.name, **common, **limits)


def listed(names: Callable[[], list[str]]) -> list[str]:
    """The names for a combo; none where ComfyUI lacks what finds them: the node is there, and says so when it runs."""
    try:
        return names()
    except (AttributeError, ImportError):
        return []


def choice(
    id: str,
    table: Mapping[str, type[Settings]],
    tooltip: str,
    optional: bool = False,
    advanced: bool = False,
) -> Any:
    """A combo whose choice brings its own widgets, under "advanced" if asked for: one option per entry of ``table``."""
    options = [
        io.DynamicCombo.Option(key, inputs_for(settings, advanced))
        for key, settings in table.items()
    ]
    return io.DynamicCombo.Input(id, options=options, tooltip=tooltip, optional=optional)


def chosen(id: str, table: Mapping[str, type[T]], value: Mapping[str, Any] | None) -> T:
    """The settings object behind a :func:`choice`. Raises ValueError for an unknown key or value."""
    fields = {name: given for name, given in (value or {}).items() if given is not None}
    key = fields.pop(id, None)
    if key not in table:
        raise ValueError(f"{id} = {key!r}: choose one of {', '.join(table)}")
    return table[key](**fields)


def made(settings: type[T], given: Mapping[str, Any]) -> T:
    """The settings object of a node from its inputs, choices among other settings included."""
    tables = {
        f.name: f.metadata["table"] for f in dataclasses.fields(settings) if "table" in f.metadata
    }
    values = {n: chosen(n, tables[n], v) if n in tables else v for n, v in given.items()}
    return settings(**values)


def summary(settings: type[Settings], *more: str) -> str:
    """Description text of a node made from a settings class."""
    return " ".join(part for part in (settings.describe(), *more) if part)
