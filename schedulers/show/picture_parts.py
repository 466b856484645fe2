"""How much a picture file holds, counted from its bytes before a library sees it.

Libraries read every chunk, segment and frame into objects, so that a few kilobytes can cost minutes or gigabytes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, Literal

LARGEST = 2**29  # bytes of a file
MOST_PARTS = 2**16  # chunks, segments or blocks in one
MOST_FRAMES = 4096
MOST_SCANS = 256  # of a progressive JPEG, each of which goes over all pixels
MOST_TAGS = 2**21  # bytes that the tags of a camera say they have, which may overlap

EXIF = b"Exif\0\0"  # in front of the tags of a JPEG, sometimes of others
PNG = b"\x89PNG\r\n\x1a\n"


class PictureError(ValueError):
    """The file is not a whole, reasonable picture."""


@dataclass(frozen=True)
class Counted:
    """What the bytes say: frames, and the least canvas (width, height) that holds them; 0 where they do not say."""

    frames: int = 1
    width: int = 0
    height: int = 0


def count(stream: BinaryIO) -> Counted:
    """What a PNG, JPEG or GIF holds, and nothing of other files. PictureError for too many parts or frames."""
    size = stream.seek(0, os.SEEK_END)
    if size > LARGEST:
        raise PictureError(f"{size >> 20} MB are more than the {LARGEST >> 20} MB of a picture")
    stream.seek(0)
    head = stream.read(12)
    look = next((look for start, look in COUNTS.items() if head.startswith(start)), None)
    counted = Counted()
    if look is not None:
        stream.seek(0)
        counted = look(stream)
    if counted.frames > MOST_FRAMES:
        raise PictureError(f"it has more than {MOST_FRAMES} frames")
    return counted


def numbered(stream: BinaryIO, sizes: Iterator[int]) -> None:
    """Skip parts of the given sizes to the end. Raises PictureError for more than MOST_PARTS."""
    for i, size in enumerate(sizes):
        if i >= MOST_PARTS:
            raise PictureError(f"it has more than {MOST_PARTS} parts")
        stream.seek(size, os.SEEK_CUR)


def _png(stream: BinaryIO) -> Counted:
    stream.seek(len(PNG))
    frames = 1

    def chunks() -> Iterator[int]:
        """Bytes of data and check sum behind the head of every chunk."""
        nonlocal frames
        while len(head := stream.read(8)) == 8 and head[4:] != b"IEND":
            length = int.from_bytes(head[:4], "big")
            if head[4:] == b"acTL" and length >= 4:
                frames = int.from_bytes(stream.read(4), "big")
                length -= 4
            if head[4:] == b"eXIf":
                length -= _check_ahead(stream, length)
            yield length + 4

    numbered(stream, chunks())
    return Counted(frames)


def _jpeg(stream: BinaryIO) -> Counted:
    stream.seek(2)
    tags = {EXIF: b"", b"MPF\0": b""}

    def segments() -> Iterator[int]:
        """Bytes behind the head of every segment before the first scan."""
        while len(head := stream.read(4)) == 4 and head[1] != 0xDA:
            length = max(int.from_bytes(head[2:], "big") - 2, 0)
            data = stream.read(length) if head[1] in (0xE1, 0xE2) else b""
            for start in tags:
                if data.startswith(start):
                    tags[start] += data[len(start) :]
                    check_tags(tags[start])
            yield length - len(data)

    numbered(stream, segments())
    stream.seek(0)
    scans, before = 0, b""
    while part := stream.read(2**20):
        scans += (before + part).count(b"\xff\xda")
        before = part[-1:]
        if scans > MOST_SCANS:
            raise PictureError(f"it has more than {MOST_SCANS} scans")
    return Counted()


def _webp(stream: BinaryIO) -> Counted:
    stream.seek(12)

    def chunks() -> Iterator[int]:
        """Bytes behind the head of every chunk."""
        while len(head := stream.read(8)) == 8:
            length = int.from_bytes(head[4:], "little")
            padding = length % 2
            if head[:4] == b"EXIF":
                length -= _check_ahead(stream, length)
            yield length + padding

    numbered(stream, chunks())
    return Counted()


def _check_ahead(stream: BinaryIO, length: int) -> int:
    """Check the tags in the next ``length`` bytes; how many bytes of them were read."""
    data = stream.read(min(length, MOST_TAGS))
    check_tags(data)
    return len(data)


def check_tags(data: bytes) -> None:
    """Raises PictureError where the tags of TIFF's kind, which cameras write, say they have more than MOST_TAGS bytes.

    They are read as Pillow does, which passes over up to two "Exif" in front of them.
    """
    if data.startswith(3 * EXIF):
        raise PictureError("its tags are damaged")
    size, data = len(data), data.removeprefix(EXIF).removeprefix(EXIF)
    order: Literal["little", "big"] = "little" if data[:2] == b"II" else "big"
    at = int.from_bytes(data[4:8], order)
    entries = data[at + 2 : at + 2 + 12 * int.from_bytes(data[at : at + 2], order)]
    counts = (int.from_bytes(entries[i + 4 : i + 8], order) for i in range(0, len(entries), 12))
    if size >= MOST_TAGS or 8 * sum(counts) > MOST_TAGS:
        raise PictureError(f"its tags have more than {MOST_TAGS >> 20} MB")


def _gif(stream: BinaryIO) -> Counted:
    """The frames of a GIF; those that reach out of its screen make the canvas larger."""
    head = stream.read(13)
    if len(head) < 13:
        return Counted()
    width, height = (int.from_bytes(head[at : at + 2], "little") for at in (6, 8))
    stream.seek(_colors(head[10]), os.SEEK_CUR)
    frames = extras = 0
    while (kind := stream.read(1)) in (b"!", b",", b"\0"):
        if kind == b",":
            frames += 1
            place = stream.read(9)
            if len(place) < 9 or frames > MOST_FRAMES:
                break
            left, top, wide, high = (int.from_bytes(place[i : i + 2], "little") for i in (0, 2, 4, 6))  # fmt: skip
            width, height = max(width, left + wide), max(height, top + high)
            stream.seek(_colors(place[8]) + 1, os.SEEK_CUR)
            _skip_blocks(stream)
        else:
            extras += 1 + (_skip_blocks(stream) if kind == b"!" and stream.read(1) else 0)
            if extras > MOST_PARTS:
                raise PictureError(f"it has more than {MOST_PARTS} parts")
    return Counted(max(frames, 1), width, height)


def _colors(flags: int) -> int:
    """Bytes of the table of colors that ``flags`` announce."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _skip_blocks(stream: BinaryIO) -> int:
    """Skip blocks of up to 255 bytes to the empty one; how many there were."""
    blocks = 0
    while length := int.from_bytes(stream.read(1), "little"):
        stream.seek(length, os.SEEK_CUR)
        blocks += 1
    return blocks


COUNTS: dict[bytes, Callable[[BinaryIO], Counted]] = {
    PNG: _png,
    b"\xff\xd8\xff": _jpeg,
    b"GIF8": _gif,
    b"RIFF": _webp,
}
