"""Images to files, with the names and meanings of ComfyUI's SaveImage; their text says how they were made."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image, PngImagePlugin

from ..nodes.ui.file_names import fill_in, next_number, split_prefix
from ..schedulers.whole_file import make_folder, passing, write_new
from .context import Context
from .provenance import CHUNK, facts, pixel_digest

if TYPE_CHECKING:
    from numpy.typing import NDArray

KINDS = {".png": "PNG", ".webp": "WEBP"}  # what Pillow calls them


def run_metadata(run: Context) -> dict[str, Any]:
    """What an image saved in ``run`` carries: the API graph, how it was run and, when there is one, the
    editor's graph."""
    ui = {"workflow": run.workflow} if run.workflow else {}
    return {"prompt": run.prompt, CHUNK: facts(run) | {"node": run.node}} | ui


def save_images(
    images: torch.Tensor,
    prefix: str,
    folder: Path,
    metadata: Mapping[str, Any],
    kind: str = "output",
) -> list[dict[str, str]]:
    """Write images [B,H,W,C], C in 1, 3, 4, values 0..1, as `folder/prefix_00001_.png` and so on.

    `prefix` may hold sub-folders and %width%, %height%, %year% ... %second%, %batch_num%. Each
    metadata entry becomes a JSON text chunk. A file appears whole or not at all, is on the
    disk before this returns, and replaces none, whatever other processes write there. Returns ComfyUI's
    {"filename", "subfolder", "type"} per image. Raises ValueError for a prefix that leaves the
    folder, for a wrong shape and for values that are not finite.
    """
    pixels = _to_pixels(images)
    target, subfolder, stem = _place(pixels, prefix, folder)
    number = next_number(target, stem) - 1
    saved = []
    for index, image in enumerate(pixels):
        chunks = PngImagePlugin.PngInfo()
        for keyword, value in metadata.items():
            if keyword == CHUNK:
                value = value | dict(image=index, pixels=pixel_digest(image))
            chunks.add_text(keyword, json.dumps(value, allow_nan=False))
        start = stem.replace("%batch_num%", str(index))
        picture, how = Image.fromarray(image), dict(pnginfo=chunks, compress_level=4)
        with passing() if kind == "temp" else nullcontext():  # a preview need not last
            number = _write(picture, target, start, ".png", number + 1, how)
        name = f"{start}_{number:05}_.png"
        saved.append({"filename": name, "subfolder": subfolder, "type": kind})
    return saved


def save_animation(
    images: torch.Tensor,
    prefix: str,
    folder: Path,
    metadata: Mapping[str, Any],
    fps: float,
    how: Mapping[str, Any],
) -> dict[str, str]:
    """Write frames [F,H,W,C] as one animated `folder/prefix_00001_.webp`; otherwise as :func:`save_images`.

    The metadata lies in EXIF tags from 0x0110 (prompt) and 0x010F (others) on, where ComfyUI's page
    looks for it. `how` goes to the encoder.
    """
    pixels = _to_pixels(images)
    target, subfolder, stem = _place(pixels, prefix, folder)
    frames = [Image.fromarray(frame) for frame in pixels]
    exif, others = frames[0].getexif(), 0x010F
    for keyword, value in metadata.items():
        tag = 0x0110 if keyword == "prompt" else others
        others -= keyword != "prompt"
        exif[tag] = f"{keyword}:{json.dumps(value, allow_nan=False)}"
    duration = max(1, round(1000 / fps))  # milliseconds
    options = dict(save_all=True, append_images=frames[1:], duration=duration, exif=exif)
    first = next_number(target, stem)
    number = _write(frames[0], target, stem, ".webp", first, options | dict(how))
    return {"filename": f"{stem}_{number:05}_.webp", "subfolder": subfolder, "type": "output"}


def _place(pixels: NDArray[np.uint8], prefix: str, folder: Path) -> tuple[Path, str, str]:
    """(folder of the files, made; its path below ``folder``; stem of their names)."""
    filled = fill_in(prefix, width=pixels.shape[2], height=pixels.shape[1])
    subfolder, stem = split_prefix(filled, folder)
    make_folder(folder / subfolder)
    return folder / subfolder, subfolder, stem


def _to_pixels(images: torch.Tensor) -> NDArray[np.uint8]:
    """uint8 [B,H,W] or [B,H,W,C], rounded down as ComfyUI does."""
    if images.ndim != 4 or images.shape[-1] not in (1, 3, 4) or 0 in images.shape:
        raise ValueError(
            f"images must have the shape [batch, height, width, 1, 3 or 4], got {list(images.shape)}"
        )
    values = images.detach().to("cpu", torch.float32).numpy()
    if not np.isfinite(values).all():
        raise ValueError("the image holds NaN or infinite values; the run that made it diverged")
    pixels: NDArray[np.uint8] = np.clip(values * 255, 0, 255).astype(np.uint8)
    return pixels[..., 0] if pixels.shape[-1] == 1 else pixels


def _write(
    image: Image.Image, folder: Path, stem: str, kind: str, first: int, how: Mapping[str, Any]
) -> int:
    """Write ``folder/stem_00001_.kind`` under the first free number from ``first`` on, which is returned."""
    return write_new(
        folder,
        lambda number: f"{stem}_{number:05}_{kind}",
        first,
        lambda part: image.save(part, KINDS[kind], **how),
    )
