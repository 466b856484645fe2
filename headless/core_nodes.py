"""Stand-ins for the few core nodes a sampling graph needs: ComfyUI's ids, inputs and meaning.

They exist only without ComfyUI, where the host is ``nodes/host/alone/guider.py``; inside ComfyUI its own
nodes run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..nodes.host.alone import io
from ..nodes.host.alone.fit_field import set_progress
from ..nodes.host.alone.guider import Guider, Sampler, make_guider, set_folders, solver_of
from ..nodes.host.alone.traced import untraced
from ..nodes.ui.file_names import find_file, refusal, split_prefix, stamp
from ..schedulers.guidance import CFG, COND, UNCOND, Guidance
from ..schedulers.points import Points
from ..schedulers.solver import Solver
from ..schedulers.solver.base import host_plan
from .context import current
from .images import load_image, save_animation, save_images
from .provenance import plan_digest

set_folders(lambda kind: getattr(current(), kind))
set_progress(lambda step, total: current().report(step, total))

Latent = dict[str, Any]
WEBP_METHODS = {"default": 4, "fastest": 0, "slowest": 6}
SEED_RANGE = dict(default=0, min=0, max=0xFFFFFFFFFFFFFFFF, control_after_generate=True)


@dataclass(frozen=True)
class BatchNoise:
    """NOISE as the core makes it: one draw for the whole batch; None: zeros."""

    seed: int
    empty: bool = False

    def generate_noise(self, latent: Latent) -> Tensor:
        samples = latent["samples"]
        if self.empty:
            return torch.zeros(samples.shape)
        generator = torch.manual_seed(self.seed)
        return torch.randn(samples.shape, generator=generator)


def schema(
    node_id: str, inputs: list[Any], outputs: list[Any], title: str = "", **more: Any
) -> Any:
    name = title or node_id
    return io.Schema(
        node_id=node_id, display_name=name, category="core", inputs=inputs, outputs=outputs, **more
    )


class RandomNoise(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        return schema(
            "RandomNoise", [io.Int.Input("noise_seed", **SEED_RANGE)], [io.Noise.Output()]
        )

    @classmethod
    def execute(cls, noise_seed: int) -> Any:
        return io.NodeOutput(BatchNoise(noise_seed))


class DisableNoise(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        return schema("DisableNoise", [], [io.Noise.Output()])

    @classmethod
    def execute(cls) -> Any:
        return io.NodeOutput(BatchNoise(0, empty=True))


class BasicGuider(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        inputs = [io.Model.Input("model"), io.Conditioning.Input("conditioning")]
        return schema("BasicGuider", inputs, [io.Guider.Output()])

    @classmethod
    def execute(cls, model: Any, conditioning: Any) -> Any:
        return io.NodeOutput(make_guider(model, {COND: conditioning}, Guidance()))


def cfg_guider(model: Any, positive: Any, negative: Any, cfg: float) -> Guider:
    return make_guider(model, {COND: positive, UNCOND: negative}, Guidance((CFG(cfg),)))


class CFGGuider(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        inputs = [
            io.Model.Input("model"),
            io.Conditioning.Input("positive"),
            io.Conditioning.Input("negative"),
            io.Float.Input("cfg", default=8.0, min=0.0, max=100.0, step=0.1, round=0.01),
        ]
        return schema("CFGGuider", inputs, [io.Guider.Output()])

    @classmethod
    def execute(cls, model: Any, positive: Any, negative: Any, cfg: float) -> Any:
        return io.NodeOutput(cfg_guider(model, positive, negative, cfg))


def described(sampler: Any, guider: Guider, sigmas: Tensor) -> dict[str, Any]:
    """The solver, its noise levels and the digest of its plan, for the saved picture."""
    solver, path = solver_of(untraced(sampler)), guider.model.schedule.path
    levels = sigmas.tolist()
    row: dict[str, Any] = dict(solver=repr(solver), sigmas=plan_digest([{"sigmas": levels}]))
    if isinstance(solver, Solver) and solver.planned and len(levels) > 1:
        row["plan"] = plan_digest(list(host_plan(solver, Points.from_sigmas(path, levels)).rows()))
    return row


def sample(
    noise: BatchNoise, guider: Guider, sampler: Sampler, sigmas: Tensor, latent: Latent
) -> tuple[Latent, Latent]:
    """(output, denoised output) of a run, reporting each step to the runner."""
    if "noise_mask" in latent:
        raise ValueError("latent_image: a noise mask is supported inside ComfyUI only")
    seen: dict[str, Tensor] = {}
    context = current()
    context.report(0, len(sigmas) - 1)

    def callback(step: int, x0: Tensor, x: Tensor, total: int) -> None:
        seen["x0"] = x0
        context.report(step + 1, total)

    samples = guider.sample(
        noise.generate_noise(latent),
        latent["samples"],
        sampler,
        sigmas,
        callback=callback,
        seed=noise.seed,
    )
    if guider.run is not None:
        report = guider.run.report()
        context.tally.update({name: report[name] for name in ("evaluations", "network_calls")})
    context.plans.append(described(sampler, guider, sigmas))
    ratios = "downscale_ratio_spacial", "downscale_ratio_temporal"
    rest = {k: v for k, v in latent.items() if k not in ratios}
    return {**rest, "samples": samples}, {**rest, "samples": seen.get("x0", samples).cpu()}


class SamplerCustomAdvanced(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        inputs = [
            io.Noise.Input("noise"),
            io.Guider.Input("guider"),
            io.Sampler.Input("sampler"),
            io.Sigmas.Input("sigmas"),
            io.Latent.Input("latent_image"),
        ]
        outputs = [
            io.Latent.Output(display_name="output"),
            io.Latent.Output(display_name="denoised_output"),
        ]
        return schema("SamplerCustomAdvanced", inputs, outputs)

    @classmethod
    def execute(
        cls, noise: Any, guider: Any, sampler: Any, sigmas: Tensor, latent_image: Latent
    ) -> Any:
        return io.NodeOutput(*sample(noise, guider, sampler, sigmas, latent_image))


class SamplerCustom(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        inputs = [
            io.Model.Input("model"),
            io.Boolean.Input("add_noise", default=True),
            io.Int.Input("noise_seed", **SEED_RANGE),
            io.Float.Input("cfg", default=8.0, min=0.0, max=100.0, step=0.1, round=0.01),
            io.Conditioning.Input("positive"),
            io.Conditioning.Input("negative"),
            io.Sampler.Input("sampler"),
            io.Sigmas.Input("sigmas"),
            io.Latent.Input("latent_image"),
        ]
        outputs = [
            io.Latent.Output(display_name="output"),
            io.Latent.Output(display_name="denoised_output"),
        ]
        return schema("SamplerCustom", inputs, outputs)

    @classmethod
    def execute(
        cls, model: Any, add_noise: bool, noise_seed: int, cfg: float, positive: Any, negative: Any,
        sampler: Any, sigmas: Tensor, latent_image: Latent,
    ) -> Any:  # fmt: skip
        noise = BatchNoise(noise_seed, empty=not add_noise)
        guider = cfg_guider(model, positive, negative, cfg)
        return io.NodeOutput(*sample(noise, guider, sampler, sigmas, latent_image))


class SplitSigmas(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        inputs = [io.Sigmas.Input("sigmas"), io.Int.Input("step", default=0, min=0, max=10000)]
        outputs = [
            io.Sigmas.Output(display_name="high_sigmas"),
            io.Sigmas.Output(display_name="low_sigmas"),
        ]
        return schema("SplitSigmas", inputs, outputs)

    @classmethod
    def execute(cls, sigmas: Tensor, step: int) -> Any:
        return io.NodeOutput(sigmas[: step + 1].clone(), sigmas[step:].clone())


class FlipSigmas(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        return schema("FlipSigmas", [io.Sigmas.Input("sigmas")], [io.Sigmas.Output()])

    @classmethod
    def execute(cls, sigmas: Tensor) -> Any:
        flipped = sigmas.flip(0)
        if len(flipped) and flipped[0] == 0:
            flipped[0] = 1e-4  # as the core: a run cannot start at exactly 0
        return io.NodeOutput(flipped)


class LatentMultiply(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        inputs = [
            io.Latent.Input("samples"),
            io.Float.Input("multiplier", default=1.0, min=-10.0, max=10.0, step=0.01),
        ]
        return schema("LatentMultiply", inputs, [io.Latent.Output()])

    @classmethod
    def execute(cls, samples: Latent, multiplier: float) -> Any:
        return io.NodeOutput({**samples, "samples": samples["samples"] * multiplier})


class SolidMask(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        inputs = [
            io.Float.Input("value", default=1.0, min=0.0, max=1.0, step=0.01),
            io.Int.Input("width", default=512, min=1, max=16384, step=1),
            io.Int.Input("height", default=512, min=1, max=16384, step=1),
        ]
        return schema("SolidMask", inputs, [io.Mask.Output()], "Create Solid Mask")

    @classmethod
    def execute(cls, value: float, width: int, height: int) -> Any:
        return io.NodeOutput(torch.full((1, height, width), float(value)))


def _logical(function: Any) -> Any:
    return lambda a, b: function(a.round().bool(), b.round().bool()).float()


class MaskComposite(io.ComfyNode):
    operations: ClassVar[dict[str, Any]] = {
        "multiply": torch.mul,
        "add": torch.add,
        "subtract": torch.sub,
        "and": _logical(torch.logical_and),
        "or": _logical(torch.logical_or),
        "xor": _logical(torch.logical_xor),
    }

    @classmethod
    def define_schema(cls) -> Any:
        inputs = [
            io.Mask.Input("destination"),
            io.Mask.Input("source"),
            io.Int.Input("x", default=0, min=0, max=16384, step=1),
            io.Int.Input("y", default=0, min=0, max=16384, step=1),
            io.Combo.Input("operation", options=list(cls.operations)),
        ]
        return schema("MaskComposite", inputs, [io.Mask.Output()], "Combine Masks")

    @classmethod
    def execute(cls, destination: Tensor, source: Tensor, x: int, y: int, operation: str) -> Any:
        out = destination.reshape(-1, *destination.shape[-2:]).clone()
        there = out[:, y : y + source.shape[-2], x : x + source.shape[-1]]
        source = source.reshape(-1, *source.shape[-2:])[:, : there.shape[-2], : there.shape[-1]]
        there.copy_(cls.operations[operation](there, source))
        return io.NodeOutput(out.clamp(0, 1))


class SaveImage(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        inputs = [io.Image.Input("images"), io.String.Input("filename_prefix", default="ComfyUI")]
        outputs = [io.Image.Output("images")]
        return schema("SaveImage", inputs, outputs, "Save Image", is_output_node=True)

    @classmethod
    def validate_inputs(cls, filename_prefix: str = "ComfyUI") -> bool | str:
        return refusal(lambda: split_prefix(filename_prefix, current().output))

    @classmethod
    def execute(cls, images: Tensor, filename_prefix: str = "ComfyUI") -> Any:
        run = current()
        saved = save_images(images, filename_prefix, run.output, run.metadata)
        return io.NodeOutput(images, ui={"images": saved})


class PreviewImage(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        inputs = [io.Image.Input("images")]
        outputs = [io.Image.Output("images")]
        return schema("PreviewImage", inputs, outputs, "Preview Image", is_output_node=True)

    @classmethod
    def execute(cls, images: Tensor) -> Any:
        run = current()
        saved = save_images(images, "preview", run.temp, run.metadata, "temp")
        return io.NodeOutput(images, ui={"images": saved})


class PreviewAny(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        inputs, outputs = [io.AnyType.Input("source")], [io.String.Output()]
        return schema("PreviewAny", inputs, outputs, "Preview as Text", is_output_node=True)

    @classmethod
    def execute(cls, source: Any) -> Any:
        return io.NodeOutput(str(source), ui={"text": [str(source)]})


class LoadImage(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        inputs = [io.String.Input("image", default="")]
        return schema("LoadImage", inputs, [io.Image.Output(), io.Mask.Output()], "Load Image")

    @classmethod
    def fingerprint_inputs(cls, image: str = "") -> Any:
        return stamp(find_file(image, current().input))

    @classmethod
    def validate_inputs(cls, image: str = "") -> bool | str:
        return refusal(lambda: find_file(image, current().input))

    @classmethod
    def execute(cls, image: str) -> Any:
        return io.NodeOutput(*load_image(image, current().input))


def as_batch(images: Tensor) -> Tensor:
    """IMAGE [B·F, H, W, C]: the frames of videos one after the other."""
    return images.flatten(0, 1) if images.ndim == 5 else images


class VAEDecode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        inputs = [io.Latent.Input("samples"), io.Vae.Input("vae")]
        return schema("VAEDecode", inputs, [io.Image.Output()], "VAE Decode")

    @classmethod
    def execute(cls, samples: Latent, vae: Any) -> Any:
        return io.NodeOutput(as_batch(vae.decode(samples["samples"])))


class VAEEncode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        inputs = [io.Image.Input("pixels"), io.Vae.Input("vae")]
        return schema("VAEEncode", inputs, [io.Latent.Output()], "VAE Encode")

    @classmethod
    def execute(cls, pixels: Tensor, vae: Any) -> Any:
        return io.NodeOutput({"samples": vae.encode(pixels)})


def tile_inputs() -> list[Any]:
    """Lengths in pixels, and in frames where the VAE can cut a video."""
    return [
        io.Int.Input("tile_size", default=512, min=64, max=4096, step=32),
        io.Int.Input("overlap", default=64, min=0, max=4096, step=32),
        io.Int.Input("temporal_size", default=64, min=8, max=4096, step=4),
        io.Int.Input("temporal_overlap", default=8, min=4, max=4096, step=4),
    ]


class VAEDecodeTiled(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        inputs = [io.Latent.Input("samples"), io.Vae.Input("vae"), *tile_inputs()]
        return schema("VAEDecodeTiled", inputs, [io.Image.Output()], "VAE Decode (Tiled)")

    @classmethod
    def execute(
        cls, samples: Latent, vae: Any, tile_size: int, overlap: int, temporal_size: int, temporal_overlap: int
    ) -> Any:  # fmt: skip
        scale = vae.spacial_compression_decode()
        tile, overlap = tile_size // scale, min(overlap, tile_size // 4) // scale
        return io.NodeOutput(as_batch(vae.decode_tiled(samples["samples"], tile, tile, overlap)))


class VAEEncodeTiled(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        inputs = [io.Image.Input("pixels"), io.Vae.Input("vae"), *tile_inputs()]
        return schema("VAEEncodeTiled", inputs, [io.Latent.Output()], "VAE Encode (Tiled)")

    @classmethod
    def execute(
        cls, pixels: Tensor, vae: Any, tile_size: int, overlap: int, temporal_size: int, temporal_overlap: int
    ) -> Any:  # fmt: skip
        return io.NodeOutput({"samples": vae.encode_tiled(pixels, tile_size, tile_size, overlap)})


class SaveAnimatedWEBP(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        inputs = [
            io.Image.Input("images"),
            io.String.Input("filename_prefix", default="ComfyUI"),
            io.Float.Input("fps", default=6.0, min=0.01, max=1000.0, step=0.01),
            io.Boolean.Input("lossless", default=True),
            io.Int.Input("quality", default=80, min=0, max=100),
            io.Combo.Input("method", options=list(WEBP_METHODS)),
        ]
        outputs = [io.Image.Output("images")]
        return schema(
            "SaveAnimatedWEBP", inputs, outputs, "Save Animated WEBP", is_output_node=True
        )

    @classmethod
    def validate_inputs(cls, filename_prefix: str = "ComfyUI") -> bool | str:
        return refusal(lambda: split_prefix(filename_prefix, current().output))

    @classmethod
    def execute(
        cls, images: Tensor, filename_prefix: str, fps: float, lossless: bool, quality: int, method: str
    ) -> Any:  # fmt: skip
        run = current()
        how = dict(lossless=lossless, quality=quality, method=WEBP_METHODS[method])
        saved = save_animation(images, filename_prefix, run.output, run.metadata, fps, how)
        return io.NodeOutput(images, ui={"images": [saved], "animated": [True]})


CORE_NODES = (
    RandomNoise, DisableNoise, BasicGuider, CFGGuider, SamplerCustomAdvanced, SamplerCustom,
    SplitSigmas, FlipSigmas, LatentMultiply, SolidMask, MaskComposite, SaveImage, PreviewImage, PreviewAny, LoadImage,
    VAEDecode, VAEDecodeTiled, VAEEncode, VAEEncodeTiled, SaveAnimatedWEBP,
)  # fmt: skip
