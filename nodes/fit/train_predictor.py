"""AMED with its network: trained on recorded trajectories, asked at every step."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from ...schedulers import noise_schedule as schedules
from ...schedulers import spacing
from ...schedulers.fit import predictor
from ...schedulers.fit.amed_predictors import Bottleneck, middle_of
from ...schedulers.fit.learned_amed import LearnedAMED
from ...schedulers.fit.problem import summary
from ...schedulers.noise_schedule import NoiseSchedule
from ...schedulers.points import Points
from ...schedulers.solver import Solver
from .. import host
from ..host import io
from ..host.guider_field import Ready
from ..solver.state import plain_solver
from ..ui.payload import report_on_page
from ..ui.wire_types import TrajectoriesType
from .kept import Kept
from .recording import CATEGORY, Recording, checked, teacher_cost
from .talk import PARTS

TOP = 80.0  # σ/α from where runs start on models whose first level is pure noise, or nearly


class TrainAMED(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="SamplingKitTrainAMED",
            display_name="Train AMED Predictor",
            category=CATEGORY,
            description="AMED as published (Zhou et al. 2024, arXiv 2312.00094): a network of 9000 weights looks at the model's "
            "bottleneck at every step and answers where in the step to take the one direction that counts, and how far to go "
            "along it, for every image by itself. Trained step by step on the recording; kept beside it, so that the second time "
            "it is only read. Runs cost 2·steps − 1 evaluations, and a batch as many calls as it has images: Fit Solver's table "
            "has no such cost, and is usually nearer to the teacher.",
            search_aliases=["AMED", "AMED-Plugin", "mean value theorem", "learned solver", "bottleneck", "predictor"],
            is_output_node=True,
            inputs=[
                TrajectoriesType.Input("trajectories", tooltip="From Record Trajectories, of one GUIDER."),
                io.Int.Input("steps", default=3, min=2, max=100, tooltip="Of a run: 2·steps − 1 evaluations."),
                io.Int.Input("held_out", default=16, min=1, max=100000, tooltip="Trajectories that are not fitted but judge the result."),
                io.Int.Input("rounds", default=8, min=1, max=1000, tooltip="Times through the trajectories."),
                io.Float.Input("rate", default=0.005, min=0.00001, max=1.0, step=0.001, round=False, optional=True, advanced=True, tooltip="Of Adam."),
                io.Int.Input("seed", default=0, min=0, max=0xFFFFFFFFFFFFFFFF, optional=True, advanced=True, tooltip="Of the order of trajectories."),
                io.Sampler.Input(
                    "sampler", optional=True,
                    tooltip="AMED as a plug-in of this solver of the kit, one with one evaluation per step (DPM-Solver++ 2M, iPNDM, …).",
                ),
                io.Sigmas.Input("sigmas", optional=True, tooltip="Levels of the run in place of `steps`; the last one 0."),
            ],
            outputs=[
                io.Sampler.Output(display_name="sampler", tooltip="For SamplerCustomAdvanced."),
                io.Sigmas.Output(display_name="sigmas", tooltip="The levels it was trained on, for SamplerCustomAdvanced."),
                io.String.Output(display_name="text", tooltip="What it gained and what it cost."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, trajectories: Any, steps: int, held_out: int, rounds: int, rate: float = 0.005, seed: int = 0,
        sampler: Any = None, sigmas: Tensor | None = None,
    ) -> Any:  # fmt: skip
        recording = checked(trajectories)
        base = None if sampler is None else plain_solver(sampler)
        points = levels(recording.schedule, steps, sigmas)
        solver, text = trained(
            recording, points, base, held_out, rounds=rounds, rate=rate, seed=seed
        )
        shown = torch.tensor(points.sigmas(), dtype=torch.float32)
        return io.NodeOutput(host.runs.make_sampler(solver), shown, text, ui=report_on_page(text))


def levels(schedule: NoiseSchedule, steps: int, sigmas: Tensor | None) -> Points:
    """Those of ``sigmas``, else Karras' from the schedule's noisiest level, or TOP if that is lower. Raises ValueError for fewer
    than two steps, or a last level above 0."""
    if sigmas is None:
        ends = schedules.EDM(max(schedule.kappa_min, 0.002), min(schedule.kappa_max, TOP))
        kappas = spacing.space(ends, steps, spacing.Karras(7.0)).kappas
        return Points(schedule.path, kappas)
    values = [float(s) for s in sigmas]
    if len(values) < 3 or values[-1] != 0:
        raise ValueError(f"sigmas: two steps or more that end at 0, got {values}")
    return Points.from_sigmas(schedule.path, values)


def trained(
    recording: Recording, points: Points, base: Solver | None, held: int, **settings: Any
) -> tuple[LearnedAMED, str]:
    """(solver, text): read, or made."""
    if len(recording.guiders) > 1:
        raise ValueError(
            "trajectories: of several prompts; AMED's predictor learns from one GUIDER: record without `more`"
        )
    key = (points.kappas, base, held, recording.trajectories.count, settings)
    file = Kept(recording, key).file("amed")
    if file.is_file():
        network, facts = predictor.load(file)
        return LearnedAMED(network, base=base), str(facts["text"])
    tell = host.places.progress(PARTS)

    def run(ready: Ready) -> tuple[predictor.Learned, int, bool]:
        if ready.refusal:
            raise ValueError(
                f"trajectories: training needs gradients through the MODEL, but {ready.refusal}; Fit Solver's "
                "forward method needs none"
            )
        problem = recording.problem(ready, held)
        problem.evaluations = teacher_cost(recording)
        middle = middle_of(host.runs.network_of_guider(recording.guiders[0]))
        with ExitStack() as stack:
            features = stack.enter_context(Bottleneck(middle)) if middle is not None else None
            learned = predictor.learn(
                problem, points, base=base, features=features, **settings,
                report=lambda share: tell(int(PARTS * share), f"{share:.0%} trained"),
            )  # fmt: skip
        return learned, problem.evaluations, middle is not None

    with torch.inference_mode(False):
        learned, spent, looks = recording.ready(run)
    before, after = summary(learned.before), summary(learned.after)
    tell(PARTS, f"held-out error {after['rmse']:.4g}, before {before['rmse']:.4g}")
    text = "\n".join(
        [
            f"AMED{f' on {base!r}' if base else ''}, {len(points) - 1} steps, {2 * len(points) - 3} evaluations",
            "looks at the bottleneck, image by image" if looks else "this MODEL has no bottleneck: the predictor sees levels only",
            f"RMSE to the teacher's end on {held} held-out trajectories: {before['rmse']:.4g} untrained, {after['rmse']:.4g} trained",
            f"median {before['median']:.4g} and {after['median']:.4g}; {spent} evaluations of one image in all",
        ]
    )  # fmt: skip
    predictor.save(file, learned.predictor, {"text": text})
    return LearnedAMED(learned.predictor, base=base), text


NODES: tuple[type[Any], ...] = (TrainAMED,)
