"""Which of the package's extras a missing module belongs to. Imports nothing but the standard library."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec

PACKAGE = "comfyui-sampling-kit"
#: Module → the smallest extra that holds it, as in pyproject.toml (a test compares them).
EXTRAS = {
    "torch": "standalone", "numpy": "standalone", "PIL": "standalone", "safetensors": "standalone",
    "click": "queue", "tqdm": "queue", "filelock": "queue", "aiohttp": "queue",
    "diffusers": "diffusers", "transformers": "diffusers", "ray": "scale",
}  # fmt: skip


def advice(module: str) -> str | None:
    """What to install for ``module`` (dots allowed); None where no extra holds it."""
    name = module.partition(".")[0]
    extra = EXTRAS.get(name)
    if extra is None:
        return None
    return f"{name} is not installed, which the extra '{extra}' brings: {install(extra)}"


def install(extra: str) -> str:
    """The command that installs an extra."""
    return f"pip install '{PACKAGE}[{extra}]'"


def absent(modules: Iterable[str]) -> list[str]:
    """Those of ``modules`` that are not installed."""
    return [name for name in modules if not _is_there(name)]


def _is_there(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except (ImportError, ValueError):  # half removed, or replaced by None in sys.modules
        return False
