"""A layer under files that knows what a power cut would leave: what was synced for certain, the rest perhaps.

Names live in folders and bytes in files, and each is on the disk once it is synced (fsync of the folder, of the file). A
file system may write names earlier, in order, and bytes of a file in part. A cut at any moment therefore leaves, for each
call so far, one of

    lazy     only what was synced
    eager    all names; files without the bytes that were not synced
    torn     all names; of such bytes the first half
    zeros    all names; such bytes are there as zeros (their length was written, they were not)
"""

from __future__ import annotations

import os
import shutil
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Key = tuple[int, int]  # inode, and which of its lives
WAYS = "lazy", "eager", "torn", "zeros"
ENDING = "unlink", "rmdir", "replace", "rename"  # calls after which an inode may be free
CALLS = "fsync", "replace", "rename", "link", "unlink", "mkdir", "rmdir"


class Disk:
    """Watches the calls of this process below ``root``, and calls ``cut(disk, call)`` before and after each."""

    def __init__(self, root: Path, cut: Callable[[Disk, str], None]) -> None:
        self.root, self.cut = root.resolve(), cut
        self.bytes: dict[Key, bytes] = {}  # what is on the disk of a file
        self.names: dict[Key, dict[str, Key]] = {}  # of a folder: name → what it stands for
        self.folders: set[Key] = set()
        self.lives: Counter[int] = Counter()  # how often an inode was given away
        self.calls: list[str] = []
        self.busy = False
        for folder, _, files in os.walk(self.root):
            self._synced(Path(folder))
            for file in files:
                self._synced(Path(folder, file))

    # ------------------------------------------------------------------------------------- watching

    @contextmanager
    def watched(self) -> Iterator[Disk]:
        real = {name: getattr(os, name) for name in CALLS}
        for name in CALLS:
            setattr(os, name, self._watching(name, real[name]))
        try:
            yield self
        finally:
            for name, call in real.items():
                setattr(os, name, call)

    def _watching(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if self.busy:
                return real(*arguments, **options)
            path = f"/proc/self/fd/{arguments[0]}" if name == "fsync" else arguments[0]
            if options.get("dir_fd") is not None:  # shutil.rmtree
                path = f"/proc/self/fd/{options['dir_fd']}/{path}"
            place = Path(os.path.realpath(path))
            if not place.is_relative_to(self.root):
                return real(*arguments, **options)
            shown = f"{name} {place.name}"
            self._quietly(f"before {shown}")
            goes = Path(arguments[1]) if name in ("replace", "rename") else place
            going = os.lstat(goes) if name in ENDING and os.path.lexists(goes) else None
            answer = real(*arguments, **options)
            if going is not None and (going.st_nlink == 1 or stat.S_ISDIR(going.st_mode)):
                self.lives[going.st_ino] += 1
            if name == "fsync":
                self._synced(place)
            self.calls.append(shown)
            self._quietly(f"after {shown}")
            return answer

        return call

    def _quietly(self, shown: str) -> None:
        self.busy = True
        try:
            self.cut(self, shown)
        finally:
            self.busy = False

    def _synced(self, path: Path) -> None:
        key = self._key(path.stat().st_ino)
        if path.is_dir():
            inside = list(os.scandir(path))
            self.names[key] = {entry.name: self._key(entry.inode()) for entry in inside}
            self.folders |= {self._key(entry.inode()) for entry in inside if entry.is_dir()}
        else:
            self.bytes[key] = path.read_bytes()

    def _key(self, inode: int) -> Key:
        return inode, self.lives[inode]

    # ------------------------------------------------------------------------------------- after a cut

    def survivors(self, way: str, target: Path) -> Path:
        """What a cut now leaves, written to ``target``."""
        shutil.rmtree(target, ignore_errors=True)
        if way == "lazy":
            self._lay(self._key(self.root.stat().st_ino), target)
        else:
            self._copy(self.root, target, way)
        return target

    def _lay(self, folder: Key, target: Path) -> None:
        target.mkdir(parents=True)
        for name, key in self.names.get(folder, {}).items():
            if key in self.folders:
                self._lay(key, target / name)
            else:
                (target / name).write_bytes(self.bytes.get(key, b""))

    def _copy(self, folder: Path, target: Path, way: str) -> None:
        target.mkdir(parents=True)
        for entry in os.scandir(folder):
            if entry.is_dir():
                self._copy(Path(entry.path), target / entry.name, way)
                continue
            now, safe = Path(entry.path).read_bytes(), self.bytes.get(self._key(entry.inode()), b"")
            loose = now[len(safe) :] if now.startswith(safe) else now
            kept = now[: len(now) - len(loose)]
            rest = {"eager": b"", "torn": loose[: len(loose) // 2], "zeros": bytes(len(loose))}
            (target / entry.name).write_bytes(kept + rest[way])
