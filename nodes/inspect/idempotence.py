"""One-step generators that leave their own results as they are: the solver that repeats them, and the check."""

from __future__ import annotations

import json
from typing import Any

from torch import Tensor

from ...schedulers.measure import plain
from ...schedulers.points import Points
from ...schedulers.solver import Idempotent, Run
from ...schedulers.text_table import text_table
from .. import host
from ..host import io
from ..solver.solvers import solver_node
from ..ui.payload import report_on_page
from .difference import CATEGORY


class Idempotence(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="SamplingKitIdempotence",
            display_name="Idempotence",
            category=CATEGORY,
            description="Applies f = D(·, σ) to a LATENT again and again, and reports the residual ‖f(x) − x‖ (root mean "
            "square per value) before each application: 0 for pictures that f leaves as they are. For the result of "
            "a one-step generator f(z) the first number is ‖f(f(z)) − f(z)‖, what an idempotent generative network is "
            "trained to make 0 (Shocher et al. 2023, arXiv 2311.01462); for real pictures it is ‖f(x) − x‖, which it "
            "is trained to make 0 as well.",
            search_aliases=["IGN", "idempotent", "fixed point", "residual", "projection", "one-step generator"],
            is_output_node=True,
            inputs=[
                io.MultiType.Input("model", types=[io.Model, io.Guider], tooltip="The generator, as MODEL or GUIDER."),
                io.Latent.Input("latent", tooltip="x: pictures, or what the Idempotent Solver gave."),
                io.Float.Input(
                    "sigma", default=0.1, min=0.0001, max=1000.0, step=0.01, round=False,
                    tooltip="The noise level f is told, as SIGMAS shows it; a one-step generator's own, often its largest.",
                ),
                io.Int.Input("repeats", default=3, min=1, max=1000, tooltip="Applications; one network call each."),
            ],
            outputs=[
                io.Float.Output(display_name="residual", tooltip="‖f(x) − x‖ of the LATENT that came in, the mean of the batch."),
                io.String.Output(display_name="text", tooltip="A line per application; also shown by Preview as Text."),
                io.String.Output(display_name="json", tooltip="Image by image; finite numbers only."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, model: Any, latent: dict[str, Any], sigma: float = 0.1, repeats: int = 3
    ) -> Any:
        points = Points.from_sigmas(
            host.models.schedule_of(host.runs.model_of(model)).path, [sigma, 0.0]
        ).host

        def look(x0: Tensor, denoise: Any) -> list[list[float]]:
            return Idempotent(repeats).residuals(points, Run(denoise), x0)

        found = host.runs.probe(model, None, latent, look)
        rows = [(f"{k}", sum(row) / len(row), max(row)) for k, row in enumerate(found, 1)]
        text = text_table(("application", "‖f(x) − x‖", "largest of the batch"), rows)
        told = json.dumps(plain({"sigma": sigma, "residuals": found}), allow_nan=False)
        return io.NodeOutput(rows[0][1], text, told, ui=report_on_page(text))


NODES = (solver_node(Idempotent), Idempotence)
