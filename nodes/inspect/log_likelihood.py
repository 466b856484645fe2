"""How likely a MODEL finds given pictures."""

from __future__ import annotations

import json
from typing import Any

from torch import Tensor

from ...schedulers.guidance import COND, Guidance
from ...schedulers.measure import plain
from ...schedulers.measure.likelihood import LogLikelihood, Measured
from .. import host
from ..host import io
from ..ui.inputs import inputs_for, summary
from ..ui.payload import report_on_page
from .difference import CATEGORY


class LogLikelihoodNode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="SamplingKitLogLikelihood",
            display_name="Log-Likelihood",
            category=CATEGORY,
            description=summary(
                LogLikelihood,
                "log p(x) = log N(x_T) + ∫ (d − tr ∂D/∂x) d log σ, from the picture up to noise. With the error of the "
                "estimate and of the steps. Text and JSON are per picture. Fewer bits: more likely.",
                "Chen et al. 2018 (arXiv 1806.07366), Song et al. 2021 (arXiv 2011.13456).",
            ),
            search_aliases=["bits per dimension", "bpd", "NLL", "CNF", "continuous normalizing flow", "density", "FFJORD", "Hutchinson"],
            is_output_node=True,
            inputs=[
                io.MultiType.Input(
                    "model", types=[io.Model, io.Guider],
                    tooltip="A MODEL, or a GUIDER for its guided D, whose density is that of no model at scale ≠ 1.",
                ),
                io.Latent.Input("latent", tooltip="The pictures, in this MODEL's latent space (VAE Encode, Image to Latent)."),
                io.Sigmas.Input("sigmas", tooltip="The steps, as for sampling: from the largest level of the MODEL to 0. 30 even in log σ do."),
                io.Conditioning.Input("positive", optional=True, tooltip="log p(x | this) in place of log p(x). Not for a GUIDER, which has its own."),
                *inputs_for(LogLikelihood),
            ],
            outputs=[
                io.Float.Output(display_name="bits", tooltip="Bits per dimension, the mean of the batch."),
                io.String.Output(display_name="text", tooltip="One line per picture; also shown by Preview as Text."),
                io.String.Output(display_name="json", tooltip="The same for programs; finite numbers only."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, model: Any, latent: dict[str, Any], sigmas: Tensor, positive: Any = None, **knobs: Any
    ) -> Any:
        settings, plain_model = LogLikelihood(**knobs), host.runs.model_of(model)
        schedule = host.models.schedule_of(plain_model)
        if plain_model is model:
            model = host.runs.make_guider(model, {COND: positive or [[None, {}]]}, Guidance())
        elif positive is not None:
            raise ValueError(
                "positive: a GUIDER has its own conditions; connect a MODEL, or leave positive open"
            )

        def look(x0: Tensor, denoise: Any) -> Measured:
            return settings.measure(
                denoise,
                x0,
                schedule.path,
                [float(s) for s in sigmas],
                host.models.noise_scale(plain_model),
            )

        found = host.runs.probe(model, None, latent, look)
        text, told = found.text(), json.dumps(plain(found.payload()), allow_nan=False)
        return io.NodeOutput(sum(found.bits) / len(found.bits), text, told, ui=report_on_page(text))


NODES = (LogLikelihoodNode,)
