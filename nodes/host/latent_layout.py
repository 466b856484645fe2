"""Facts about MODELs from diffusers folders that both hosts need."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from ...schedulers.denoiser.diffusers import DiffusersDenoiser
from ...schedulers.size_shift import SizedFlow, SizeShift


@dataclass(frozen=True)
class LatentLayout:
    """Channels; axes after them (3 for video, frames first); pixels and frames per latent; the multiples
    that latent sizes must be of, one an axis; videos have 1 + a multiple of ``step`` frames."""

    channels: int
    dims: int = 2
    spatial: int = 8
    temporal: int = 1
    patch: tuple[int, ...] = ()
    step: int = 1

    def shape(self, batch: int, width: int, height: int, frames: int = 1) -> tuple[int, ...]:
        """[batch, channels, (frames,) height, width] for a size in pixels, rounded down to what the
        network takes. ValueError for a number of frames that would not come out."""
        patch = self.patch or (1,) * self.dims
        sizes = [
            n // self.spatial // p * p for n, p in zip((height, width), patch[-2:], strict=True)
        ]
        if min(sizes) < 1:
            smallest = " × ".join(str(self.spatial * p) for p in patch[-2:])
            raise ValueError(f"width × height = {width} × {height}: this MODEL needs at least {smallest} pixels")  # fmt: skip
        time = (self.latent_frames(frames),) if self.dims == 3 else ()
        return (batch, self.channels, *time, *sizes)

    def latent_frames(self, frames: int) -> int:
        """Of a video of ``frames`` frames, of which the first has a latent of its own."""
        below = (frames - 1) // self.step * self.step + 1
        if below != frames:
            raise ValueError(
                f"frames = {frames}: this MODEL makes videos of 1 + a multiple of {self.step} frames: "
                f"choose {below} or {below + self.step}"
            )
        return (frames - 1) // self.temporal + 1


def layout_of(network: DiffusersDenoiser) -> LatentLayout:
    latents, family = network.latents, network.family
    spatial = latents.spatial if latents else family.pixels
    temporal = latents.temporal if latents else (family.frames if network.dims == 3 else 1)
    patch = network.family.patch(network.config)
    step = (latents.step if latents else 0) or temporal
    return LatentLayout(network.channels, network.dims, spatial, temporal, patch, step)


#: ComfyUI's own networks whose shift grows with the size: class name → rule (ModelSamplingFlux,
#: ModelSamplingLTXV), and the latents that a token covers.
NATIVE_SHIFTS = {
    "Flux": (SizeShift(), (2, 2)),
    "LTXV": (SizeShift(0.95, 2.05, 1024, 4096), (1, 1, 1)),
}


def sized_flow_of(network: object, kinds: Iterable[str] = ()) -> SizedFlow | None:
    """The schedule, sizes open, of a folder's network, or of a native one by the names of its classes."""
    if isinstance(network, DiffusersDenoiser):
        schedule = network.trained.noise_schedule
        return schedule if isinstance(schedule, SizedFlow) else None
    rule, patch = next((NATIVE_SHIFTS[k] for k in kinds if k in NATIVE_SHIFTS), (None, ()))
    return None if rule is None else SizedFlow(rule.at(rule.n1), rule, patch)


def dtypes_of(network: DiffusersDenoiser) -> list[torch.dtype]:
    """Those it computes well in, best first: float16 only if it was not trained in bfloat16."""
    bf16 = network.family.trained(network.config) == torch.bfloat16
    return [*([] if bf16 else [torch.float16]), torch.bfloat16, torch.float32]
