"""The text chunks of a PNG, read with bounds so that a hostile file cannot fill the memory.

Pillow's own reader would not do: its bounds are module globals (1 MB for a compressed text), it decodes the pixels to
reach a text behind them, and it takes a damaged compressed text for an empty one.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from ..schedulers.show.picture_parts import MOST_PARTS
from ..schedulers.show.picture_parts import PNG as SIGNATURE

TEXT_LIMIT = 32 * 2**20  # bytes of text in one file, before and after decompression
KEYWORD_LIMIT = 79  # bytes, as PNG has it


class PngError(ValueError):
    """The file is not a whole, reasonable PNG."""


def is_png(path: Path) -> bool:
    """True when the file starts as a PNG does."""
    with path.open("rb") as file:
        return file.read(len(SIGNATURE)) == SIGNATURE


def read_text_chunks(path: Path) -> dict[str, str]:
    """{keyword: text} of all tEXt, zTXt and iTXt chunks; the last of a repeated keyword wins.

    Pixels are skipped, not decoded. Raises PngError for a file that is not a PNG, is cut short,
    has a damaged text chunk or more than TEXT_LIMIT bytes of text; OSError if it cannot be read.
    """
    texts: dict[str, str] = {}
    left = TEXT_LIMIT
    with path.open("rb") as file:
        for kind, data in _text_chunks(file):
            keyword, text = _decode(kind, data, left)
            left -= max(len(data), len(text))
            texts[keyword] = text.decode("utf-8" if kind == b"iTXt" else "latin-1", "replace")
    return texts


def _text_chunks(file: BinaryIO) -> Iterator[tuple[bytes, bytes]]:
    """(type, data) of every text chunk, up to IEND."""
    size = os.fstat(file.fileno()).st_size
    if file.read(len(SIGNATURE)) != SIGNATURE:
        raise PngError("not a PNG file")
    for _ in range(MOST_PARTS):
        head = file.read(8)
        length, kind = int.from_bytes(head[:4], "big"), head[4:]
        if len(head) < 8 or file.tell() + length + 4 > size:
            raise PngError("the PNG file is truncated")
        if not kind.isalpha():  # zeros without end, say, in a file with a hole
            raise PngError("the PNG file is damaged")
        if kind == b"IEND":
            return
        if kind not in (b"tEXt", b"zTXt", b"iTXt"):
            file.seek(length + 4, os.SEEK_CUR)
            continue
        if length > TEXT_LIMIT:
            raise _too_long()
        data = file.read(length)
        if zlib.crc32(kind + data) != int.from_bytes(file.read(4), "big"):
            raise PngError(f"a {kind.decode()} chunk of the PNG file is damaged")
        yield kind, data
    raise PngError(f"the PNG file has more than {MOST_PARTS} chunks")


def _decode(kind: bytes, data: bytes, limit: int) -> tuple[str, bytes]:
    """The keyword and the (inflated) text of one chunk."""
    keyword, _, text = data.partition(b"\0")
    if len(keyword) > KEYWORD_LIMIT:
        raise PngError("a text of the PNG file has no proper keyword")
    if kind == b"zTXt":  # compression method, text
        text = _inflate(text[1:], limit)
    elif kind == b"iTXt":  # compressed?, method, language \0, translated keyword \0, text
        compressed, rest = text[:1] == b"\1", text[2:]
        text = rest.split(b"\0", 2)[-1]
        text = _inflate(text, limit) if compressed else text
    if max(len(text), len(data)) > limit:
        raise _too_long()
    return keyword.decode("latin-1"), text


def _inflate(data: bytes, limit: int) -> bytes:
    """`data` inflated, to at most limit + 1 bytes."""
    stream = zlib.decompressobj()
    try:
        text = stream.decompress(data, limit + 1)
    except zlib.error as error:
        raise PngError(f"a compressed text of the PNG file is damaged: {error}") from None
    if len(text) <= limit and not stream.eof:
        raise PngError("a compressed text of the PNG file is cut short")
    return text


def _too_long() -> PngError:
    return PngError(f"the PNG file holds more than {TEXT_LIMIT // 2**20} MB of text")
