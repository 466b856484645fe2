"""Schedule nodes: NOISE_SCHEDULE and SIGMAS."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from ...schedulers import noise_schedule, spacing
from ...schedulers.measure.run_levels import Run
from ...schedulers.policy import Auto
from ...schedulers.size_shift import SizedFlow
from .. import host
from ..host import io
from ..ui.inputs import choice, chosen, inputs_for
from ..ui.live_route import bounded, show_live
from ..ui.payload import levels_on_page
from ..ui.remembered import schedule_on_page
from ..ui.search_words import CHINESE, SCHEDULERS, once
from ..ui.wire_types import NoiseScheduleType

CATEGORY = "Sampling Kit/schedule"
ENDS = spacing.ENDS
WHOLE = spacing.WholeRange()
SPACINGS: dict[str, type[spacing.Spacing]] = {**spacing.ALL, "auto": Auto}


class NoiseSchedule(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="SamplingKitNoiseSchedule",
            display_name="Noise Schedule",
            category=CATEGORY,
            description=(
                "How data and noise are mixed, x = α·x0 + σ·ε, and which noise levels a network knows: VP tables "
                "(DDPM, Stable Diffusion, cosine), continuous VP and sub-VP, VE (EDM), rectified flow."
            ),
            search_aliases=sorted(
                {a for s in noise_schedule.ALL.values() for a in s.aliases} | {"scheduler", "betas"}
            ),
            inputs=[choice("kind", noise_schedule.ALL, "The path and its training table.")],
            outputs=[
                NoiseScheduleType.Output(
                    display_name="noise_schedule", tooltip="For Steps and Embedded Denoiser."
                )
            ],
        )

    @classmethod
    def execute(cls, kind: dict[str, Any] | None = None) -> Any:
        return io.NodeOutput(cls.schedule(kind))

    @classmethod
    def schedule(cls, kind: dict[str, Any] | None = None) -> noise_schedule.NoiseSchedule:
        return chosen("kind", noise_schedule.ALL, kind)


class NoiseScheduleFromModel(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="SamplingKitNoiseScheduleFromModel",
            display_name="Noise Schedule from Model",
            category=CATEGORY,
            description="Reads path, training table and range from any MODEL, with the shifts patched onto it.",
            search_aliases=["model_sampling", "scheduler", "sigma range"],
            inputs=[
                io.Model.Input("model", tooltip="Native ComfyUI models and the kit's own."),
                io.Latent.Input(
                    "latent",
                    optional=True,
                    tooltip="What will be sampled. Then MODELs whose shift grows with the size of the picture (Flux, LTX) get the "
                    "shift for this size, in place of the one they were loaded or patched with.",
                ),
            ],
            outputs=[
                NoiseScheduleType.Output(
                    display_name="noise_schedule", tooltip="For Steps and Embedded Denoiser."
                )
            ],
        )

    @classmethod
    def execute(cls, model: Any, latent: dict[str, Any] | None = None) -> Any:
        schedule, sized = host.models.schedule_of(model), host.models.sized_flow(model)
        if latent is not None and sized is not None:
            schedule = sized.for_latent(tuple(latent["samples"].shape[1:]))
        return io.NodeOutput(schedule, ui=schedule_on_page(schedule))


class Steps(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="SamplingKitSteps",
            display_name="Steps",
            category=CATEGORY,
            description="The noise levels a run visits, as SIGMAS: always exactly the number of steps asked for, "
            "strictly falling, and ending at exactly 0 unless told otherwise.",
            search_aliases=once(
                [
                    *sorted({a for s in SPACINGS.values() for a in s.aliases} | {"scheduler", "sigmas", "timesteps"}),
                    "denoise", "img2img", *SCHEDULERS, *CHINESE["Steps"],
                ]
            ),
            inputs=[
                NoiseScheduleType.Input("noise_schedule", tooltip="From Noise Schedule, or Noise Schedule from Model."),
                io.Int.Input("steps", default=20, min=1, max=10000, tooltip="Steps that are really taken."),
                choice("spacing", SPACINGS, "How the levels are spread over the schedule."),
                io.Float.Input(
                    "denoise", default=1.0, min=0.01, max=1.0, step=0.01, round=False,
                    tooltip="Below 1 start lower, for img2img: the last `steps` of steps/denoise. The number of steps stays.",
                ),
                io.Combo.Input(
                    "final", options=list(spacing.FINAL), default="zero", advanced=True,
                    tooltip="End at exactly 0 (the result is a prediction of x0), or at the schedule's smallest level.",
                ),
                io.Latent.Input(
                    "latent", optional=True,
                    tooltip="What will be sampled. For schedules whose shift grows with the size of the picture (folders of Flux, "
                    "SD3.5, LTX), and for ends and spacings that go by it (rule, auto); others do not need it.",
                ),
                choice(
                    "ends", ENDS,
                    "Where the levels begin, and which is the last above 0. A run that begins below the schedule's largest level "
                    "starts there from pure noise. With few steps a narrower range errs less.", optional=True,
                ),
            ],
            outputs=[io.Sigmas.Output(display_name="sigmas", tooltip="For SamplerCustomAdvanced.")],
        )  # fmt: skip

    @classmethod
    def execute(cls, **given: Any) -> Any:
        return _sigmas(cls.run(**given))

    @classmethod
    def run(
        cls,
        noise_schedule: Any,
        steps: int,
        spacing: dict[str, Any] | None = None,
        denoise: float = 1.0,
        final: str = "zero",
        latent: dict[str, Any] | None = None,
        ends: dict[str, Any] | None = None,
    ) -> Run:
        """The noise levels. Raises ValueError where they do not fit the schedule."""
        kind = chosen("spacing", SPACINGS, spacing)
        between = chosen("ends", ENDS, ends) if ends else WHOLE
        if latent is not None:
            shape = tuple(latent["samples"].shape[1:])
            kind, between = _of_size(kind, shape), _of_size(between, shape)
            if isinstance(noise_schedule, SizedFlow):
                noise_schedule = noise_schedule.for_latent(shape)
        return _space(noise_schedule, steps, kind, denoise, final, between)


class ScheduleEditor(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="SamplingKitScheduleEditor",
            display_name="Schedule Editor",
            category=CATEGORY,
            description="Noise levels from a curve that you draw: height against progress through the run, always falling. "
            "Drag its points, or move them with the arrow keys; Enter or a double click adds one, Delete removes it. The text "
            "is the same curve for copying, versioning and runs without the page.",
            search_aliases=["curve", "draw", "sigma graph", "sigma editor", "custom sigmas", "spline", "sigmas"],
            inputs=[
                NoiseScheduleType.Input("noise_schedule", tooltip="From Noise Schedule, or Noise Schedule from Model."),
                io.Int.Input("steps", default=20, min=1, max=10000, tooltip="Steps that are really taken."),
                *inputs_for(spacing.Drawn),
                io.Combo.Input(
                    "final", options=list(spacing.FINAL), default="zero", advanced=True, optional=True,
                    tooltip="End at exactly 0 (the result is a prediction of x0), or at the curve's last level.",
                ),
            ],
            outputs=[io.Sigmas.Output(display_name="sigmas", tooltip="For SamplerCustomAdvanced.")],
        )  # fmt: skip

    @classmethod
    def execute(cls, **given: Any) -> Any:
        return _sigmas(cls.run(**given))

    @classmethod
    def run(cls, noise_schedule: Any, steps: int, final: str = "zero", **drawn: Any) -> Run:
        """The noise levels."""
        return _space(noise_schedule, steps, spacing.Drawn(**drawn), 1.0, final)


def _space(
    schedule: Any,
    steps: int,
    kind: spacing.Spacing,
    denoise: float,
    final: str,
    ends: spacing.Ends | None = None,
) -> Run:
    if not isinstance(schedule, noise_schedule.NoiseSchedule):
        raise TypeError(f"noise_schedule: expected a NOISE_SCHEDULE, got {type(schedule).__name__}")
    points = spacing.space(schedule, steps, kind, denoise=denoise, final=final, ends=ends)
    return Run(points, schedule, f"{kind.title}, {len(points) - 1}")


def _of_size(settings: Any, shape: tuple[int, ...]) -> Any:
    """A spacing or ends, with the side of a latent of ``shape`` [C, …, H, W] where they go by it."""
    if not hasattr(settings, "side"):
        return settings
    return replace(settings, side=spacing.side_of(shape))


def _sigmas(run: Run) -> Any:
    sigmas = torch.tensor(run.points.sigmas(), dtype=torch.float32)
    return io.NodeOutput(sigmas, ui=levels_on_page([run]))


NODES = (NoiseSchedule, NoiseScheduleFromModel, Steps, ScheduleEditor)

show_live("SamplingKitNoiseSchedule", NoiseSchedule, NoiseSchedule.schedule)
show_live("SamplingKitSteps", Steps, bounded(Steps.run))
show_live("SamplingKitScheduleEditor", ScheduleEditor, bounded(ScheduleEditor.run))
