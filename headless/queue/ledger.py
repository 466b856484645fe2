"""The output folder's list of finished jobs, which survives kills and power cuts and may be shared by processes."""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ...schedulers.strict_json import parse_json
from ...schedulers.whole_file import append_line, make_folder, sync_all
from ..json_values import mapping
from .jobs import Done

LEDGER = "queue.jsonl"
LEASES = ".queue-leases"  # a lock for each job that is at work, and one for the list
PIECE = 2**20  # bytes read at a time


def silent(text: str) -> None:
    """Who is told nothing."""


class Ledger:
    """The finished jobs of an output folder: lines that are only ever added.

    Several processes may share one. A job is at work in the process that has its lease; the lease is a lock of the
    system, which goes with its process, however that ends. ``note`` is told of damaged lines and files.
    """

    def __init__(self, folder: Path, note: Callable[[str], None] = silent) -> None:
        make_folder(folder / LEASES)
        self.folder, self.file, self.note = folder, folder / LEDGER, note
        self.name = ""
        self._read, self._count = 0, 0  # bytes and lines of the file that are read
        self._lines: dict[str, dict[str, Any]] = {}
        self._intact: dict[str, bool] = {}
        self._leases: dict[str, FileLock] = {}
        self._reported: set[str] = set()
        with self._alone():
            self._end_the_last_line()
            self._refresh()
            if not self.name:
                append_line(self.file, json.dumps({"folder": str(uuid.uuid4())}))
                self._refresh()

    # ------------------------------------------------------------------------------------- the file

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """While no other process adds a line."""
        with FileLock(self.folder / LEASES / "ledger.lock"):
            yield

    def _end_the_last_line(self) -> None:
        """One that was cut exactly before its end counts; one that was cut elsewhere is passed over."""
        if self.file.exists() and self.file.stat().st_size:
            with self.file.open("rb") as opened:
                opened.seek(-1, os.SEEK_END)
                cut = opened.read(1) != b"\n"
            if cut:
                append_line(self.file, "")

    def _refresh(self) -> None:
        """Read the whole lines that were added since the last time."""
        if not self.file.exists():
            return
        if self.file.stat().st_size < self._read:  # another file took its place
            self._read = self._count = 0
        with self.file.open("rb") as opened:
            opened.seek(self._read)
            added = opened.read()
        whole = added[: added.rfind(b"\n") + 1]
        self._read += len(whole)
        for text in whole.splitlines():
            self._count += 1
            if text.strip():
                self._take(text)

    def _take(self, text: bytes) -> None:
        """Keep what a line says; name one that is damaged."""
        try:
            line = parse_json(text.decode())
            if isinstance(line, dict) and "folder" in line:
                name = str(uuid.UUID(line["folder"]))
                self.name = self.name or name
                return
            if not is_record(line):
                raise ValueError("it is no record of a job")
        except (ValueError, AttributeError, TypeError) as error:
            self.note(f"{self.file}, line {self._count} is damaged ({error}) and is passed over")
            return
        self._lines[line["id"]] = line
        self._intact.pop(line["id"], None)

    # ------------------------------------------------------------------------------------- results

    def finished(self) -> dict[str, Done]:
        """{prompt id: result} of the jobs that ran to their end and whose files are as they were written."""
        with self._alone():
            self._refresh()
        done = {id: result(line) for id, line in self._lines.items() if self._is_intact(id)}
        self._reported |= done.keys()
        return done

    def news(self) -> dict[str, Done]:
        """What other processes have finished since :meth:`finished` or the last call."""
        before = self._reported
        self._reported = set(before)
        return {id: done for id, done in self.finished().items() if id not in before}

    def finish(self, id: str, done: Done) -> None:
        """Write a result down, once its files are on the disk; the job's lease ends."""
        files = [self.folder / name for name in done.files]
        folders = {
            one for file in files for one in file.parents if self.folder in (one, *one.parents)
        }
        sync_all([*files, *folders])
        stored = {name: fingerprint(self.folder / name) for name in done.files}
        line: dict[str, Any] = dict(id=id, label=done.label, files=done.files, texts=done.texts)
        line |= dict(stored=stored) | (dict(chosen=dict(done.chosen)) if done.chosen else {})
        with self._alone():
            append_line(self.file, json.dumps(line))
        self._lines[id] = json.loads(json.dumps(line))
        self._intact[id] = True
        self._reported.add(id)
        self._end_lease(id, forget=True)

    def _is_intact(self, id: str) -> bool:
        """Whether the files of a finished job are as they were written; asked of the disk once."""
        if id not in self._intact:
            line = self._lines[id]
            stored = line.get("stored")
            lost = [name for name in line["files"] if not self._is_stored(name, stored)]
            if lost:
                self.note(
                    f"{line['label'] or 'job'}: {lost[0]} is missing or not as it was written: to be fetched again"
                )
            self._intact[id] = not lost
        return self._intact[id]

    def _is_stored(self, name: str, stored: Any) -> bool:
        file = self.folder / name
        try:
            if isinstance(stored, dict):
                return bool(fingerprint(file) == stored.get(name))
            return file.stat().st_size > 0  # written down by a version that knew no digests
        except (OSError, ValueError):
            return False

    # -------------------------------------------------------------------------------------- leases

    def lease(self, id: str) -> bool:
        """Take a job for this process alone; False if another one has it, or has finished it."""
        if id in self._leases:
            return True
        lock = FileLock(self._lock(id), timeout=0)
        try:
            lock.acquire()
        except Timeout:
            return False
        self._leases[id] = lock
        with self._alone():
            self._refresh()
        if id in self._lines and self._is_intact(id):
            self._end_lease(id, forget=True)
            return False
        return True

    def release(self, id: str) -> None:
        """Leave a job that is not finished to whoever takes it."""
        self._end_lease(id, forget=False)

    def close(self) -> None:
        """End all leases of this process."""
        for id in list(self._leases):
            self.release(id)

    def _lock(self, id: str) -> Path:
        return self.folder / LEASES / f"{hashlib.sha256(id.encode()).hexdigest()[:32]}.lock"

    def _end_lease(self, id: str, forget: bool) -> None:
        """``forget``: who waits for the lock looks at the list again, so its file may go."""
        lock = self._leases.pop(id, None)
        if lock is None:
            return
        if forget:
            with suppress(OSError):  # Windows keeps what is open
                self._lock(id).unlink()
        lock.release()


def is_record(line: Any) -> bool:
    """Whether a line is of a finished job."""
    if not isinstance(line, Mapping) or not isinstance(line.get("id"), str):
        return False
    lists = [line.get("files"), line.get("texts")]
    plain = all(isinstance(x, list) and all(isinstance(s, str) for s in x) for x in lists)
    return plain and isinstance(line.get("label"), str)


def result(line: Mapping[str, Any]) -> Done:
    chosen = mapping(line.get("chosen"))
    return Done(line["label"], tuple(line["files"]), tuple(line["texts"]), chosen=chosen)


def fingerprint(file: Path) -> list[Any]:
    """[bytes, SHA-256] of a file, read in pieces. Raises OSError."""
    digest, size = hashlib.sha256(), 0
    with file.open("rb") as opened:
        while piece := opened.read(PIECE):
            digest.update(piece)
            size += len(piece)
    return [size, digest.hexdigest()]
