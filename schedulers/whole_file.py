"""The one way to write a file: it appears whole or not at all, and it lasts once the call returns."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

_passing: ContextVar[bool] = ContextVar("passing", default=False)
#: What a folder answers that cannot be synced: another's, or of a file system without that call.
UNSYNCED = errno.EACCES, errno.EPERM, errno.EINVAL, errno.ENOTSUP, errno.EBADF


@contextmanager
def passing() -> Iterator[None]:
    """In this block nothing waits for the disk: for files of a folder that goes after use."""
    token = _passing.set(True)
    try:
        yield
    finally:
        _passing.reset(token)


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


def put_new(part: Path, file: Path) -> None:
    """As :func:`put`, where there is no ``file`` yet. Raises FileExistsError, whoever was faster.

    A file system without hard links may keep an empty ``file`` if the process is killed in between.
    """
    sync_file(part)
    if os.name == "nt":
        os.rename(part, file)  # which never replaces, there
    else:
        try:
            os.link(part, file)
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.ENOSYS):
                raise
            os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
            os.replace(part, file)
        else:
            part.unlink()
    sync_folder(file.parent)


def write_new(
    folder: Path, name: Callable[[int], str], first: int, write: Callable[[Path], object]
) -> int:
    """Let ``write(part)`` make a file, which becomes ``folder/name(n)`` with the first free n from ``first`` on; returns n.

    No file is replaced, also where several processes number their files in one folder.
    """
    part, number = folder / f".{secrets.token_hex(8)}.part", first
    try:
        write(part)
        while True:
            try:
                put_new(part, folder / name(number))
            except FileExistsError:
                number += 1
            else:
                return number
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """As :func:`whole`, for a new folder and all that is put into it. Raises OSError where ``folder`` holds files."""
    part = folder.with_name(f".{secrets.token_hex(8)}.part")
    try:
        part.mkdir()
        yield part
        for inside, _, files in os.walk(part, topdown=False):
            for name in files:
                sync_file(Path(inside, name))
            sync_folder(Path(inside))
        os.rename(part, folder)
        sync_folder(folder.parent)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def put_aside(path: Path, folder: Path) -> Path:
    """Move a file or folder into ``folder``, under a free name, durably; returns where it is."""
    make_folder(folder)
    number = 1
    while os.path.lexists(target := folder / f"{path.name}-{number}"):
        number += 1
    os.rename(path, target)
    sync_folder(folder)
    sync_folder(path.parent)
    return target


def make_folder(folder: Path) -> None:
    """Make ``folder`` and those above it; their names are on the disk when this returns."""
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for one in [*reversed(missing), folder]:
        sync_folder(one.parent)


def append_line(file: Path, line: str) -> None:
    """Add a line to ``file``, on the disk before this returns. A last line that was cut short is ended first."""
    text = line.encode() + b"\n"
    with file.open("a+b", buffering=0) as out:
        end = out.seek(0, os.SEEK_END)
        if end:
            out.seek(-1, os.SEEK_END)
            text = text if out.read(1) == b"\n" else b"\n" + text
        if out.write(text) != len(text):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file))
        if not _passing.get():
            os.fsync(out.fileno())
    if not end:
        sync_folder(file.parent)


def sync_file(file: Path) -> None:
    """Return once the bytes of ``file`` are on the disk."""
    if _passing.get():
        return
    with file.open("r+b") as written:  # Windows flushes only what may be written to
        os.fsync(written.fileno())


def sync_folder(folder: Path) -> None:
    """Return once the names in ``folder`` are on the disk. Windows has no such call: it keeps a journal of names."""
    if os.name == "nt" or _passing.get():
        return
    try:
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        if error.errno not in UNSYNCED:
            raise
