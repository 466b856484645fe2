"""Whether a downloaded file is what its name says, by its first bytes."""

from __future__ import annotations

import re

Signature = tuple[int, bytes]  # offset, bytes

RIFF = (0, b"RIFF")
BOX: tuple[Signature, ...] = ((4, b"ftyp"),)  # ISO media: MP4 and its kin
TIFF = ((0, b"II*\0"),), ((0, b"MM\0*"),), ((0, b"II+\0"),), ((0, b"MM\0+"),)
MATROSKA = ((0, b"\x1a\x45\xdf\xa3"),)
ZIP = ((0, b"PK\x03\x04"),), ((0, b"PK\x05\x06"),)
OGG = ((0, b"OggS"),)
MP3 = (
    ((0, b"ID3"),),
    ((0, b"\xff\xfb"),),
    ((0, b"\xff\xf3"),),
    ((0, b"\xff\xf2"),),
    ((0, b"\xff\xfa"),),
)
JPEG = ((0, b"\xff\xd8\xff"),)

#: A file of this kind begins with all bytes of one of these.
BEGINNINGS: dict[str, tuple[tuple[Signature, ...], ...]] = {
    "png": (((0, b"\x89PNG\r\n\x1a\n"),),), "apng": (((0, b"\x89PNG\r\n\x1a\n"),),),
    "jpg": (JPEG,), "jpeg": (JPEG,), "webp": ((RIFF, (8, b"WEBP")),),
    "gif": (((0, b"GIF87a"),), ((0, b"GIF89a"),)), "bmp": (((0, b"BM"),),),
    "tif": TIFF, "tiff": TIFF, "exr": (((0, b"\x76\x2f\x31\x01"),),), "psd": (((0, b"8BPS"),),),
    "avif": (BOX,), "heic": (BOX,), "jxl": (((0, b"\xff\x0a"),), ((4, b"JXL "),)),
    "mp4": (BOX,), "mov": (BOX, ((4, b"moov"),), ((4, b"mdat"),), ((4, b"wide"),), ((4, b"free"),)),
    "m4v": (BOX,), "m4a": (BOX,), "webm": (MATROSKA,), "mkv": (MATROSKA,), "avi": ((RIFF, (8, b"AVI ")),),
    "wav": ((RIFF, (8, b"WAVE")), ((0, b"RF64"), (8, b"WAVE"))), "flac": (((0, b"fLaC"),), ((0, b"ID3"),)),
    "ogg": (OGG,), "opus": (OGG,), "mp3": MP3,
    "glb": (((0, b"glTF"),),), "npz": ZIP, "zip": ZIP, "npy": (((0, b"\x93NUMPY"),),), "pdf": (((0, b"%PDF-"),),),
    "safetensors": (((8, b"{"),),), "latent": (((8, b"{"),),),
}  # fmt: skip
PAGE = re.compile(rb"(\xef\xbb\xbf)?\s*<(!doctype\s+html|html|head|body)\b", re.IGNORECASE)
PAGES = {"html", "htm", "xhtml", "md"}  # names of files that may well be a web page


def mismatch(name: str, head: bytes, content_type: str = "") -> str | None:
    """Why the bytes ``head`` cannot begin the file ``name``; None where they can.

    ``content_type``: what the server says of it. Kinds that are not in BEGINNINGS may be anything
    but a web page.
    """
    kind = name.rpartition(".")[2].lower() if "." in name else ""
    if kind not in PAGES and is_page(head, content_type):
        return f"the server answers with a web page in place of {name!r}"
    expected = BEGINNINGS.get(kind)
    if expected is not None and not any(_begins(head, signature) for signature in expected):
        return f"what the server sends as {name!r} is no {kind} file"
    return None


def is_page(head: bytes, content_type: str = "") -> bool:
    """Whether this is HTML, by its bytes or by what the server calls it."""
    return PAGE.match(head) is not None or content_type.partition(";")[0].strip() == "text/html"


def _begins(head: bytes, signature: tuple[Signature, ...]) -> bool:
    return all(head[at : at + len(mark)] == mark for at, mark in signature)
