"""Picard sweeps and speculation against the run in sequence: rounds, evaluations, error and seconds on this CPU.

    python -m benchmarks.parallel [--steps 24] [--windows 4,16] [--tolerances 0.01,0.001] [--threads 1] [--json]
    python -m benchmarks.parallel --speculative --problems mixture --steps 24,100,400

Each row is one run of a batch of one. "error" is the RMS distance of its end from the same run in sequence, and "solver's" that of the
run in sequence from a run of four times the steps of a solver that draws no noise. "breaks even" is what a call of a whole window
may cost, in calls of one image, for the sweeps to take as long as the run in sequence. The second table is what such a call does cost here.
With --speculative the rows are those of solvers that draw noise, whose end has no error: "accepted" of the drafted steps that were judged.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor

from sampling_kit.embedded import trained
from sampling_kit.schedulers.noise import PerImageNoise
from sampling_kit.schedulers.path import VE, Path
from sampling_kit.schedulers.points import Points
from sampling_kit.schedulers.solver import (
    DDIM,
    DDPM,
    DPMSolverMultistep,
    Parallel,
    PicardSweeps,
    Run,
    Solver,
    Speculation,
    Speculative,
    drive,
)
from sampling_kit.schedulers.solver.parallel import InRounds
from sampling_kit.schedulers.solver.state import State
from sampling_kit.schedulers.text_table import markdown_table

from .batched import timed
from .problems import postcard_mixture

SOLVERS: tuple[Solver, ...] = (DDIM(), DPMSolverMultistep(), DDPM())
NOISY: tuple[Solver, ...] = (DDPM(), DDIM(eta=0.3), DPMSolverMultistep(eta=1.0))
NOISE = PerImageNoise(0)
Row = dict[str, Any]


def network() -> tuple[Callable[[Tensor, Any], Tensor], tuple[int, ...]]:
    """D(x, σ) of the network that ships, of one class, and the shape of an image."""
    net = trained.network(VE())

    def denoise(x: Tensor, sigma: Any) -> Tensor:
        return net(x, sigma, torch.eye(net.classes)[:1].expand(len(x), -1))

    return denoise, tuple(net.config.shape)


def mixture() -> tuple[Callable[[Tensor, Any], Tensor], tuple[int, ...]]:
    """D(x, σ) of the postcards' exact mixture."""
    exact = postcard_mixture(VE())
    assert exact.shape is not None
    return exact, tuple(exact.shape)


PROBLEMS = {"network": network, "mixture": mixture}


def points(steps: int, path: Path) -> Points:
    """Karras levels, ρ = 7, from σ 40 to 0.03, and 0."""
    top, bottom = 40.0 ** (1 / 7), 0.03 ** (1 / 7)
    ramp = [i / (steps - 1) for i in range(steps)]
    return Points(path, (*((top + r * (bottom - top)) ** 7 for r in ramp), 0.0))


def several(
    denoise: Callable[[Tensor, Any], Tensor],
) -> Callable[[Tensor, tuple[float, ...]], Tensor]:
    """Levels of one batch as one call."""

    def call(x: Tensor, levels: tuple[float, ...]) -> Tensor:
        return denoise(x, x.new_tensor(levels).repeat_interleave(len(x) // len(levels)))

    return call


@dataclass(frozen=True)
class Sequential:
    """A run in sequence: what it is of, where it ends, and how long it took."""

    solver: Solver
    steps: int
    run: Run
    x: Tensor
    end: Tensor
    seconds: float

    def in_rounds(self, solver: InRounds) -> tuple[Tensor, Any, float]:
        """Where ``solver`` ends in its place, its count, and the seconds it took."""
        start = time.perf_counter()
        program = solver.sweeps(points(self.steps, VE()), State((self.x,)), NOISE)
        state, took = drive(program, self.run)
        return state.x, took, time.perf_counter() - start


def in_sequence(name: str, solvers: Sequence[Solver], steps: Sequence[int]) -> Iterator[Sequential]:
    """Every solver in every number of steps."""
    denoise, shape = PROBLEMS[name]()
    run = Run(denoise, NOISE, several=several(denoise))
    x = 40.0 * torch.randn(1, *shape, generator=torch.Generator().manual_seed(1))
    for solver, count in product(solvers, steps):
        grid, start = points(count, VE()), time.perf_counter()
        end = solver.solve(grid, run, x)
        yield Sequential(solver, count, run, x, end, time.perf_counter() - start)


def rows(
    name: str, steps: Sequence[int], windows: Sequence[int], tolerances: Sequence[float]
) -> list[Row]:
    """One row a run."""
    found = []
    for alone in in_sequence(name, SOLVERS, steps):
        solver, finer = alone.solver, points(4 * alone.steps, VE())
        fine = None if solver.stochastic else solver.solve(finer, alone.run, alone.x)
        for window, tolerance in product(windows, tolerances):
            sweeps = Parallel(solver, PicardSweeps(window, tolerance))
            end, took, seconds = alone.in_rounds(sweeps)
            found.append({
                "problem": name, "solver": solver.title, "steps": alone.steps, "window": window, "tolerance": tolerance,
                "rounds": took.rounds, "evaluations": took.evaluations,
                "error": rms(end, alone.end), "solver's": None if fine is None else rms(alone.end, fine),
                "seconds": seconds, "in sequence": alone.seconds, "breaks even": took.sequential / took.rounds,
            })  # fmt: skip
    return found


def speculative_rows(name: str, steps: Sequence[int], windows: Sequence[int]) -> list[Row]:
    """One row a run."""
    found = []
    for alone in in_sequence(name, NOISY, steps):
        for window in windows:
            _, took, seconds = alone.in_rounds(Speculative(alone.solver, Speculation(window)))
            found.append({
                "problem": name, "solver": alone.solver.words, "steps": alone.steps, "window": window, "rounds": took.rounds,
                "evaluations": took.evaluations, "accepted": took.accepted / took.judged,
                "seconds": seconds, "in sequence": alone.seconds, "breaks even": took.sequential / took.rounds,
            })  # fmt: skip
    return found


def rms(a: Tensor, b: Tensor) -> float:
    return float((a - b).square().mean().sqrt())


def batches(sizes: Sequence[int]) -> list[Row]:
    """What a call of several states costs here, in calls of one."""
    denoise, shape = network()
    calls = []
    for size in (1, *sizes):
        x = torch.randn(size, *shape)
        calls.append(lambda x=x: denoise(x, x.new_full((len(x),), 1.0)))
    with torch.inference_mode():
        first, *others = timed(calls, 5)
    return [{"batch": n, "costs": t / first} for n, t in zip(sizes, others, strict=True)]


def shown(table: Sequence[Row]) -> str:
    cell = lambda v: "–" if v is None else f"{v:.2g}" if isinstance(v, float) else v  # noqa: E731
    return markdown_table(list(table[0]), [[cell(v) for v in row.values()] for row in table])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problems", default="network,mixture")
    parser.add_argument("--steps", default="24")
    parser.add_argument("--windows", default="4,16")
    parser.add_argument("--tolerances", default="0.01,0.001")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--speculative", action="store_true")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    steps, windows = ([int(n) for n in text.split(",")] for text in (asked.steps, asked.windows))
    tolerances = [float(t) for t in asked.tolerances.split(",")]
    with torch.inference_mode():
        table = []
        for name in asked.problems.split(","):
            if asked.speculative:
                table += speculative_rows(name, steps, windows)
            else:
                table += rows(name, steps, windows, tolerances)
        costs = batches(windows)
    if asked.json:
        print(json.dumps({"runs": table, "batches": costs}, indent=1))
        return
    print(shown(table), shown(costs), sep="\n")


if __name__ == "__main__":
    main()
