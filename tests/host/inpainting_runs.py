"""Langevin Inpainting in graphs with SetLatentNoiseMask, on models that are exact for Gaussian data: what is kept, the price,
steps, video, sound beside it, Differential Diffusion and a MODEL that is conditioned on its kept part."""

from __future__ import annotations

from typing import Any

import native_models as native
import torch
from comfy_extras import nodes_custom_sampler as core
from comfy_extras.nodes_differential_diffusion import DifferentialDiffusion
from torch import Tensor

import nodes

STEPS, MOVES = 6, 2


def half(*shape: int) -> Tensor:
    """Keeps the left half."""
    mask = torch.zeros(shape)
    mask[..., shape[-1] // 2 :] = 1
    return mask


def masked(latent: dict[str, Any], mask: Tensor) -> dict[str, Any]:
    made: dict[str, Any] = nodes.SetLatentNoiseMask().set_mask(latent, mask)[0]
    return made


class Watched:
    """A MODEL that counts its calls, and what a run of SamplerCustomAdvanced reports."""

    def __init__(self, kind: str) -> None:
        self.model, self.calls, self.steps = native.native(kind), 0, []

        def count(apply: Any, args: dict[str, Any]) -> Tensor:
            self.calls += 1
            return apply(args["input"], args["timestep"], **args["c"])

        self.model.set_model_unet_function_wrapper(count)

    def run(
        self, latent: dict[str, Any], moves: int = MOVES, model: Any = None, noise: Any = None
    ) -> Any:
        self.calls, model = 0, model or self.model
        sampler = native.kit("LangevinInpainting", sampler=native.kit("DDIM"), moves=moves)
        noise = noise or native.kit("PerImageNoise", seed=3)
        sigmas = native.steps(model, STEPS)
        out = core.SamplerCustomAdvanced.execute(
            noise, native.guide(model), sampler, sigmas, latent
        )
        return out.args[0]["samples"]


def kept_gap(out: Any, latent: dict[str, Any]) -> float:
    """How far the left halves differ, and 1 more where the right ones do not."""
    pairs = zip(native.parts(out), native.parts(latent["samples"]), strict=True)
    gaps = []
    for made, picture in pairs:
        middle = made.shape[-1] // 2
        same = bool((made[..., middle:] == picture[..., middle:].to(made)).all())
        gaps.append(float((made - picture)[..., :middle].abs().max()) + same)
    return max(gaps)


def inpainting() -> dict[str, Any]:
    rows: dict[str, Any] = {"gaps": {}, "calls": {}}
    for kind in native.KINDS:
        watched, image = Watched(kind), native.latent(2, 4, 8, 8, fill=0.4)
        rows["gaps"][kind] = kept_gap(watched.run(masked(image, half(1, 64, 64))), image)
        rows["calls"][kind] = watched.calls
    flow = Watched("FLOW")
    video = native.latent(1, 4, 3, 8, 8, fill=0.4)
    rows["gaps"]["video"] = kept_gap(flow.run(masked(video, half(3, 64, 64))), video)
    beside = native.nested()  # its mask is the video's; the sound is made anew
    made = native.parts(flow.run(beside | {"noise_mask": half(3, 1, 64, 64)}))
    rows["gaps"]["video and sound"] = float(made[0][..., :4].abs().max()) + bool(
        (made[1] == 0).any()
    )
    silent = core.DisableNoise.execute().args[0]
    image = native.latent(2, 4, 8, 8, fill=0.4)
    rows["gaps"]["no noise"] = kept_gap(
        flow.run(masked(image, half(1, 64, 64)), noise=silent), image
    )
    differential = DifferentialDiffusion.execute(flow.model).args[0]
    rows["gaps"]["differential"] = kept_gap(
        flow.run(masked(image, half(1, 64, 64)), model=differential), image
    )
    rows["soft"] = float(
        (flow.run(masked(image, 0.5 * half(1, 64, 64))) - image["samples"])[..., 4:].abs().mean()
    )
    clean = Watched("FLOW")
    clean.model.model.scale_latent_inpaint = lambda latent_image, **_: latent_image
    rows["gaps"]["a MODEL that takes it clean"] = kept_gap(
        clean.run(masked(image, half(1, 64, 64))), image
    )
    try:
        flow.run(image)
        rows["refused"] = ""
    except ValueError as error:
        rows["refused"] = str(error)
    return rows
