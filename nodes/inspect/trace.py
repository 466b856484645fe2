"""Looking into a run: one node records a SAMPLER's runs, one shows what was recorded, one goes on from any step."""

from __future__ import annotations

import json
from typing import Any

import torch

from ...schedulers.measure.trace import MEBI, Trace
from ...schedulers.show import film, trace_curves, trace_page
from ...schedulers.solver import Solver
from ...schedulers.split import Handover, Part
from .. import host
from ..host import io
from ..host.trace_watch import Watch
from ..ui.wire_types import TraceType

CATEGORY = "Sampling Kit/inspect"
ERRORS = ("embedded", "step doubling")
AFTER = "The result of the traced run; so that the run comes first."


class TraceNode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="SamplingKitTrace",
            display_name="Trace",
            category=CATEGORY,
            description="Records the runs of any SAMPLER, ours or ComfyUI's own: states and predictions, norms, how far guidance "
            "reaches, curvature, local error, time and evaluations of every step. Show Trace shows them after the run, Replay "
            "goes on from any step. The result of the run is the same bit for bit. One Trace per sampler node: the trace "
            "on the wire is that of the last run.",
            search_aliases=["debug sampler", "preview steps", "intermediate", "trajectory", "NFE", "profile", "history"],
            inputs=[
                io.Sampler.Input("sampler", tooltip="Any SAMPLER."),
                io.Int.Input(
                    "memory", default=512, min=0, max=1 << 20,
                    tooltip="MiB of CPU memory for states. Where they do not fit, every second one is dropped until they do; "
                    "the curves keep every step. 0: curves only.",
                ),
                io.Combo.Input(
                    "local_error", options=list(ERRORS), default="embedded", optional=True,
                    tooltip="embedded: estimated from the run's own predictions, for nothing. step doubling: measured "
                    "after the run, also for the last step, with 6 evaluations more per step.",
                ),
            ],
            outputs=[
                io.Sampler.Output(display_name="sampler", tooltip="For SamplerCustomAdvanced, in place of the one recorded."),
                TraceType.Output(display_name="trace", tooltip="For Show Trace and Replay, filled while the sampler runs."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, sampler: Any, memory: int, local_error: str = "embedded") -> Any:
        watch = Watch(sampler, memory * MEBI, doubling=local_error == ERRORS[1])
        return io.NodeOutput(host.runs.traced(sampler, watch), watch)


class ShowTrace(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="SamplingKitShowTrace",
            display_name="Show Trace",
            category=CATEGORY,
            description="What a traced run did: film strips of the predictions of x0 and of the states x, curves over the steps, "
            "and all numbers as CSV and JSON. Latents are shown through the VAE if one is connected, else in the colours ComfyUI "
            "uses for previews, else by their principal components. States are shown with their noise made as strong as the data.",
            search_aliases=["film strip", "preview steps", "trajectory", "curvature", "local error", "SNR", "plot", "NFE"],
            inputs=[
                TraceType.Input("trace", tooltip="From Trace."),
                io.Latent.Input("latent", tooltip=AFTER),
                io.Int.Input("image", default=0, min=0, max=4095, optional=True, tooltip="Which image of the batch the film strips show."),
                io.Int.Input("frames", default=12, min=2, max=64, optional=True, tooltip="How many frames; the last is the result."),
                io.Vae.Input("vae", optional=True, tooltip="To see latents as it decodes them; decodes 2 × frames pictures."),
            ],
            outputs=[
                io.Image.Output(display_name="strip", tooltip="Predictions above states, labelled."),
                io.Image.Output(display_name="curves", tooltip="Six plots over the steps."),
                io.Image.Output(display_name="x0", tooltip="The predictions as a batch of pictures, for an animation."),
                io.Image.Output(display_name="x", tooltip="The states as a batch of pictures."),
                io.String.Output(display_name="csv", tooltip="One line per step, means over the images."),
                io.String.Output(display_name="json", tooltip="Everything image by image; finite numbers or null."),
            ],
            is_output_node=True,
        )  # fmt: skip

    @classmethod
    def execute(
        cls, trace: Any, latent: Any, image: int = 0, frames: int = 12, vae: Any = None
    ) -> Any:
        found = checked(trace).get("Show Trace")
        decode = None if vae is None else vae.decode
        shot = film.film(found, image, frames, decode)
        csv, told = found.csv(), json.dumps(found.facts(), allow_nan=False)
        ui = {
            "sampling_kit_trace": [trace_page.payload(found, shot, image)],
            "text": [found.summary()],
        }
        strip, curves = film.strip(shot), trace_curves.curves(found)
        return io.NodeOutput(strip, curves, shot.x0, shot.x, csv, told, ui=ui)


class Replay(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="SamplingKitReplay",
            display_name="Replay",
            category=CATEGORY,
            description="Goes on from a recorded step, as it was or with other guidance, another model or another solver: give a "
            "SamplerCustomAdvanced the three outputs, DisableNoise, and a GUIDER. With a solver of the Sampling Kit that keeps a "
            "plan the run goes on bit for bit, with the history and the noise it had. Other samplers (and Adaptive, "
            "Langevin, AMED) start anew from the recorded state, as after SplitSigmas.",
            search_aliases=["continue", "resume", "branch", "what if", "split run", "rewind"],
            inputs=[
                TraceType.Input("trace", tooltip="From Trace."),
                io.Latent.Input("latent", tooltip=AFTER),
                io.Int.Input("step", default=0, min=0, max=10000, tooltip="The step to begin with; the first is 0."),
                io.Sampler.Input("sampler", optional=True, tooltip="Another SAMPLER to go on with, without the history of the recorded one."),
            ],
            outputs=[
                io.Sampler.Output(display_name="sampler", tooltip="For SamplerCustomAdvanced."),
                io.Sigmas.Output(display_name="sigmas", tooltip="The noise levels that are left."),
                io.Latent.Output(display_name="latent", tooltip="The state at that step."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, trace: Any, latent: dict[str, Any], step: int, sampler: Any = None) -> Any:
        watch = checked(trace)
        run = watch.get("Replay")
        if step not in run.kept:
            raise ValueError(f"step = {step}: {what_is_kept(run)}")
        kept = run.kept[step]
        anew = sampler is not None or kept.stopped is None
        if anew and "noise_mask" in latent:
            raise ValueError(
                "latent: it has a noise mask, whose picture and noise only a plan's state holds; trace a solver of the "
                "Sampling Kit with a plan, and connect no other sampler here"
            )
        if anew and not run.together:
            raise ValueError(
                "trace: each image of this run has steps of its own; trace one image, or set together in Adaptive"
            )
        x, levels = kept.x, left(run, step)
        if kept.stopped is not None:
            x, levels = kept.stopped.state.x, kept.stopped.sigmas[kept.stopped.level :]
        chosen, solver = sampler, host.runs.solver_of(watch.sampler)
        if chosen is None:
            chosen = watch.sampler
            if kept.stopped is not None and isinstance(solver, Solver):
                chosen = host.runs.make_sampler(
                    Part(solver, Handover(), after=Handover(kept.stopped))
                )
        alpha = run.path.on(levels[0]).alpha
        if alpha == 0 and anew:
            raise ValueError(
                "step = 0: on a flow model that is pure noise, which no LATENT holds; run from noise instead, or "
                "begin with step 1"
            )
        start = host.runs.as_latent(run.view, x / (alpha or 1.0), latent)
        return io.NodeOutput(chosen, torch.tensor(levels), start)


def left(run: Trace, step: int) -> tuple[float, ...]:
    """The noise levels of a run from the one of a step on; that one itself where it is none of SIGMAS (churn,
    steps chosen on the way)."""
    here = run.steps[step].sigma
    if step < len(run.sigmas) and abs(run.sigmas[step] - here) <= 1e-6 * here:
        return run.sigmas[step:]
    rising = run.sigmas[-1] > run.sigmas[0]
    return (here, *(s for s in run.sigmas if (s > here if rising else s < here)))


def what_is_kept(run: Trace) -> str:
    """Which steps Replay may begin with."""
    if not run.kept:
        return "the trace kept no state; give Trace more memory"
    return f"the trace kept steps {', '.join(map(str, sorted(run.kept)))}" + (
        "; give Trace more memory for the others" if run.every > 1 else ""
    )


def checked(trace: Any) -> Watch:
    if not isinstance(trace, Watch):
        raise TypeError(f"trace: expected a TRACE, got {type(trace).__name__}")
    return trace


NODES = (TraceNode, ShowTrace, Replay)
