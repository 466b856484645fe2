"""Picture files of strangers: opened by content from a list of kinds, and counted before they are read."""

from __future__ import annotations

import ast
import contextlib
import io
import os
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import trees
from PIL import Image

from sampling_kit.headless.cli import main
from sampling_kit.headless.load_image import load_image
from sampling_kit.headless.save import save_images
from sampling_kit.headless.sweep.table import sheet
from sampling_kit.headless.sweep.worker import digest
from sampling_kit.schedulers.show import picture_parts
from sampling_kit.schedulers.show.open_picture import (
    FORMATS,
    MOST_PIXELS,
    PictureError,
    open_picture,
)
from sampling_kit.schedulers.show.picture_parts import EXIF, MOST_FRAMES, MOST_PARTS, MOST_SCANS

PACK = Path(__file__).resolve().parents[1]
RNG = np.random.default_rng(0)


def encoded(kind: str, pixels: object = None, **options: object) -> bytes:
    file = io.BytesIO()
    array = RNG.integers(0, 255, (6, 5, 3), np.uint8) if pixels is None else pixels
    Image.fromarray(np.asarray(array)).save(file, kind, **options)
    return file.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(*chunks: bytes, size: tuple[int, int] = (1, 1)) -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(b"\0\0\0\0"))
    return picture_parts.PNG + head + b"".join(chunks) + data + chunk(b"IEND", b"")


def gif(frames: int, *, screen: tuple[int, int] = (1, 1), frame: tuple[int, int] = (1, 1)) -> bytes:
    head = b"GIF89a" + struct.pack("<HHBBB", *screen, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    one = b"," + struct.pack("<HHHHB", 0, 0, *frame, 0) + b"\x02\x02D\x01\0"
    return head + frames * one + b";"


def tags(entries: int, length: int) -> bytes:
    """The tags of a camera: every entry claims the same ``length`` bytes."""
    rows = b"".join(struct.pack("<HHII", i, 7, length, 8) for i in range(entries))
    return b"II*\0" + struct.pack("<IH", 8, entries) + rows + bytes(4)


def misread_tags(entries: int, length: int) -> bytes:
    """Tags behind "Exif" that are none for a reader who takes that for their head."""
    data = bytearray(EXIF + tags(entries, length))
    at = int.from_bytes(data[4:8], "big")
    data[at : at + 2] = bytes(2)
    return bytes(data)


def jpeg(*segments: tuple[int, bytes]) -> bytes:
    whole = encoded("JPEG")
    made = b"".join(b"\xff" + bytes([m]) + struct.pack(">H", len(d) + 2) + d for m, d in segments)
    return whole[:2] + made + whole[2:]


def webp_with(exif: bytes) -> bytes:
    plain = encoded("WEBP", lossless=True)
    size = struct.pack("<I", len(plain) + 8 + len(exif) - 8)
    return plain[:4] + size + plain[8:] + b"EXIF" + struct.pack("<I", len(exif)) + exif


def tiff(pages: int) -> bytes:
    file = io.BytesIO()
    first, *others = [Image.new("L", (9, 9)) for _ in range(pages)]
    first.save(file, "TIFF", save_all=True, append_images=others)
    return file.getvalue()


HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "PostScript": (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n", "none of PNG"),
    "TIFF of many pages": (lambda: tiff(50), "none of PNG"),
    "GIF of many frames": (lambda: gif(40_000), "more than 4096 frames"),
    "GIF that grows": (lambda: gif(2, frame=(60_000, 60_000)), "pixels in all frames"),
    "GIF of large frames": (lambda: gif(100, screen=(2000, 2000)), "pixels in all frames"),
    "GIF of comments": (lambda: gif(1)[:-1] + b"!\xfe\x01a\0" * MOST_PARTS + b";", "parts"),
    "GIF of comment blocks": (lambda: gif(1)[:-1] + b"!\xfe" + b"\x01a" * 2 * MOST_PARTS + b"\0;", "parts"),
    "PNG of many frames": (lambda: png(chunk(b"acTL", struct.pack(">II", 10**9, 0))), "frames"),
    "PNG of many chunks": (lambda: png(chunk(b"teSt", b"") * (MOST_PARTS + 1)), "parts"),
    "PNG of many pixels": (lambda: png(size=(12_000, 12_000)), "pixels in all frames"),
    "PNG with tags": (lambda: png(chunk(b"eXIf", tags(30_000, 10**6))), "tags"),
    "JPEG of many segments": (lambda: jpeg(*[(0xFE, b"")] * (MOST_PARTS + 1)), "parts"),
    "JPEG of many scans": (lambda: encoded("JPEG") + b"\xff\xda" * (MOST_SCANS + 1), "scans"),
    "JPEG with tags": (lambda: jpeg((0xE1, b"Exif\0\0" + tags(5000, 60_000))), "tags"),
    "JPEG with tags in parts": (lambda: jpeg(*[(0xE1, b"Exif\0\0" + bytes(60_000))] * 40), "tags"),
    "JPEG with an index of pictures": (lambda: jpeg((0xE2, b"MPF\0" + tags(5000, 60_000))), "tags"),
    "WebP with tags": (lambda: webp_with(tags(30_000, 10**6)), "tags"),
    "PNG with Exif and tags": (lambda: png(chunk(b"eXIf", misread_tags(30_000, 10**6))), "tags"),
    "JPEG with twice Exif and tags": (lambda: jpeg((0xE1, EXIF + misread_tags(5000, 60_000))), "tags"),
    "WebP with twice Exif and tags": (lambda: webp_with(EXIF + misread_tags(30_000, 10**6)), "tags"),
    "PNG of Exif alone": (lambda: png(chunk(b"eXIf", EXIF * 10_000)), "tags"),
    "PNG cut in its tags": (lambda: png(chunk(b"eXIf", tags(9, 9)))[:50], "Truncated"),
    "nothing": (lambda: b"", "none of PNG"),
    "text": (lambda: b"hello", "none of PNG"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.filterwarnings("ignore:Image size")
def test_a_hostile_picture_is_refused_before_it_is_read(name, tmp_path):
    make, words = HOSTILE[name]
    (tmp_path / "a.png").write_bytes(make())
    start = time.process_time()
    with pytest.raises(ValueError, match=words):
        load_image("a.png", tmp_path)
    with pytest.raises(PictureError, match=words), open_picture(tmp_path / "a.png") as image:
        image.load()
    assert time.process_time() - start < 1


def test_a_picture_larger_than_a_picture_is_refused(tmp_path):
    file = tmp_path / "a.png"
    file.write_bytes(png())
    os.truncate(file, picture_parts.LARGEST + 1)
    with pytest.raises(PictureError, match="MB"), open_picture(file):
        pass


@pytest.mark.skipif(os.name == "nt", reason="a shell script as the stand-in")
def test_ghostscript_never_starts(tmp_path, monkeypatch):
    """A file that is PostScript by content, whatever its name: a stand-in for gs leaves a mark when it runs."""
    from click.testing import CliRunner

    mark, tool = tmp_path / "ran", tmp_path / "bin" / "gs"
    tool.parent.mkdir()
    tool.write_text(f"#!/bin/sh\ntouch {mark}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)  # as in a new process
    file = tmp_path / "a.png"
    file.write_bytes(HOSTILE["PostScript"][0]())
    assert sheet([("a", file)]).startswith(b"\x89PNG")  # shown as white
    for act in (
        lambda: load_image("a.png", tmp_path),
        lambda: digest("a.png", file.read_bytes()),
    ):
        with pytest.raises(ValueError, match="none of PNG"):
            act()
    assert CliRunner().invoke(main, ["verify", str(file)]).exit_code == 2
    assert not mark.exists()
    with contextlib.suppress(OSError, SyntaxError), Image.open(file) as image:
        image.load()  # Pillow without a list of kinds does start it
    assert mark.exists()


@pytest.mark.parametrize("kind", FORMATS)
def test_the_kinds_that_are_read(kind, tmp_path):
    (tmp_path / "a.png").write_bytes(encoded(kind))
    image, mask = load_image("a.png", tmp_path)
    assert image.shape == (1, 6, 5, 3) and mask.shape == (1, 64, 64)


def test_frames_are_read_in_order(tmp_path):
    values = (0, 90, 200)
    frames = [Image.fromarray(np.full((4, 4, 3), v, np.uint8)) for v in values]
    for kind, how in (("PNG", {}), ("WEBP", dict(lossless=True)), ("GIF", {})):
        frames[0].save(tmp_path / "a.png", kind, save_all=True, append_images=frames[1:], **how)
        image, _ = load_image("a.png", tmp_path)
        assert image[:, 0, 0, 0].mul(255).round().int().tolist() == list(values)
    (tmp_path / "a.gif").write_bytes(gif(MOST_FRAMES))
    assert len(load_image("a.gif", tmp_path)[0]) == MOST_FRAMES


def test_pictures_of_a_camera(tmp_path):
    """Turned as the camera says; of several pictures in one JPEG the first."""
    exif = Image.Exif()
    exif[0x0112] = 6
    first, second = Image.new("RGB", (8, 4), "red"), Image.new("RGB", (8, 4), "blue")
    first.save(tmp_path / "a.jpg", "JPEG", exif=exif)
    assert load_image("a.jpg", tmp_path)[0].shape == (1, 8, 4, 3)
    first.save(tmp_path / "a.mpo", "MPO", save_all=True, append_images=[second])
    image, _ = load_image("a.mpo", tmp_path)
    assert image.shape == (1, 4, 8, 3) and image[0, 0, 0, 0] > 0.9


def test_verify_counts_before_it_decodes(tmp_path):
    """A picture that carries a workflow and asks for too many pixels is refused by name."""
    from click.testing import CliRunner

    save_images(torch.zeros(1, 4, 4, 3), "a", tmp_path, {"prompt": {"1": {"class_type": "PreviewAny", "inputs": {"source": 1}}}})  # fmt: skip
    (file,) = tmp_path.glob("*.png")
    data = bytearray(file.read_bytes())
    data[8 + 8 : 8 + 16] = struct.pack(">II", 12_000, 12_000)
    data[8 + 21 : 8 + 25] = struct.pack(">I", zlib.crc32(bytes(data[8 + 4 : 8 + 21])))
    file.write_bytes(data)
    ended = CliRunner().invoke(main, ["verify", str(file)])
    assert ended.exit_code == 2 and "pixels in all frames" in ended.stderr


def test_pictures_are_opened_in_one_place():
    offences = []
    for part in ("nodes", "schedulers", "headless", "embedded"):
        for file in sorted((PACK / part).rglob("*.py")):
            name = file.relative_to(PACK).as_posix()
            for node in trees.nodes(file):
                outside = (
                    isinstance(node, ast.Attribute) and name != "schedulers/show/open_picture.py"
                )
                if outside and ast.unparse(node) in ("Image.open", "PIL.Image.open"):
                    offences.append(f"{name}:{node.lineno}")
                if isinstance(node, ast.ImportFrom) and node.module == "PIL.Image":
                    offences.append(f"{name}:{node.lineno}")
    assert not offences and MOST_PIXELS == 2**27
