"""Frames that a video network needs in front of the video: sampled with it, never seen.

CogVideoX 1.5 looks at two latent frames at a time, so a video of 5 gets a lead of one. Its pipeline draws
noise for the lead as for any frame and cuts it off after the last step. Here a LATENT holds the video
only; a run puts the lead on (:func:`start`) and takes it off (:func:`without`). What is continued from
states that had noise already gets the video's first frame as its lead.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...noise import PerImageNoise
from .denoiser import DiffusersDenoiser

#: The draw of an image's noise that its lead gets: far from those of a run's steps.
POSITION = 1 << 40


def lead_of(network: object, x: Tensor) -> int:
    """Latent frames that ``network`` needs in front of x [B, C, F, H, W]; 0 for most."""
    if not isinstance(network, DiffusersDenoiser) or not network.family.leads or x.ndim != 5:
        return 0
    return -x.shape[2] % network.family.patch(network.config)[0]


def start(noise: Tensor, latent: Tensor, frames: int, seed: int) -> tuple[Tensor, Tensor]:
    """(noise, latent) [B, C, frames + F, H, W]: the lead's own noise, none where ``noise`` is none."""
    ahead = PerImageNoise(seed)(POSITION, noise[:, :, :1].expand(-1, -1, frames, -1, -1))
    ahead = ahead if bool(noise.any()) else torch.zeros_like(ahead)
    return torch.cat([ahead, noise], 2), repeated(latent, frames)


def repeated(x: Tensor, frames: int) -> Tensor:
    """x with its first frame ``frames`` times more."""
    return torch.cat([x[:, :, :1].expand(-1, -1, frames, -1, -1), x], 2)


def without(x: Tensor, frames: int) -> Tensor:
    """x without its lead; x itself where there is none."""
    return x[:, :, frames:] if frames else x
