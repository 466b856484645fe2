"""The one way to write a file: it appears whole or not at all, and it lasts once the call returns."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_whole(file: Path, data: bytes | str) -> None:
    """Write ``data`` (text as UTF-8) to ``file``, see :func:`whole`."""
    with whole(file) as part:
        part.write_bytes(data.encode() if isinstance(data, str) else data)


@contextmanager
def whole(file: Path) -> Iterator[Path]:
    """A path beside ``file`` to write to; at the end of the block it takes the place of ``file``.

    An error or a kill in between leaves ``file`` as it was; after an error nothing else is left either. After
    the block the file is on the disk: bytes first, then its name, so that a power cut finds no empty file.
    """
    part = file.with_name(f".{secrets.token_hex(8)}.part")
    try:
        yield part
        put(part, file)
    finally:
        part.unlink(missing_ok=True)


def put(part: Path, file: Path) -> None:
    """Move a file that is written in full to its name in the same folder, durably. An old ``file`` goes."""
    sync_file(part)
    os.replace(part, file)
    sync_folder(file.parent)


def sync_file(file: Path) -> None:
    """Return once the bytes of ``file`` are on the disk."""
    with file.open("r+b") as written:  # Windows flushes only what may be written to
        os.fsync(written.fileno())


def sync_folder(folder: Path) -> None:
    """Return once the names in ``folder`` are on the disk. Windows has no such call: it keeps a journal of names."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
