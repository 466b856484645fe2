"""Record Trajectories: runs of a fine solver, kept in files for the nodes that fit."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...schedulers import spacing
from ...schedulers.fit.trajectories import DTYPES, Origin, Trajectories, record
from ...schedulers.noise_schedule import NoiseSchedule
from ...schedulers.points import Points
from ...schedulers.sample import noised
from ...schedulers.solver import DPMSolverMultistep, Solver
from .. import host
from ..host import io
from ..host.guider_field import Ready
from ..solver.state import plain_solver
from ..ui.file_names import refusal, split_prefix
from ..ui.payload import report_on_page
from ..ui.wire_types import TrajectoriesType
from .recording import CATEGORY, Recording

TEACHER = DPMSolverMultistep(3, weights="exact")


class RecordTrajectories(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        grow = io.Autogrow
        return io.Schema(
            node_id="SamplingKitRecordTrajectories",
            display_name="Record Trajectories",
            category=CATEGORY,
            description="Runs a fine solver (the teacher) on your MODEL with your prompts, guidance and LoRAs, and keeps what it "
            "passes through, in files: what fits compare with. A recording that is interrupted goes on where it stopped, one "
            "that is there is only read, and another prompt, model or setting gets a folder of its own. Cost: count × (levels × "
            "substeps) evaluations, CFG twice that in network calls.",
            search_aliases=["fit solver", "teacher", "distill", "calibration", "trajectory", "AMED", "GITS"],
            is_output_node=True,
            inputs=[
                io.Guider.Input("guider", tooltip="The model as you use it: CFGGuider, BasicGuider, the kit's Guider, …"),
                io.Latent.Input("latent", tooltip="An empty latent of the size you draw. The batch size does not matter."),
                io.Int.Input("seed", default=1000, min=0, max=0xFFFFFFFFFFFFFFFF, tooltip="Of the first trajectory; row i has seed + i."),
                io.Int.Input("count", default=64, min=2, max=100000, tooltip="Trajectories: to fit and to judge by. 24 will do, 64 are good."),
                io.Int.Input("levels", default=24, min=2, max=1000, advanced=True, tooltip="Noise levels that are kept, even in log-SNR."),
                io.Int.Input("substeps", default=2, min=1, max=100, advanced=True, tooltip="Steps of the teacher from one level to the next."),
                io.Int.Input("batch", default=8, min=1, max=4096, advanced=True, tooltip="Images in one evaluation, and in one file."),
                io.String.Input(
                    "folder", default="SamplingKit/trajectories", advanced=True,
                    tooltip="Below the output folder; each recording gets a sub-folder there.",
                ),
                io.Sampler.Input(
                    "teacher", optional=True,
                    tooltip="A deterministic solver of the kit, Adaptive Step Size included. Default: DPM-Solver++ of order 3.",
                ),
                io.Sigmas.Input("sigmas", optional=True, tooltip="The levels to keep, in place of `levels`; from the largest down."),
                io.Combo.Input("dtype", options=list(DTYPES), default="float32", optional=True, advanced=True, tooltip="Of the teacher's state."),
                grow.Input(
                    "more", optional=True,
                    template=grow.TemplatePrefix(io.Guider.Input("guider", tooltip="The same MODEL with another prompt."), prefix="guider", min=0, max=30),
                    tooltip="Further prompts: trajectories take turns, so that the solver is fitted to all of them.",
                ),
            ],
            outputs=[
                TrajectoriesType.Output(display_name="trajectories", tooltip="For Fit Steps and Fit Solver."),
                io.String.Output(display_name="text", tooltip="What was recorded, and where."),
            ],
        )  # fmt: skip

    @classmethod
    def validate_inputs(
        cls, folder: str = "SamplingKit/trajectories", more: Any = None
    ) -> bool | str:
        """``more``: ComfyUI hands growing inputs to every validate_inputs."""
        return True if folder is None else refusal(lambda: place(folder))

    @classmethod
    def execute(
        cls, guider: Any, latent: dict[str, Any], seed: int, count: int, levels: int, substeps: int, batch: int,
        folder: str, teacher: Any = None, sigmas: Tensor | None = None, dtype: str = "float32",
        more: Mapping[str, Any] | None = None,
    ) -> Any:  # fmt: skip
        others = [value for value in (more or {}).values() if value is not None]
        solver = TEACHER if teacher is None else plain_solver(teacher, "teacher")
        values: dict[str, Any] = dict(
            seed=seed, count=count, levels=levels, substeps=substeps, batch=batch, dtype=dtype
        )
        recording = recorded((guider, *others), latent, place(folder), solver, sigmas, **values)
        return io.NodeOutput(
            recording, recording.describe(), ui=report_on_page(recording.describe())
        )


def place(name: str) -> Path:
    """The folder of recordings below the output folder. Raises ValueError if it leads out of it."""
    root = host.places.folder("output")
    try:
        subfolder, stem = split_prefix(name, root)
    except ValueError:
        raise ValueError(
            f"folder = {name!r}: give a name inside of the output folder {root}"
        ) from None
    return root / subfolder / stem


def recorded(
    guiders: tuple[Any, ...], latent: Mapping[str, Any], where: Path, solver: Solver, sigmas: Any = None, *,
    seed: int, count: int, levels: int, substeps: int, batch: int, dtype: str = "float32",
    tell: Callable[[int, str], None] | None = None,
) -> Recording:  # fmt: skip
    """Record, or go on, or open. One description decides the sub-folder."""
    samples = latent["samples"]
    if torch.is_tensor(samples) and bool(samples.count_nonzero()):
        raise ValueError(
            "latent: it holds a picture; trajectories start from pure noise: connect an empty latent"
        )
    shape, schedule = (
        host.runs.latent_shape(guiders[0], samples),
        host.runs.schedule_of_guider(guiders[0]),
    )
    everyone = [host.runs.facts_of_guider(g) for g in guiders]
    facts = everyone[0]
    for i, other in enumerate(everyone[1:]):
        if (other.model, other.guidance) != (facts.model, facts.guidance):
            raise ValueError(
                f"more.guider{i}: another MODEL or guidance ({other.guidance}) than guider ({facts.guidance}); "
                "all must be the same but for the prompts"
            )
    points = kept_levels(schedule, levels, sigmas)
    top = points.kappas[0]
    full = math.isinf(top) or top >= schedule.kappa_max * (1 - 1e-5)
    one = torch.ones(1, dtype=torch.float64)
    sigma = points.sigmas()[0]
    scale = float(
        noised(points.path, sigma, 0 * one, one * host.runs.noise_scale_of_guider(guiders[0]), full)
    )
    conditions = "+".join(f.condition for f in everyone)
    origin = Origin(
        points.path.name, tuple(Points.from_sigmas(points.path, points.sigmas()).kappas), shape, seed, scale,
        repr(solver), substeps, schedule.kappa_min, dtype, facts.model, facts.prediction, facts.guidance, conditions,
    )  # fmt: skip
    if tell is None:
        show = host.places.progress(count)
        tell = lambda done, text="": show(done, f"{done} of {count} trajectories")  # noqa: E731

    def run(ready: Ready) -> Trajectories:
        return record(
            where / origin.digest(), origin, solver, ready.field, count, batch=batch, check=ready.check,
            report=lambda done, total: tell(done, ""),
        )  # fmt: skip

    tell(0, "")
    trajectories = host.runs.with_field(guiders, shape, batch, seed, run)
    return Recording(trajectories, guiders, schedule, facts)


def kept_levels(schedule: NoiseSchedule, count: int, sigmas: Any) -> Points:
    """The levels of a recording, in the host's coordinates."""
    if sigmas is None:
        return spacing.space(schedule, count, spacing.UniformLambda()).host
    levels = [float(s) for s in sigmas]
    if len(levels) < 2 or levels[0] < levels[-1]:
        raise ValueError(
            f"sigmas: {len(levels)} levels; a recording needs two or more, the largest first"
        )
    return Points.from_sigmas(schedule.path, levels).host


NODES: tuple[type[Any], ...] = (RecordTrajectories,)
