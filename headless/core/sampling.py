"""Noise, guiders and samplers, as in ComfyUI's core."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...nodes.host.alone import io
from ...nodes.host.alone.guider import Guider
from ...nodes.host.alone.runs import make_guider
from ...nodes.host.alone.sampler import Sampler, solver_of
from ...nodes.host.alone.traced import untraced
from ...schedulers.denoiser.diffusers import lead
from ...schedulers.guidance import CFG, COND, UNCOND, Guidance
from ...schedulers.points import Points
from ...schedulers.solver import Solver
from ...schedulers.solver.base import host_plan
from ..context import current
from ..provenance import plan_digest
from .schema import Latent, schema

SEED_RANGE = dict(default=0, min=0, max=0xFFFFFFFFFFFFFFFF, control_after_generate=True)


@dataclass(eq=False)
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


class AddNoise(io.ComfyNode):
    """The state at the first of SIGMAS, or for more of them at the difference to the last."""

    @classmethod
    def define_schema(cls) -> Any:
        inputs = [
            io.Model.Input("model"),
            io.Noise.Input("noise"),
            io.Sigmas.Input("sigmas"),
            io.Latent.Input("latent_image"),
        ]
        return schema("AddNoise", inputs, [io.Latent.Output()])

    @classmethod
    def execute(cls, model: Any, noise: Any, sigmas: Tensor, latent_image: Latent) -> Any:
        if not len(sigmas):
            return io.NodeOutput(latent_image)
        level = float((sigmas[0] - sigmas[-1]).abs() if len(sigmas) > 1 else sigmas[0])
        at = Points.from_sigmas(model.schedule.path.host, [level])[0]
        x = at.alpha * model.latent_in(latent_image["samples"]) + at.sigma * noise.generate_noise(
            latent_image
        )
        return io.NodeOutput(
            {**latent_image, "samples": model.latents.to_vae(x).nan_to_num(0.0, 0.0, 0.0)}
        )


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


def described(sampler: Any, guider: Guider, levels: list[float]) -> dict[str, Any]:
    """The solver, its noise levels and the digest of its plan, for the saved picture."""
    solver, path = solver_of(untraced(sampler)), guider.model.schedule.path
    row: dict[str, Any] = dict(solver=repr(solver), sigmas=plan_digest([{"sigmas": levels}]))
    if isinstance(solver, Solver) and solver.planned and len(levels) > 1:
        row["plan"] = plan_digest(list(host_plan(solver, Points.from_sigmas(path, levels)).rows()))
    return row


def keep(guider: Guider, sampler: Any, levels: list[float]) -> None:
    """What a run counted, did and estimates of its error, kept with the graph that is going on."""
    context = current()
    if guider.run is not None:
        report = guider.run.report()
        context.tally.update({name: report[name] for name in ("evaluations", "network_calls")})
        context.errors.extend(filter(None, [guider.run.error]))
    context.plans.append(described(sampler, guider, levels))


def check_size(network: Any, x: Tensor) -> None:
    """Refuses x before noise of its size is drawn; on the meta device, so that a huge one costs nothing."""
    x, first = x.to("meta"), lead.lead_of(network, x)
    network.check(lead.repeated(x, first) if first else x)


def sample(
    noise: BatchNoise, guider: Guider, sampler: Sampler, sigmas: Tensor, latent: Latent
) -> tuple[Latent, Latent]:
    """(output, denoised output) of a run, reporting each step to the runner."""
    check_size(guider.model.inner, latent["samples"])
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
        latent.get("noise_mask"),
        callback=callback,
        seed=noise.seed,
    )
    keep(guider, sampler, sigmas.tolist())
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
