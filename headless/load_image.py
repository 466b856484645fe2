"""Images from files, with the meaning of ComfyUI's LoadImage."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from ..nodes.ui.file_names import find_file
from ..schedulers.show.open_picture import frames_of, open_picture


def load_image(name: str, folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """The image [B,H,W,3] and mask [B,H,W] of a file in `folder`; float32, 0..1, mask = 1 - alpha.

    B is the number of equally large frames; an image without alpha has a mask of 64x64 zeros.
    Raises ValueError when the file is not in the folder, is not an image or is absurdly large.
    """
    path = find_file(name, folder)
    try:
        with open_picture(path) as file:
            frames = [_from_frame(frame) for frame in frames_of(file)]
    except (OSError, ValueError) as error:
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
