"""Whether a saved picture can be made again: its workflow runs once more, and the pixels are compared."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..schedulers.whole_file import passing
from .context import Context
from .graph import execute
from .open_picture import PictureError, open_picture
from .png_text import is_png, read_text_chunks
from .prompt import Registry
from .provenance import facts, pixel_digest, read_facts
from .terminal_text import one_line
from .workflow import WorkflowError, load


@dataclass(frozen=True)
class Verdict:
    """``same``: bit for bit. ``differences``: {what: (then, now)} of everything that is not as it was."""

    same: bool
    differences: dict[str, tuple[Any, Any]]

    def __str__(self) -> str:
        head = "reproduces bit for bit" if self.same else "does NOT reproduce"
        lines = [
            one_line(f"  {name}: {then} then, {now} now")
            for name, (then, now) in self.differences.items()
        ]
        if self.same and lines:
            head += ", although these differ"
        return "\n".join([head, *lines])


def verify(png: Path, nodes: Registry, context: Context, check: Callable[[Any], None]) -> Verdict:
    """Run the workflow in ``png`` again, as far as possible as it was run, and compare.

    The run writes to a folder of its own only, models too. It takes over the number of threads, as far as this machine
    has them, and no other setting. Raises WorkflowError if the file holds no workflow, or its workflow saves no picture.
    """
    workflow = load(png)
    if not is_png(png):
        raise WorkflowError(
            f"{png} is not a PNG: verify needs a picture that was saved with its workflow"
        )
    then = read_facts(read_text_chunks(png))
    try:
        with open_picture(png) as file:
            pixels = np.asarray(file)
    except PictureError as error:
        raise WorkflowError(f"{png}: {error}") from None
    check(workflow)
    threads = torch.get_num_threads()
    try:
        if type(then.get("threads")) is int and 1 <= then["threads"] <= (os.cpu_count() or 1):
            torch.set_num_threads(then["threads"])
        with tempfile.TemporaryDirectory(prefix="sampling-kit-") as scratch, passing():
            here = Path(scratch)
            places: dict[str, Any] = dict(
                output=here / "output", temp=here / "temp", new_models=here / "models"
            )
            context = replace(context, **places, prompt=workflow.prompt)
            shown = execute(workflow, nodes, context)
            made = dict(_pictures(shown, here))
            now = facts(context)
    finally:
        torch.set_num_threads(threads)
    if not made:
        raise WorkflowError(f"{png}: its workflow saves no picture")
    place = str(then.get("node")), then.get("image")
    # a picture that ComfyUI saved does not say which of the run's pictures it is
    mine = [made[key] for key in made if key == place] or list(made.values())
    same = any(np.array_equal(one, pixels) for one in mine)
    differences = dict(_changes(then, now))
    if "pixels" in then and then["pixels"] != pixel_digest(pixels):
        differences["the file's own pixels"] = "as saved", "edited since"
    if not same:
        alike = [one for one in mine if one.shape == pixels.shape]
        if alike:
            far = min(int(np.abs(one.astype(int) - pixels).max()) for one in alike)
            differences["pixels"] = "", f"differ by up to {far} of 255"
        else:
            differences["size"] = pixels.shape, mine[0].shape
    return Verdict(same, differences)


def _pictures(shown: Mapping[str, Any], folder: Path) -> Iterator[tuple[tuple[str, int], Any]]:
    """((node, number), pixels) of every PNG that a run saved."""
    for node, ui in shown.items():
        for i, entry in enumerate(ui.get("images") or ()):
            path = folder / entry["type"] / entry["subfolder"] / entry["filename"]
            if path.suffix == ".png":
                with open_picture(path) as file:
                    yield (node, i), np.asarray(file)


def _changes(
    then: Mapping[str, Any], now: Mapping[str, Any]
) -> Iterator[tuple[str, tuple[Any, Any]]]:
    """Facts that were written down and are not as they were."""
    for name, value in now.items():
        before = then.get(name)
        if name == "versions" and isinstance(before, dict):
            for part, version in value.items():
                if before.get(part) != version:
                    yield part, (before.get(part), version)
        elif name == "plans" and isinstance(before, list):
            for i, (a, b) in enumerate(zip(before, value, strict=False)):
                for part in a if isinstance(a, dict) else ():
                    if a[part] != b.get(part):
                        yield f"plan {i + 1}, {part}", (a[part], b.get(part))
        elif name in then and before != value:
            yield name, (before, value)
