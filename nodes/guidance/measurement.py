"""Measurements y = A·x0 + noise, for the rules that reconstruct: DDNM, DPS and ΠGDM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...schedulers.guidance import Blur, Downsample, Gray, Inpaint, Measurement, Operator
from ...schedulers.noise import PerImageNoise
from ...schedulers.settings import Settings, knob
from .. import host
from ..host import io
from ..ui.inputs import choice, chosen
from ..ui.wire_types import MeasurementType

DEGRADE, MEASURED = "degrade it", "already measured"


@dataclass(frozen=True)
class What(Settings):
    """Base of the choices: what is measured of a picture."""

    def operator(self, x: Tensor, mask: Tensor | None) -> Operator:
        """A for latents like x [B, C, …, H, W]."""
        raise NotImplementedError


@dataclass(frozen=True)
class Holes(What):
    """Inpainting: the picture outside the mask."""

    def operator(self, x: Tensor, mask: Tensor | None) -> Operator:
        if mask is None:
            raise ValueError("mask: inpaint needs a MASK, 1 where the picture is not known")
        return Inpaint(known(mask, x))


@dataclass(frozen=True)
class Small(What):
    """Super-resolution: the mean of every block."""

    factor: int = knob(4, "Side of the blocks that are averaged.", low=2, high=64)

    def operator(self, x: Tensor, mask: Tensor | None) -> Operator:
        return Downsample(self.factor)


@dataclass(frozen=True)
class Luma(What):
    """Colourisation: the brightness."""

    def operator(self, x: Tensor, mask: Tensor | None) -> Operator:
        return Gray()


@dataclass(frozen=True)
class Blurred(What):
    """Deblurring: the picture through a Gaussian blur with periodic borders."""

    std: float = knob(2.0, "Standard deviation in pixels.", low=0.1, high=100.0, step=0.1)
    floor: float = knob(0.01, "Frequencies that the blur shrinks below this are not used.", low=1e-6, high=1.0, step=0.001, advanced=True)  # fmt: skip

    def operator(self, x: Tensor, mask: Tensor | None) -> Operator:
        return Blur(self.std, self.floor)


KINDS: dict[str, type[What]] = {
    "inpaint": Holes,
    "downsample": Small,
    "gray": Luma,
    "blur": Blurred,
}


def known(mask: Tensor, x: Tensor) -> Tensor:
    """1 where MASK [M, H, W] (1: unknown) leaves all of a latent pixel known: [1 or B, 1, …, h, w].

    Raises ValueError where there are masks for other than 1 or B images.
    """
    rows = mask.reshape(-1, 1, *mask.shape[-2:]).float()
    if len(rows) not in (1, len(x)):
        raise ValueError(
            f"mask: {len(rows)} masks for {len(x)} pictures; give one, or one for each"
        )
    height, width = x.shape[-2:]
    hidden = F.adaptive_max_pool2d(rows, (height, width))
    return (hidden < 0.5).float().reshape(len(rows), *(1,) * (x.ndim - 3), height, width)


def samples_of(picture: Any) -> Tensor:
    """Latents of a picture: of IMAGE its pixels in [−1, 1]."""
    if isinstance(picture, dict):
        samples: Tensor = picture["samples"]
        if getattr(samples, "is_nested", False):
            raise ValueError("picture: nested latents (video with sound) cannot be measured")
        return samples
    pixels: Tensor = picture[..., :3].movedim(-1, 1) * 2 - 1
    return pixels


def measured(operator: Operator, x: Tensor) -> Tensor:
    """y from latents x that are y already: a grey picture of three channels is its brightness."""
    return operator.forward(x) if isinstance(operator, Gray) and x.shape[1] == 3 else x


def shown(operator: Operator, y: Tensor) -> Tensor:
    """y as IMAGE [N, H, W, 3], small ones enlarged in squares; latents that are not pixels as a sketch."""
    if isinstance(operator, Downsample):
        y = y.repeat_interleave(operator.factor, -2).repeat_interleave(operator.factor, -1)
    if y.shape[1] not in (1, 3):
        y = y.mean(1, keepdim=True)
        y = y / y.abs().max().clamp(min=1e-8)
    frames = y.movedim(1, -1).reshape(-1, *y.shape[-2:], y.shape[1])
    return (frames.expand(*frames.shape[:-1], 3) / 2 + 0.5).clamp(0, 1).float()


class MeasurementNode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        either = [io.Image, io.Latent]
        return io.Schema(
            node_id="SamplingKitMeasurement",
            display_name="Measurement",
            category="Sampling Kit/guidance",
            description="What is known of a picture, for DDNM, DPS and ΠGDM: the part outside a mask, a small version, its "
            "brightness or a blurred version, with or without noise. Made from a picture to try things out, or "
            "given as it was measured. Exact for models that work on pixels. A latent model sees the same "
            "operation on its latents: exact for a mask over whole latent pixels; a downsampled or blurred latent "
            "is only about that of the downsampled or blurred picture, and there is no brightness.",
            search_aliases=["inpainting", "super-resolution", "upscale", "colourisation", "colorization", "deblurring", "inverse problem"],
            inputs=[
                io.Model.Input("model", tooltip="The MODEL that reconstructs: its latent units count."),
                io.MultiType.Input("picture", types=either, tooltip="IMAGE for models on pixels, otherwise the LATENT of VAE Encode."),
                choice("kind", KINDS, "What is measured."),
                io.Combo.Input("picture_is", options=[DEGRADE, MEASURED], default=DEGRADE, tooltip="A picture to measure now, or what was measured: small for downsample, grey for gray."),
                io.Float.Input("noise", default=0.0, min=0.0, max=100.0, step=0.01, round=False, tooltip="σ_y: standard deviation of the measurement's noise in latent units; pixels go from −1 to 1."),
                io.Int.Input("seed", default=0, min=0, max=0xFFFFFFFFFFFFFFFF, control_after_generate=True, tooltip="Of that noise, where it is added: image i has seed + i."),
                io.Mask.Input("mask", optional=True, tooltip="For inpaint: 1 where the picture is not known."),
            ],
            outputs=[
                MeasurementType.Output(display_name="measurement", tooltip="For DDNM, DPS or ΠGDM Guidance."),
                io.Image.Output(display_name="degraded", tooltip="What was measured, at full size; of a latent model a sketch."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, model: Any, picture: Any, kind: dict[str, Any] | None = None, picture_is: str = DEGRADE,
        noise: float = 0.0, seed: int = 0, mask: Tensor | None = None,
    ) -> Any:  # fmt: skip
        if picture_is not in (DEGRADE, MEASURED):
            raise ValueError(f"picture_is = {picture_is!r}: choose {DEGRADE!r} or {MEASURED!r}")
        if noise < 0:
            raise ValueError(f"noise = {noise}: must be at least 0")
        channels, units = host.models.latent_space(model)
        x = samples_of(picture)
        if channels is not None and x.shape[1] != channels:
            raise ValueError(
                f"picture: has {x.shape[1]} channels, but the latents of this MODEL have {channels}; encode it with "
                "the model's VAE (VAE Encode) and connect the LATENT"
            )
        x = units(x).float().cpu()
        operator = chosen("kind", KINDS, kind).operator(x, mask)
        if picture_is == DEGRADE:
            operator.check(x)
            y = operator.forward(x)
            y = y + noise * PerImageNoise(seed)(0, y) if noise else y
        else:
            y = measured(operator, x)
        y = operator.forward(y) if isinstance(operator, Inpaint) else y
        with torch.inference_mode(False):  # it may take part in gradients
            y = y.clone()
        return io.NodeOutput(Measurement(operator, y, noise), shown(operator, y))


NODES = (MeasurementNode,)
