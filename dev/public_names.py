"""The names that other people's programs may rely on, and what of them may change: semantic versioning.

``tests/interface/names.json`` holds them with their arguments, fields and defaults; ``dev.sync`` writes it. What is new
needs a minor version; what :func:`broken` names needs a major one.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
from pathlib import Path
from typing import Any

from .. import api, doors
from ..schedulers.path import PATHS
from ..schedulers.solver import ALL
from ..schedulers.spacing import ALL as SPACINGS

ROOT = Path(__file__).resolve().parent.parent
FILE = ROOT / "tests" / "interface" / "names.json"
Names = dict[str, dict[str, str]]


def names() -> Names:
    """{module.name: {argument or field: its default, "" where it must be passed}}; "*" stands before keywords."""
    public: Names = {f"api.{name}": _parts(getattr(api, name)) for name in api.__all__}
    public["doors.k_diffusion_sampler"] = _arguments(doors.k_diffusion_sampler)
    public |= _methods(ROOT / "doors" / "diffusers_scheduler.py", "doors.KitScheduler")
    public |= {f"schedulers.solver.{kind.__name__}": _parts(kind) for kind in ALL}
    public |= {f"schedulers.spacing.{kind.__name__}": _parts(kind) for kind in SPACINGS.values()}
    return public | {f"schedulers.path.{kind.__name__}": _parts(kind) for kind in PATHS}


def _parts(value: Any) -> dict[str, str]:
    if dataclasses.is_dataclass(value):
        return {f.name: _default(f.default, dataclasses.MISSING) for f in dataclasses.fields(value)}
    if inspect.isclass(value):
        return {name: "" for name in vars(value) if not name.startswith("_")}
    return _arguments(value)


def _arguments(function: Any) -> dict[str, str]:
    made: dict[str, str] = {}
    for p in inspect.signature(function).parameters.values():
        if p.kind is p.KEYWORD_ONLY:
            made.setdefault("*", "")
        made[p.name] = _default(p.default, p.empty)
    return made


def _default(value: Any, missing: Any) -> str:
    if value is missing:
        return ""
    return value.__name__ if inspect.isfunction(value) else repr(value)


def _methods(file: Path, name: str) -> Names:
    """The methods of a class, read from its source: to import it may need what is not installed."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    (body,) = (n.body for n in tree.body if isinstance(n, ast.ClassDef) and n.name in name)
    made: Names = {name: {}}
    for node in body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            made[f"{name}.{node.name}"] = _written(node.args)
    return made


def _written(arguments: ast.arguments) -> dict[str, str]:
    plain = [a.arg for a in arguments.args]
    without = [""] * (len(plain) - len(arguments.defaults))
    parts = dict(zip(plain, without + [ast.unparse(d) for d in arguments.defaults], strict=True))
    if arguments.kwonlyargs:
        parts["*"] = ""
    for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        parts[argument.arg] = "" if default is None else ast.unparse(default)
    return {k: v for k, v in parts.items() if k not in ("self", "cls")}


def text(public: Names) -> str:
    """As the file holds them."""
    return json.dumps(public, ensure_ascii=False, indent=1) + "\n"


def broken(old: Names, new: Names) -> list[str]:
    """What a program written for ``old`` may rely on and ``new`` has not."""
    lines = [f"{name} is gone" for name in old if name not in new]
    for name in old.keys() & new.keys():
        before, after = old[name], new[name]
        kept = [part for part in after if part in before]
        lines += [f"{name}: {part} is gone" for part in before if part not in after]
        lines += [
            f"{name}: {part} was {before[part]}, is {after[part]}"
            for part in kept
            if before[part] and before[part] != after[part]
        ]
        lines += [
            f"{name}: {part} must be passed now"
            for part in after
            if part not in before and not after[part] and "." in name and before
        ]
        placed = [part for part in _positional(before) if part in after]
        if _positional(after)[: len(placed)] != placed:
            lines.append(f"{name}: its order changed")
    return sorted(lines)


def _positional(parts: dict[str, str]) -> list[str]:
    """Those that may be passed without their name."""
    order = list(parts)
    return order[: order.index("*")] if "*" in parts else order
