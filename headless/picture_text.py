"""The texts that a picture carries beside its pixels: a PNG's chunks, a WebP's EXIF."""

from __future__ import annotations

from pathlib import Path

from ..schedulers.show.picture_parts import PNG
from .png_text import PngError, is_png, read_text_chunks
from .webp_text import WebpError, is_webp, read_exif_texts

DAMAGED = PngError, WebpError


def is_picture(head: bytes) -> bool:
    """Whether a file with these first 12 bytes is a PNG or WebP."""
    return head.startswith(PNG) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")


def picture_texts(path: Path) -> dict[str, str] | None:
    """{name: text}, such as "prompt", "workflow"; None for a file that is neither PNG nor WebP.

    Raises one of DAMAGED for a picture that is not whole, OSError if it cannot be read.
    """
    if is_png(path):
        return read_text_chunks(path)
    return read_exif_texts(path) if is_webp(path) else None
