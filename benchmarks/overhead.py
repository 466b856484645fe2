"""Time outside the denoiser, per step: ours, diffusers' ``step`` and k-diffusion's way of writing samplers.

    python -m benchmarks.overhead [--json]

The denoiser costs nothing: it returns a tensor made beforehand. diffusers is charged for
``scale_model_input`` and ``step`` but not for ``set_timesteps``, so ours for the run and not for its plan,
which is made once and kept as long as a queue repeats the run; "plan" says what making it anew costs per
step. k-diffusion's functions are charged whole. Each draws its noise where the method needs it. The ratio
is ours over the better peer (bar: 0.5), from the best of several runs in turn. "kernels" counts the torch
operations of a step that would launch a kernel on a GPU (bar for a multistep method without noise: 4),
between two of the steps at which the engine looks for NaN, which costs one more.
"""

from __future__ import annotations

import argparse
import importlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from sampling_kit.schedulers.noise import PerImageNoise
from sampling_kit.schedulers.noise_schedule import ScaledLinearVP
from sampling_kit.schedulers.path import VE
from sampling_kit.schedulers.points import Points
from sampling_kit.schedulers.solver import ALL, Solver
from sampling_kit.schedulers.solver.run import Run
from sampling_kit.schedulers.spacing import Karras, space

SHAPES = ((1, 4, 64, 64), (4, 16, 128, 128), (1, 16, 13, 60, 90))
STEPS, REPEATS = 20, 7
NOT_KERNELS = (
    "empty",
    "empty_like",
    "view",
    "expand",
    "detach",
    "select",
    "unbind",
    "item",
    "reshape",
    "split",
)

Seconds = Callable[[], float]  # one run
Model = Callable[[Tensor, Tensor], Tensor]


# ---- k-diffusion's way: σ as tensors, one function per method


def slope(x: Tensor, sigma: Tensor, denoised: Tensor) -> Tensor:
    return (x - denoised) / sigma[(...,) + (None,) * x.ndim]


def k_euler(model: Model, x: Tensor, sigmas: Tensor) -> Tensor:
    ones = x.new_ones([x.shape[0]])
    for now, then in pairwise(sigmas):
        x = x + slope(x, now, model(x, now * ones)) * (then - now)
    return x


def k_heun(model: Model, x: Tensor, sigmas: Tensor) -> Tensor:
    ones = x.new_ones([x.shape[0]])
    for now, then in pairwise(sigmas):
        d = slope(x, now, model(x, now * ones))
        ahead = x + d * (then - now)
        if then > 0:
            d = (d + slope(ahead, then, model(ahead, then * ones))) / 2
            ahead = x + d * (then - now)
        x = ahead
    return x


def k_dpmpp_2m(model: Model, x: Tensor, sigmas: Tensor) -> Tensor:
    ones, before = x.new_ones([x.shape[0]]), None
    h_before = torch.zeros(())
    for now, then in pairwise(sigmas):
        denoised = d = model(x, now * ones)
        h = now.log() - then.log()
        if before is not None and then > 0:
            r = h_before / h
            d = (1 + 1 / (2 * r)) * denoised - (1 / (2 * r)) * before
        x = (then / now) * x - (-h).expm1() * d
        before, h_before = denoised, h
    return x


# ---- families both have


@dataclass(frozen=True)
class Family:
    """``scheduler`` is diffusers' name for it, which our class has among its aliases."""

    name: str
    scheduler: str
    k_diffusion: Callable[[Model, Tensor, Tensor], Tensor] | None = None
    multistep: bool = False

    @property
    def solver(self) -> Solver | None:
        return next((cls() for cls in ALL if self.scheduler in cls.aliases), None)


FAMILIES = (
    Family("euler", "EulerDiscreteScheduler", k_euler),
    Family("heun", "HeunDiscreteScheduler", k_heun),
    Family("ddim", "DDIMScheduler"),
    Family("ddpm", "DDPMScheduler"),
    Family("dpm++ 2m", "DPMSolverMultistepScheduler", k_dpmpp_2m, multistep=True),
    Family("unipc", "UniPCMultistepScheduler", multistep=True),
    Family("deis", "DEISMultistepScheduler", multistep=True),
)


def points_of(steps: int) -> Points:
    return space(ScaledLinearVP(), steps, Karras()).on(VE())


def ours(solver: Solver, steps: int, x: Tensor, d: Tensor) -> Seconds:
    points = points_of(steps)

    def seconds() -> float:
        start = time.perf_counter()
        solver.solve(points, Run(lambda y, sigma: d, PerImageNoise(0)), x)
        return time.perf_counter() - start

    return seconds


def planning(solver: Solver, steps: int) -> Seconds:
    points = points_of(steps)

    def seconds() -> float:
        start = time.perf_counter()
        assert solver.plan(points).on(points.path.host).moves
        return time.perf_counter() - start

    return seconds


def diffusers(family: Family, order: int, steps: int, x: Tensor, d: Tensor) -> Seconds:
    options: dict[str, Any] = dict(solver_order=order) if family.multistep else {}
    options |= dict(clip_sample=False) if family.name in ("ddim", "ddpm") else {}
    scheduler = getattr(importlib.import_module("diffusers"), family.scheduler)(**options)

    def seconds() -> float:
        scheduler.set_timesteps(steps)
        y, start = x, time.perf_counter()
        for t in scheduler.timesteps:
            scheduler.scale_model_input(y, t)
            y = scheduler.step(d, t, y, return_dict=False)[0]
        return time.perf_counter() - start

    return seconds


def k_diffusion(family: Family, steps: int, x: Tensor, d: Tensor) -> Seconds | None:
    function, sigmas = family.k_diffusion, torch.tensor(points_of(steps).sigmas())
    if function is None:
        return None

    def seconds() -> float:
        start = time.perf_counter()
        function(lambda y, sigma: d, x, sigmas)
        return time.perf_counter() - start

    return seconds


# ---- measuring


def best_of(runs: dict[str, Seconds], repeats: int) -> dict[str, float]:
    """Least seconds of each, the runs taken in turn so that a slow moment hits all."""
    times = [{name: once() for name, once in runs.items()} for _ in range(repeats + 1)][1:]
    return {name: min(t[name] for t in times) for name in runs}


def kernels(solver: Solver) -> float:
    """Kernels of a step in the middle of a run, of 30 steps: between its 17th and its 23rd evaluation."""
    x, (first, last) = torch.randn(1, 4, 8, 8), (17, 23)
    d, calls, profiler = x.clone(), 0, profile(activities=[ProfilerActivity.CPU])

    def denoise(y: Tensor, sigma: float) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == first:
            profiler.start()
        elif calls == last:
            profiler.stop()
        return d

    solver.solve(points_of(30), Run(denoise, PerImageNoise(0)), x)
    return count_kernels(profiler) / (last - first) * solver.nfe(1000) / 1000


def count_kernels(profiler: profile) -> int:
    """Operations that torch was asked for, less views, reads and conversions to the type it has."""
    asked = [e for e in profiler.events() or () if "aten::" in e.name and not e.cpu_parent]
    names = [e.name.removeprefix("aten::") for e in asked if e.name != "aten::to" or e.cpu_children]
    return sum(name not in NOT_KERNELS for name in names)


def measure(
    shapes: Sequence[tuple[int, ...]] = SHAPES,
    families: Sequence[Family] = FAMILIES,
    steps: int = STEPS,
    repeats: int = REPEATS,
) -> dict[str, Any]:
    """Microseconds per step for every family and shape."""
    rows, worst = [], 0.0
    for family in families:
        solver = family.solver
        if solver is None:
            continue
        launched = kernels(solver)
        plan = round(1e6 * best_of({"plan": planning(solver, steps)}, repeats)["plan"] / steps, 1)
        for shape in shapes:
            x, d = torch.randn(2, *shape)
            runs = dict(
                ours=ours(solver, steps, x, d),
                diffusers=diffusers(family, getattr(solver, "max_order", 2), steps, x, d),
            )
            k = k_diffusion(family, steps, x, d)
            runs |= {"k_diffusion": k} if k else {}
            times = best_of(runs, repeats)
            row = {name: round(1e6 * t / steps, 1) for name, t in times.items()}
            peer = min(t for name, t in times.items() if name != "ours")
            ratio = round(times["ours"] / peer, 3)
            worst = max(worst, ratio)
            rows.append(
                dict(
                    family=family.name, shape=list(shape), ratio=ratio, kernels=launched, plan=plan
                )
                | row
            )
    return dict(worst_ratio=worst, rows=rows)


def main() -> None:
    parser = argparse.ArgumentParser(description="Time outside the denoiser, per step.")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = measure()
    if options.json:
        print(json.dumps(data))
        return
    print("microseconds per step")
    for row in data["rows"]:
        shape = "x".join(map(str, row["shape"]))
        sides = [f"{s} {row[s]:.0f}" for s in ("ours", "diffusers", "k_diffusion") if s in row]
        print(f"{row['family']:9} {shape:15} ratio {row['ratio']:.2f}, {', '.join(sides)}, "
              f"plan {row['plan']:.0f}, {row['kernels']:.1f} kernels")  # fmt: skip
    print(f"worst ratio {data['worst_ratio']:.2f} (bar 0.5)")


if __name__ == "__main__":
    main()
