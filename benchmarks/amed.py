"""AMED on the embedded network: what its predictor gains by looking at the bottleneck.

    python -m benchmarks.amed [--steps 3] [--train 128] [--held 64] [--rounds 8] [--json]

The same levels for all (geometric, σ 80 to 0.08, then 0), no guidance; the error is that to the end of a fine run
(UniPC-3) on held-out trajectories. Beside it DPM-Solver-2, which all begin as. About five minutes on a core.
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sampling_kit.embedded import fits, trained
from sampling_kit.schedulers.denoiser.network import Network, load
from sampling_kit.schedulers.fit import amed_fit, predictor
from sampling_kit.schedulers.fit.amed_predictors import Bottleneck, Constants, middle_of
from sampling_kit.schedulers.fit.learned_amed import LearnedAMED
from sampling_kit.schedulers.fit.problem import Problem, summary
from sampling_kit.schedulers.path import VE
from sampling_kit.schedulers.points import Points
from sampling_kit.schedulers.solver import UniPC
from sampling_kit.schedulers.solver.run import Run

FIRST_SEED, LOW, FINE = 2_000_000, 0.08, 14


@dataclass(frozen=True)
class Course:
    """The teacher's states at the run's levels."""

    states: dict[float, Tensor]

    def __call__(self, kappa: float, rows: Tensor) -> Tensor:
        return self.states[kappa][rows] / math.hypot(1, kappa)


def problem(net: Network, levels: list[float], train: int, held: int) -> Problem:
    """Trajectories of consecutive seeds, every class in turn."""
    seeds = torch.arange(FIRST_SEED, FIRST_SEED + train + held)
    classes, rows = fits.classes_of(seeds), torch.arange(train + held)

    def denoise(x: Tensor, sigma: float | Tensor, some: Tensor) -> Tensor:
        return net(x, sigma, classes[some])

    def fine(p: float, q: float, some: Tensor) -> Tensor:
        kappas = np.geomspace(p, q or 0.002, FINE + 1).tolist()
        points = Points(VE(), (*kappas[:-1], q) if q else (*kappas, 0.0))
        return UniPC(3).plan(points).solve(Run(lambda x, s: denoise(x, s, some)), states[p][some])

    states = {levels[0]: fits.starts(seeds)}
    with torch.no_grad():
        for p, q in zip(levels, [*levels[1:], 0.0], strict=True):
            states[q] = torch.cat([fine(p, q, some) for some in rows.split(32)])
    return Problem(
        VE(), denoise, levels[0], states[levels[0]], states[0.0], rows[:train], rows[train:], Course(states), batch=32
    )  # fmt: skip


def measured(steps: int, train: int, held: int, rounds: int) -> dict[str, dict[str, float]]:
    levels = [80.0 * (LOW / 80.0) ** (i / (steps - 1)) for i in range(steps)]
    points = Points(VE(), (*levels, 0.0))
    net = load(trained.file("network"), VE(), Network)
    middle, task = middle_of(net), problem(net, levels, train, held)
    assert middle is not None
    constants = Constants(steps - 1)
    amed_fit.train(task, points, constants, rate=0.02, rounds=rounds)
    errors = {"AMED, constants": predictor.run_errors(task, points, LearnedAMED(constants))}
    blind = predictor.learn(task, points, rounds=rounds)
    with Bottleneck(middle) as features:
        seeing = predictor.learn(task, points, rounds=rounds, features=features)
    errors |= {
        "DPM-Solver-2": blind.before,
        "AMED, network without features": blind.after,
        "AMED, network": seeing.after,
    }
    return {name: summary(found) for name, found in errors.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    for name, default in dict(steps=3, train=128, held=64, rounds=8).items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--json", action="store_true")
    options = vars(parser.parse_args())
    as_json = options.pop("json")
    torch.set_num_threads(1)
    found = measured(**options)
    if as_json:
        print(json.dumps(found))
        return
    for name, error in sorted(found.items(), key=lambda item: -item[1]["rmse"]):
        print(f"{name:32} RMSE {error['rmse']:.4f}  median {error['median']:.4f}")


if __name__ == "__main__":
    main()
