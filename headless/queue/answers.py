"""Everything a server says, checked and put into our words. No network here.

What is not ours is ignored; an answer that lacks what a route owes raises :class:`Strange`. The
readers ``mapping``, ``sequence``, ``words`` give something empty for a value of another type, so
that no answer, however odd, ends in another error.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...schedulers.strict_json import parse_json
from ..json_values import mapping, sequence
from ..workflow import Prompt
from .faults import GraphRefused, JobFails, Strange
from .limits import FILES, LINE_CHARACTERS, MESSAGE_CHARACTERS, TEXT_CHARACTERS

#: What the answer of a route must hold.
OWED: dict[str, dict[str, type]] = {
    "/queue": {"queue_running": list, "queue_pending": list},
    "/history": {},
    "/prompt": {"prompt_id": str},
    "/object_info": {},
    "/system_stats": {"system": dict},
    "/upload/image": {"name": str},
}
SUCCESS, ERROR = "success", "error"  # how a run ends
OUR_MESSAGES = {"executing", "progress"}  # of the websocket
PREVIEW, PREVIEW_OF_NODE = 1, 4  # binary messages that hold a picture
PICTURE_KINDS = {1: "jpg", 2: "png"}  # by the number in a binary message
PICTURE_TYPES = {"image/jpeg": "jpg", "image/png": "png"}  # by the name in one


# ------------------------------------------------------------------------------ values of any type


def words(value: Any) -> str:
    """A text or number as one printable line; "" for anything else."""
    if not isinstance(value, str | int | float) or isinstance(value, bool):
        return ""
    text = " ".join(str(value)[: 10 * LINE_CHARACTERS].split())
    text = "".join(c for c in text if c.isprintable())
    return text if len(text) <= LINE_CHARACTERS else f"{text[: LINE_CHARACTERS - 3]}..."


def first_line(body: bytes) -> str:
    """The first words of an answer, a web page's title among them."""
    text = body[: 2**16].decode("utf-8", "replace")
    if re.match(r"\s*<", text):
        title = re.search(r"<title[^>]*>([^<]*)", text, re.IGNORECASE)
        text = html.unescape(title[1] if title else re.sub(r"<[^>]*>", " ", text))
    return words(next((line for line in text.splitlines() if line.strip()), ""))


def parsed(route: str, body: bytes) -> Mapping[str, Any]:
    """The JSON object of a route's answer, with what it owes. Raises Strange."""
    try:
        answer = parse_json(body.decode("utf-8-sig"), lambda _: None)
    except ValueError as error:
        raise Strange(f"its answer to {route} is not JSON ({words(str(error))})") from None
    if not isinstance(answer, dict):
        raise Strange(f"its answer to {route} is a {type(answer).__name__}, not an object")
    for key, kind in OWED[route].items():
        if not isinstance(answer.get(key), kind):
            raise Strange(f"its answer to {route} has no {key!r} (or of the wrong type)")
    return answer


# ------------------------------------------------------------------------------------------- queue


@dataclass(frozen=True)
class Queued:
    """Prompt ids that run and wait."""

    running: tuple[str, ...] = ()
    pending: tuple[str, ...] = ()

    def __contains__(self, id: str) -> bool:
        return id in self.running or id in self.pending


def queued(answer: Mapping[str, Any]) -> Queued:
    groups = answer["queue_running"], answer["queue_pending"]
    return Queued(*(tuple(_ids(group)) for group in groups))


def _ids(group: Sequence[Any]) -> Iterator[str]:
    for item in group:
        row = sequence(item)
        if len(row) > 1 and isinstance(row[1], str):
            yield row[1]


# ----------------------------------------------------------------------------------------- history


@dataclass(frozen=True)
class RemoteFile:
    """A file that a node says it wrote."""

    node: str
    filename: str
    subfolder: str
    type: str

    @property
    def query(self) -> dict[str, str]:
        return dict(filename=self.filename, subfolder=self.subfolder, type=self.type)


@dataclass(frozen=True)
class Entry:
    """How a prompt ended. ``error``: why it failed. ``files``: results, or previews where there are none.

    ``cached``: nodes that the server did not run again. ``executed``: output nodes it was to run,
    None where it does not say.
    """

    error: str | None = None
    files: tuple[RemoteFile, ...] = ()
    texts: tuple[str, ...] = ()
    cached: frozenset[str] = frozenset()
    executed: frozenset[str] | None = None


def entry(answer: Mapping[str, Any], id: str) -> Entry | None:
    """The history's entry of a prompt, None while there is none. Raises Strange, and JobFails for too many files."""
    if id not in answer:
        return None
    raw, status = mapping(answer[id]), mapping(mapping(answer[id]).get("status"))
    how = status.get("status_str", SUCCESS)
    if not isinstance(raw.get("outputs"), dict) or how not in [SUCCESS, ERROR]:
        raise Strange("its history of this job has no outputs, or an unknown status")
    messages = list(_messages(status))
    if how == ERROR:
        return Entry(error=_reason(messages))
    every = tuple(_files(raw["outputs"]))
    if len(every) > FILES:
        raise JobFails(f"the server lists {len(every)} files for it, more than {FILES}")
    cached = [
        n
        for kind, data in messages
        if kind == "execution_cached"
        for n in sequence(data.get("nodes"))
    ]
    return Entry(
        files=tuple(f for f in every if f.type == "output") or every,
        texts=tuple(_texts(raw["outputs"])),
        cached=frozenset(n for n in cached if isinstance(n, str)),
        executed=_executed(raw),
    )  # fmt: skip


def _messages(status: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for item in sequence(status.get("messages")):
        pair = sequence(item)
        if len(pair) == 2 and isinstance(pair[0], str):
            yield pair[0], mapping(pair[1])


def _reason(messages: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    for kind, data in reversed(messages):
        if kind == "execution_error":
            place = f"node {words(data.get('node_id'))} ({words(data.get('node_type'))})"
            return (
                f"{place} failed: {words(data.get('exception_message')) or 'it does not say why'}"
            )
        if kind == "execution_interrupted":
            return "it was interrupted on the server"
    return "it failed on the server"


def _files(outputs: Mapping[str, Any]) -> Iterator[RemoteFile]:
    for node, ui in outputs.items():
        for group in mapping(ui).values():
            for item in sequence(group):
                row = mapping(item)
                name, folder, kind = (row.get(k) for k in ("filename", "subfolder", "type"))
                if isinstance(name, str) and name:
                    folder = folder if isinstance(folder, str) else ""
                    yield RemoteFile(node, name, folder, kind if isinstance(kind, str) else "")


def _texts(outputs: Mapping[str, Any]) -> Iterator[str]:
    room = TEXT_CHARACTERS
    for ui in outputs.values():
        for text in sequence(mapping(ui).get("text")):
            if isinstance(text, str) and room > 0:
                yield text[:room]
                room -= len(text)


def _executed(raw: Mapping[str, Any]) -> frozenset[str] | None:
    """The fifth part of ComfyUI's queue item: output nodes that its validation let pass."""
    item = sequence(raw.get("prompt"))
    if len(item) < 5 or not isinstance(item[4], list):
        return None
    return frozenset(n for n in item[4] if isinstance(n, str))


# -------------------------------------------------------------------------------------- submitting


def accept(answer: Mapping[str, Any], id: str, prompt: Prompt) -> None:
    """Raises GraphRefused where the server took only a part of the graph, or gave it another id."""
    if answer["prompt_id"] != id:
        raise GraphRefused(
            "the server does not keep the prompt id it is given: ComfyUI 0.33 or newer is needed"
        )
    if mapping(answer.get("node_errors")):
        raise GraphRefused(refused(answer, prompt, "the server runs only a part of this workflow"))


def refused(
    answer: Mapping[str, Any], prompt: Prompt, head: str = "the server refused the workflow"
) -> str:
    """One line per mistake that the server found in a graph."""
    lines = []
    for node, raw in mapping(answer.get("node_errors")).items():
        mistakes = mapping(raw)
        meta = mapping(prompt.get(node, {}).get("_meta"))
        place = (
            f'node {words(node)} "{words(meta.get("title")) or words(mistakes.get("class_type"))}"'
        )
        for error in map(mapping, sequence(mistakes.get("errors"))):
            lines.append(f"{place}: {words(error.get('message'))}: {words(error.get('details'))}")
    whole = answer.get("error")
    message = words(mapping(whole).get("message")) or words(whole) or head
    details = words(mapping(whole).get("details"))
    return "\n       ".join([f"{message}{f': {details}' if details else ''}", *lines[:100]])


# --------------------------------------------------------------------------------------- websocket


@dataclass(frozen=True)
class Event:
    """A text message about a prompt: which node of it runs (None: it ended), and how far that is."""

    kind: str
    id: str
    node: str | None
    step: int = 0
    total: int = 0


def event(text: str) -> Event | None:
    """One of OUR_MESSAGES, None for everything else: messages of extensions, junk."""
    if len(text) > MESSAGE_CHARACTERS:
        return None
    try:
        message = mapping(json.loads(text))
    except (ValueError, RecursionError):
        return None
    data = mapping(message.get("data"))
    kind, id, node = message.get("type"), data.get("prompt_id"), data.get("node")
    if not isinstance(kind, str) or not isinstance(id, str) or not isinstance(node, str | None):
        return None
    if kind not in OUR_MESSAGES:
        return None
    if kind == "executing":
        return Event(kind, id, node)
    step, total = _count(data.get("value")), _count(data.get("max"))
    return Event(kind, id, node, step, total) if node is not None and total > 0 else None


def _count(value: Any) -> int:
    """A number of steps; 0 for what is none."""
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    return int(value) if plain and 0 <= value < 2**31 else 0


@dataclass(frozen=True)
class Picture:
    """A picture from the websocket; ``id`` and ``node`` are empty where the message does not say."""

    data: bytes
    kind: str
    id: str = ""
    node: str = ""


def picture(data: bytes) -> Picture | None:
    """The picture in a binary message, None for another one.

    The message is: event (4 bytes), then 4 bytes for the picture's format, or for the length of a
    JSON text, and that text; then the picture.
    """
    number, second = (int.from_bytes(data[i : i + 4], "big") for i in (0, 4))
    if len(data) > 8 and number == PREVIEW:
        return Picture(data[8:], PICTURE_KINDS.get(second, "jpg"))
    if number != PREVIEW_OF_NODE or not 0 < second < len(data) - 8:
        return None
    try:
        about = mapping(json.loads(data[8 : 8 + second]))
    except (ValueError, RecursionError):
        return None
    id, node, kind = (about.get(k) for k in ("prompt_id", "node_id", "image_type"))
    if not isinstance(id, str) or not isinstance(node, str):
        return None
    named = PICTURE_TYPES.get(kind, "jpg") if isinstance(kind, str) else "jpg"
    return Picture(data[8 + second :], named, id, node)
