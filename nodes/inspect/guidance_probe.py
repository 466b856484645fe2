"""Looking at guidance during a run: one node marks a GUIDER, the other shows what its last run reported."""

from __future__ import annotations

import json
from typing import Any

from ...schedulers.measure import guidance_report, plain
from ...schedulers.show import guidance_plot
from .. import host
from ..host import io
from ..ui.payload import report_on_page
from ..ui.wire_types import GuidanceReportType

CATEGORY = "Sampling Kit/inspect"


class LastRun:
    """Holds the report of a guider's last run; the one thing on a wire here that changes."""

    report: dict[str, Any] | None = None

    def put(self, report: dict[str, Any]) -> None:
        """What a Guider calls at the end of a run."""
        self.report = report


class GuidanceProbe(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="SamplingKitGuidanceProbe",
            display_name="Guidance Probe",
            category=CATEGORY,
            description="Makes a GUIDER keep, at every evaluation, how far apart the conditional and the unconditional "
            "prediction are, their cosine, the weight that the whole chain amounts to, and which network calls were "
            "made and skipped. Guidance Report shows it after the run. The result of the run is the same; no extra "
            "network call. Use one probe for one sampler.",
            search_aliases=["debug guidance", "network calls", "NFE", "CFG strength", "inspect", "trace"],
            inputs=[io.Guider.Input("guider", tooltip="From the Guider of this pack.")],
            outputs=[
                io.Guider.Output(display_name="guider", tooltip="For SamplerCustomAdvanced."),
                GuidanceReportType.Output(display_name="report", tooltip="For Guidance Report."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, guider: Any) -> Any:
        holder = LastRun()
        return io.NodeOutput(host.runs.probed(guider, holder), holder)


class GuidanceReport(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="SamplingKitGuidanceReport",
            display_name="Guidance Report",
            category=CATEGORY,
            description="What guidance did during a run: ‖Δ‖, cos(D_c, D_u), effective weight, network calls made and "
            "saved, as plot, table and JSON. The weight is ⟨D − D_u, Δ⟩/‖Δ‖² with Δ = D_c − D_u: CFG's scale for CFG. "
            "Grey lines are the images, the blue line their mean.",
            search_aliases=["guidance plot", "network calls", "NFE", "CFG strength", "inspect", "trace"],
            inputs=[
                GuidanceReportType.Input("report", tooltip="From Guidance Probe."),
                io.Latent.Input("latent", tooltip="The result of the probed run; only so that the run comes first."),
            ],
            outputs=[
                io.Image.Output(display_name="plot", tooltip="What the rules did, step by step."),
                io.String.Output(display_name="text", tooltip="Totals and one row per evaluation; also shown by Preview as Text."),
                io.String.Output(display_name="json", tooltip="The same for programs, image by image; finite numbers only."),
            ],
            is_output_node=True,
        )  # fmt: skip

    @classmethod
    def execute(cls, report: Any, latent: Any) -> Any:
        if not isinstance(report, LastRun):
            raise TypeError(
                f"report: expected the report of a Guidance Probe, got {type(report).__name__}"
            )
        if report.report is None:
            raise ValueError(
                "report: the probed GUIDER has not run; connect Guidance Probe's guider to the sampler and the "
                "sampler's LATENT to this node"
            )
        text = guidance_report.text(report.report)
        told = json.dumps(plain(report.report), allow_nan=False)
        plot = guidance_plot.plot(report.report)
        return io.NodeOutput(plot, text, told, ui=report_on_page(text, plot))


NODES = (GuidanceProbe, GuidanceReport)
