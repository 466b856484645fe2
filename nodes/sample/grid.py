"""Grid: the same graph with two of its knobs at each of several values, as one labelled sheet."""

from __future__ import annotations

import itertools
import json
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...schedulers.show.contact_sheet import MOST_PIXELS, Row, fitted, sheet
from ...schedulers.show.open_picture import open_picture
from ...schedulers.whole_file import make_folder, whole
from .. import host
from ..host import io
from ..ui.file_names import refusal, split_prefix
from . import CATEGORY
from .grid_graph import CELL, SHEET, Wanted, check_values, expanded, links

DoneType = io.Custom("SAMPLING_KIT_GRID_CELL")


class Grid(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="SamplingKitGrid",
            display_name="Grid",
            category=CATEGORY,
            description="Use it to compare settings: it runs the graph before it for every value of one knob, or of two, and lays the "
            "pictures out as one sheet with labels. A knob is NODE.INPUT, NODE the title of a node before this one or its id: any "
            "widget of Sample, KSampler, a prompt or a loader. One picture is made at a time and kept as a file, named by what made it: "
            "after an interruption, or with more values, the next run makes only what is missing.",
            search_aliases=["XY plot", "X/Y/Z plot", "compare settings", "parameter sweep", "grid search", "xyz"],
            inputs=[
                io.Image.Input("images", lazy=True, raw_link=True, tooltip="The picture at the end of the graph; several become one row."),
                io.String.Input("columns", default="Sample.steps", tooltip="Knob of the columns: NODE.INPUT, such as Sample.steps or 6.cfg."),
                io.String.Input(
                    "column_values", default="4; 8; 12", multiline=True,
                    tooltip="Its values, with ; between them, or one on each line, as prompts are better written.",
                ),
                io.String.Input("rows", default="", tooltip="Knob of the rows; empty: one row."),
                io.String.Input("row_values", default="", multiline=True, tooltip="Its values, in the same way."),
                io.String.Input("name", default="SamplingKit/grid", tooltip="Folder in the output folder that keeps the pictures."),
                io.Int.Input("height", default=256, min=16, max=2048, tooltip="Of each picture on the sheet, in pixels; files keep their size."),
                io.Boolean.Input(
                    "anew", default=False, optional=True, advanced=True,
                    tooltip="Make all pictures again: where a file that the graph loads has changed under its name.",
                ),
            ],
            outputs=[io.Image.Output(display_name="sheet", tooltip="One picture with labels.")],
            hidden=[io.Hidden.unique_id, io.Hidden.dynprompt],
            enable_expand=True,
        )  # fmt: skip

    @classmethod
    def validate_inputs(
        cls, columns: str | None = None, column_values: str | None = None, rows: str | None = None,
        row_values: str | None = None, name: str | None = None,
    ) -> bool | str:  # fmt: skip
        def look() -> None:
            if None not in (columns, column_values, rows, row_values):
                check_values(columns or "", column_values or "", rows or "", row_values or "")
            if name is not None:
                folder_of(name)

        return refusal(look)

    @classmethod
    def execute(
        cls, images: Any, columns: str, column_values: str, rows: str, row_values: str,
        name: str = "SamplingKit/grid", height: int = 256, anew: bool = False,
    ) -> Any:  # fmt: skip
        want = Wanted(
            (images[0], images[1]), columns, column_values, rows, row_values, name, height, anew
        )
        nodes, link = grid_of(
            graph_before(cls.hidden.dynprompt, images[0]), str(cls.hidden.unique_id), want
        )
        return io.NodeOutput(link, expand=nodes)


def graph_before(prompt: Any, node: str) -> dict[str, Any]:
    """The part of ComfyUI's prompt that leads to ``node``, as the API has it."""
    graph: dict[str, Any] = {}
    left = [node]
    while left:
        key = left.pop()
        if key not in graph and prompt.has_node(key):
            graph[key] = prompt.get_node(key)
            left += links(graph[key]).values()
    return graph


def grid_of(graph: dict[str, Any], key: str, want: Wanted) -> tuple[dict[str, Any], list[Any]]:
    """As :func:`expanded`, with the pictures in the output folder. Raises ValueError for a value that a node cannot have."""
    folder_of(want.name)
    output = host.places.folder("output")
    return expanded(graph, key, want, lambda file: (output / file).is_file(), host.runs.refused)


def folder_of(name: str) -> Path:
    """The folder ``name`` in the output folder. Raises ValueError where it leads out of it."""
    output = host.places.folder("output")
    split_prefix(name, output)
    return output / name


class GridCell(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id=CELL,
            display_name="Grid Cell",
            category=CATEGORY,
            description="What Grid adds for each picture: it writes the picture to its file, after the cell before it. Not for use by hand.",
            search_aliases=["grid cell"],
            inputs=[
                io.Image.Input("images", lazy=True, tooltip="The picture; it is not made where the file is there."),
                io.String.Input("file", default="", tooltip="In the output folder."),
                io.Boolean.Input("anew", default=False, tooltip="Also where the file is there."),
                DoneType.Input("before", optional=True, tooltip="The cell before this one."),
            ],
            outputs=[DoneType.Output(display_name="done", tooltip="That the file is there.")],
            is_dev_only=True,
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, file: str | None = None) -> bool | str:
        return True if file is None else refusal(lambda: cell_file(file))

    @classmethod
    def check_lazy_status(
        cls, file: str, anew: bool = False, images: Any = None, **kwargs: Any
    ) -> list[str]:
        return ["images"] if images is None and (anew or not cell_file(file).is_file()) else []

    @classmethod
    def execute(
        cls, file: str, anew: bool = False, images: Tensor | None = None, before: Any = None
    ) -> Any:
        path = cell_file(file)
        if images is not None and (anew or not path.is_file()):
            write(path, torch.cat(list(images[..., :3].float().cpu()), 1))
        return io.NodeOutput(file)


def cell_file(name: str) -> Path:
    """Raises ValueError for a name that leads out of the output folder or is no PNG."""
    output = host.places.folder("output")
    split_prefix(name, output)
    if not name.endswith(".png"):
        raise ValueError(f"file = {name!r}: a cell is kept as .png")
    return output / name


def write(file: Path, picture: Tensor) -> None:
    from PIL import Image

    make_folder(file.parent)
    pixels = (picture.clamp(0, 1).nan_to_num() * 255).round().byte().numpy()
    with whole(file) as part:
        Image.fromarray(pixels).save(part, "PNG")


def read(file: str, height: int) -> Tensor:
    """A cell's picture [H, W, 3], ``height`` pixels high. Raises ValueError where its file is gone or no picture."""
    try:
        with open_picture(cell_file(file)) as opened:
            pixels = np.asarray(opened.convert("RGB"), np.float32)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"the grid's picture {file} cannot be read ({error}): run the grid with anew"
        ) from None
    return fitted(torch.from_numpy(pixels / 255), height)


class GridSheet(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id=SHEET,
            display_name="Grid Sheet",
            category=CATEGORY,
            description="What Grid adds at its end: it lays the pictures out with their labels. Not for use by hand.",
            search_aliases=["grid sheet"],
            inputs=[
                io.String.Input("layout", default="{}", tooltip="Files and labels, as JSON."),
                DoneType.Input("done", optional=True, tooltip="The last cell."),
            ],
            outputs=[io.Image.Output(display_name="sheet", tooltip="One picture with labels.")],
            is_dev_only=True,
        )  # fmt: skip

    @classmethod
    def execute(cls, layout: str, done: Any = None) -> Any:
        files, labels, captions, height = layout_of(layout)
        rows: list[Row] = []
        for line, label in zip(files, labels, strict=True):
            pictures = [read(file, height) for file in line]
            rows.append(
                Row(pictures, wrapped(label), [] if rows else [wrapped(c) for c in captions])
            )
            wide = max(sum(p.shape[1] for p in row.pictures) for row in rows)
            if len(files) * height * wide > MOST_PIXELS:
                raise ValueError(
                    f"height = {height}: the sheet would have more than {MOST_PIXELS} pixels; choose a smaller one"
                )
        return io.NodeOutput(sheet(rows, height))


def layout_of(text: str) -> tuple[list[list[str]], list[str], list[str], int]:
    """Files by rows, words left of the rows, words above the columns, height of a picture. Raises ValueError for another JSON."""
    try:
        facts = json.loads(text)
        files, height = facts["files"], int(facts["height"])
        labels, captions = facts["rows"] or [""] * len(files), facts["columns"]
        names = [*itertools.chain(*files), *labels, *captions]
        fine = files and len(labels) == len(files) and all(isinstance(name, str) for name in names)
    except (ValueError, TypeError, KeyError, RecursionError):
        fine = False
    if not fine or not 16 <= height <= 2048:
        raise ValueError(f"layout = {text[:60]!r}: it is not what Grid writes; use Grid itself")
    return files, labels, captions, height


def wrapped(label: str, letters: int = 24, lines: int = 4) -> str:
    """The label in lines of that many letters; what is longer ends in …"""
    parts = textwrap.wrap(label, letters)
    return "\n".join(
        [
            *parts[: lines - 1],
            textwrap.shorten(" ".join(parts[lines - 1 :]), letters, placeholder="…"),
        ]
    ).strip()


NODES = (Grid, GridCell, GridSheet)
