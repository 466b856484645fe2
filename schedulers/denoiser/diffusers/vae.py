"""VAEs of diffusers folders: images in [−1, 1] ↔ the latents a network works on.

A VAE's own latents z become the network's by one formula for every class, from vae/config.json:

    latent = (z − mean − shift)·scale/std

One row a class in ``VAES``. Images [B, 3, H, W] or, for video VAEs, [B, 3, F, H, W].
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from .folder import Component, Config, Folder
from .limits import errors_named
from .loading import build


@dataclass(frozen=True)
class Latents:
    """How a network's latents relate to the VAE's, and pixels (frames) per latent row (frame).

    Videos that decode to as many frames as were encoded have 1 + a multiple of ``step`` frames (0: of
    ``temporal``).
    """

    scale: float = 1.0
    shift: float = 0.0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    spatial: int = 8
    temporal: int = 1
    channels: int = 0
    step: int = 0

    def from_vae(self, z: Tensor) -> Tensor:
        return (z - self._of(self.mean, 0.0, z) - self.shift) * (
            self.scale / self._of(self.std, 1.0, z)
        )

    def to_vae(self, latent: Tensor) -> Tensor:
        """Inverse of :meth:`from_vae`."""
        std, mean = self._of(self.std, 1.0, latent), self._of(self.mean, 0.0, latent)
        return latent * (std / self.scale) + (mean + self.shift)

    @staticmethod
    def _of(values: tuple[float, ...], default: float, like: Tensor) -> Tensor | float:
        """One number a channel, shaped for ``like`` [B, C, …]."""
        if not values:
            return default
        return torch.tensor(values).to(like).reshape(1, -1, *(1,) * (like.ndim - 2))


@dataclass(frozen=True)
class VaeKind:
    """A row: axes of the latents; pixels and frames per latent, from the config; the class's default
    ``scaling_factor``, which old configs lack; the config's name for latent channels; ``pairs``: it decodes
    two latent frames at a time, and a first one by itself only if their number is odd."""

    dims: int
    spatial: Callable[[Config], int]
    temporal: Callable[[Config], int] = lambda config: 1
    scale: float = 1.0
    channels: str = "latent_channels"
    pairs: bool = False


def _blocks(key: str) -> Callable[[Config], int]:
    return lambda config: 2 ** (len(config.get(key) or (1,)) - 1)


def _or(key: str, usual: int | Callable[[Config], int]) -> Callable[[Config], int]:
    """The config's own number, or the class's default."""
    return lambda config: int(
        config.get(key) or (usual if isinstance(usual, int) else usual(config))
    )


def _ltx(patch: str, usual: int) -> Callable[[Config], int]:
    halved = lambda c: c.get("spatio_temporal_scaling") or (True, True, True, False)  # noqa: E731
    return lambda c: int(c.get(patch) or usual) * 2 ** sum(map(bool, halved(c)))


VAES: dict[str, VaeKind] = {
    "AutoencoderKL": VaeKind(2, _blocks("block_out_channels"), scale=0.18215),
    "AsymmetricAutoencoderKL": VaeKind(2, _blocks("down_block_out_channels"), scale=0.18215),
    "AutoencoderDC": VaeKind(2, _blocks("encoder_block_out_channels")),
    "AutoencoderKLCogVideoX": VaeKind(
        3, _blocks("block_out_channels"), _or("temporal_compression_ratio", 4), scale=1.15258426, pairs=True
    ),
    "AutoencoderKLWan": VaeKind(
        3, _or("scale_factor_spatial", 8), _or("scale_factor_temporal", 4), channels="z_dim"
    ),
    "AutoencoderKLLTXVideo": VaeKind(
        3, _or("spatial_compression_ratio", _ltx("patch_size", 4)),
        _or("temporal_compression_ratio", _ltx("patch_size_t", 1)),
    ),
}  # fmt: skip


#: A class that is not known: what its config may say about its latents.
UNKNOWN = VaeKind(
    2,
    _or("spatial_compression_ratio", _or("scale_factor_spatial", _blocks("block_out_channels"))),
    _or("temporal_compression_ratio", _or("scale_factor_temporal", 1)),
)


def _kind(part: Component) -> VaeKind:
    """The row of a class; one that is not known must say its factor itself."""
    if part.kind not in VAES and part.config.get("scaling_factor") is None:
        raise ValueError(
            f"{part.path}/config.json: the VAE class {part.kind} is not known, and there is no scaling_factor, without "
            f"which its latents cannot be read; known: {', '.join(VAES)}"
        )
    return VAES.get(part.kind, UNKNOWN)


def read_latents(part: Component) -> Latents:
    """The facts about latents in vae/config.json. ValueError for a number that cannot be."""
    kind, c = _kind(part), part.config
    scale = c.get("scaling_factor")
    scale = kind.scale if scale is None else float(scale)
    if not (math.isfinite(scale) and scale > 0):
        raise ValueError(f"{part.path}/config.json: scaling_factor = {scale} must be above 0")
    mean, std = (tuple(map(float, c.get(key) or ())) for key in ("latents_mean", "latents_std"))
    if len(mean) != len(std) or any(s <= 0 for s in std):
        raise ValueError(
            f"{part.path}/config.json: latents_mean and latents_std must be equally long, the latter above 0"
        )
    return Latents(
        scale, float(c.get("shift_factor") or 0.0), mean, std, kind.spatial(c), kind.temporal(c),
        int(c.get(kind.channels) or 0), kind.temporal(c) * (2 if kind.pairs else 1),
    )  # fmt: skip


def latents_of(folder: Folder) -> Latents | None:
    """Latents of the folder's VAE; None without one (a network on pixels)."""
    return read_latents(folder.part("vae")) if folder.has("vae") else None


def require_known(part: Component) -> None:
    """Raises ValueError for a VAE class that cannot be loaded."""
    if part.kind not in VAES:
        raise ValueError(
            f"{part.path}/config.json: the VAE class {part.kind} is not known; known: {', '.join(VAES)}"
        )


@errors_named
def load_vae(folder: Folder, dtype: torch.dtype | None = None, device: str = "cpu") -> Vae:
    """The VAE of a folder. Default dtype: bfloat16 weights stay so, all others float32.

    float16 is not chosen: many VAEs (SDXL's) overflow in it.
    """
    part = folder.part("vae")
    require_known(part)
    latents = read_latents(part)
    weights = folder.weights(part)
    if dtype is None:
        dtype = torch.bfloat16 if weights.dtype == torch.bfloat16 else torch.float32
    return Vae(build(part, weights, dtype), part.kind, latents).to(device)


class Vae(nn.Module):
    """Images [B, 3, (F,) H, W] in [−1, 1] ↔ latents [B, C, (f,) h, w] as the network takes them."""

    def __init__(self, module: nn.Module, kind: str, latents: Latents) -> None:
        super().__init__()
        self.module, self.kind, self.latents, self.dims = module, kind, latents, VAES[kind].dims
        if kind == "AutoencoderKLLTXVideo" and not latents.mean:
            mean, std = (
                tuple(getattr(module, k).float().tolist()) for k in ("latents_mean", "latents_std")
            )
            self.latents = replace(latents, mean=mean, std=std)

    @property
    def dtype(self) -> torch.dtype:
        return next(self.module.parameters()).dtype

    def tile(self, on: bool = True) -> Vae:
        """Work on overlapping tiles: less memory, results change slightly at the seams."""
        name = "enable_tiling" if on else "disable_tiling"
        if not hasattr(self.module, name):
            raise ValueError(f"{self.kind} cannot work in tiles")
        getattr(self.module, name)()
        return self

    @contextmanager
    def tiles(self, size: int, overlap: int) -> Iterator[None]:
        """Work on tiles of about ``size`` pixels that overlap by about ``overlap``, in this block only.

        diffusers blends neighbours over the overlap and rounds every length down by itself; tiles of a
        multiple of 8 latents that overlap by whole eighths leave nothing to round.
        """
        tile = max(8, size // self.latents.spatial // 8 * 8)
        eighths = min(4, max(1, round(8 * overlap / size)))
        pixels = tile * self.latents.spatial
        lengths = {
            "tile_sample_min": pixels, "tile_latent_min": tile, "tile_overlap_factor": eighths / 8,
            "tile_sample_stride": pixels - pixels * eighths // 8,
        }  # fmt: skip
        axes = ("", "_size", "_height", "_width")  # the classes' names differ
        sizes = {name + axis: n for name, n in lengths.items() for axis in axes}
        attributes = vars(self.tile().module)
        before = {name: attributes[name] for name in sizes.keys() & attributes.keys()}
        attributes.update({name: sizes[name] for name in before})
        try:
            yield
        finally:
            attributes.update(before)
            self.tile(False)

    def unscaled(self) -> Vae:
        """The same VAE between images and its own latents z, which ComfyUI's LATENT wire holds."""
        other = copy.copy(self)
        other._modules = dict(self._modules)
        other.latents = replace(self.latents, scale=1.0, shift=0.0, mean=(), std=())
        return other

    def encode(self, images: Tensor) -> Tensor:
        """Latents (the mode of the posterior), float32. FloatingPointError if they are not finite."""
        self._check(images, 3)
        frames, step = images.shape[2], self.latents.temporal
        if self.dims == 3 and (frames - 1) % step:
            fits = (frames - 1) // step * step + 1
            raise ValueError(
                f"{self.kind} takes videos of 1 + a multiple of {step} frames, got {frames}: use the first {fits}"
            )
        coded = self.module.encode(images.to(self.dtype))  # type: ignore[operator]
        z = coded.latent_dist.mode() if hasattr(coded, "latent_dist") else coded.latent
        return self.latents.from_vae(self._finite(z.float(), "images"))

    def decode(self, latents: Tensor) -> Tensor:
        """Images, float32, not clipped. FloatingPointError if they are not finite."""
        self._check(latents, self.latents.channels or latents.shape[1])
        z = self.latents.to_vae(latents.float()).to(self.dtype)
        extra = {}
        if getattr(self.module.config, "timestep_conditioning", False):  # LTX: noise-free latents
            extra = dict(temb=torch.zeros(len(z), device=z.device))
        return self._finite(self.module.decode(z, **extra).sample.float(), "latents")  # type: ignore[operator]

    @contextmanager
    def watched(self, tell: Callable[[int], None]) -> Iterator[None]:
        """In this block ``tell`` is called after each part of a video that is decoded, with its latent frames."""
        decoder = getattr(self.module, "decoder", None)
        if self.dims != 3 or not isinstance(decoder, nn.Module):
            yield
            return
        hook = decoder.register_forward_hook(lambda module, args, out: tell(args[0].shape[2]))
        try:
            yield
        finally:
            hook.remove()

    def _finite(self, out: Tensor, source: str) -> Tensor:
        if bool(torch.isfinite(out).all()):
            return out
        hint = f"check the {source}"
        if self.dtype == torch.float16:
            hint = "float16 ends at 65504 and overflowed: use bfloat16 or float32"
        name = str(self.dtype).removeprefix("torch.")
        raise FloatingPointError(f"{self.kind} returned NaN or infinity in {name}: {hint}")

    def _check(self, x: Tensor, channels: int) -> None:
        if x.ndim != 2 + self.dims or x.shape[1] != channels:
            axes = "[B, C, F, H, W]" if self.dims == 3 else "[B, C, H, W]"
            raise ValueError(
                f"{self.kind} takes {axes} with {channels} channels, got shape {tuple(x.shape)}"
            )
