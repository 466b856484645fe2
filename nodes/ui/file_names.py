"""File names that users give: confined to a folder, numbered as ComfyUI numbers them."""

from __future__ import annotations

import ntpath
import os
import re
import time
import unicodedata
from collections.abc import Callable
from pathlib import Path

from ...schedulers.whole_file import make_folder, write_new

LONGEST, LONGEST_PATH = 200, 1024  # bytes of a part of a name to write, characters of the whole


def find_file(name: str, folder: Path, what: str = "image", kind: str = "input") -> Path:
    """The file ``name`` (which may end in " [kind]", as ComfyUI writes it) inside ``folder``.

    Raises ValueError when there is none or it lies elsewhere.
    """
    path = folder / name.removesuffix(f"[{kind}]").rstrip()
    try:
        if leads_out(name) or not path.resolve().is_relative_to(folder.resolve()):
            raise ValueError(f"the {what} {name!r} is outside of the {kind} folder {folder}")
        there = path.is_file()
    except (OSError, RuntimeError):  # a name that no file can have, or links in a circle
        there = False
    if not there:
        raise ValueError(f"there is no {what} {name!r} in the {kind} folder {folder}")
    return path


def leads_out(name: str) -> bool:
    """Whether a name is absolute or climbs out of its folder, as POSIX or as Windows reads it.

    The same everywhere, since workflows travel; symbolic links are another matter.
    """
    plain = ntpath.normpath(name)
    climbs = plain.split("\\")[0] == ".."
    return "\0" in name or climbs or name[:1] in ("/", "\\") or bool(ntpath.splitdrive(name)[0])


def is_there(path: Path) -> bool:
    """Whether there is a file or folder; False also for a name that no file can have, and where looking is forbidden."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def new_file(prefix: str, folder: Path, suffix: str, write: Callable[[Path], object]) -> Path:
    """Let ``write(part)`` make the next free ``folder/prefix_00001_suffix``. Raises ValueError as split_prefix."""
    subfolder, stem = split_prefix(fill_in(prefix), folder)
    target = folder / subfolder
    make_folder(target)

    def name(number: int) -> str:
        return f"{stem}_{number:05}_{suffix}"

    return target / name(write_new(target, name, next_number(target, stem), write))


def stamp(file: Path) -> list[int]:
    """What changes when the file does: for ``fingerprint_inputs``."""
    facts = file.stat()
    return [facts.st_mtime_ns, facts.st_size]


def fill_in(prefix: str, **more: object) -> str:
    """``prefix`` with %year% … %second% of the local time replaced, and ``more`` of that kind."""
    now = time.localtime()
    values = {
        "year": str(now.tm_year),
        "month": f"{now.tm_mon:02}",
        "day": f"{now.tm_mday:02}",
        "hour": f"{now.tm_hour:02}",
        "minute": f"{now.tm_min:02}",
        "second": f"{now.tm_sec:02}",
    } | {name: str(value) for name, value in more.items()}
    return re.sub(r"%(\w+)%", lambda found: values.get(found[1], found[0]), prefix)


def split_prefix(prefix: str, folder: Path) -> tuple[str, str]:
    """The sub-folder and start of the file name; raises ValueError if they leave ``folder``."""
    subfolder, stem = os.path.split(os.path.normpath(prefix))
    odd = any(unicodedata.category(char) in ("Cc", "Cs") for char in prefix)  # control, surrogate
    if not odd and (len(prefix) > LONGEST_PATH or longest(prefix) > LONGEST):
        raise ValueError(
            f"filename_prefix {prefix[:40]!r}…: a part of it has {longest(prefix)} bytes, at most {LONGEST} leave room "
            f"for a number, and {LONGEST_PATH} characters in all: shorten it"
        )
    outside = odd or leads_out(prefix) or stem in ("", ".", "..")
    if outside or not (folder / subfolder).resolve().is_relative_to(folder.resolve()):
        raise ValueError(
            f"filename_prefix {prefix!r} does not name a file inside of the output folder {folder}"
        )
    return subfolder, stem


def longest(prefix: str) -> int:
    """Bytes of the longest part of a path."""
    return max(len(part.encode()) for part in re.split(r"[/\\]", prefix))


def next_number(folder: Path, stem: str) -> int:
    """One more than the highest number that follows ``stem`` in the folder."""
    pattern = re.escape(stem).replace("%batch_num%", r"\d+") + r"_(\d+)[_.]"
    names = (re.match(pattern, name, re.IGNORECASE) for name in os.listdir(folder))
    return max((int(found[1]) for found in names if found), default=0) + 1


def refusal(look: Callable[[], object]) -> bool | str:
    """True if calling ``look`` succeeds, else why not: the answer of a node's validate_inputs, which never raises."""
    try:
        look()
    except (ValueError, OSError, RuntimeError) as error:  # RuntimeError: links in a circle
        return str(error)
    return True
