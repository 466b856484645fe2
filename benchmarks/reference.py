"""End points of the embedded network's ODE, exact to far below any solver's error at usual step counts.

    python -m benchmarks.reference [--count 256] [--steps 64] [--file embedded/weights/reference.safetensors]

End point i starts from 80·(noise of seed i), has class i mod 10 and follows the probability-flow ODE from
σ = 80 to 0.002, where D is the end point. Twice: without guidance (``cond``) and with CFG 2 (``cfg2``).
Everything is float64, with the fp16 weights as they ship; :func:`read` gives both sets and refuses those
of other weights.

The method is Gaussian Adams, predictor and corrector of four values each, over Karras steps: of those
tried at 60 evaluations (classic Runge–Kutta, DOP853, Adams of orders 3 to 6, in σ, ln σ and x/√(σ² + s²))
it came nearest. The error in the header is the difference to classic Runge–Kutta in ln σ of 400
evaluations, which shares no step and no formula with it, on the first end points. Stored are int16
multiples of ``unit``; the rounding, unit/√12, stands beside the error.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path as File
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sampling_kit.embedded import postcards, trained
from sampling_kit.schedulers import noise_schedule as schedules
from sampling_kit.schedulers.noise import PerImageNoise
from sampling_kit.schedulers.path import VE
from sampling_kit.schedulers.solver import GaussianAdams
from sampling_kit.schedulers.solver.run import Run
from sampling_kit.schedulers.store import Format

from .problems import Problem, rmse

FILE = trained.FOLDER / "reference.safetensors"
FORMAT = Format("sampling_kit_reference", "set of reference ends")
BATCH, CHECKED, CHECK_STEPS = 8, 4, 100
SCALES = {"cond": 1.0, "cfg2": 2.0}


def digest(file: File) -> str:
    """SHA-256 of the weights in a file: names and bytes of its tensors, whatever the header says."""
    from safetensors.torch import load_file

    found = hashlib.sha256()
    for name, tensor in sorted(load_file(file).items()):
        found.update(name.encode())
        found.update(tensor.numpy().tobytes())
    return found.hexdigest()


def problem(indices: range, scale: float) -> Problem:
    """The network's ODE with CFG ``scale`` from the starts ``indices`` on, float64."""
    net = trained.network(VE()).double()
    like = torch.empty(len(indices), *net.config.shape, dtype=torch.float64)
    classes = F.one_hot(torch.tensor(indices) % len(postcards.CLASSES), net.classes).double()
    start = PerImageNoise(indices[0])(0, like) * 80.0

    def denoise(x: Tensor, sigma: float) -> Tensor:
        if scale == 1:
            return net(x, sigma, classes)
        both = torch.cat([classes, torch.zeros_like(classes)])
        cond, uncond = net(torch.cat([x, x]), sigma, both).chunk(2)
        return uncond + scale * (cond - uncond)

    return Problem("network", VE(), schedules.EDM(), denoise, start, CHECK_STEPS)


def end_points(count: int, steps: int, scale: float, tick: Callable[[int], Any]) -> Tensor:
    """float64 [count, 3, 32, 32]."""
    solver = GaussianAdams(
        prior=0.56, predictor=4, corrector=4, residual="network", coordinate="lambda"
    )
    made = []
    for first in range(0, count, BATCH):
        task = problem(range(first, min(first + BATCH, count)), scale)
        made.append(solver.solve(task.points("karras 7", steps), Run(task.denoise), task.start))
        tick(len(made[-1]))
    return torch.cat(made)


@torch.no_grad()
def make(file: File, count: int, steps: int) -> dict[str, Any]:
    """Write the file; returns what its header says."""
    from tqdm import tqdm

    with tqdm(total=len(SCALES) * count, unit="picture") as bar:
        ends = {k: end_points(count, steps, w, bar.update) for k, w in SCALES.items()}
    errors = {}
    for k, w in SCALES.items():
        task = problem(range(min(CHECKED, count)), w)
        exact = task.finer_run(task.fine)
        errors[k] = rmse(ends[k][: len(exact)], exact).square().mean().sqrt().item()
    unit = max(t.abs().max().item() for t in ends.values()) / (2**15 - 1)
    facts = {
        "weights": digest(trained.file("network")),
        "seeds": [0, count],
        "classes": "seed mod 10",
        "sigmas": [80.0, 0.002],
        "method": f"Gaussian Adams 4/4, {steps} Karras steps, float64",
        "error": errors,
        "unit": unit,
        "rounding": unit / math.sqrt(12),
    }
    FORMAT.write(file, {k: (t / unit).round().short() for k, t in ends.items()}, facts)
    return facts


def read(file: File = FILE) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """(header, end points float64 [N, 3, 32, 32] by the names of SCALES). Raises ValueError if they are
    those of other weights."""
    from safetensors import safe_open

    with safe_open(file, "pt") as opened:
        facts = json.loads(opened.metadata()[FORMAT.header])
        ends = {name: opened.get_tensor(name).double() * facts["unit"] for name in SCALES}
    if facts["weights"] != digest(trained.file("network")):
        raise ValueError(f"{file} is of other weights: run python -m benchmarks.reference")
    return facts, ends


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--count", type=int, default=256)
    parser.add_argument("--steps", type=int, default=64)
    parser.add_argument("--file", type=File, default=FILE)
    options = parser.parse_args(arguments)
    print(json.dumps(make(options.file, options.count, options.steps), indent=1))


if __name__ == "__main__":
    main()
