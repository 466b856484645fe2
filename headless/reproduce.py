"""Whether a saved picture can be made again: its workflow runs once more, and the pixels are compared."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..schedulers.show.open_picture import PictureError, frames_of, open_picture
from ..schedulers.whole_file import passing
from .context import Context
from .editor_graph import converter
from .graph import execute
from .picture_text import picture_texts
from .prompt import Registry
from .provenance import facts, pixel_digest, read_facts
from .terminal_text import one_line
from .workflow import Workflow, WorkflowError, load

PROMISED = 2  # of 255, between hosts
HOST = {"device", "device_name", "threads"}  # facts that, like versions, say which host it was


@dataclass(frozen=True)
class Verdict:
    """``farthest``: the largest difference of a pixel, of 255; None where the sizes differ.

    ``other_host``: versions, device or threads are not as they were, or the file does not say. ``edited``: the file's
    pixels are not those that were saved. ``differences``: {what: (then, now)} of everything that is not as it was.
    """

    farthest: int | None
    other_host: bool
    edited: bool
    differences: dict[str, tuple[Any, Any]]

    @property
    def same(self) -> bool:
        """Bit for bit."""
        return self.farthest == 0

    @property
    def reproduces(self) -> bool:
        """As promised: bit for bit, between hosts within PROMISED."""
        near = self.farthest is not None and self.farthest <= PROMISED
        return self.same or (near and self.other_host and not self.edited)

    def __str__(self) -> str:
        lines = [
            one_line(f"  {name}: {then} then, {now} now")
            for name, (then, now) in self.differences.items()
        ]
        if self.same:
            head = "reproduces bit for bit" + (", although these differ" if lines else "")
        elif self.reproduces:
            head = f"reproduces within {PROMISED}/255 (bit for bit: no)"
        else:
            head = "does NOT reproduce"
        return "\n".join([head, *lines])


def verify(
    picture: Path, nodes: Registry, context: Context, check: Callable[[Any], None]
) -> Verdict:
    """Run the workflow in ``picture``, a PNG or WebP, again, as far as possible as it was run, and compare.

    The run writes to a folder of its own only, models too. It takes over the number of threads, as far as this machine
    has them, and no other setting. Raises WorkflowError if the file holds no workflow, or its workflow saves no picture.
    """
    workflow = load(picture, converter(nodes))
    texts = picture_texts(picture)
    if texts is None:
        raise WorkflowError(
            f"{picture} is not a PNG or WebP: verify needs a picture that was saved with its workflow"
        )
    then = read_facts(texts)
    try:
        pixels = _pixels(picture)
    except PictureError as error:
        raise WorkflowError(f"{picture}: {error}") from None
    check(workflow)
    made, now = _run_again(workflow, nodes, context, then, picture.suffix.lower())
    if not made:
        raise WorkflowError(f"{picture}: its workflow saves no {picture.suffix.lower()} picture")
    place = str(then.get("node")), then.get("image")
    # a picture that ComfyUI saved does not say which of the run's pictures it is
    mine = [made[key] for key in made if key == place] or list(made.values())
    differences = dict(_changes(then, now))
    other_host = not isinstance(then.get("versions"), dict) or bool(
        differences.keys() & (HOST | now["versions"].keys())
    )
    edited = "pixels" in then and then["pixels"] != pixel_digest(pixels)
    if edited:
        differences["the file's own pixels"] = "as saved", "edited since"
    alike = [one for one in mine if one.shape == pixels.shape]
    farthest = min((int(np.abs(one.astype(int) - pixels).max()) for one in alike), default=None)
    if farthest is None:
        differences["size"] = pixels.shape, mine[0].shape
    elif farthest:
        differences["pixels"] = "", f"differ by up to {farthest} of 255"
    return Verdict(farthest, other_host, edited, differences)


def _run_again(
    workflow: Workflow, nodes: Registry, context: Context, then: Mapping[str, Any], suffix: str
) -> tuple[dict[tuple[str, int], Any], dict[str, Any]]:
    """({(node, number): pixels} of the pictures with this suffix, the facts of this run)."""
    threads = torch.get_num_threads()
    try:
        if type(then.get("threads")) is int and 1 <= then["threads"] <= (os.cpu_count() or 1):
            torch.set_num_threads(then["threads"])
        with tempfile.TemporaryDirectory(prefix="sampling-kit-") as scratch, passing():
            here = Path(scratch)
            places: dict[str, Any] = dict(
                output=here / "output", temp=here / "temp", new_models=here / "models"
            )
            context = replace(context, **places, prompt=workflow.prompt, tally=Counter(), plans=[])
            shown = execute(workflow, nodes, context)
            return dict(_pictures(shown, here, suffix)), facts(context)
    finally:
        torch.set_num_threads(threads)


def _pixels(path: Path) -> Any:
    """uint8 [H,W] or [H,W,C]; of an animation [F,H,W,C]."""
    with open_picture(path) as file:
        frames = [np.asarray(frame) for frame in frames_of(file)]
    return frames[0] if len(frames) == 1 else np.stack(frames)


def _pictures(
    shown: Mapping[str, Any], folder: Path, suffix: str
) -> Iterator[tuple[tuple[str, int], Any]]:
    """((node, number), pixels) of every picture of this kind that a run saved."""
    for node, ui in shown.items():
        for i, entry in enumerate(ui.get("images") or ()):
            path = folder / entry["type"] / entry["subfolder"] / entry["filename"]
            if path.suffix == suffix:
                yield (node, i), _pixels(path)


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
