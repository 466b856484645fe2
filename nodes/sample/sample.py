"""Sample: schedule, denoiser, guidance and solver in one node, made of the parts that the other nodes give."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...schedulers import policy, spacing
from ...schedulers.counts import counted
from ...schedulers.guidance import CFG, Guidance
from ...schedulers.guidance.base import Scaled
from ...schedulers.noise_schedule import NoiseSchedule
from ...schedulers.size_shift import SizedFlow
from ...schedulers.solver.published import BY_NAME, name_of
from ...schedulers.spacing import side_of
from .. import host
from ..fit.use_fitted import UseFittedSolver
from ..guidance.rules import Guider
from ..host import io
from ..host.guidance_wire import in_words
from ..noise.wire import NoiseWire
from ..ui.foreign_names import KEY, LEVELS, SOLVER, foreign_names
from ..ui.payload import report_on_page
from ..ui.search_words import CHINESE, solver_words
from ..ui.wire_types import GuidanceType, SolverFitType
from . import CATEGORY

AUTO = "auto"
#: Spacings that need no further word; a list of levels comes in as SIGMAS.
SPACINGS = tuple(
    name for name, kind in spacing.ALL.items() if name not in ("explicit", "drawn", "named")
)


class Sample(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="SamplingKitSample",
            display_name="Sample (Sampling Kit)",
            category=CATEGORY,
            description="Use it where KSampler stands: MODEL, conditions and LATENT in, LATENT out. “auto” chooses solver and noise "
            "levels from the schedule, the number of steps, guidance and denoise, by a table of measurements, without a network "
            "call, and says what it chose. A GUIDANCE, SAMPLER, SIGMAS or fitted solver that is connected takes the place of "
            "the list beside it. The result is bit for bit that of the wired graph: Steps, a solver node, Guider, Per-Image "
            "Noise and SamplerCustomAdvanced.",
            search_aliases=[
                "KSampler", "sampler", "sample", "txt2img", "img2img", "fewer steps", "denoise", "generate", *solver_words(),
                *CHINESE["Sample"],
            ],
            inputs=[
                io.Model.Input("model", tooltip="Any MODEL, with its patches."),
                io.Conditioning.Input("positive", tooltip="What the picture shall show."),
                io.Conditioning.Input("negative", optional=True, tooltip="What it shall not show; needed where cfg is not 1."),
                io.Latent.Input("latent_image", tooltip="Empty, or a picture to start from, with denoise below 1."),
                io.Int.Input(
                    "seed", default=0, min=0, max=0xFFFFFFFFFFFFFFFF, control_after_generate=True,
                    tooltip="Seed of the first image; image i of a batch has seed + i.",
                ),
                io.Int.Input("steps", default=20, min=1, max=10000, tooltip="Steps that are really taken, also with denoise below 1."),
                io.Float.Input(
                    "cfg", default=5.0, min=0.0, max=100.0, step=0.1, round=False,
                    tooltip="Scale of classifier-free guidance; 1: the positive condition alone, at half the price.",
                ),
                io.Combo.Input(
                    "solver", options=[AUTO, *BY_NAME], default=AUTO, extra_dict={KEY: foreign_names()},
                    tooltip="auto: by measurement. Else a solver by its published name.",
                ),
                io.Combo.Input("spacing", options=[AUTO, *SPACINGS], default=AUTO, tooltip="auto: what was measured best with the solver. Else how the noise levels are spread."),
                io.Float.Input(
                    "denoise", default=1.0, min=0.01, max=1.0, step=0.01, round=False,
                    tooltip="Below 1 the run starts lower, for img2img. The number of steps stays.",
                ),
                GuidanceType.Input("guidance", optional=True, tooltip="Rules in place of cfg."),
                io.Sampler.Input("sampler", optional=True, tooltip="Any SAMPLER in place of solver."),
                io.Sigmas.Input("sigmas", optional=True, tooltip="Noise levels in place of steps, spacing and denoise."),
                SolverFitType.Input("fit", optional=True, tooltip="A fitted solver in place of solver, steps, spacing and denoise."),
                io.Int.Input(
                    "auto_version", default=policy.LATEST, min=1, max=policy.LATEST, optional=True, advanced=True,
                    tooltip="Of the table that auto uses: with an older one an old picture comes out as it was.",
                ),
            ],
            outputs=[
                io.Latent.Output(display_name="latent", tooltip="The result."),
                io.String.Output(display_name="report", tooltip="What was chosen, what the run cost, and how far it errs."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, model: Any, positive: Any, latent_image: dict[str, Any], seed: int, steps: int, cfg: float, negative: Any = None,
        solver: str = AUTO, spacing: str = AUTO, denoise: float = 1.0, guidance: Guidance | None = None, sampler: Any = None,
        sigmas: Tensor | None = None, fit: Any = None, auto_version: int = 1,
    ) -> Any:  # fmt: skip
        if not isinstance(guidance, Guidance | None):
            raise TypeError(f"guidance: expected a GUIDANCE, got {type(guidance).__name__}")
        rules = Guidance((CFG(cfg),) if cfg != 1 else ()) if guidance is None else guidance
        guider = Guider.execute(model, positive, negative, rules).result[0]
        if fit is not None:
            run = of_fit(fit, guider)
        else:
            side = side_of(latent_image["samples"].shape[1:])
            wants = Wants(steps, solver, spacing, denoise, sampler, sigmas, side, auto_version)
            guided = len(rules.reads) > 1
            run = wants.on(schedule_for(model, latent_image), guided=guided, cfg=scale_of(rules))
        noise = NoiseWire(seed)
        made = host.runs.run_sampler(noise, guider, run.sampler, run.sigmas, latent_image)
        lines = [run.text, "" if guidance is None else "guidance: as connected, in place of cfg"]
        text = "\n".join(filter(None, [*lines, in_words(guider.run)]))
        page = {SOLVER: [run.solver], LEVELS: [run.levels]}
        return io.NodeOutput(made, text, ui=report_on_page(text) | page)


def schedule_for(model: Any, latent: dict[str, Any]) -> NoiseSchedule:
    """The MODEL's noise schedule, for the size of this LATENT where that matters."""
    schedule = host.models.schedule_of(model)
    shape = tuple(latent["samples"].shape[1:])
    return schedule.for_latent(shape) if isinstance(schedule, SizedFlow) else schedule


def scale_of(rules: Guidance) -> float:
    """The largest scale of the rules that are CFG or stand in its place, 0 where none says one."""
    return max((r.cfg for r in rules.rules if isinstance(r, Scaled) and r.guides), default=0.0)


@dataclass(frozen=True)
class Run:
    """SAMPLER and SIGMAS, the solver's name where the lists chose it, the σ above 0 where auto did, and a line that says what they are."""

    sampler: Any
    sigmas: Tensor
    text: str
    solver: str = ""
    levels: str = ""


def of_fit(fit: Any, guider: Any) -> Run:
    """The run of a fitted solver, on its noise levels, as Fitted Solver gives it."""
    sampler, sigmas, text = UseFittedSolver.execute(fit, guider).result
    return Run(
        sampler,
        sigmas,
        f"fitted solver, {counted(len(sigmas) - 1, 'evaluation')}, its noise levels: {text}",
    )


@dataclass(frozen=True)
class Wants:
    """What the node's lists and sockets ask for: a socket that is connected wins over the list beside it."""

    steps: int
    solver: str = AUTO
    spacing: str = AUTO
    denoise: float = 1.0
    sampler: Any = None
    sigmas: Tensor | None = None
    side: int = policy.SIDE
    version: int = policy.LATEST

    def on(self, schedule: NoiseSchedule, *, guided: bool, cfg: float = 0.0) -> Run:
        """The run; ``cfg``: 0 where no scale is known. Raises ValueError for a name that no list has, and for levels that do not fit the schedule."""
        choice = policy.choose(
            schedule,
            self.steps,
            guided=guided,
            cfg=cfg,
            denoise=self.denoise,
            side=self.side,
            version=self.version,
        )
        sampler, solver = self._sampler(choice)
        sigmas, levels = self._sigmas(choice, schedule)
        auto = (self.sampler is None and self.solver == AUTO) or (
            self.sigmas is None and self.spacing == AUTO
        )
        text = f"{f'auto {choice.version}: ' if auto else ''}{solver}, {levels}"
        chosen = sigmas.tolist() if self.sigmas is None and self.spacing == AUTO else []
        written = ", ".join(f"{s:.9g}" for s in chosen if s > 0)
        return Run(sampler, sigmas, text, solver if self.sampler is None else "", written)

    def _sampler(self, choice: policy.Choice) -> tuple[Any, str]:
        if self.sampler is not None:
            return self.sampler, f"{host.runs.sampler_name(self.sampler)} (connected)"
        if self.solver == AUTO:
            return host.runs.make_sampler(choice.solver), name_of(choice.solver)
        if self.solver not in BY_NAME:
            raise ValueError(
                f"solver = {self.solver!r}: choose one of {', '.join((AUTO, *BY_NAME))}"
            )
        return host.runs.make_sampler(BY_NAME[self.solver].solver), self.solver

    def _sigmas(self, choice: policy.Choice, schedule: NoiseSchedule) -> tuple[Tensor, str]:
        if self.sigmas is not None:
            return self.sigmas, f"{counted(len(self.sigmas) - 1, 'step')} of the SIGMAS connected"
        if self.spacing == AUTO:
            points, title = (
                choice.points(schedule, choice.steps, self.denoise),
                choice.spacing.title,
            )
        elif self.spacing in SPACINGS:
            kind = spacing.ALL[self.spacing]()
            points, title = (
                spacing.space(schedule, self.steps, kind, denoise=self.denoise),
                kind.title,
            )
        else:
            raise ValueError(
                f"spacing = {self.spacing!r}: choose one of {', '.join((AUTO, *SPACINGS))}"
            )
        sigmas = points.sigmas()
        last = next((s for s in reversed(sigmas) if s > 0), 0.0)
        words = f"{title}, σ {sigmas[0]:.4g} to {last:.4g}, {counted(len(sigmas) - 1, 'step')}"
        return torch.tensor(sigmas, dtype=torch.float32), words


NODES = (Sample,)
