"""Read a workflow file: JSON in ComfyUI's API format, or a PNG or WebP that carries it. Light to import."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..schedulers.strict_json import parse_json, refuse
from .picture_text import DAMAGED, is_picture, picture_texts

Prompt = dict[str, dict[str, Any]]
Convert = Callable[[dict[str, Any]], Prompt]
JSON_LIMIT = 32 * 2**20  # bytes
PICTURE_LIMIT = 512 * 2**20  # bytes of a picture on stdin
HEAD = 12  # bytes by which pictures are known
MOST_NODES = 5000
NODE_KEYS = ("class_type", "inputs", "_meta")


class WorkflowError(ValueError):
    """The file is not a workflow that can be run."""


class NodeFailure(RuntimeError):
    """A node raised while it ran; the original exception is the __cause__."""


def reason_of(error: BaseException, named: bool = False) -> str:
    """What an exception says, never nothing; ``named``: behind the name of its kind."""
    kind, text = type(error).__name__, str(error).strip()
    return f"{kind}: {text}" if named and text else text or kind


@dataclass(frozen=True)
class Workflow:
    """An API graph {node id: {"class_type", "inputs", "_meta"?}} and where it was read from.

    An input is a value or a link [node id, output index]. `ui` is the editor's graph, if it was
    there too; it is passed through to saved images. `typed` are the texts that a person set by --set.
    `from_editor`: the API graph was made of the editor's.
    """

    source: Path
    prompt: Prompt
    ui: dict[str, Any] | None = None
    typed: frozenset[str] = frozenset()
    from_editor: bool = False

    def converted(self, convert: Convert) -> Workflow:
        """The workflow as it was read, its API graph made of the editor's once more: with the schemas of other nodes."""
        if not self.from_editor or self.ui is None:
            return self
        return replace(self, prompt=_prompt(convert(self.ui)))

    def with_prompt(self, prompt: Prompt) -> Workflow:
        """The workflow with another API graph. The editor's graph goes if it no longer says the same."""
        return replace(self, prompt=prompt, ui=self.ui if prompt == self.prompt else None)


def load(path: Path | str, convert: Convert | None = None) -> Workflow:
    """Read a workflow: JSON (at most JSON_LIMIT), or a PNG or WebP saved by ComfyUI or by this tool; "-": from stdin.

    The JSON is an API graph, the body of a POST to /prompt, or the editor's graph; UTF-8 or UTF-16. ``convert`` makes
    an API graph of an editor's graph, which is refused without it. Raises WorkflowError when the file is missing, too
    large, damaged or not such a workflow.
    """
    path = Path(path)
    try:
        if str(path) == "-":
            return _from_stdin(path, convert)
        if not path.is_file():
            raise WorkflowError("there is no such file")
        texts = picture_texts(path)
        if texts is not None:
            return _from_picture(path, texts, convert)
        with path.open("rb") as file:
            return _from_json(path, file.read(JSON_LIMIT + 1), convert, path.stat().st_size)
    except (OSError, *DAMAGED, WorkflowError) as error:
        raise WorkflowError(f"{path}: {error}") from error.__cause__


def _from_stdin(path: Path, convert: Convert | None) -> Workflow:
    """JSON or a picture, told apart by its beginning; a picture goes to a file, as its readers want to jump about in it."""
    stdin = sys.stdin.buffer
    head = stdin.read(HEAD)
    if not is_picture(head):
        return _from_json(path, head + stdin.read(JSON_LIMIT + 1 - len(head)), convert)
    with tempfile.TemporaryDirectory(prefix="sampling-kit-") as scratch:
        texts = picture_texts(stdin_to_file(Path(scratch), head))
    return _from_picture(path, texts or {}, convert)


def stdin_to_file(scratch: Path, head: bytes = b"") -> Path:
    """A file in a folder with ``head`` and what stdin holds. Raises WorkflowError for more than PICTURE_LIMIT."""
    head = head or sys.stdin.buffer.read(HEAD)
    left = PICTURE_LIMIT - len(head)
    name = "stdin.webp" if head[:1] == b"R" else "stdin.png"
    with (scratch / name).open("xb") as file:
        file.write(head)
        while piece := sys.stdin.buffer.read(min(left + 1, 2**20)):
            left -= len(piece)
            if left < 0:
                raise WorkflowError(f"stdin has more than {PICTURE_LIMIT >> 20} MB")
            file.write(piece)
    return scratch / name


def from_graph(graph: Mapping[str, Any], convert: Convert | None = None) -> Workflow:
    """The workflow in a dict: an API graph, the body of a POST to /prompt, or the editor's graph."""
    try:
        return _from_data(Path("(graph)"), json.loads(json.dumps(graph)), convert)
    except (TypeError, ValueError) as error:
        raise WorkflowError(f"this graph is no workflow: {error}") from None


def _from_json(
    path: Path, raw: bytes, convert: Convert | None = None, size: int | None = None
) -> Workflow:
    if len(raw) > JSON_LIMIT:
        shown = f"{size / 2**20:.0f} MB is" if size else "it is"
        limit = f"the limit is {JSON_LIMIT // 2**20} MB"
        raise WorkflowError(f"{shown} too large for a workflow, {limit}")
    return _from_data(path, _parse(raw), convert)


def _from_data(path: Path, data: Any, convert: Convert | None = None) -> Workflow:
    ui = None
    if (
        isinstance(data, dict)
        and isinstance(data.get("prompt"), dict)
        and not _is_node(data["prompt"])
    ):
        extra = data.get("extra_data")
        ui = extra.get("extra_pnginfo") if isinstance(extra, dict) else None
        ui = ui.get("workflow") if isinstance(ui, dict) else None
        data = data["prompt"]
    if convert is not None and is_editor_format(data):
        return Workflow(path, _prompt(convert(data)), data, from_editor=True)
    return Workflow(path, _prompt(data), ui if isinstance(ui, dict) else None)


def _is_node(data: dict[str, Any]) -> bool:
    """Whether "prompt" is the id of a node, not the graph in a body of /prompt."""
    return isinstance(data.get("class_type"), str)


def is_editor_format(data: Any) -> bool:
    """Whether this JSON is what the web page saves: nodes with positions, and links between them."""
    return isinstance(data, dict) and "nodes" in data and "links" in data


def _from_picture(path: Path, texts: dict[str, str], convert: Convert | None = None) -> Workflow:
    if "prompt" not in texts and "workflow" in texts and convert is not None:
        data = _parse(texts["workflow"], _to_null)
        if is_editor_format(data):
            return Workflow(path, _prompt(convert(data)), data, from_editor=True)
    if "prompt" not in texts:
        carried = "only the editor's graph" if "workflow" in texts else "no workflow"
        raise WorkflowError(
            f"the picture holds {carried}; an image saved with its API graph is needed"
        )
    # ComfyUI writes NaN into a node's "is_changed", which _prompt drops.
    prompt = _prompt(_parse(texts["prompt"], _to_null))
    ui = _parse(texts["workflow"], _to_null) if "workflow" in texts else None
    return Workflow(path, prompt, ui if isinstance(ui, dict) else None)


def _parse(text: str | bytes, not_finite: Callable[[str], Any] = refuse) -> Any:
    """The JSON value, see `parse_json`; raises WorkflowError."""
    try:
        if isinstance(text, bytes):
            text = text.decode(_encoding(text))
        return parse_json(text, not_finite)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        cut = "; the file seems to be truncated" if error.pos >= len(error.doc.rstrip()) else ""
        raise WorkflowError(f"not JSON: {error.msg} at {where}{cut}") from None
    except ValueError as error:
        raise WorkflowError(f"not JSON: {error}") from None


def _encoding(raw: bytes) -> str:
    """UTF-16 by its mark, or by the zero beside the first "{" where it has none (PowerShell, editors of Windows)."""
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "utf-16"
    zeros = {b"{\0": "utf-16-le", b"\0{": "utf-16-be"}
    return zeros.get(raw[:2], "utf-8-sig")


def _to_null(_: str) -> None:
    return None


def _prompt(data: Any) -> Prompt:
    """The graph with only NODE_KEYS, or WorkflowError."""
    if not isinstance(data, dict):
        raise WorkflowError(f"a workflow is a JSON object of nodes, not a {type(data).__name__}")
    if is_editor_format(data):
        raise WorkflowError(
            "this is the editor's format, which only the web page understands; use its API twin "
            "(example_workflows/api) or, in ComfyUI, Workflow > Export (API)"
        )
    if len(data) > MOST_NODES:
        raise WorkflowError(f"it has {len(data)} nodes, the limit is {MOST_NODES}")
    for key, node in data.items():
        _check_node(key, node)
    return {key: {k: node[k] for k in NODE_KEYS if k in node} for key, node in data.items()}


def _check_node(key: str, node: Any) -> None:
    required = {"class_type": str, "inputs": dict}
    if not isinstance(node, dict):
        raise WorkflowError(f"node {key!r} must be an object with {' and '.join(required)}")
    for name, kind in required.items():
        if not isinstance(node.get(name), kind):
            raise WorkflowError(f"node {key!r} has no {name} (or of the wrong type)")
