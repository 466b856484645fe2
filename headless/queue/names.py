"""Names of result files: a job's own, below the output folder, whatever the server calls them."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from .answers import RemoteFile, words
from .faults import JobFails
from .limits import NAME_BYTES

HELD_BACK = 80  # bytes of a name that label, id and number may need
KIND = re.compile(r"[A-Za-z0-9]{1,16}")


def file_names(files: Sequence[RemoteFile], label: str, id: str) -> list[str]:
    """Paths below the output folder, the same for a job whenever it is fetched.

    The server's running number gives way to the job's label and a piece of its id; folders stay, a
    Windows server's too. Raises JobFails for a name that leaves the folder.
    """
    names: list[str] = []
    seen: Counter[str] = Counter()
    for file in files:
        folder = PurePosixPath(file.subfolder.replace("\\", "/"))
        if not _is_harmless(file.filename, folder):
            raise JobFails(
                f"the server names a file {words(str(folder / file.filename))!r}, which is refused"
            )
        stem, dot, kind = file.filename.rpartition(".")
        if not dot or not KIND.fullmatch(kind):
            stem, kind = file.filename, "bin"
        stem = _cut(re.sub(r"_\d+_?$", "", stem), NAME_BYTES - HELD_BACK)
        base = folder / f"{stem}_{label}_{id[:8]}"
        key = str(base).casefold()  # some file systems ignore case
        seen[key] += 1
        names.append(f"{base}{f'_{seen[key]}' if seen[key] > 1 else ''}.{kind}")
    return names


def _is_harmless(name: str, folder: PurePosixPath) -> bool:
    text = str(folder / name)
    odd = any(unicodedata.category(char) in ("Cc", "Cs") for char in text)  # control, surrogate
    parts = {".."} & set(folder.parts)
    return not (
        odd or parts or folder.is_absolute() or re.search(r"[\\/:]|^\.", name) or ":" in text
    )


def _cut(stem: str, most: int) -> str:
    return stem.encode()[:most].decode("utf-8", "ignore")


def inside(folder: Path, name: str) -> Path:
    """Where ``name`` lies, every link on the way followed. Raises JobFails if that is outside of ``folder``."""
    target = folder / name
    try:
        real = target.parent.resolve()
    except (OSError, RuntimeError):  # links in a circle
        real = Path("/")
    if not real.is_relative_to(folder.resolve()):
        raise JobFails(
            f"{words(name)!r} would be written outside of {folder}: a link on the way leads out"
        )
    return target
