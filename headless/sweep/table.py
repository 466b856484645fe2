"""A sweep at a glance: a table of what was set and what it took, and a sheet of captioned pictures."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from ...schedulers.text_table import markdown_table
from ..open_picture import open_picture
from .worker import Record

SHEET = 100  # pictures on the contact sheet
SHOWN = "nfe", "network_calls", "seconds"
PLAIN = {"index", "texts", "files", *SHOWN}


def caption(record: Record) -> str:
    return ", ".join(f"{k.rpartition('.')[2]} {v}" for k, v in record.items() if k not in PLAIN)


def table(records: Sequence[Record]) -> str:
    """Markdown: what was set, and what it took."""
    if not records:
        return ""
    names = [name for name in records[0] if name not in PLAIN]
    head = ["item", *names, "NFE", "network calls", "seconds", "file"]
    rows = [
        [r["index"], *(r[n] for n in names), *(r[n] for n in SHOWN), next(iter(r["files"]), "")]
        for r in records
    ]
    return markdown_table(head, rows)


def sheet(pictures: Sequence[tuple[str, Path]], tile: int = 160) -> bytes:
    """A PNG of captioned pictures, each fitted into a square of ``tile`` pixels."""
    columns = min(len(pictures), max(1, round((1.6 * len(pictures)) ** 0.5)))
    rows, font, room = -(-len(pictures) // columns), ImageFont.load_default(12), 30
    page = Image.new("RGB", (columns * (tile + 8) + 8, rows * (tile + room + 8) + 8), "white")
    draw = ImageDraw.Draw(page)
    for i, (text, file) in enumerate(pictures):
        x, y = 8 + i % columns * (tile + 8), 8 + i // columns * (tile + room + 8)
        with open_picture(file) as opened:
            image = opened.convert("RGB")
        scale = tile / max(image.size)
        size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
        how = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS
        page.paste(image.resize(size, how), (x, y))
        for line, part in enumerate(wrapped(text, font, draw, tile)[:2]):
            draw.text((x, y + tile + 2 + 14 * line), part, "black", font)
    out = io.BytesIO()
    page.save(out, "PNG")
    return out.getvalue()


def wrapped(text: str, font: Any, draw: Any, width: int) -> list[str]:
    """``text`` in lines of at most ``width`` pixels."""
    lines = [""]
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}".strip()
        if draw.textlength(longer, font) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines
