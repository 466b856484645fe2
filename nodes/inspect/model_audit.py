"""Nodes that look at a MODEL: what it says about itself, and whether that is right."""

from __future__ import annotations

import json
from typing import Any

from torch import Tensor

from ...schedulers.measure import DTYPES, precision, prediction_type, spread
from ...schedulers.measure.model_facts import misfits
from ...schedulers.points import require_run
from ...schedulers.show import precision_plot
from .. import host
from ..host import io
from ..ui.payload import report_on_page

CATEGORY = "Sampling Kit/inspect"

_TEXT = io.String.Output(display_name="text", tooltip="For people; also shown by Preview as Text.")


def _json_output() -> Any:
    return io.String.Output(
        display_name="json", tooltip="The same for programs; finite numbers only."
    )


def _report(text: str, payload: Any = None, *pictures: Tensor) -> Any:
    """NodeOutput of ``pictures``, the text and the payload as JSON; the page gets pictures and text."""
    told = (text,) if payload is None else (text, json.dumps(payload, allow_nan=False))
    return io.NodeOutput(*pictures, *told, ui=report_on_page(text, *pictures))


class InspectDenoiser(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="SamplingKitInspectDenoiser",
            display_name="Inspect Denoiser",
            category=CATEGORY,
            description="What a MODEL is: prediction, path, σ range, zero terminal SNR, shift, dtypes, size. With SIGMAS it "
            "also says where steps and MODEL do not fit: wrong range, a shift applied twice, not ending at 0.",
            search_aliases=["model info", "model_sampling", "prediction type", "zsnr", "shift", "sigmas", "debug"],
            is_output_node=True,
            inputs=[
                io.Model.Input("model", tooltip="Any MODEL, with its patches."),
                io.Sigmas.Input("sigmas", optional=True, tooltip="The steps to run it with, to compare."),
            ],
            outputs=[_TEXT, _json_output()],
        )  # fmt: skip

    @classmethod
    def execute(cls, model: Any, sigmas: Tensor | None = None) -> Any:
        facts = host.models.facts_of(model)
        steps = None if sigmas is None else [float(s) for s in sigmas]
        return _report(facts.report(steps), facts.payload(steps))


_LATENT = "Latents of real pictures, in this MODEL's latent space (VAE Encode, Image to Latent)."
_POSITIVE = "The pictures' description. Models without text need none."


class CheckPredictionType(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="SamplingKitCheckPredictionType",
            display_name="Check Prediction Type",
            category=CATEGORY,
            description="Finds out what a network outputs (eps, v, x0, flow, edm, score): noises known latents at several σ, "
            "reads the raw output in every way, and reports which gives x0 back best and whether the MODEL says the same.",
            search_aliases=["v_prediction", "epsilon", "prediction type", "wrong colors", "noise image", "debug"],
            is_output_node=True,
            inputs=[
                io.Model.Input("model", tooltip="Any MODEL whose path and schedule are right."),
                io.Latent.Input("latent", tooltip=_LATENT),
                io.Conditioning.Input("positive", optional=True, tooltip=_POSITIVE),
                io.Int.Input("levels", default=6, min=2, max=50, tooltip="Noise levels tried, κ from 10 to 0.1; one network call each."),
                io.Int.Input("seed", default=0, min=0, max=0xFFFFFFFFFFFFFFFF, tooltip="Of the noise."),
            ],
            outputs=[_TEXT, _json_output()],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, model: Any, latent: dict[str, Any], positive: Any = None, levels: int = 6, seed: int = 0
    ) -> Any:  # fmt: skip
        facts = host.models.facts_of(model)

        def look(x0: Tensor, output: Any) -> prediction_type.Verdict:
            return prediction_type.check(
                output, x0, facts.schedule, facts.prediction, levels=levels, seed=seed,
                noise_scale=facts.noise_scale, notes=[f"WARNING: {w}" for w in misfits(facts)],
            )  # fmt: skip

        verdict = host.runs.probe(host.models.raw_output(model), positive, latent, look)
        return _report(verdict.text(), verdict.payload())


class PrecisionAudit(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="SamplingKitPrecisionAudit",
            display_name="Precision Audit",
            category=CATEGORY,
            description="What bf16 and fp16 cost with this MODEL: D against fp32 at several σ (largest and mean error, values "
            "that are NaN or infinite), where a short run ends, and what a solver state in the same dtype would add.",
            search_aliases=["bf16", "fp16", "fp32", "NaN", "black image", "overflow", "dtype", "debug"],
            is_output_node=True,
            inputs=[
                io.Model.Input("model", tooltip="Any MODEL."),
                io.Latent.Input("latent", tooltip=_LATENT),
                io.Conditioning.Input("positive", optional=True, tooltip=_POSITIVE),
                io.Sigmas.Input("sigmas", optional=True, tooltip="The run's steps. Default: `steps` of them, even in log σ, then 0."),
                io.Int.Input("levels", default=6, min=1, max=50, tooltip="Noise levels where D is compared, over the MODEL's range."),
                io.Int.Input("steps", default=8, min=1, max=200, tooltip="Euler steps of the run, if sigmas is not connected."),
                io.Int.Input("seed", default=0, min=0, max=0xFFFFFFFFFFFFFFFF, tooltip="Of the noise."),
            ],
            outputs=[io.Image.Output(display_name="plot", tooltip="The table as a picture."), _TEXT, _json_output()],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, model: Any, latent: dict[str, Any], positive: Any = None, sigmas: Tensor | None = None,
        levels: int = 6, steps: int = 8, seed: int = 0,
    ) -> Any:  # fmt: skip
        schedule = host.models.schedule_of(model)
        run = [*spread(schedule, steps), 0.0] if sigmas is None else [float(s) for s in sigmas]
        require_run(run)
        notes, models = [], {}
        for name, dtype in DTYPES.items():
            try:
                models[name] = host.models.in_dtype(model, dtype)
            except ValueError as error:
                notes.append(f"{name} left out: {error}")
        if precision.REFERENCE not in models or len(models) < 2:
            raise ValueError(f"model: nothing to compare. {' '.join(notes)}")

        def measured(name: str) -> precision.Measured:
            others = [n for n in models if n != name] if name == precision.REFERENCE else []
            return host.runs.probe(
                models[name], positive, latent,
                lambda x0, denoise: precision.measure(
                    denoise, x0, schedule, spread(schedule, levels), run,
                    seed=seed, noise_scale=host.models.noise_scale(model), rounded=others,
                ),
            )  # fmt: skip

        found = {name: measured(name) for name in models}
        result = precision.compare(found, len(run) - 1, notes)
        return _report(result.text(), result.payload(), precision_plot.plot(result))


NODES = (InspectDenoiser, CheckPredictionType, PrecisionAudit)
