"""The memory of a forward fit beside its formula, at two sizes.

    python -m benchmarks.fit_memory [--side 96 160] [--images 12] [--nfe 5]

Each size runs in a process of its own, whose largest resident memory is read; what torch itself takes cancels in the
difference of the two, and so does the formula's: bytes per value of a latent. Linux and macOS.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from sampling_kit.schedulers.fit.forward import Forward
from sampling_kit.schedulers.fit.memory import fit_memory, fitted_numbers
from sampling_kit.schedulers.fit.problem import Problem
from sampling_kit.schedulers.fit.run_fit import run_fit
from sampling_kit.schedulers.path import VE
from sampling_kit.schedulers.points import Points
from sampling_kit.schedulers.solver import AdamsBashforth
from sampling_kit.schedulers.solver.fitted import table_of

TRAJECTORIES, HELD, BATCH, CHANNELS = 20, 8, 4, 4


def one_fit(side: int, images: int, nfe: int) -> int:
    """A fit of one move on a field that is two numbers a level; the process' largest resident memory in bytes."""
    torch.set_num_threads(1)
    start = torch.randn(TRAJECTORIES, CHANNELS, side, side).mul_(80)
    rows = torch.arange(TRAJECTORIES)

    def field(x: Tensor, sigma: float, some: Tensor) -> Tensor:
        return x / (1 + sigma * sigma)

    task = Problem(VE(), field, 80.0, start, start / 80, rows[HELD:], rows[:HELD], batch=BATCH)
    levels = torch.logspace(1.9, -1, nfe).tolist()
    table = table_of(AdamsBashforth(2).plan(Points(VE(), (80.0, *levels[1:], 0.0))))
    with torch.inference_mode():
        run_fit(task, table, Forward(numbers=1, bands=0, images=images, budget=10**9))
    return peak()


def peak() -> int:
    """The largest resident memory of this program in bytes. Linux's ru_maxrss would be that of the process that started it,
    where that had more."""
    status = Path("/proc/self/status")
    if status.exists():
        found = re.search(r"VmHWM:\s*(\d+) kB", status.read_text())
        return 1024 * int(found[1]) if found else 0
    import resource

    taken = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return taken if sys.platform == "darwin" else 1024 * taken


def measured(side: int, images: int, nfe: int) -> int:
    """The same in a process of its own."""
    flags = ["--one", str(side), "--images", str(images), "--nfe", str(nfe)]
    command = [sys.executable, "-m", "sampling_kit.benchmarks.fit_memory", *flags]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def compare(sides: Sequence[int], images: int, nfe: int) -> dict[str, float]:
    """Bytes per value of a latent: measured, by the formula, and their ratio."""
    small, large = sides
    values = [CHANNELS * side * side for side in (small, large)]
    taken = measured(large, images, nfe) - measured(small, images, nfe)
    said = sum(fit_memory(1, TRAJECTORIES, HELD, images, fitted_numbers(nfe), nfe, BATCH))
    found = taken / (values[1] - values[0])
    return dict(measured=found, formula=float(said), ratio=found / said)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--side", nargs=2, type=int, default=[96, 160])
    parser.add_argument("--images", type=int, default=12)
    parser.add_argument("--nfe", type=int, default=5)
    parser.add_argument("--one", type=int, help="run a fit of this side and print its memory")
    options = parser.parse_args(arguments)
    if options.one:
        print(one_fit(options.one, options.images, options.nfe))
    else:
        print(json.dumps(compare(options.side, options.images, options.nfe)))


if __name__ == "__main__":
    main()
