"""Noise masks without ComfyUI: the mask of a LATENT in the shape of its samples."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}


def latent_mask(mask: Tensor, shape: tuple[int, ...]) -> Tensor:
    """MASK [M, H, W] or [M, 1, H, W] → [B, C, …] like latents of ``shape``: resized, and repeated over channels and batch.

    For video the M masks are its frames. Raises ValueError for a mask of another number of axes.
    """
    axes = len(shape) - 2
    if axes == 2 and mask.ndim in (3, 4):
        mask = mask.reshape(-1, 1, *mask.shape[-2:])
    elif axes == 3 and mask.ndim in (3, 4):
        mask = mask.reshape(1, 1, -1, *mask.shape[-2:])
    if axes not in MODES or mask.ndim != len(shape):
        raise ValueError(
            f"latent_image: a noise mask of shape {tuple(mask.shape)} does not fit latents of shape {tuple(shape)}"
        )
    mask = F.interpolate(mask.float(), size=shape[2:], mode=MODES[axes])
    return mask[:, :1].expand(-1, shape[1], *shape[2:])[[i % len(mask) for i in range(shape[0])]]
