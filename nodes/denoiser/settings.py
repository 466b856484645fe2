"""The node that changes what a MODEL says about itself."""

from __future__ import annotations

from typing import Any

from ...schedulers.measure.compute_dtype import ASKED
from ...schedulers.noise_schedule import NoiseSchedule
from ...schedulers.prediction import KINDS
from .. import host
from ..host import io
from ..ui.payload import report_on_page
from ..ui.wire_types import NoiseScheduleType

CATEGORY = "Sampling Kit/denoiser"
AS_LOADED = "as loaded"


class DenoiserSettings(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="SamplingKitDenoiserSettings",
            display_name="Denoiser Settings",
            category=CATEGORY,
            description="Corrects what a MODEL says about itself: the prediction and noise schedule of a mislabelled "
            "checkpoint, and the dtype its network computes in. The MODEL that comes in stays as it is. The solver's "
            "state and the time stay float32. Weights stored or trained in bf16 are not run in fp16, where they overflow.",
            search_aliases=[
                "ModelSamplingDiscrete", "v_prediction", "zsnr", "model precision", "dtype", "bf16", "fp16", "compute dtype",
            ],
            inputs=[
                io.Model.Input("model", tooltip="Any MODEL."),
                io.Combo.Input(
                    "prediction", options=[AS_LOADED, *KINDS], default=AS_LOADED,
                    tooltip="What the network outputs. Check Prediction Type finds it.",
                ),
                io.Combo.Input(
                    "compute_dtype", options=[*ASKED, AS_LOADED], default="auto",
                    tooltip="auto: the dtype of the weights if this kind of model and this device are good at it, and the text "
                    "says why. as loaded: what ComfyUI chose; undoes a setting before it.",
                ),
                NoiseScheduleType.Input(
                    "noise_schedule", optional=True, tooltip="The schedule it was trained with. Unconnected: as loaded."
                ),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="A patched clone."),
                io.String.Output(display_name="text", tooltip="What was set, and why."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(
        cls,
        model: Any,
        prediction: str = AS_LOADED,
        compute_dtype: str = "auto",
        noise_schedule: Any = None,
    ) -> Any:
        if prediction not in (AS_LOADED, *KINDS):
            raise ValueError(
                f"prediction = {prediction!r}: choose one of {', '.join((AS_LOADED, *KINDS))}"
            )
        if noise_schedule is not None and not isinstance(noise_schedule, NoiseSchedule):
            raise TypeError(
                f"noise_schedule: expected a NOISE_SCHEDULE, got {type(noise_schedule).__name__}"
            )
        kind = None if prediction == AS_LOADED else prediction
        changed = host.models.relabelled(model, kind, noise_schedule)
        changed, why = _set_dtype(changed, compute_dtype)
        facts = host.models.facts_of(changed)
        lines = [
            f"prediction: {facts.prediction}" + (" (as loaded)" if kind is None else ""),
            f"noise schedule: {facts.schedule_name} on {facts.schedule.path.name}"
            + (" (as loaded)" if noise_schedule is None else ""),
            f"compute dtype: {why}",
            "solver state and time: fp32",
        ]
        text = "\n".join(lines)
        return io.NodeOutput(changed, text, ui=report_on_page(text))


def _set_dtype(model: Any, asked: str) -> tuple[Any, str]:
    """The MODEL computing as asked, and the reason."""
    if asked == AS_LOADED:
        return host.models.in_dtype(model, None), AS_LOADED
    choice = host.models.compute_choice(model, asked)
    if choice.dtype == host.models.facts_of(model).compute:
        return model, choice.why
    return host.models.in_dtype(model, choice.dtype), choice.why


NODES = (DenoiserSettings,)
