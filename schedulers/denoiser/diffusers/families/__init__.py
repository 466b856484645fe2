"""Every family of diffusers networks there is: a file here that holds ``FAMILY`` is one of them."""

from __future__ import annotations

import importlib
import pkgutil

from ..family import Family


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
