"""Images to and from files, with the names and meanings of ComfyUI's SaveImage and LoadImage."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image, ImageOps, ImageSequence, PngImagePlugin

from ..nodes.ui.file_names import fill_in, find_file, next_number, split_prefix
from ..schedulers.files import whole
from .provenance import CHUNK, pixel_digest

if TYPE_CHECKING:
    from numpy.typing import NDArray

MOST_PIXELS = 2**27  # of an image to load, all frames together: 1.6 GB as floats


def save_images(
    images: torch.Tensor,
    prefix: str,
    folder: Path,
    metadata: Mapping[str, Any],
    kind: str = "output",
) -> list[dict[str, str]]:
    """Write images [B,H,W,C], C in 1, 3, 4, values 0..1, as `folder/prefix_00001_.png` and so on.

    `prefix` may hold sub-folders and %width%, %height%, %year% ... %second%, %batch_num%. Each
    metadata entry becomes a JSON text chunk. A file appears whole or not at all. Returns ComfyUI's
    {"filename", "subfolder", "type"} per image. Raises ValueError for a prefix that leaves the
    folder, for a wrong shape and for values that are not finite.
    """
    pixels = _to_pixels(images)
    subfolder, stem = split_prefix(
        fill_in(prefix, width=pixels.shape[2], height=pixels.shape[1]), folder
    )
    target = folder / subfolder
    target.mkdir(parents=True, exist_ok=True)
    first = next_number(target, stem)
    saved = []
    for index, image in enumerate(pixels):
        chunks = PngImagePlugin.PngInfo()
        for keyword, value in metadata.items():
            if keyword == CHUNK:
                value = value | dict(image=index, pixels=pixel_digest(image))
            chunks.add_text(keyword, json.dumps(value, allow_nan=False))
        name = f"{stem.replace('%batch_num%', str(index))}_{first + index:05}_.png"
        _write(Image.fromarray(image), target / name, "PNG", pnginfo=chunks, compress_level=4)
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
    subfolder, stem = split_prefix(
        fill_in(prefix, width=pixels.shape[2], height=pixels.shape[1]), folder
    )
    target = folder / subfolder
    target.mkdir(parents=True, exist_ok=True)
    frames = [Image.fromarray(frame) for frame in pixels]
    exif, others = frames[0].getexif(), 0x010F
    for keyword, value in metadata.items():
        tag = 0x0110 if keyword == "prompt" else others
        others -= keyword != "prompt"
        exif[tag] = f"{keyword}:{json.dumps(value, allow_nan=False)}"
    name = f"{stem}_{next_number(target, stem):05}_.webp"
    duration = max(1, round(1000 / fps))  # milliseconds
    options = dict(save_all=True, append_images=frames[1:], duration=duration, exif=exif)
    _write(frames[0], target / name, "WEBP", **options, **how)
    return {"filename": name, "subfolder": subfolder, "type": "output"}


def load_image(name: str, folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """The image [B,H,W,3] and mask [B,H,W] of a file in `folder`; float32, 0..1, mask = 1 - alpha.

    B is the number of equally large frames; an image without alpha has a mask of 64x64 zeros.
    Raises ValueError when the file is not in the folder, is not an image or is absurdly large.
    """
    path = find_file(name, folder)
    try:
        with Image.open(path) as file:
            pixels = file.width * file.height * getattr(file, "n_frames", 1)
            if pixels > MOST_PIXELS:  # a few hundred bytes can ask for this
                raise ValueError(f"{pixels} pixels in all frames are more than {MOST_PIXELS}")
            frames = [_from_frame(frame) for frame in ImageSequence.Iterator(file)]
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"cannot read the image {name!r}: {error}") from error
    same = [(image, alpha) for image, alpha in frames if image.shape == frames[0][0].shape]
    image = torch.stack([image for image, _ in same])
    if all(alpha is None for _, alpha in same):
        return image, torch.zeros(len(same), 64, 64)
    opaque = torch.ones(image.shape[1:3])
    return image, 1 - torch.stack([opaque if alpha is None else alpha for _, alpha in same])


def _from_frame(frame: Image.Image) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Image [H,W,3] and alpha [H,W] (None without one) of one frame, turned upright."""
    frame = ImageOps.exif_transpose(frame)
    if frame.mode.startswith("I"):  # 16-bit grey, which convert() would clip
        grey = torch.from_numpy(np.asarray(frame).astype(np.float32) / 65535)
        return grey[..., None].expand(-1, -1, 3).clone(), None
    if frame.has_transparency_data:
        rgba = _to_floats(frame.convert("RGBA"))
        return rgba[..., :3], rgba[..., 3]
    return _to_floats(frame.convert("RGB")), None


def _to_floats(frame: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.asarray(frame).astype(np.float32) / 255)


def _to_pixels(images: torch.Tensor) -> NDArray[np.uint8]:
    """uint8 [B,H,W] or [B,H,W,C], rounded down as ComfyUI does."""
    if images.ndim != 4 or images.shape[-1] not in (1, 3, 4) or 0 in images.shape:
        wanted = "[batch, height, width, 1, 3 or 4]"
        raise ValueError(f"images must have the shape {wanted}, got {list(images.shape)}")
    values = images.detach().to("cpu", torch.float32).numpy()
    if not np.isfinite(values).all():
        raise ValueError("the image holds NaN or infinite values; the run that made it diverged")
    pixels: NDArray[np.uint8] = np.clip(values * 255, 0, 255).astype(np.uint8)
    return pixels[..., 0] if pixels.shape[-1] == 1 else pixels


def _write(image: Image.Image, path: Path, kind: str, **options: Any) -> None:
    """Write beside `path` and rename, so that an error or Ctrl-C leaves nothing half-written."""
    with whole(path) as part, part.open("xb") as file:
        image.save(file, kind, **options)
