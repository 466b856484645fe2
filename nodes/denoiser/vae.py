"""VAE: the decoder and encoder of a diffusers folder, or of what ships, as ComfyUI's nodes ask for them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ...schedulers.denoiser.diffusers import Vae
from ...schedulers.denoiser.latent import Blocks
from .. import host

#: Values a VAE holds per pixel and frame at full size: 16 activations of its 128 channels there.
PER_PIXEL = 2048
FRAMES = 9  # that video VAEs work on at a time
TILE, OVERLAP = 256, 64  # pixels, when memory runs out


class FolderVae:
    """VAE: what ComfyUI's nodes ask of one, by its names, between IMAGE and unscaled latents z.

    IMAGE [B, H, W, C] or [B, F, H, W, C] in [0, 1]; z [B, C, h, w] or [B, C, f, h, w] float32. A video
    VAE takes a 4-D IMAGE batch for the frames of one video. Scale and shift are not applied: the MODEL
    does that to what comes over the LATENT wire. ``tile_t`` and ``overlap_t`` change nothing: video VAEs
    go through the frames few at a time anyway.
    """

    output_channels = 3

    def __init__(self, vae: Vae | Blocks) -> None:
        self.first_stage_model = vae.unscaled()
        self.patcher = host.places.patcher(self.first_stage_model, "vae")
        facts = vae.latents
        self.latent_dim, self.latent_channels, self.vae_dtype = vae.dims, facts.channels, vae.dtype
        self.upscale_ratio = self.downscale_ratio = facts.spatial
        self.temporal_ratio = facts.temporal if vae.dims == 3 else None

        self.device = self.patcher.load_device

    def throw_exception_if_invalid(self) -> None:
        """Nothing: a VAE that could not be read was not made."""

    def is_dynamic(self) -> bool:
        """False: ComfyUI loads it whole, as one model."""
        return False

    def get_sd(self) -> dict[str, Tensor]:
        """The weights under diffusers' names."""
        return getattr(self.patcher.model, "module", self.patcher.model).state_dict()

    def spacial_compression_decode(self) -> int:
        """Pixels per latent row and column."""
        return self.upscale_ratio

    def spacial_compression_encode(self) -> int:
        return self.downscale_ratio

    def temporal_compression_decode(self) -> int | None:
        """Frames per latent frame; None for pictures."""
        return self.temporal_ratio

    def decode(self, samples: Tensor, vae_options: Any = None) -> Tensor:
        """IMAGE [B, (F,) H, W, 3] from z, on z's device."""
        return self._decode(samples, None)

    def decode_tiled(
        self, samples: Tensor, tile_x: int | None = None, tile_y: int | None = None, overlap: int | None = None,
        tile_t: int | None = None, overlap_t: int | None = None,
    ) -> Tensor:  # fmt: skip
        """As :meth:`decode`, on square tiles; lengths in latents."""
        scale, size = self.upscale_ratio, min(tile_x or tile_y or 32, tile_y or tile_x or 32)
        return self._decode(
            samples, (size * scale, (size // 4 if overlap is None else overlap) * scale)
        )

    def encode(self, pixel_samples: Tensor) -> Tensor:
        """z (the posterior's mode) from IMAGE, cut in the middle to a multiple of the latents' size."""
        return self._encode(pixel_samples, None)

    def encode_tiled(
        self, pixel_samples: Tensor, tile_x: int | None = None, tile_y: int | None = None, overlap: int | None = None,
        tile_t: int | None = None, overlap_t: int | None = None,
    ) -> Tensor:  # fmt: skip
        """As :meth:`encode`, on square tiles; lengths in pixels."""
        size = min(tile_x or tile_y or TILE, tile_y or tile_x or TILE)
        return self._encode(pixel_samples, (size, size // 4 if overlap is None else overlap))

    # ------------------------------------------------------------------------------------ the work

    def _decode(self, z: Tensor, tiles: tuple[int, int] | None) -> Tensor:
        if self.latent_dim == 2 and z.ndim == 5 and z.shape[2] == 1:
            z = z[:, :, 0]
        pixels = z.shape[-2] * z.shape[-1] * self.upscale_ratio**2
        with self._shown(z if tiles is None else None):
            images = self._run("decode", z, pixels, tiles)
        return (images / 2 + 0.5).clamp(0, 1).movedim(1, -1)

    @contextmanager
    def _shown(self, video: Tensor | None) -> Iterator[None]:
        """The node's bar goes on with every batch of frames of a video that is decoded whole."""
        vae = self.patcher.model
        if video is None or video.ndim != 5 or not isinstance(vae, Vae):
            yield
            return
        tell, done = host.places.progress(len(video) * video.shape[2]), [0]

        def shown(frames: int) -> None:
            done[0] += frames
            tell(done[0], "")

        with vae.watched(shown):
            yield

    def _encode(self, images: Tensor, tiles: tuple[int, int] | None) -> Tensor:
        height, width = images.shape[-3:-1]
        step = self.downscale_ratio
        high, wide = height // step * step, width // step * step
        if not high * wide:
            raise ValueError(
                f"pixels: {width}×{height} is too small, the VAE takes {step}×{step} and more"
            )
        top, left = (height - high) // 2, (width - wide) // 2
        images = images[..., top : top + high, left : left + wide, :3]
        if self.latent_dim == 3 and images.ndim == 4:
            images = images[None]
        return self._run("encode", images.movedim(-1, 1) * 2 - 1, high * wide, tiles)

    def _run(self, method: str, x: Tensor, pixels: int, tiles: tuple[int, int] | None) -> Tensor:
        """``method`` of the VAE on x, one picture or video after the other; on tiles where memory runs out."""
        size = min(pixels, tiles[0] ** 2) if tiles else pixels
        frames = min(FRAMES, x.shape[2] * (self.temporal_ratio or 1)) if x.ndim == 5 else 1
        memory = PER_PIXEL * size * frames * self.vae_dtype.itemsize
        with torch.inference_mode(), host.places.loaded(self.patcher, memory) as device:
            return torch.cat([self._one(method, row.to(device), tiles).to(x) for row in x.split(1)])

    def _one(self, method: str, x: Tensor, tiles: tuple[int, int] | None) -> Tensor:
        vae = self.patcher.model
        if tiles is None:
            try:
                return getattr(vae, method)(x)
            except torch.cuda.OutOfMemoryError:
                pass  # outside of this block, where the failed call's tensors are free again
            torch.cuda.empty_cache()
        with vae.tiles(*(tiles or (TILE, OVERLAP))):
            return getattr(vae, method)(x)
