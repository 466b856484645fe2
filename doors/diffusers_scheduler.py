"""Our solvers as a scheduler of diffusers. Needs diffusers (the extra ``diffusers``).

    pipe.scheduler = KitScheduler.from_config(pipe.scheduler.config, solver=UniPC(3), spacing=Karras())

What training fixed (noise schedule, prediction, clock, shift) is read from the config of the scheduler that the pipeline
came with; solver and spacing decide the rest. Latents are kept where the network's own path has them: x = αx₀ + σε for
tables of β and for flow, x₀ + σε for EDM. ``timesteps`` holds one entry per evaluation, so that solvers of several
evaluations a step work as diffusers' Heun does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from diffusers.configuration_utils import ConfigMixin
from diffusers.schedulers.scheduling_utils import SchedulerMixin, SchedulerOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from ..schedulers.denoiser.diffusers.training import SCHEDULERS, Training, flow, training_of
from ..schedulers.noise_schedule import NoiseSchedule, RectifiedFlowSchedule
from ..schedulers.path import VE, Flow, Point
from ..schedulers.points import Points, finite
from ..schedulers.size_shift import SizedFlow
from ..schedulers.solver import ALL, DPMSolverMultistep, Solver
from ..schedulers.solver.idempotent import Idempotent
from ..schedulers.spacing import ALL as SPACINGS
from ..schedulers.spacing import Spacing, Trailing, space
from .config_values import from_config, to_config
from .stepwise import Evaluation, Stepwise, alike, evaluations, wide

SOLVERS: dict[str, type[Solver]] = {kind.__name__: kind for kind in (*ALL, Idempotent)}
SPACING_KINDS: dict[str, type[Spacing]] = {kind.__name__: kind for kind in SPACINGS.values()}


class KitScheduler(SchedulerMixin, ConfigMixin):
    """A solver and a spacing in place of a pipeline's scheduler; see :meth:`from_config`."""

    config_name = "scheduler_config.json"
    order: int

    def __init__(
        self,
        solver: Solver | str | Mapping[str, Any] | None = None,
        spacing: Spacing | str | Mapping[str, Any] | None = None,
        trained_as: str = "DDIMScheduler",
        **config: Any,
    ) -> None:
        solver = DPMSolverMultistep() if solver is None else solver
        self.solver = (
            solver if isinstance(solver, Solver) else from_config(solver, SOLVERS, "solver")
        )
        self.spacing = from_config(
            Trailing() if spacing is None else spacing, SPACING_KINDS, "spacing"
        )
        self.training: Training = training_of(trained_as, config)
        if SCHEDULERS[trained_as].read is flow:
            config["use_flow_sigmas"] = True  # Flux then leaves the levels to the spacing
        config = {"num_train_timesteps": self.training.timesteps, **config}
        said = dict(solver=to_config(self.solver), spacing=to_config(self.spacing))
        self.register_to_config(**config, **said, trained_as=trained_as)
        self.schedule: NoiseSchedule = self.training.noise_schedule
        self.points: Points | None = None
        self.evaluations: tuple[Evaluation, ...] = ()
        self.order = max(1, self.solver.nfe(3) - self.solver.nfe(2))
        self.num_inference_steps: int | None = None
        self.timesteps = torch.arange(self.training.timesteps - 1, -1, -1)
        self.sigmas = torch.zeros(0)
        self._restart()

    @classmethod
    def from_config(
        cls,
        config: Mapping[str, Any],
        return_unused_kwargs: bool = False,
        *,
        trained_as: str | None = None,
        **changes: Any,
    ) -> Any:
        """The scheduler for a pipeline whose scheduler has this ``config``.

        ``solver``, ``spacing``: settings of the pack, their class names, or what a config holds of them; by default
        DPM-Solver++(2M) on trailing steps. ``trained_as``: the class of the scheduler that the config is of, where the
        config itself does not tell. Other keywords replace keys of the config. Raises ValueError for a config that
        contradicts itself, or is of a scheduler that is not known.
        """
        said = {k: v for k, v in config.items() if not k.startswith("_")}
        kind = trained_as or said.pop("trained_as", None) or config.get("_class_name")
        made = cls(**(said | changes | {"trained_as": kind or class_of(said)}))
        return (made, {}) if return_unused_kwargs else made

    # --------------------------------------------------------------------------------- the levels

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        sigmas: Sequence[float] | None = None,
        timesteps: Sequence[float] | None = None,
        mu: float | None = None,
    ) -> None:
        """Choose the levels of the next run.

        ``sigmas``: levels instead of the spacing's; on flow before the shift, as diffusers has them (the even ramp
        1 … 1/n that some pipelines always pass counts as n steps); else σ/α. ``timesteps``: the same by time.
        ``mu``: log of the shift, where it depends on the size.
        """
        self.schedule = self._schedule(mu)
        points = self._points(num_inference_steps, sigmas, timesteps)
        if not isinstance(
            points.path, Flow
        ):  # pure noise of zero terminal SNR as in ComfyUI's SIGMAS
            points = Points(points.path, tuple(finite(points.kappas)))
        self.points = points
        self.evaluations = evaluations(self.solver, points)
        steps = [e.step for e in self.evaluations]
        self.order = max(steps.count(s) for s in set(steps))
        self.num_inference_steps = len(points) - 1
        times = np.array([self.training.time(e.label.kappa) for e in self.evaluations])
        whole = np.round(times)
        exact = bool(np.all(np.abs(times - whole) < 1e-6)) and self.schedule.discrete
        made = torch.tensor(
            whole if exact else times, dtype=torch.int64 if exact else torch.float32
        )
        self.timesteps = made.to(device)
        levels = [e.at.kappa for e in self.evaluations] + [points.kappas[-1]]
        flat = [Flow().at(k).sigma if isinstance(points.path, Flow) else k for k in levels]
        self.sigmas = torch.tensor(flat, dtype=torch.float32)
        self._restart()

    def _schedule(self, mu: float | None) -> NoiseSchedule:
        schedule = self.training.noise_schedule
        if not isinstance(schedule, SizedFlow):
            return schedule
        if mu is None:
            raise ValueError("this config's shift depends on the size: pass mu to set_timesteps")
        return RectifiedFlowSchedule(shift=mu if schedule.rule.linear else math.exp(mu))

    def _points(
        self, n: int | None, sigmas: Sequence[float] | None, timesteps: Sequence[float] | None
    ) -> Points:
        path = self.schedule.path
        if sigmas is not None and isinstance(path, Flow):
            ramp = np.asarray(sigmas, np.float64)
            ramp = ramp[:-1] if len(ramp) > 1 and ramp[-1] == 0 else ramp
            if np.allclose(ramp, np.linspace(1, 1 / len(ramp), len(ramp)), rtol=0, atol=1e-6):
                return space(self.schedule, len(ramp), self.spacing)
            return Points(path, (*self.schedule.kappa(ramp).tolist(), 0.0))
        if sigmas is not None:
            levels = [float(s) for s in sigmas]
            return Points(path, (*levels, 0.0) if levels[-1] else tuple(levels))
        if timesteps is not None:
            times = np.asarray(timesteps, np.float64)
            times = times / self.training.timesteps if isinstance(path, Flow) else times
            return Points(path, (*self.schedule.kappa(times).tolist(), 0.0))
        if n is None:
            raise ValueError("set_timesteps: pass num_inference_steps, timesteps or sigmas")
        return space(self.schedule, n, self.spacing)

    @property
    def init_noise_sigma(self) -> float:
        """What noise of variance 1 is multiplied with to begin: √(1 + σ²) for EDM, else 1."""
        path = self.training.noise_schedule.path
        if not isinstance(path, VE):
            return 1.0
        top = self.points.kappas[0] if self.points else self.training.noise_schedule.kappa_max
        return math.hypot(1, top)

    # --------------------------------------------------------------------------------- where it is

    def _restart(self) -> None:
        self._step_index: int | None = None
        self._begin_index: int | None = None
        self._run: Stepwise | None = None
        self._generator: Any = None

    @property
    def step_index(self) -> int | None:
        """How many evaluations were made."""
        return self._step_index

    @property
    def begin_index(self) -> int | None:
        """The evaluation that the run begins with, where a pipeline said it."""
        return self._begin_index

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Begin the run with this entry of ``timesteps`` (image to image)."""
        self._begin_index = begin_index

    def index_for_timestep(self, timestep: float | Tensor) -> int:
        """The first entry of ``timesteps`` that is nearest to it."""
        return int((self.timesteps.double() - float(timestep)).abs().argmin())

    def _now(self, timestep: float | Tensor) -> int:
        """The evaluation that comes next."""
        if self._step_index is None:
            begin = self._begin_index
            self._step_index = self.index_for_timestep(timestep) if begin is None else begin
            self._first = self._start_of(self._step_index)
        return self._step_index

    def _start_of(self, index: int) -> int:
        """The first evaluation from ``index`` on that begins a step: those before it are passed over."""
        rest = range(index, len(self.evaluations))
        begins = (
            i for i in rest if i == 0 or self.evaluations[i].step != self.evaluations[i - 1].step
        )
        return next(begins, len(self.evaluations))

    def level_at(self, index: int) -> Point:
        """The level at which a run that begins with evaluation ``index`` takes its picture."""
        start = self._start_of(index)
        if self.points is None or start >= len(self.evaluations):
            return self.training.noise_schedule.path.at(0.0)
        raised = self.evaluations[start].at
        return raised if index else self.points[0]

    # ------------------------------------------------------------------------------------- the run

    def scale_model_input(self, sample: Tensor, timestep: float | Tensor | None = None) -> Tensor:
        """What the network sees: the sample itself, or EDM's c_in times it."""
        if self.training.prediction.kind != "edm" or timestep is None:
            return sample
        index = min(self._now(timestep), len(self.evaluations) - 1)
        return sample * self.training.input_scale(self.evaluations[index].label)

    def step(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        generator: torch.Generator | list[torch.Generator] | None = None,
        return_dict: bool = True,
    ) -> SchedulerOutput | tuple[Tensor]:
        """The sample after the network's output for ``sample`` at ``timestep``, in sample's dtype.

        Noise is drawn with ``generator``. What a pipeline changes in the sample between two calls (masks of
        inpainting) moves the solver's own state. RuntimeError before set_timesteps or after the last step.
        """
        if self.points is None:
            raise RuntimeError("call set_timesteps before step")
        index = self._now(timestep)
        if index >= len(self.evaluations):
            raise RuntimeError("the run is over: call set_timesteps before the next one")
        self._generator, self._step_index = generator, index + 1
        made = sample
        if index >= self._first:
            if self._run is None:
                self._run = self._begin(index, sample)
            if self.evaluations[index].lead:
                made = self._run.shown
            else:
                self._run.hear(sample)
                d = self._x0(model_output, self._run.y, self.evaluations[index].label)
                made = self._run.answer(d, sample.dtype)
        return SchedulerOutput(prev_sample=made) if return_dict else (made,)

    def _begin(self, index: int, sample: Tensor) -> Stepwise:
        """The run from the step that evaluation ``index`` begins, on the remaining levels."""
        assert self.points is not None
        points = self.points
        if index:
            points = Points(points.path, points.kappas[self.evaluations[index].step :])
            rest = [e for e in evaluations(self.solver, points) if not e.lead]
            if not alike(rest, self.evaluations[index:]):
                raise ValueError(
                    f"{self.solver!r} begins a run with other evaluations than it goes on with, so it cannot begin in "
                    "the middle of these timesteps: set its `start` so that it can, or choose another solver"
                )
        return Stepwise(self.solver, points, sample, self._draw)

    def _draw(self, position: int, like: Tensor) -> Tensor:
        return randn_tensor(like.shape, self._generator, device=like.device, dtype=like.dtype)

    def _x0(self, out: Tensor, x: Tensor, at: Point) -> Tensor:
        if out.shape[1] == 2 * x.shape[1]:  # a learned variance comes after
            out = out[:, : x.shape[1]]
        out = self.training.sign * out.to(x.dtype)
        return self.training.prediction.to_x0(out, x, at.alpha, at.sigma)

    # -------------------------------------------------------------------------------------- noise

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """αx₀ + σε at the level of each of ``timesteps`` [B] or [1]."""
        levels = [self._level(t) for t in timesteps.flatten().tolist()]
        shape = (-1, *(1,) * (original_samples.ndim - 1))
        x = wide(original_samples)
        alpha, sigma = (
            torch.tensor(v, dtype=x.dtype, device=x.device).reshape(shape)
            for v in ([p.alpha for p in levels], [p.sigma for p in levels])
        )
        return (alpha * x + sigma * noise.to(x.dtype)).to(original_samples.dtype)

    def scale_noise(
        self, sample: Tensor, timestep: float | Tensor, noise: Tensor | None = None
    ) -> Tensor:
        """:meth:`add_noise` by the name that flow schedulers have for it."""
        assert noise is not None
        return self.add_noise(
            sample, noise, torch.as_tensor(timestep, dtype=torch.float64).reshape(-1)
        )

    def _level(self, timestep: float) -> Point:
        """The level of a timestep: as the run has it, else as training had it."""
        near = [i for i, t in enumerate(self.timesteps.tolist()) if abs(t - timestep) < 1e-3]
        if self.evaluations and near:
            if self._step_index is not None:  # the state that comes next, of a run that goes on
                return self.evaluations[
                    self._step_index if self._step_index in near else near[0]
                ].at
            return self.level_at(self._begin_index if self._begin_index in near else near[0])
        path = self.training.noise_schedule.path
        if isinstance(path, Flow):
            return path.on(timestep / self.training.timesteps)
        return path.at(float(self.training.noise_schedule.kappa(timestep)))

    def __len__(self) -> int:
        return self.training.timesteps


def class_of(config: Mapping[str, Any]) -> str:
    """The class of scheduler that a config without its name is of. ValueError where several have these keys."""
    if "beta_schedule" in config:
        return "CogVideoXDDIMScheduler" if "snr_shift_scale" in config else "DDIMScheduler"
    if "shift" in config or "use_dynamic_shifting" in config:
        return "FlowMatchEulerDiscreteScheduler"
    raise ValueError(
        "this config does not say of which scheduler it is: pass trained_as='EDMEulerScheduler', or the class it is of"
    )
