"""Frozen, self-checking settings: the one place where a value's default, range and help are written.

Paths, noise schedules, spacings, solvers and guidance rules are frozen dataclasses whose fields are
made by :func:`knob`. The engine checks the range when the object is made; the nodes turn the same
metadata into widgets, and the docs into tables, so a fact about a parameter is never written twice.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar


def knob(
    default: Any,
    help: str,
    *,
    low: float | None = None,
    high: float | None = None,
    step: float | None = None,
    options: tuple[str, ...] | None = None,
    advanced: bool = False,
    fresh: Any = None,
) -> Any:
    """A dataclass field with its range and help text (``low`` and ``high`` are inclusive).

    ``fresh``: what a new node shows in place of the default, which stands in where a prompt does not name the field.
    """
    meta = dict(
        help=help, low=low, high=high, step=step, options=options, advanced=advanced, fresh=fresh
    )
    return dataclasses.field(default=default, metadata=meta)


def inner(default: Any, low: float, high: float) -> Any:
    """A field that code can set and no node shows: a widget in the middle of others would move what workflows saved."""
    return dataclasses.field(default=default, metadata=dict(low=low, high=high))


def choose(table: Mapping[str, type[Settings]], help: str) -> Any:
    """A field that holds one of the settings of ``table``; its first entry, as made, is the default."""
    default = next(iter(table.values()))()
    return dataclasses.field(default=default, metadata=dict(help=help, table=table))


def wire(kind: str, help: str, default: Any = None) -> Any:
    """A field for a value that only a node can make, on a wire of type ``kind``; None: not connected."""
    return dataclasses.field(default=default, metadata=dict(help=help, wire=kind))


@dataclass(frozen=True)
class Settings:
    """Base of everything a user can set. Raises ValueError naming its title, the field and the way out."""

    title: ClassVar[str] = ""
    aliases: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            _check(self.where(field.name), field, getattr(self, field.name))

    @property
    def name_shown(self) -> str:
        """The title, which nodes show; the class's name where there is none."""
        return self.title or type(self).__name__

    def where(self, field: str) -> str:
        """Where a value is wrong, for the beginning of a message: "Karras: rho = -1"."""
        return f"{self.name_shown}: {field} = {getattr(self, field)!r}"

    @property
    def changed(self) -> dict[str, Any]:
        """The settings that are not their defaults."""
        values = {f.name: (getattr(self, f.name), f.default) for f in dataclasses.fields(self)}
        return {name: value for name, (value, default) in values.items() if value != default}

    @property
    def call(self) -> str:
        """The constructor call, without what is default."""
        changed = ", ".join(f"{name}={value!r}" for name, value in self.changed.items())
        return f"{type(self).__name__}({changed})"

    @property
    def words(self) -> str:
        """The title and what is not default, for people."""
        changed = ", ".join(f"{name} {value}" for name, value in self.changed.items())
        return f"{self.title} ({changed})" if changed else self.title

    @classmethod
    def describe(cls) -> str:
        """The docstring on one line, for help texts."""
        return " ".join((cls.__doc__ or "").split())


def _check(where: str, field: dataclasses.Field[Any], value: Any) -> None:
    options, low, high = (field.metadata.get(key) for key in ("options", "low", "high"))
    table = field.metadata.get("table")
    if table is not None and not isinstance(value, tuple(table.values())):
        raise ValueError(f"{where}: give one of {', '.join(c.__name__ for c in table.values())}")
    if options is not None and value not in options:
        raise ValueError(f"{where}: choose one of {', '.join(options)}")
    if isinstance(field.default, bool):
        if not isinstance(value, bool):
            raise ValueError(f"{where}: must be true or false")
    elif isinstance(field.default, int | float):
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not math.isfinite(value)
        ):
            raise ValueError(f"{where}: must be a finite number")
        if (low is not None and value < low) or (high is not None and value > high):
            raise ValueError(f"{where}: must lie between {low} and {high}")
        if isinstance(field.default, int) and value != int(value):
            raise ValueError(f"{where}: must be a whole number")
