"""What peers bring to ``benchmarks.lead``: their own samplers on their own levels.

ComfyUI's samplers with its schedulers, in ComfyUI's Python, with the penultimate level left out where KSampler leaves it out; diffusers'
schedulers with the levels that their options give.
"""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor

from sampling_kit.schedulers.noise_schedule import EDM, NoiseSchedule, RectifiedFlowSchedule
from sampling_kit.schedulers.path import VE
from sampling_kit.schedulers.points import Points

from . import peers
from .lead_choice import Pair, Seeds, Winner, size, task_of, winner
from .problems import Contestant, Problem, rmse

Levels = dict[str, Callable[[int], Sequence[float]]]  # name → σ of n steps, the last 0
COMFY, DIFFUSERS = "ComfyUI", "diffusers"


@dataclass(frozen=True)
class Entry(Pair):
    """A peer's sampler on levels of its own."""

    contestant: Contestant
    points: Points

    def errors(self, seeds: Seeds, most: int) -> Tensor | None:
        """Per seed; None where it fails, does not stay finite or takes more than ``most`` evaluations."""
        calls, task = 0, seeds.task

        def counted(x: Tensor, sigma: float) -> Tensor:
            nonlocal calls
            calls += 1
            return task.denoise(x, sigma)

        top = task.path.at(task.schedule.kappa_max).sigma
        begun = replace(task, start=task.start * (self.points.sigmas()[0] / top))
        try:
            last = self.contestant.play(begun, self.points, counted)
        except Exception:  # somebody else's code: it does not run there
            return None
        errors = rmse(last.double(), seeds.end)
        return errors if calls <= most and math.isfinite(size(errors)) else None


def pairs(
    contestants: Sequence[Contestant], levels: Callable[[Contestant], Levels], task: Problem, nfe: int
) -> Iterator[Entry]:  # fmt: skip
    """Each contestant with as many steps as ``nfe`` pays for; one less where a spacing gives one more than asked."""
    for contestant in contestants:
        if contestant.path not in ("", task.path.name):
            continue
        steps = contestant.steps(nfe)
        for name, levels_at in levels(contestant).items():
            for n in range(steps, max(steps - 2, 0), -1):
                sigmas = levels_at(n)
                if len(sigmas) > 1 and contestant.nfe(len(sigmas) - 1) <= nfe:
                    points = Points.from_sigmas(task.path, sigmas)
                    yield Entry(contestant.name, name, contestant, points)
                    break


def theirs(
    side: str, contestants: Sequence[Contestant], levels: Callable[[Contestant], Levels], seeds: Seeds, nfe: int
) -> Winner:  # fmt: skip
    def play(some: Sequence[Entry], part: Seeds) -> list[Tensor | None]:
        return [pair.errors(part, nfe) for pair in some]

    return winner(side, nfe, list(pairs(contestants, levels, seeds.task, nfe)), play, seeds)


def comfy_levels(schedule: NoiseSchedule, contestant: Contestant) -> Levels:
    samplers = importlib.import_module("comfy.samplers")
    sampling = peers.model_sampling(schedule)
    left_out = contestant.name.split()[0] in samplers.KSampler.DISCARD_PENULTIMATE_SIGMA_SAMPLERS

    def of(name: str, n: int) -> Sequence[float]:
        sigmas = samplers.calculate_sigmas(sampling, name, n + left_out).tolist()
        return [*sigmas[:-2], sigmas[-1]] if left_out else sigmas

    return {name: partial(of, name) for name in samplers.SCHEDULER_NAMES}


def report(path: str) -> None:
    """Inside ComfyUI's Python: read the task, print the winners as JSON."""
    torch.set_num_threads(1)
    importlib.import_module("comfy.options").enable_args_parsing()
    task = torch.load(path, weights_only=True)
    contestants = peers.comfy_contestants()
    rows = []
    for name, end in task["answers"].items():
        seeds = Seeds(task_of(name, len(end)), end)
        for nfe in task["nfes"]:
            levels = partial(comfy_levels, seeds.task.schedule)
            rows.append(theirs(COMFY, contestants, levels, seeds, nfe))
    print(json.dumps([asdict(row) for row in rows]))


def comfy(answers: dict[str, Tensor], nfes: Sequence[int]) -> list[Winner]:
    """By problem and number of evaluations; [] where there is no ComfyUI."""
    rows = peers.in_comfyui("lead_peers", dict(answers=answers, nfes=list(nfes)))
    return [Winner(**row) for row in rows]


KINDS = ("karras", "exponential", "beta")


def _for_each(levels: Levels, _: Contestant) -> Levels:
    return levels


def diffusers_levels(schedule: NoiseSchedule, _: Contestant) -> Levels:
    """What set_timesteps of diffusers' own schedulers makes, by its options."""
    from diffusers import (
        DPMSolverMultistepScheduler,
        EDMDPMSolverMultistepScheduler,
        FlowMatchEulerDiscreteScheduler,
    )

    if isinstance(schedule, EDM):
        ends = dict(sigma_min=schedule.sigma_min, sigma_max=schedule.sigma_max)
        makers = {
            kind: partial(EDMDPMSolverMultistepScheduler, sigma_schedule=kind, **ends)
            for kind in KINDS[:2]
        }
    elif isinstance(schedule, RectifiedFlowSchedule):
        flow = partial(FlowMatchEulerDiscreteScheduler, shift=schedule.shift)
        makers = {"flow": flow} | {
            kind: partial(flow, **{f"use_{kind}_sigmas": True}) for kind in KINDS
        }
    else:
        table = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
        make = partial(DPMSolverMultistepScheduler, **table)
        makers = {
            name: partial(make, timestep_spacing=name)
            for name in ("linspace", "leading", "trailing")
        } | {kind: partial(make, **{f"use_{kind}_sigmas": True}) for kind in (*KINDS, "lu")}
        makers["lu"] = partial(make, use_lu_lambdas=True)
    return {name: partial(_sigmas, maker) for name, maker in makers.items()}


@lru_cache(maxsize=1024)
def _sigmas(make: Callable[[], Any], n: int) -> Sequence[float]:
    scheduler = make()
    scheduler.set_timesteps(n)
    found: list[float] = scheduler.sigmas.double().tolist()
    return found


def diffusers(answers: dict[str, Tensor], nfes: Sequence[int]) -> Iterator[Winner]:
    for name, end in answers.items():
        seeds = Seeds(task_of(name, len(end)), end)
        task = seeds.task
        recipes = peers.ON_VE if isinstance(task.path, VE) else peers.ON_FLOW
        contestants = [r.contestant(task.path.name) for r in recipes]
        levels = partial(_for_each, diffusers_levels(task.schedule, contestants[0]))
        for nfe in nfes:
            yield theirs(DIFFUSERS, contestants, levels, seeds, nfe)
