"""Fetch what a job made: files by /view, pictures that came over the websocket."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from ...schedulers.whole_file import whole, write_whole
from . import limits
from .answers import Entry, Picture, RemoteFile, words
from .content import mismatch
from .faults import Gone, JobFails, LocalFailure, Lost, Refuses, Strange, local_errors
from .http import STATUS, Server, unpacked
from .jobs import Done
from .names import file_names, inside

FRAMES = "websocket"  # start of the name of a picture that came over the websocket


async def collect(
    server: Server, folder: Path, label: str, id: str, entry: Entry, frames: Sequence[Picture]
) -> Done:
    """Download the files of an entry and write its frames. Raises what the rest of the package does."""
    files = list(entry.files)
    sent = [RemoteFile("", f"{FRAMES}.{frame.kind}", "", "output") for frame in frames]
    names = file_names([*files, *sent], label, id)
    for file, name in zip(files, names, strict=False):
        await download(server, file, inside(folder, name))
    for frame, name in zip(frames, names[len(files) :], strict=True):
        reason = mismatch(name, frame.data[: limits.FILE_HEAD])
        if reason:
            raise JobFails(reason)
        with local_errors(folder / name):
            write_whole(folder / name, frame.data)
    return Done(label, tuple(names), entry.texts)


async def download(server: Server, file: RemoteFile, target: Path) -> None:
    """Fetch a file that a node says it wrote; ``target`` appears whole or not at all."""
    with local_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    try:
        async with server.reply("GET", "/view", file.query) as reply:
            _require_file(reply.status, file)
            _require_room(target, reply.content_length or 0)
            kind, head, checked = reply.headers.get("Content-Type", ""), b"", False
            with local_errors(target), whole(target) as part, part.open("xb") as out:
                async for piece in unpacked(reply, limits.FILE_BYTES):
                    if not checked:
                        head = (head + piece)[: limits.FILE_HEAD]
                        checked = len(head) == limits.FILE_HEAD and _is_kind(file, head, kind)
                    out.write(piece)
                if not checked:
                    _is_kind(file, head, kind)
    except Refuses as error:  # a redirect: the server itself goes on
        raise JobFails(str(error)) from None


def _require_file(status: int, file: RemoteFile) -> None:
    name = words(file.filename)
    if status == 404:
        raise Gone(f"the server does not have {name!r}, which node {words(file.node)} wrote")
    if status >= 400:
        passing = STATUS.get(status) is Lost
        raise (Lost if passing else JobFails)(f"the server answers {status} for {name!r}")


def _is_kind(file: RemoteFile, head: bytes, content_type: str) -> bool:
    """True, or raises Strange for a file that is not what its name says."""
    reason = mismatch(file.filename, head, content_type)
    if reason:
        raise Strange(reason)
    return True


def _require_room(target: Path, size: int) -> None:
    if size > limits.FILE_BYTES:
        most = limits.FILE_BYTES / 2**30
        raise JobFails(f"{target.name!r} has {size / 2**30:.2f} GB, more than {most:g} GB")
    with local_errors(target):
        free = shutil.disk_usage(target.parent).free
    if size > free:
        raise LocalFailure(
            f"{target} needs {size / 2**20:.0f} MB, and its disk has {free / 2**20:.0f} MB left. "
            "Make room and run the same command again: finished jobs are kept"
        )
