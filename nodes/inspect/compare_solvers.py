"""Several solvers on the same noise, side by side."""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import Tensor

from ...schedulers.measure import compare_solvers as compare
from ...schedulers.measure.trace import Trace
from ...schedulers.points import require_run
from ...schedulers.show import convergence_plot
from ...schedulers.show.style import written
from ...schedulers.solver import UniPC
from .. import host
from ..guidance.rules import numbered
from ..host import io
from ..host.trace_watch import Watch
from ..ui.payload import report_on_page

CATEGORY = "Sampling Kit/inspect"
MOST = 20  # runs
RUNS = ("all", "pairs")
REFERENCE = UniPC(max_order=3)


class CompareSolvers(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        grow = io.Autogrow
        sampler = io.Sampler.Input("sampler", tooltip="Any SAMPLER.")
        sigmas = io.Sigmas.Input("sigmas", tooltip="Noise levels to run on.")
        return io.Schema(
            node_id="SamplingKitCompareSolvers",
            display_name="Compare Solvers",
            category=CATEGORY,
            description="Runs SAMPLERs on SIGMAS, all from the same noise with one GUIDER: a labelled sheet of what each drew, its "
            "distance from a reference run against evaluations and against time, and the numbers. "
            "The reference runs first, so that times are those of a model that is warm. SIGMAS whose last positive level is "
            "higher than the reference's differ from it by their last step, whatever the solver.",
            search_aliases=["benchmark", "grid", "contact sheet", "XY plot", "convergence", "NFE", "which sampler", "speed"],
            inputs=[
                io.Noise.Input("noise", tooltip="The same for every run."),
                io.Guider.Input("guider", tooltip="What every run samples from."),
                io.Latent.Input("latent_image", tooltip="Empty, or a picture to start from."),
                grow.Input("samplers", template=grow.TemplatePrefix(sampler, prefix="sampler", min=1, max=MOST), tooltip="What to compare."),
                grow.Input("sigmas", template=grow.TemplatePrefix(sigmas, prefix="sigmas", min=1, max=MOST), tooltip="On which noise levels."),
                io.Combo.Input(
                    "runs", options=list(RUNS), default=RUNS[0], optional=True,
                    tooltip="all: every sampler on every SIGMAS. pairs: sampler 0 on sigmas 0 and so on; where there are fewer of "
                    "one, its last serves for the rest.",
                ),
                io.String.Input(
                    "names", default="", multiline=True, optional=True,
                    tooltip="Names for the runs, one per line, sampler by sampler; empty: what each sampler is called. Runs of one name are one line of the plot.",
                ),
                io.Int.Input(
                    "reference_steps", default=100, min=0, max=10000, optional=True,
                    tooltip="Steps of the reference: UniPC of order 3 on the finest SIGMAS, each step divided. 0: no reference.",
                ),
                io.Int.Input("images", default=4, min=1, max=64, optional=True, tooltip="Pictures per run on the sheet."),
                io.Sampler.Input("reference_sampler", optional=True, tooltip="For the reference in place of UniPC."),
                io.Sigmas.Input("reference_sigmas", optional=True, tooltip="For the reference, as they are."),
                io.Vae.Input("vae", optional=True, tooltip="To see latents as it decodes them."),
            ],
            outputs=[
                io.Image.Output(display_name="sheet", tooltip="A row of pictures per run, labelled."),
                io.Image.Output(display_name="plot", tooltip="Lower and further left is better. Without a reference: the table."),
                io.String.Output(display_name="text", tooltip="The table; also shown by Preview as Text."),
                io.String.Output(display_name="json", tooltip="The same for programs, with errors image by image."),
            ],
            is_output_node=True,
        )  # fmt: skip

    @classmethod
    def execute(
        cls, noise: Any, guider: Any, latent_image: dict[str, Any], samplers: dict[str, Any], sigmas: dict[str, Any],
        runs: str = "all", names: str = "", reference_steps: int = 100, images: int = 4, reference_sampler: Any = None,
        reference_sigmas: Tensor | None = None, vae: Any = None,
    ) -> Any:  # fmt: skip
        wanted = combined(ordered(samplers, "sampler"), ordered(sigmas, "sigmas"), runs)
        if reference_sigmas is not None:
            require_run(reference_sigmas, "reference_sigmas")
        called = named(names, [sampler for sampler, _ in wanted])

        def run(sampler: Any, levels: Tensor) -> Trace:
            watch = Watch(sampler)
            host.runs.run_sampler(
                noise, guider, host.runs.traced(sampler, watch), levels, latent_image
            )
            return watch.get("Compare Solvers")

        reference = None
        if reference_steps or reference_sigmas is not None:
            sampler = (
                host.runs.make_sampler(REFERENCE)
                if reference_sampler is None
                else reference_sampler
            )
            if reference_sigmas is None:
                finest = max((levels for _, levels in wanted), key=len).tolist()
                levels = compare.refined(host.runs.path_of(guider), finest, reference_steps)
                reference_sigmas = torch.tensor(levels)
            reference = compare.Entry(
                host.runs.sampler_name(sampler), run(sampler, reference_sigmas)
            )
        against = reference.trace if reference else None
        entries = [
            compare.entry(name, run(*pair), against)
            for name, pair in zip(called, wanted, strict=True)
        ]
        text = compare.text(entries, reference)
        facts = dict(runs=[e.facts() for e in entries], reference=reference and reference.facts())
        told = json.dumps(facts, allow_nan=False)
        decode = None if vae is None else vae.decode
        pictures = convergence_plot.contact(entries, reference, images, decode)
        plot = convergence_plot.plot(entries) if reference else written(text)
        return io.NodeOutput(pictures, plot, text, told, ui=report_on_page(text, pictures, plot))


def ordered(given: dict[str, Any], prefix: str) -> list[Any]:
    """The connected inputs of an Autogrow, in order."""
    there = numbered(given, prefix)
    return [there[i] for i in sorted(there)]


def combined(samplers: list[Any], sigmas: list[Tensor], runs: str) -> list[tuple[Any, Tensor]]:
    """(SAMPLER, SIGMAS) of every run. Raises ValueError for nothing to run, or SIGMAS without a step."""
    if not (samplers and sigmas):
        raise ValueError("samplers, sigmas: connect at least one of each")
    for i, levels in enumerate(sigmas):
        require_run(levels, f"sigmas{i}")
    if runs == RUNS[0]:
        return [(sampler, levels) for sampler in samplers for levels in sigmas]
    count = max(len(samplers), len(sigmas))
    return [
        (samplers[min(i, len(samplers) - 1)], sigmas[min(i, len(sigmas) - 1)]) for i in range(count)
    ]


def named(names: str, samplers: list[Any]) -> list[str]:
    """A name for every run. Raises ValueError for more names than runs."""
    given = [line.strip() for line in names.rstrip().split("\n")] if names.strip() else []
    if len(given) > len(samplers):
        raise ValueError(f"names: {len(given)} lines for {len(samplers)} runs")
    given += [""] * (len(samplers) - len(given))
    return [
        name or host.runs.sampler_name(sampler)
        for name, sampler in zip(given, samplers, strict=True)
    ]


NODES = (CompareSolvers,)
