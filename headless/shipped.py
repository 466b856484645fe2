"""The example workflows that ship with the package, by name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

FOLDER = Path(__file__).parent.parent / "example_workflows"
#: ComfyUI's nodes that load a checkpoint. An example that holds one runs in a ComfyUI only.
LOADERS = frozenset({"CheckpointLoaderSimple", "UNETLoader"})


def names() -> list[str]:
    """Names of the examples, in order."""
    return sorted(path.stem for path in (FOLDER / "api").glob("*.json"))


def example(name: str) -> Path | None:
    """The API graph of an example; None if there is none of this name."""
    return FOLDER / "api" / f"{name}.json" if name in names() else None


def needs_comfyui(name: str) -> bool:
    """Whether the example loads a checkpoint, which only ComfyUI can."""
    prompt = json.loads((FOLDER / "api" / f"{name}.json").read_text(encoding="utf-8"))
    return not LOADERS.isdisjoint(node["class_type"] for node in prompt.values())


def that_run_here() -> list[str]:
    """Names of the examples that need no ComfyUI."""
    return [name for name in names() if not needs_comfyui(name)]


def described() -> Iterator[tuple[str, str]]:
    """(name, what it shows) of every example; the words are the heading of its note."""
    for name in names():
        heading = _heading(FOLDER / f"{name}.json")
        yield name, f"{heading} (needs ComfyUI)" if needs_comfyui(name) else heading


def _heading(path: Path) -> str:
    """The first line of the note in an editor's graph; "" where there is none."""
    if not path.is_file():
        return ""
    for node in json.loads(path.read_text(encoding="utf-8"))["nodes"]:
        if node["type"] == "MarkdownNote":
            return str(node["widgets_values"][0]).splitlines()[0].lstrip("# ")
    return ""
