"""Start at Measured Noise: a noisy picture is the state of a run at the level of its noise, which the picture itself says."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ...schedulers.level_algebra import Start
from ...schedulers.measure.noise_level import NoiseLevel, noise_level
from ...schedulers.points import Points
from .. import host
from ..host import io
from ..ui.payload import report_on_page
from .level_algebra import CATEGORY, levels_of, tensor


class StartAtMeasuredNoise(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="SamplingKitStartAtMeasuredNoise",
            display_name="Start at Measured Noise",
            category=CATEGORY,
            description="Use it to clean noisy material, or for img2img of it: it measures the noise in a picture and gives the levels "
            "of a run that begins there, with the picture as it is and DisableNoise in place of new noise. White noise is measured, alike "
            "everywhere; a picture's finest texture counts as noise too. For a latent model the noise must lie in the latent: an encoder "
            "colours that of a picture, and the measure is then a guess.",
            search_aliases=["denoise", "restore", "noise level estimation", "grain", "img2img", "denoising", "film grain"],
            inputs=[
                io.Model.Input("model", tooltip="Says in which unit its latents are, and its noise schedule."),
                io.Latent.Input("latent", tooltip="The noisy picture; a batch begins at its mean level."),
                io.Sigmas.Input("sigmas", tooltip="The levels of a whole run, from Steps."),
                io.Float.Input(
                    "factor", default=1.0, min=0.1, max=10.0, step=0.05,
                    tooltip="Times the measured noise: above 1 takes away more, with detail; below 1 leaves some.",
                ),
                io.Boolean.Input(
                    "keep_steps", default=True, advanced=True,
                    tooltip="As many steps as in sigmas, closer together; off: those that lie below the start.",
                ),
            ],
            outputs=[
                io.Sigmas.Output(display_name="sigmas", tooltip="For SamplerCustomAdvanced, with DisableNoise."),
                io.Float.Output(display_name="sigma", tooltip="Where the run begins, as in SIGMAS."),
                io.String.Output(display_name="report", tooltip="The noise of each picture, with its error."),
            ],
            is_output_node=True,
        )  # fmt: skip

    @classmethod
    def execute(
        cls, model: Any, latent: dict[str, Any], sigmas: Tensor, factor: float = 1.0, keep_steps: bool = True
    ) -> Any:  # fmt: skip
        samples = latent["samples"]
        if getattr(samples, "is_nested", False):
            raise ValueError(
                "latent: noise is measured in one kind of latent, this one has several parts (video and its sound)"
            )
        levels = levels_of(sigmas)
        found = noise_level(host.models.latent_space(model)[1](samples))
        schedule = host.models.schedule_of(model)
        kappa = factor * found.mean / host.models.noise_scale(model)
        (sigma,) = Points(schedule.path, (kappa,)).sigmas()
        if not levels or not min((s for s in levels if s > 0), default=sigma) < sigma < levels[0]:
            raise ValueError(
                f"latent: the noise measured is {_in_words(found)}, that is σ = {sigma:.4g}, and sigmas has the levels "
                f"{_range(levels)}: {_way_out(sigma, levels)}"
            )
        begun = Start(start=sigma, keep_steps=keep_steps).of(levels)
        report = report_of(found, sigma, factor, len(begun) - 1)
        return io.NodeOutput(tensor(begun), sigma, report, ui=report_on_page(report))


def _range(levels: tuple[float, ...]) -> str:
    above = [s for s in levels if s > 0]
    return f"{above[0]:.4g} to {above[-1]:.4g}" if above else "none above 0"


def _way_out(sigma: float, levels: tuple[float, ...]) -> str:
    if levels and sigma >= levels[0]:
        return "there is nothing left of the picture to begin with; use a smaller factor"
    return "it is clean enough for this model; to change it all the same, use denoise in Steps"


def _in_words(found: NoiseLevel) -> str:
    return f"{found.mean:.4g} ± {found.mean_error:.2g}"


def report_of(found: NoiseLevel, sigma: float, factor: float, steps: int) -> str:
    """A line for the run, and for a batch one for each picture."""
    times = "" if factor == 1 else f" × {factor:g}"
    first = f"noise {_in_words(found)}{times}: the run begins at σ = {sigma:.4g}, {steps} steps"
    if len(found.std) == 1:
        return first
    rows = zip(found.std.tolist(), found.error.tolist(), strict=True)
    return "\n".join(
        [first, *(f"picture {k}: {s:.4g} ± {e:.2g}" for k, (s, e) in enumerate(rows, 1))]
    )


NODES = (StartAtMeasuredNoise,)
