"""The output folder's list of finished jobs, which survives a kill at any moment."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ...schedulers.whole_file import whole
from .jobs import Done

LEDGER = "queue.jsonl"


class Ledger:
    """The output folder's list of finished jobs. One process at a time may write it."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.file = folder, folder / LEDGER
        self.lines = list(self._read())
        if not self.lines:
            self.lines = [{"folder": str(uuid.uuid4())}]
            self.append(self.lines[0])
        self.name = str(self.lines[0]["folder"])

    def _read(self) -> Iterator[dict[str, Any]]:
        """Whole lines; one that a crash cut short is dropped from the file."""
        if not self.file.exists():
            return
        kept = b""
        for line in self.file.read_bytes().splitlines(keepends=True):
            try:
                yield json.loads(line)
            except ValueError:
                break
            if not line.endswith(b"\n"):
                line += b"\n"
            kept += line
        with whole(self.file) as part:
            part.write_bytes(kept)

    def append(self, line: Mapping[str, Any]) -> None:
        with self.file.open("ab") as out:
            out.write(json.dumps(line).encode() + b"\n")
            out.flush()
            os.fsync(out.fileno())

    def finished(self) -> dict[str, Done]:
        """{prompt id: result} of jobs that ran to their end."""
        return {
            line["id"]: Done(line["label"], tuple(line["files"]), tuple(line["texts"]))
            for line in self.lines[1:]
        }

    def finish(self, id: str, done: Done) -> None:
        line = dict(id=id, label=done.label, files=done.files, texts=done.texts)
        self.append(line)
        self.lines.append(line)
