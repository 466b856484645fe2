"""The folder of a sweep, which survives a kill at any moment."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ...schedulers.whole_file import whole
from ..workflow import WorkflowError
from .items import Item
from .table import SHEET, caption, sheet, table
from .worker import Files, Record


class Folder:
    """The results of one sweep on disk. Raises WorkflowError if it holds another sweep, or is in use."""

    def __init__(self, path: Path, sweep: Mapping[str, Any]) -> None:
        self.path, self.items = path, path / "items"
        self.items.mkdir(parents=True, exist_ok=True)
        spec = path / "sweep.json"
        if not spec.exists():
            write(spec, json.dumps(sweep, indent=1, ensure_ascii=False).encode())
        else:
            before = json.loads(spec.read_text(encoding="utf-8"))
            other = [k for k, v in json.loads(json.dumps(sweep)).items() if before.get(k) != v]
            if other:
                raise WorkflowError(
                    f"{path} holds a sweep with another {' and '.join(other)}: choose another --output"
                )
        for part in self.items.glob(".*.part"):  # what a kill left behind
            shutil.rmtree(part, ignore_errors=True)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Only one process at a time may work on a folder; the lock goes with the process."""
        lock = FileLock(self.path / ".lock", timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise WorkflowError(f"{self.path}: another sweep is working on this folder") from None
        try:
            yield
        finally:
            lock.release()

    def done(self) -> set[str]:
        """Names of the items that are there."""
        return {entry.name for entry in os.scandir(self.items) if not entry.name.startswith(".")}

    def add(self, item: Item, record: Record, files: Files) -> Record:
        """Put an item there, whole. Returns its full record."""
        record = dict(index=item.index, **item.values, **record)
        part = self.items / f".{item.name}.part"
        try:
            part.mkdir()
            for name, data in files.items():
                target = part / name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(data)
            text = json.dumps(record, ensure_ascii=False)
            (part / "record.json").write_text(text, encoding="utf-8")
            os.rename(part, self.items / item.name)
        finally:
            shutil.rmtree(part, ignore_errors=True)
        return record

    def records(self) -> Iterator[Record]:
        """What is there, in order."""
        for name in sorted(self.done()):
            yield json.loads((self.items / name / "record.json").read_text(encoding="utf-8"))

    def summarise(self) -> None:
        """Write manifest, table and contact sheet."""
        records = list(self.records())
        lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in records]
        write(self.path / "manifest.jsonl", "".join(lines).encode())
        write(self.path / "table.md", table(records).encode())
        pictures = [
            (caption(record), self.items / f"{record['index']:06}" / name)
            for record in records
            for name in list(record["files"])[:1]
            if name.lower().endswith((".png", ".webp", ".jpg"))
        ]
        if pictures:
            write(self.path / "sheet.png", sheet(pictures[:SHEET]))


def write(file: Path, data: bytes) -> None:
    with whole(file) as part:
        part.write_bytes(data)
