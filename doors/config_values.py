"""Settings (solvers, spacings) as JSON values of a config, and back."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, TypeVar

from ..schedulers.settings import Settings

S = TypeVar("S", bound=Settings)


def to_config(setting: Settings) -> dict[str, Any]:
    """{"kind": class name, field: value, …}; a field that JSON does not hold is left out."""
    values = {f.name: getattr(setting, f.name) for f in dataclasses.fields(setting) if f.init}
    return {"kind": type(setting).__name__} | {k: v for k, v in values.items() if _plain(v)}


def _plain(value: Any) -> bool:
    try:
        return bool(json.loads(json.dumps(value)) == value)
    except (TypeError, ValueError):
        return False


def from_config(value: Any, kinds: Mapping[str, type[S]], what: str) -> S:
    """The setting that ``value`` says: itself, a class name, or what :func:`to_config` made."""
    if isinstance(value, tuple(kinds.values())):
        return value  # type: ignore[return-value]
    said = {"kind": value} if isinstance(value, str) else value
    if not isinstance(said, Mapping) or said.get("kind") not in kinds:
        raise ValueError(f"{what} = {value!r}: choose one of {', '.join(kinds)}")
    kind = kinds[said["kind"]]
    try:
        return kind(**{k: v for k, v in said.items() if k != "kind"})
    except TypeError as error:
        raise ValueError(f"{what} = {value!r}: {error}") from None
