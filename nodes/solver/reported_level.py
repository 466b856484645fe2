"""A SAMPLER that tells the model another noise level than the state's."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from torch import Tensor

from ...schedulers.points import require_run
from ...schedulers.reported_level import ReportedLevel
from .. import host
from ..host import io
from ..ui.inputs import inputs_for, summary
from .state import CATEGORY


class ReportedLevelNode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="SamplingKitReportedLevel",
            display_name="Reported Level",
            category=CATEGORY,
            description=summary(
                ReportedLevel,
                "Less reported noise in the middle of a run leaves more detail. Steps, masks and guidance rules stay those of "
                "σ. Goes around any SAMPLER, Keep State and Resume State too; in a run in parts every part gets the SIGMAS of "
                "the whole run here.",
            ),
            search_aliases=list(ReportedLevel.aliases),
            inputs=[
                io.Sampler.Input("sampler", tooltip="Any SAMPLER; Keep State and Resume State go inside."),
                io.Sigmas.Input("sigmas", tooltip="Of the whole run; progress is counted over its steps."),
                *inputs_for(ReportedLevel),
            ],
            outputs=[io.Sampler.Output(display_name="sampler", tooltip="For SamplerCustomAdvanced.")],
        )  # fmt: skip

    @classmethod
    def execute(cls, sampler: Any, sigmas: Tensor, **settings: Any) -> Any:
        require_run(sigmas)
        levels = tuple(sigmas.tolist())
        if not all(a > b for a, b in pairwise(levels)):
            raise ValueError("sigmas: Reported Level is for runs whose noise levels fall")
        reported = ReportedLevel(**settings)
        return io.NodeOutput(host.runs.reported(sampler, lambda sigma: reported.at(sigma, levels)))


NODES = (ReportedLevelNode,)
