"""A picture as text that a page shows: a data URI of bounded length."""

from __future__ import annotations

import base64
import io

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from .contact_sheet import tiles

LIMIT = 192 * 1024  # characters
LONGEST = 1200  # pixels of the longer side
SMALL = 128  # pixels: pictures lower than this are enlarged, each pixel a square
FEW = 16  # pictures of a batch


def data_uri(picture: Tensor, limit: int = LIMIT) -> str:
    """``picture`` [H, W, 3] or [1, H, W, 3] in [0, 1] as PNG, or as JPEG and smaller until ``limit`` characters hold it."""
    x = picture.reshape(picture.shape[-3:])[..., :3].float().cpu()
    for longest, kind in (
        (LONGEST, "PNG"),
        (LONGEST, "JPEG"),
        (800, "JPEG"),
        (400, "JPEG"),
        (64, "JPEG"),
    ):
        text = _encoded(_shrunk(x, longest), kind)
        if len(text) <= limit:
            break
    return text


def gallery(batch: Tensor) -> Tensor:
    """The first pictures of a batch [B, H, W, 3] as one [1, H, W, 3]."""
    shown = batch[:FEW]
    return tiles([shown], columns=4, scale=max(1, SMALL // shown.shape[1]), gap=4)


def _shrunk(x: Tensor, longest: int) -> Tensor:
    """[H, W, 3], its longer side at most ``longest``."""
    height, width = x.shape[:2]
    factor = longest / max(height, width)
    if factor >= 1:
        return x
    size = max(1, round(height * factor)), max(1, round(width * factor))
    planes = x.movedim(-1, 0)[None].contiguous()
    return F.interpolate(planes, size, mode="bilinear", antialias=True)[0].movedim(0, -1)


def _encoded(x: Tensor, kind: str) -> str:
    from PIL import Image

    pixels = (x.clamp(0, 1).nan_to_num().numpy() * 255).round().astype(np.uint8)
    data = io.BytesIO()
    settings = {"optimize": True} if kind == "PNG" else {"quality": 80}
    Image.fromarray(pixels).save(data, kind, **settings)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(data.getvalue()).decode()}"
