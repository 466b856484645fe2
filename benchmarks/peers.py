"""Other people's samplers as contestants: diffusers' schedulers, and ComfyUI's where one is found.

Both get exact predictions and our float64 noise levels in place of their own rounded tables, so that
only the algorithms are compared. ComfyUI's run in its own Python, as one subprocess that
:func:`comfy_results` starts; nothing of it is copied here.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from sampling_kit.schedulers.noise_schedule import (
    EDM,
    NoiseSchedule,
    RectifiedFlowSchedule,
    ScaledLinearVP,
)
from sampling_kit.schedulers.path import VE, VP
from sampling_kit.schedulers.points import Points

from .problems import Contestant, Denoise, Problem, Result, contest

PACK = Path(__file__).resolve().parents[1]


# ---- diffusers


@dataclass(frozen=True)
class Recipe:
    """How to drive one scheduler.

    ``slope``: it takes (x − D)/σ (that is ε, or the flow's velocity) and keeps a variance-exploding
    state; else it takes D and keeps a variance-preserving one. On flow both keep the flow's.
    ``twice``: it visits every level but the first twice. ``finish``: D ends the run in place of its
    own step to 0. ``top``: on flow, start here, as its own table does, and not at pure noise.
    """

    scheduler: str
    options: dict[str, Any] = field(default_factory=dict)
    slope: bool = False
    twice: bool = False
    finish: bool = False
    top: float = 0.0

    @property
    def name(self) -> str:
        values = [str(v) for v in self.options.values() if not isinstance(v, bool)]
        words = [self.scheduler.removesuffix("Scheduler"), *values]
        words += [f"from {self.top:g}"] * bool(self.top) + ["then D"] * self.finish
        return " ".join(words)

    def contestant(self, path: str) -> Contestant:
        return Contestant(self.name, lambda n: 2 * n - 1 if self.twice else n, self.play, path)

    def play(self, problem: Problem, points: Points, denoise: Denoise) -> Tensor:
        on_ve = isinstance(problem.path, VE)
        sigmas = points.sigmas()[:-1] if self.finish else points.sigmas()
        sigmas[0] = self.top or sigmas[0]
        scheduler = self.build(sigmas, flow=not on_ve)
        levels = scheduler.sigmas.tolist()
        scales = [VP().at(s).alpha if on_ve and not self.slope else 1.0 for s in levels]
        x = problem.start * scales[0]
        for t, sigma, scale in zip(scheduler.timesteps, levels, scales, strict=False):
            if self.slope and on_ve:
                scheduler.scale_model_input(x, t)  # says nothing new, but it asks to be called
            d = denoise(x / scale, sigma)
            x = scheduler.step((x - d) / sigma if self.slope else d, t, x).prev_sample
        return denoise(x / scales[-1], levels[-1]) if self.finish else x

    def build(self, sigmas: Sequence[float], flow: bool) -> Any:
        """The scheduler with these levels in place of its own."""
        options = self.options | ({} if self.slope else {"prediction_type": "sample"})
        options |= {"use_flow_sigmas": True} if flow and not self.slope else {}
        scheduler = getattr(importlib.import_module("diffusers"), self.scheduler)(**options)
        scheduler.set_timesteps(len(sigmas) - 1)
        levels = [s for s in sigmas for _ in range(2)][1:-1] if self.twice else sigmas
        scheduler.sigmas = torch.tensor(levels, dtype=torch.float64)
        scheduler.timesteps = torch.arange(len(levels) - 1.0, 0.0, -1.0)
        scheduler.set_begin_index(0)
        return scheduler


def recipes(scheduler: str, orders: Sequence[int], finish: bool = False, **options: Any) -> Any:
    """One recipe per order; those finished by D keep their order up to the end."""
    last = dict(lower_order_final=not finish)
    return [Recipe(scheduler, dict(solver_order=k) | options | last, finish=finish) for k in orders]


MULTI, UNIPC = "DPMSolverMultistepScheduler", "UniPCMultistepScheduler"
FROM_PURE_NOISE = (
    *recipes(MULTI, (2, 3)),
    *recipes(MULTI, (2,), solver_type="heun"),
    *recipes(UNIPC, (2,), solver_type="bh2"),
)
NOT_FROM_PURE_NOISE = (
    *recipes(UNIPC, (3,), solver_type="bh2"),
    *recipes(UNIPC, (3,), True, solver_type="bh2"),
    *recipes(UNIPC, (2, 3), True, solver_type="bh1"),
    *recipes(MULTI, (2, 3), True),
    *recipes("DEISMultistepScheduler", (2, 3), True),
    *recipes("DPMSolverSinglestepScheduler", (2, 3)),
)
ON_VE = (
    *FROM_PURE_NOISE,
    *NOT_FROM_PURE_NOISE,
    Recipe("EulerDiscreteScheduler", slope=True),
    Recipe("HeunDiscreteScheduler", slope=True, twice=True),
    Recipe("LMSDiscreteScheduler", slope=True),
)
FLOW_TOP = 0.9997  # what shift 3 makes of diffusers' first level, 0.999
ON_FLOW = (
    *FROM_PURE_NOISE,
    *(replace(r, top=FLOW_TOP) for r in NOT_FROM_PURE_NOISE),
    Recipe("FlowMatchEulerDiscreteScheduler", slope=True),
    Recipe("FlowMatchHeunDiscreteScheduler", slope=True, twice=True),
)


def diffusers_results(answers: dict[str, Tensor], **settings: Any) -> list[Result]:
    """diffusers on every problem. (Its IPNDMScheduler has a fixed time grid: not comparable.)"""
    entrants = [r.contestant("VE") for r in ON_VE] + [r.contestant("flow") for r in ON_FLOW]
    return contest("diffusers", entrants, answers, **settings)


# ---- ComfyUI


SAMPLERS: tuple[tuple[str, dict[str, Any]], ...] = (
    *((name, {}) for name in ("euler", "heun", "heunpp2", "dpm_2", "dpmpp_2m", "res_multistep")),
    *((name, {}) for name in ("gradient_estimation", "exp_heun_2_x0", "uni_pc", "uni_pc_bh2")),
    *(("lms", dict(order=k)) for k in (2, 3, 4)),
    *((name, dict(max_order=k)) for name in ("ipndm", "ipndm_v") for k in (2, 3, 4)),
    *(("deis", dict(max_order=k)) for k in (2, 3)),  # its mode "rhoab" raises
    *((name, dict(eta=0.0)) for name in ("dpmpp_2m_sde", "dpmpp_2m_sde_heun", "dpmpp_3m_sde")),
    *((name, dict(eta=0.0)) for name in ("dpmpp_sde", "seeds_2", "seeds_3")),
    *((name, dict(tau_func=lambda sigma: 0.0)) for name in ("sa_solver", "sa_solver_pece")),
)
UNIPCS = (
    "uni_pc",
    "uni_pc_bh2",
)  # float32 only; they end at σ = 0.001, so also run: to σ_min, then D


class Model:
    """A denoiser as ComfyUI's samplers see it."""

    def __init__(self, denoise: Denoise, sampling: Any) -> None:
        self.denoise = denoise
        patcher = SimpleNamespace(get_model_object=lambda name: sampling)
        self.inner_model = SimpleNamespace(
            model_patcher=patcher, inner_model=SimpleNamespace(model_sampling=sampling)
        )

    def __call__(self, x: Tensor, sigma: Tensor, **_: Any) -> Tensor:
        return self.denoise(x.double(), float(sigma.flatten()[0])).to(x.dtype)


@lru_cache(maxsize=16)
def model_sampling(schedule: NoiseSchedule) -> Any:
    """ComfyUI's own schedule for our problems: EDM's range, flow with its shift, else Stable Diffusion's table."""
    ms = importlib.import_module("comfy.model_sampling")
    if isinstance(schedule, EDM):
        sampling = type("Sampling", (ms.ModelSamplingContinuousEDM, ms.EPS), {})()
        sampling.set_parameters(schedule.sigma_min, schedule.sigma_max, 1.0)
    elif isinstance(schedule, RectifiedFlowSchedule):
        sampling = type("Sampling", (ms.ModelSamplingDiscreteFlow, ms.CONST), {})()
        sampling.set_parameters(shift=schedule.shift)
    else:
        sampling = type("Sampling", (ms.ModelSamplingDiscrete, ms.EPS), {})()
    return sampling


def comfy_play(
    sampler: Any,
    finish: bool,
    dtype: torch.dtype,
    problem: Problem,
    points: Points,
    denoise: Denoise,
) -> Tensor:
    sigmas = torch.tensor(points.sigmas()[: -1 if finish else None], dtype=torch.float64)
    model = Model(denoise, model_sampling(problem.schedule))
    x = sampler(model, problem.start.to(dtype), sigmas.to(dtype), extra_args={}, disable=True)
    return denoise(x.double(), float(sigmas[-1])) if finish else x


def comfy_contestants() -> list[Contestant]:
    """The deterministic samplers of the ComfyUI that can be imported here."""
    kdiffusion = importlib.import_module("comfy.k_diffusion.sampling")
    uni_pc = importlib.import_module("comfy.extra_samplers.uni_pc")
    found = dict(uni_pc=uni_pc.sample_unipc, uni_pc_bh2=uni_pc.sample_unipc_bh2)
    contestants = []
    for name, options in SAMPLERS:
        sampler = found.get(name) or getattr(kdiffusion, f"sample_{name}", None)
        if sampler is None:
            continue
        quiet = dict(noise_sampler=lambda *_: torch.zeros(())) if "eta" in options else {}
        values = [str(v) for v in options.values() if isinstance(v, int | str)]
        for finish in (False, True)[: 1 + (name in UNIPCS)]:
            dtype = torch.float32 if name in UNIPCS else torch.float64
            play = partial(comfy_play, partial(sampler, **options, **quiet), finish, dtype)
            title = " ".join([name, *values, *["then D"] * finish])
            contestants.append(Contestant(title, evaluations(play), play))
    return contestants


def evaluations(play: Any) -> Any:
    """NFE of n steps, a line through what 4 and 5 steps on a trivial problem cost."""
    cost = []
    for n in (4, 5):
        calls: list[float] = []
        points = Points(VE(), (*(2.0**-k for k in range(n)), 0.0))
        start = SimpleNamespace(path=VE(), schedule=ScaledLinearVP(), start=torch.ones(1, 1, 1, 1))
        play(start, points, lambda x, sigma, calls=calls: calls.append(sigma) or x / 2)
        cost.append(len(calls))
    return lambda n: cost[1] + (cost[1] - cost[0]) * (n - 5)


def comfy_root() -> Path | None:
    """COMFYUI_PATH, or comfy-cli's default workspace."""
    root = Path(os.environ.get("COMFYUI_PATH") or Path.home() / "comfy" / "ComfyUI").expanduser()
    return root if (root / "main.py").is_file() else None


def comfy_results(answers: dict[str, Tensor], **settings: Any) -> list[Result]:
    """ComfyUI on every problem, in its own Python; nothing where there is none."""
    rows = in_comfyui("peers", dict(answers=answers, settings=settings))
    return [Result(**row) for row in rows]


def in_comfyui(module: str, task: dict[str, Any]) -> list[dict[str, Any]]:
    """What ``report`` of a module of this package prints for the task in ComfyUI's Python; [] where there is no ComfyUI."""
    root = comfy_root()
    if root is None:
        return []
    own = [root / venv / "bin" / "python" for venv in (".venv", "venv")]
    python = next((str(p) for p in own if p.exists()), sys.executable)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "task.pt"
        torch.save(task, file)
        command = [python, "-c", WITHOUT_NODES, "--cpu", str(PACK), module, str(file)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=root)
    if done.returncode:
        raise RuntimeError(f"the ComfyUI in {root} could not be measured:\n{done.stderr[-2000:]}")
    rows: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return rows


#: The pack under its name but without its nodes, which would load all of ComfyUI.
WITHOUT_NODES = """
import importlib, sys, types
task, module, folder = sys.argv.pop(), sys.argv.pop(), sys.argv.pop()
pack = sys.modules["sampling_kit"] = types.ModuleType("sampling_kit")
pack.__path__ = [folder]
importlib.import_module(f"sampling_kit.benchmarks.{module}").report(task)
"""


def report(path: str) -> None:
    """Inside ComfyUI's Python: read the task, print the results as JSON."""
    torch.set_num_threads(1)
    task = torch.load(path, weights_only=True)
    importlib.import_module("comfy.options").enable_args_parsing()
    results = contest("ComfyUI", comfy_contestants(), task["answers"], **task["settings"])
    print(json.dumps([asdict(r) for r in results]))
