"""A sweep at a glance: a table of what was set and what it took, and a sheet of captioned pictures."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ...schedulers.show.contact_sheet import Row
from ...schedulers.show.contact_sheet import sheet as contact_sheet
from ...schedulers.show.open_picture import PictureError, open_picture
from ...schedulers.text_table import markdown_table
from .worker import Record

SHEET = 100  # pictures on the contact sheet
LETTER, LETTERS = 12, 24  # pixels of a caption's letters, and how many fit above a picture
SHOWN = "nfe", "network_calls", "seconds"
PLAIN = {"index", "texts", "files", "graph", "stored", *SHOWN}


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
    rows = []
    for i in range(0, len(pictures), columns):
        part = pictures[i : i + columns]
        captions = [textwrap.shorten(text, 2 * LETTERS, placeholder="…") for text, _ in part]
        captions = ["\n".join(textwrap.wrap(caption, LETTERS)) for caption in captions]
        rows.append(Row([squared(file) for _, file in part], captions=captions))
    out = io.BytesIO()
    page = (contact_sheet(rows, tile, size=LETTER)[0] * 255).round().byte().numpy()
    Image.fromarray(page).save(out, "PNG")
    return out.getvalue()


def squared(file: Path) -> Tensor:
    """The picture in a file as [H, H, 3] in [0, 1], on white where it is no square; white where it cannot be read."""
    try:
        with open_picture(file) as opened:
            image = opened.convert("RGB")
    except (OSError, PictureError):
        image = Image.new("RGB", (1, 1), "white")
    image.thumbnail((640, 640))  # a hundred large ones would not fit into memory
    side = max(image.size)
    page = Image.new("RGB", (side, side), "white")
    page.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return torch.from_numpy(np.asarray(page, np.float32) / 255)
