"""Every family of diffusers networks there is: a file here that holds ``FAMILY`` is one of them."""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import replace
from pathlib import Path

from .. import folder
from ..family import Family
from ..folder import Component, Folder
from ..limits import check_scheduler
from ..training import read_training


def _read() -> dict[str, Family]:
    modules = sorted(module.name for module in pkgutil.iter_modules(__path__))
    families = [importlib.import_module(f"{__name__}.{name}").FAMILY for name in modules]
    return {family.kind: family for family in families}


#: Network class → family.
FAMILIES: dict[str, Family] = _read()


def family_of(kind: str, where: str = "network config") -> Family:
    """The family of a class name. Raises ValueError for a class that has none."""
    if kind not in FAMILIES:
        raise ValueError(
            f"{where}: the network class {kind} is not known; known: {', '.join(FAMILIES)}"
        )
    return FAMILIES[kind]


def renamed(part: Component) -> Component:
    """A network under its present class name: published DiT and PixArt folders have an older one."""
    for family in FAMILIES.values():
        for kind, key, value in family.legacy:
            if part.kind == kind and part.config.get(key) == value:
                return replace(part, kind=family.kind)
    return part


def read_folder(
    path: str | Path, root: str | Path | None = None, variant: str | None = None, network: str | None = None
) -> Folder:  # fmt: skip
    """:func:`folder.read_folder`, the network under its present class name."""
    read = folder.read_folder(path, root, variant, network)
    return replace(read, network=renamed(read.network))


def check(read: Folder) -> None:
    """Raises ValueError for a folder whose configs, read without its weights, name what is not supported."""
    where = f"{read.network.path}/config.json"
    family_of(read.network.kind, where).check(read.network.config, where)
    check_scheduler(read.scheduler)
    read_training(read.scheduler)
