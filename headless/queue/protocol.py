"""What a ComfyUI server says, in our words: addresses, messages, results and refusals. No network here."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from ..workflow import Prompt, WorkflowError

PREVIEW = 1, 4  # binary messages that hold a picture


def address(server: str) -> str:
    """http://host:port, from that or from host:port. Raises WorkflowError for what is no address."""
    parts = urlsplit(server if "//" in server else f"http://{server}")
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query:
        raise WorkflowError(f"--server {server!r} is not an address such as http://127.0.0.1:8188")
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"


def picture(data: bytes) -> bytes | None:
    """The preview in a binary message, None for another one.

    The message is: event (4 bytes), then the picture's format, or the length of a JSON text and that text.
    """
    number, length = (int.from_bytes(data[i : i + 4], "big") for i in (0, 4))
    if number not in PREVIEW:
        return None
    return data[8 if number == PREVIEW[0] else 8 + length :]


def event(text: str) -> tuple[str, dict[str, Any]]:
    """(type, data) of a text message; ("", {}) for one that is not as it should be."""
    try:
        message = json.loads(text)
        kind, data = message["type"], message["data"]
    except (ValueError, KeyError, TypeError):
        return "", {}
    return (kind, data) if isinstance(data, dict) else ("", {})


def entries(ui: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Files that a node says it wrote."""
    for group in ui.values():
        for entry in group if isinstance(group, list) else ():
            if isinstance(entry, dict) and isinstance(entry.get("filename"), str):
                yield entry


def file_names(files: Sequence[Mapping[str, Any]], label: str, id: str) -> list[str]:
    """Paths below the output folder, the same for a job whenever it is fetched.

    The server's running number gives way to the job's label and a piece of its id; folders stay.
    Raises WorkflowError for a name that leaves the folder.
    """
    names: list[str] = []
    for entry in files:
        name, folder = str(entry["filename"]), PurePosixPath(str(entry.get("subfolder") or ""))
        safe = not folder.is_absolute() and not {"..", ""} & set(folder.parts)
        if not safe or re.search(r"[\\/:\x00-\x1f]|^\.", name) or re.search(r"[\\:]", str(folder)):
            raise WorkflowError(f"the server names a file {str(folder / name)!r}, which is refused")
        stem, dot, kind = name.rpartition(".")
        stem = re.sub(r"_\d+_?$", "", stem if dot else kind)
        base = folder / f"{stem}_{label}_{id[:8]}"
        same = sum(
            re.fullmatch(re.escape(f"{base}") + r"(_\d+)?\.\w+", n) is not None for n in names
        )
        names.append(f"{base}{f'_{same + 1}' if same else ''}.{kind if dot else 'bin'}")
    return names


def failure(entry: Mapping[str, Any]) -> str | None:
    """Why a job of the history failed, or None."""
    status = entry.get("status") or {}
    if status.get("status_str") != "error":
        return None
    for kind, data in reversed(status.get("messages") or ()):
        if kind == "execution_error":
            place = f"node {data.get('node_id')} ({data.get('node_type')})"
            return f"{place} failed: {str(data.get('exception_message', '')).strip()}"
        if kind == "execution_interrupted":
            return "it was interrupted on the server"
    return "it failed on the server"


def refused(answer: Mapping[str, Any], prompt: Prompt) -> str:
    """One line per mistake that the server found in a graph."""
    lines = []
    for node, mistakes in (answer.get("node_errors") or {}).items():
        meta = prompt.get(node, {}).get("_meta") or {}
        place = f'node {node} "{meta.get("title") or mistakes.get("class_type")}"'
        for error in mistakes.get("errors", ()):
            lines.append(f"{place}: {error.get('message')}: {error.get('details')}")
    error = answer.get("error") or {}
    head = error.get("message", "the server refused the workflow")
    details = error.get("details")
    return "\n       ".join([f"{head}{f': {details}' if details else ''}", *lines])
