"""What only a GPU can tell, in one run of at most eight minutes.

    python -m benchmarks.gpu [--device cuda] [--tiny] [--minutes 8] [--json]

Part by part, the most important first: time per step outside the network, queued and finished, for latents of a picture and of a video;
kernels a step; how often a run waits for the device; what a CUDA graph of a whole run and torch.compile of the network save; peak memory beyond
the network's own; how far bf16 and fp16 networks end from float32; steps a second of a random UNet of the size of Stable Diffusion 1.5, ours and
ComfyUI's own sampler where one is found. A part that would begin after the time is left out, and one that fails says why. ``--tiny``: everything
small, on the CPU too, to see that it runs.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from sampling_kit.schedulers.denoiser.network import Config, Network
from sampling_kit.schedulers.noise_schedule import ScaledLinearVP
from sampling_kit.schedulers.path import VE
from sampling_kit.schedulers.points import Points
from sampling_kit.schedulers.solver import DPMSolverMultistep, Euler, GaussianAdams, Solver, UniPC
from sampling_kit.schedulers.solver.run import Run
from sampling_kit.schedulers.spacing import Karras, space

from .peers import comfy_root

SOLVERS: tuple[Solver, ...] = (Euler(), DPMSolverMultistep(), UniPC(), GaussianAdams())
Denoise = Callable[[Tensor, float], Tensor]
Facts = dict[str, Any]


@dataclass(frozen=True)
class Place:
    """Where it runs, and how large."""

    device: torch.device
    tiny: bool

    @property
    def steps(self) -> int:
        return 4 if self.tiny else 20

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        if self.tiny:
            return {"picture": (1, 4, 8, 8), "video": (1, 4, 2, 8, 8)}
        return {
            "picture": (1, 4, 64, 64),
            "batch": (4, 16, 128, 128),
            "video": (1, 16, 21, 90, 160),
        }

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def noise(self, shape: Sequence[int]) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        return torch.randn(tuple(shape), generator=generator).to(self.device)


def points_of(steps: int) -> Points:
    return space(ScaledLinearVP(), steps, Karras()).on(VE())


def timed(place: Place, run: Callable[[], Any], repeats: int = 5) -> tuple[float, float]:
    """Seconds until the host has queued it and until the device has done it: the best of ``repeats``, after one to warm up."""
    best = [float("inf")] * 2
    for i in range(repeats + 1):
        place.wait()
        start = time.perf_counter()
        run()
        queued = time.perf_counter() - start
        place.wait()
        done = time.perf_counter() - start
        if i:
            best = [min(best[0], queued), min(best[1], done)]
    return best[0], best[1]


@dataclass(frozen=True)
class Constant:
    """A denoiser that costs nothing."""

    d: Tensor

    def __call__(self, y: Tensor, sigma: Any) -> Tensor:
        return self.d


# ---- parts


def overhead(place: Place) -> Facts:
    """µs a step outside the network, [queued, finished], and of k-diffusion's Euler."""
    from .overhead import k_euler

    points, found = points_of(place.steps), Facts()
    for name, shape in place.shapes.items():
        x = 14.6 * place.noise(shape)
        d = torch.zeros_like(x)
        sigmas = torch.tensor(points.sigmas(), device=place.device)
        runs: dict[str, Callable[[], Any]] = {
            s.title: partial(s.solve, points, Run(Constant(d)), x) for s in SOLVERS
        }
        runs["k-diffusion's Euler"] = partial(k_euler, Constant(d), x, sigmas)
        found[name] = {
            key: [round(1e6 * t / place.steps, 1) for t in timed(place, run)]
            for key, run in runs.items()
        }
    return found


def kernels(place: Place) -> Facts:
    """Kernels that a step launches, on the device; on a CPU the operations that would."""
    points, found = points_of(place.steps), Facts()
    x = 14.6 * place.noise(place.shapes["picture"])
    d = torch.zeros_like(x)
    gpu = place.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * gpu]
    for solver in SOLVERS:
        run = partial(solver.solve, points, Run(lambda y, sigma: d, finite=False), x)
        run()
        with profile(activities=activities) as seen:
            run()
            place.wait()
        names = [e.name for e in seen.events() if not gpu or e.device_type.name == "CUDA"]
        if not gpu:
            names = [n for n in names if n.startswith("aten::") and "empty" not in n]
        found[solver.title] = round(len(names) / place.steps, 2)
    return found


def waits(place: Place) -> Facts:
    """How often a run makes the host wait for the device (CUDA's own warnings)."""
    if place.device.type != "cuda":
        return {"left out": "needs CUDA (tests/test_no_waiting.py counts on device meta)"}
    import warnings

    points, x = points_of(place.steps), 14.6 * place.noise(place.shapes["picture"])
    found = Facts()
    for solver in SOLVERS:
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                solver.solve(points, Run(lambda y, sigma: y * 0.5, finite=False), x)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        found[solver.title] = len(caught)
    return found


def graphs(place: Place) -> Facts:
    """Seconds of a run of the small network: as it is, its network compiled, and the whole run as one CUDA graph."""
    network, x = small(place), place.noise((1, 3, 32, 32)) * 14.6
    points, found = points_of(place.steps), Facts()
    found["as it is"] = timed(place, partial(solved, network, points, x))[1]
    if place.device.type != "cuda":
        return found | {"left out": "compile and graphs need CUDA"}
    compiled = torch.compile(network)
    found["network compiled"] = timed(place, partial(solved, compiled, points, x))[1]
    try:
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            solved(network, points, x)
        place.wait()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            solved(network, points, x)
        found["one CUDA graph"] = timed(place, graph.replay)[1]
    except RuntimeError as failure:
        found["one CUDA graph"] = f"{failure}"[:200]
    return found


@torch.no_grad()
def solved(network: Any, points: Points, x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    def denoise(y: Tensor, sigma: float) -> Tensor:
        out: Tensor = network(y.to(dtype), sigma)
        return out.to(y.dtype)

    return DPMSolverMultistep().solve(points, Run(denoise, finite=False), x)


def memory(place: Place) -> Facts:
    """Peak bytes of a run beyond what was there, in tensors of the latent's size."""
    if place.device.type != "cuda":
        return {"left out": "needs CUDA"}
    points, found = points_of(place.steps), Facts()
    x = 14.6 * place.noise(place.shapes["video"])
    for solver in SOLVERS:
        torch.cuda.reset_peak_memory_stats(place.device)
        before = torch.cuda.memory_allocated(place.device)
        solver.solve(points, Run(lambda y, sigma: y * 0.5, finite=False), x)
        peak = torch.cuda.max_memory_allocated(place.device) - before
        found[solver.title] = round(peak / (x.numel() * x.element_size()), 2)
    return found


def drift(place: Place) -> Facts:
    """RMS between the ends of bf16 and fp16 runs of the small network and of float32's."""
    x, points = place.noise((2, 3, 32, 32)) * 14.6, points_of(place.steps)
    exact = solved(small(place), points, x)
    found = Facts()
    for name, dtype in (("bf16", torch.bfloat16), ("fp16", torch.float16)):
        end = solved(small(place).to(dtype), points, x, dtype)
        found[name] = float((end - exact).square().mean().sqrt())
    return found


def small(place: Place) -> Network:
    """The embedded network's kind with random weights, the same every time."""
    torch.manual_seed(0)
    config = Config(channels=16, multiples=(1, 2), attention=(1,)) if place.tiny else Config()
    network = Network(VE(), config).to(place.device).eval().requires_grad_(False)
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.02 * torch.randn(weight.shape).to(weight))
    return network


class Stepper:
    """A denoiser around a UNet of Stable Diffusion 1.5's size with random weights, in fp16 on a GPU."""

    def __init__(self, place: Place) -> None:
        diffusers = importlib.import_module("diffusers")
        channels = (32, 64) if place.tiny else (320, 640, 1280, 1280)
        down = ("CrossAttnDownBlock2D",) * (len(channels) - 1) + ("DownBlock2D",)
        up = ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * (len(channels) - 1)
        self.dtype = torch.float16 if place.device.type == "cuda" else torch.float32
        with torch.device(place.device):
            self.net: nn.Module = diffusers.UNet2DConditionModel(
                sample_size=64, block_out_channels=channels, down_block_types=down, up_block_types=up,
                cross_attention_dim=768, layers_per_block=1 if place.tiny else 2, attention_head_dim=8,
            )  # fmt: skip
            self.text = torch.zeros(1, 77, 768, dtype=self.dtype)
        self.net = self.net.to(self.dtype).eval().requires_grad_(False)

    @torch.no_grad()
    def __call__(self, y: Tensor, sigma: Any, **_: Any) -> Tensor:
        level = float(sigma) if isinstance(sigma, float) else sigma.reshape(-1, *[1] * (y.ndim - 1))
        scaled = (y / (level**2 + 1) ** 0.5).to(self.dtype)
        eps = self.net(scaled, 500, encoder_hidden_states=self.text).sample
        out: Tensor = y - level * eps.to(y.dtype)
        return out


def steps_a_second(place: Place) -> Facts:
    """Of the UNet alone, of our solvers and of ComfyUI's samplers on it."""
    model, x = Stepper(place), 14.6 * place.noise(place.shapes["picture"])
    points = points_of(place.steps)
    sigmas = torch.tensor(points.sigmas(), device=place.device)
    runs: dict[str, Callable[[], Any]] = {
        "the network alone": lambda: [model(x, 1.0) for _ in range(place.steps)]
    }
    for solver in SOLVERS[:2]:
        runs[solver.title] = partial(solver.solve, points, Run(model), x)
    for name in ("euler", "dpmpp_2m"):
        sampler = comfy_sampler(name)
        if sampler is not None:
            runs[f"ComfyUI's {name}"] = partial(sampler, model, x, sigmas, disable=True)
    repeats = 1 if place.tiny else 3
    return {key: round(place.steps / timed(place, run, repeats)[1], 2) for key, run in runs.items()}


def comfy_sampler(name: str) -> Callable[..., Tensor] | None:
    """ComfyUI's own function, where a ComfyUI can be imported here."""
    root = comfy_root()
    if root is not None and str(root) not in sys.path:
        sys.path.append(str(root))
    try:
        sampling = importlib.import_module("comfy.k_diffusion.sampling")
    except Exception:  # somebody else's code, in another Python than its own
        return None
    found: Callable[..., Tensor] = getattr(sampling, f"sample_{name}")
    return found


PARTS: dict[str, Callable[[Place], Facts]] = {
    "µs a step outside the network: queued, finished": overhead,
    "kernels a step": kernels,
    "waits for the device": waits,
    "steps a second of a UNet of SD 1.5's size": steps_a_second,
    "peak memory in latents": memory,
    "drift of bf16 and fp16": drift,
    "seconds a run": graphs,
}


def measure(place: Place, minutes: float) -> Facts:
    started, found = time.monotonic(), Facts()
    for title, part in PARTS.items():
        if time.monotonic() - started > 60 * minutes * 0.8:
            found[title] = {"left out": "no time left"}
            continue
        try:
            found[title] = part(place)
        except Exception as failure:  # the other parts are worth having
            found[title] = {"failed": f"{type(failure).__name__}: {failure}"[:300]}
    name = torch.cuda.get_device_name(place.device) if place.device.type == "cuda" else "CPU"
    return {"device": name, "torch": torch.__version__, **found}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    found = measure(Place(torch.device(options.device), options.tiny), options.minutes)
    print(json.dumps(found, indent=None if options.json else 1, ensure_ascii=False))


if __name__ == "__main__":
    main()
