"""The texts in the EXIF of a WebP, read with bounds; ComfyUI and this tool write "name:JSON" into tags from 0x0110 down.

Read from the bytes, so that what only sends a workflow to a server needs no imaging library.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Literal

from ..schedulers.show.picture_parts import EXIF, MOST_PARTS, MOST_TAGS

ASCII, ENTRY = 2, 12  # the type of a text, bytes of a directory's entry
MOST_ENTRIES = 512


class WebpError(ValueError):
    """The file is not a whole, reasonable WebP."""


def is_webp(path: Path) -> bool:
    """True when the file starts as a WebP does."""
    with path.open("rb") as file:
        head = file.read(12)
    return head[:4] == b"RIFF" and head[8:] == b"WEBP"


def read_exif_texts(path: Path) -> dict[str, str]:
    """{name: text} of all "name:text" in the first directory of the EXIF; the first of a repeated name wins.

    Raises WebpError for a file that is cut short or has more than MOST_TAGS bytes of EXIF; OSError if it cannot be read.
    """
    texts: dict[str, str] = {}
    with path.open("rb") as file:
        for text in _texts(_exif(file)):
            name, colon, rest = text.partition(":")
            if colon and name.isidentifier():
                texts.setdefault(name, rest)
    return texts


def _exif(file: BinaryIO) -> bytes:
    """The EXIF chunk without its head; b"" where there is none."""
    size = os.fstat(file.fileno()).st_size
    file.seek(12)
    for _ in range(MOST_PARTS):
        head = file.read(8)
        if len(head) < 8:
            return b""
        length = int.from_bytes(head[4:], "little")
        if file.tell() + length > size:
            raise WebpError("the WebP file is truncated")
        if head[:4] == b"EXIF":
            if length > MOST_TAGS:
                raise WebpError(f"the WebP file has more than {MOST_TAGS >> 20} MB of EXIF")
            return file.read(length).removeprefix(EXIF)
        file.seek(length + length % 2, os.SEEK_CUR)
    raise WebpError(f"the WebP file has more than {MOST_PARTS} chunks")


def _texts(data: bytes) -> Iterator[str]:
    """The texts of a TIFF's first directory; what lies outside of the data is passed over."""
    if data[:2] not in (b"II", b"MM"):
        return
    order: Literal["little", "big"] = "little" if data[:2] == b"II" else "big"
    at, left = int.from_bytes(data[4:8], order), MOST_TAGS
    count = min(int.from_bytes(data[at : at + 2], order), MOST_ENTRIES)
    for i in range(count):
        entry = data[at + 2 + i * ENTRY : at + 2 + (i + 1) * ENTRY]
        kind, length = (int.from_bytes(part, order) for part in (entry[2:4], entry[4:8]))
        if len(entry) < ENTRY or kind != ASCII or length > left:
            continue
        left -= length
        start = int.from_bytes(entry[8:], order)
        text = entry[8 : 8 + length] if length <= 4 else data[start : start + length]
        yield text.rstrip(b"\0").decode("utf-8", "replace")
