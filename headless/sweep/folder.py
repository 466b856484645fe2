"""The folder of a sweep, which survives kills, power cuts and damage at any moment."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ...schedulers.strict_json import parse_json
from ...schedulers.whole_file import make_folder, put_aside, whole_folder, write_whole
from ..workflow import WorkflowError
from .items import Item
from .table import SHEET, SHOWN, caption, sheet, table
from .worker import Files, Record, digest

RECORD, ASIDE = "record.json", "aside"
NAMED = 20  # damaged items that are named one by one


def silent(text: str) -> None:
    """Who is told nothing."""


class Folder:
    """The results of one sweep on disk, for one process at a time: see :meth:`opened`.

    ``there``: names of the items that are done. ``note`` is told what is passed over and what is redone.
    """

    def __init__(self, path: Path, note: Callable[[str], None] = silent) -> None:
        self.path, self.items, self.note = path, path / "items", note
        self.there: set[str] = set()
        self.strict = False  # whether an item must say which graph it is of

    @classmethod
    @contextmanager
    def opened(
        cls, path: Path, sweep: Mapping[str, Any], note: Callable[[str], None] = silent
    ) -> Iterator[Folder]:
        """The folder for the results of ``sweep``, locked; the lock goes with the process.

        Raises WorkflowError, before it has touched what is there, if another process works on the folder or it
        holds another sweep.
        """
        try:
            make_folder(path)
            lock = FileLock(path / ".lock", timeout=0)
            lock.acquire()
        except Timeout:
            raise WorkflowError(f"{path}: another sweep is working on this folder") from None
        except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
            raise no_place(path, error) from None
        try:
            folder = cls(path, note)
            folder._begin(json.loads(json.dumps(sweep)))
            yield folder
        finally:
            lock.release()

    def _begin(self, sweep: dict[str, Any]) -> None:
        """Write the description, or compare it with the one that is there; clear what a kill left behind."""
        file = self.path / "sweep.json"
        before = self._description(file)
        other = [k for k, v in sweep.items() if before is not None and before.get(k) != v]
        if other:
            raise WorkflowError(
                f"{self.path} holds a sweep with another {' and '.join(other)}: choose another --output"
            )
        try:
            make_folder(self.items)
        except FileExistsError as error:
            raise no_place(self.path, error) from None
        if before is None:
            write_whole(file, json.dumps(sweep, indent=1, ensure_ascii=False))
        for part in self.items.glob(".*.part"):
            shutil.rmtree(part, ignore_errors=True)

    def _description(self, file: Path) -> dict[str, Any] | None:
        """What sweep.json says; None where it is missing or damaged, and then every item must say its graph."""
        if not os.path.lexists(file):
            self.strict = self.items.is_dir() and any(os.scandir(self.items))
            return None
        try:
            said = parse_json(file.read_text(encoding="utf-8"))
            if not isinstance(said, dict) or not said:
                raise ValueError("it is no description of a sweep")
        except (OSError, ValueError) as error:
            self.strict = True
            self.note(f"{file} is damaged ({error}) and is written anew")
            if file.is_dir():
                put_aside(file, self.path / ASIDE)
            return None
        return said

    def done(self, items: Sequence[Item]) -> set[str]:
        """Names of the items that are there, each checked: files, sizes, digests, graph.

        A damaged one is put aside, to be done again; what is no item is passed over. Both are named.
        """
        listed = {item.name: item for item in items}
        remarks = []
        for name in sorted(n for n in os.listdir(self.items) if not n.startswith(".")):
            item = listed.get(name)
            if item is None:
                remarks.append(f"{self.items / name} is no item of this sweep and is passed over")
                continue
            try:
                self._check(item)
                self.there.add(name)
            except (OSError, ValueError) as error:
                place = put_aside(self.items / name, self.path / ASIDE)
                remarks.append(
                    f"item {name} is damaged ({error}): now in {place}, to be done again"
                )
        for remark in remarks[:NAMED]:
            self.note(remark)
        if len(remarks) > NAMED:
            self.note(f"and {len(remarks) - NAMED} more")
        return self.there

    def _check(self, item: Item) -> None:
        """Raises OSError or ValueError, saying why, if an item is not as it was put there."""
        place = self.items / item.name
        record = read_record(place)
        graph = record.get("graph")
        if graph != item.graph if graph is not None else self.strict:
            raise ValueError("it is of another graph")
        lacking = [key for key in ("index", *item.values) if key not in record]
        if lacking or record["index"] != item.index:
            raise ValueError(f"{RECORD} is not of this item")
        stored = record.get("stored")
        for name, pixels in record["files"].items():
            data = (place / name).read_bytes()
            if isinstance(stored, dict):
                same = stored.get(name) == fingerprint(data)
            else:  # of a version that knew only the digest of the pixels
                same = digest(name, data) == pixels
            if not same:
                raise ValueError(f"{name} is not as it was written")

    def add(self, item: Item, record: Record, files: Files) -> Record:
        """Put an item there, whole and on the disk before this returns. Returns its full record."""
        record = dict(index=item.index, **item.values, **record)
        record |= dict(
            graph=item.graph, stored={name: fingerprint(data) for name, data in files.items()}
        )
        with whole_folder(self.items / item.name) as part:
            for name, data in files.items():
                (part / name).parent.mkdir(parents=True, exist_ok=True)
                (part / name).write_bytes(data)
            text = json.dumps(record, ensure_ascii=False)
            (part / RECORD).write_text(text, encoding="utf-8")
        self.there.add(item.name)
        return record

    def records(self) -> Iterator[Record]:
        """Of the items that are done, in order; one that was damaged in the meantime is named and passed over."""
        for name in sorted(self.there):
            try:
                yield read_record(self.items / name)
            except (OSError, ValueError) as error:
                self.note(f"item {name} is damaged ({error}): run the same command again")

    def summarise(self) -> None:
        """Write manifest, table and contact sheet."""
        records = list(self.records())
        lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in records]
        write_whole(self.path / "manifest.jsonl", "".join(lines))
        write_whole(self.path / "table.md", table(records))
        pictures = [
            (caption(record), self.items / f"{record['index']:06}" / name)
            for record in records
            for name in list(record["files"])[:1]
            if name.lower().endswith((".png", ".webp", ".jpg"))
        ]
        if pictures:
            write_whole(self.path / "sheet.png", sheet(pictures[:SHEET]))


def no_place(path: Path, error: OSError) -> WorkflowError:
    return WorkflowError(
        f"{path} takes no results ({error.strerror}: {error.filename}): choose another --output"
    )


def fingerprint(data: bytes) -> list[Any]:
    """[bytes, SHA-256] of a file."""
    return [len(data), hashlib.sha256(data).hexdigest()]


def read_record(place: Path) -> Record:
    """The record of an item. Raises OSError or ValueError if it is missing or is none."""
    record = parse_json((place / RECORD).read_text(encoding="utf-8"))
    if not isinstance(record, dict) or not {"index", "files", *SHOWN} <= record.keys():
        raise ValueError(f"{RECORD} is no record of an item")
    if not isinstance(record["files"], dict) or not isinstance(record["index"], int):
        raise ValueError(f"{RECORD} is no record of an item")
    return record
