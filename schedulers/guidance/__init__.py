"""Guidance rules. Adding one: a class in a file here and its name in ``ALL``."""

from .base import COND, UNCOND, Guidance, Rule
from .cfg import CFG

ALL: tuple[type[Rule], ...] = (CFG,)

__all__ = ["ALL", "CFG", "COND", "UNCOND", "Guidance", "Rule"]
