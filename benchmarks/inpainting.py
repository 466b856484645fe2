"""Inpainting where the answer is known: samples of an exact mixture's conditional distribution, by every method here.

    python -m benchmarks.inpainting [--path VE] [--count 400] [--json]

Six values, of which the first three are kept; 20 steps of DDIM on Karras levels, the same start for every method. "distance" is
the energy distance of the new values to exact draws, p how often shuffled batches differ as much (200 shuffles: 0.005 is the least),
"seam" how much larger than in exact draws the RMS difference between the last kept and the first new value is. Evaluations
of ΠGDM are counted as they are asked; with the backward pass each costs about three.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sampling_kit.schedulers.denoiser import Mixture
from sampling_kit.schedulers.guidance import COND, DDNM, Guidance, Inpaint, Measurement, PiGDM
from sampling_kit.schedulers.inpainting import Inpainting, KeptPart, LangevinMoves, plainly
from sampling_kit.schedulers.measure.metrics import energy_distance
from sampling_kit.schedulers.measure.two_samples import chance
from sampling_kit.schedulers.noise import PerImageNoise
from sampling_kit.schedulers.path import PATHS, VE, Path
from sampling_kit.schedulers.points import Points
from sampling_kit.schedulers.solver import DDIM, Run
from sampling_kit.schedulers.solver.run import Denoise
from sampling_kit.schedulers.text_table import text_table

SIZE, KEPT, STEPS, SHUFFLES = 6, 3, 20, 200
LEVELS = tuple((30 ** (1 / 7) + i / 19 * (0.02 ** (1 / 7) - 30 ** (1 / 7))) ** 7 for i in range(20))


@dataclass(frozen=True, eq=False)
class Problem:
    """A mixture on R⁶, a picture y [6] and with which deviation each of its values is measured: 0 kept, ∞ new."""

    means: Tensor
    covariances: Tensor
    weights: Tensor
    y: Tensor
    deviation: Tensor

    def denoiser(self, path: Path) -> Mixture:
        """D on ``path``, for x [B, 1, 1, 6]."""
        values, vectors = torch.linalg.eigh(self.covariances)
        shape = (len(self.means), 1, 1, SIZE)
        basis = vectors.mT.reshape(len(self.means), SIZE, 1, 1, SIZE)
        floor = values[:, 0].sqrt()
        spread = values - values[:, :1]
        return Mixture(path, self.means.reshape(shape), floor, basis, spread, self.weights)

    @property
    def mask(self) -> Tensor:
        """[1, 1, 1, 6]: flow time of the deviation."""
        finite = torch.where(self.deviation.isfinite(), self.deviation, 0.0)
        mask = torch.where(self.deviation.isfinite(), finite / (1 + finite), 1.0)
        return mask.reshape(1, 1, 1, SIZE)

    def new(self, x: Tensor) -> Tensor:
        """The values that are not kept exactly, [N, ≤ 6]."""
        return x.reshape(-1, SIZE)[:, self.deviation > 0]

    def exact(self, count: int, seed: int = 0) -> Tensor:
        """Draws of p(x₀ | y + deviation·z), z drawn anew for each, without the kept values."""
        draw = torch.Generator().manual_seed(1000 + seed)
        z = torch.randn(count, SIZE, generator=draw, dtype=torch.float64)
        seen = self.deviation.isfinite()
        noise = torch.where(seen, self.deviation, 0.0)
        rows = (self.y + noise * z)[:, seen]
        logits, draws = [], []
        for mean, covariance, weight in zip(
            self.means, self.covariances, self.weights, strict=True
        ):
            inner = covariance[seen][:, seen] + torch.diag(noise[seen] ** 2)
            gain = torch.linalg.solve(inner, covariance[seen]).mT  # [6, seen]
            off = rows - mean[seen]
            quadratic = (off * torch.linalg.solve(inner, off.mT).mT).sum(1)
            logits.append(weight.log() - 0.5 * (quadratic + inner.logdet()))
            values, vectors = torch.linalg.eigh(covariance - gain @ covariance[seen])
            z = torch.randn(count, SIZE, generator=draw, dtype=torch.float64)
            draws.append(mean + off @ gain.mT + (z * values.clamp(min=0).sqrt()) @ vectors.mT)
        shares = torch.softmax(torch.stack(logits, 1), 1)
        pick = torch.multinomial(shares, 1, generator=draw)[:, 0]
        return self.new(torch.stack(draws, 1)[torch.arange(count), pick])


#: Name → (seed, components, whether all have one covariance, deviation of the kept values).
WORLDS: dict[str, tuple[int, int, bool, tuple[float, float, float]]] = {
    "one component": (2, 3, False, (0.0, 0.0, 0.0)),
    "several components": (5, 4, True, (0.0, 0.0, 0.0)),
    "soft mask": (3, 3, False, (0.0, LEVELS[14], LEVELS[14])),
    "unlike components": (4, 4, False, (0.0, 0.0, 0.0)),
}


def world(name: str) -> Problem:
    """A problem of ``WORLDS``, whose picture is a draw from the data."""
    seed, count, alike, kept = WORLDS[name]
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    means = normal(count, SIZE)
    turns = torch.linalg.qr(normal(1 if alike else count, SIZE, SIZE))[0]
    spread = torch.tensor([1.0, 0.5, 0.3, 0.05, 0.05, 0.05], dtype=torch.float64)
    covariances = (turns * spread) @ turns.mT
    y = means[0] + torch.linalg.cholesky(covariances[0]) @ normal(SIZE)
    deviation = torch.tensor([*kept, *[math.inf] * (SIZE - KEPT)], dtype=torch.float64)
    weights = torch.full((count,), 1 / count, dtype=torch.float64)
    return Problem(means, covariances.expand(count, SIZE, SIZE), weights, y, deviation)


@dataclass(frozen=True)
class Made:
    """Samples [N, 1, 1, 6] and the evaluations that one took."""

    x: Tensor
    evaluations: int


def langevin(moves: int, overdrive: float = 8.0) -> LangevinMoves:
    return LangevinMoves(moves=moves, overdrive=overdrive)


METHODS: dict[str, Any] = {
    "plain masking": None,
    "DDNM": (DDNM,),
    "ΠGDM": (PiGDM,),
    "ΠGDM, then DDNM": (PiGDM, DDNM),
    "Langevin, 5 moves, λ = 0": langevin(5, 0.0),
    "Langevin, 1 move": langevin(1),
    "Langevin, 3 moves": langevin(3),
    "Langevin, 5 moves": langevin(5),
    "Langevin, 10 moves": langevin(10),
}


def sampled(problem: Problem, method: str, path: Path, count: int) -> Made:
    """``count`` samples by a method of ``METHODS``, with DDIM on ``LEVELS``, in float64."""
    points = Points(path, (*LEVELS, 0.0))
    model, calls = problem.denoiser(path.host), [0]

    def denoise(x: Tensor, sigma: float) -> Tensor:
        calls[0] += 1
        return model(x, sigma)

    noise = PerImageNoise(0)(0, torch.empty(count, 1, 1, SIZE)).double()
    picture = problem.y.expand(count, 1, 1, SIZE)
    kept, how = KeptPart(picture, noise, problem.mask), METHODS[method]
    solver: Any = DDIM()
    asked: Denoise = denoise
    if how is None:
        asked = plainly(denoise, kept, path)
    elif isinstance(how, LangevinMoves):
        solver = Inpainting(solver, how, kept)
    else:
        asked = by_rules(how, problem, points, denoise)
    start = points.host[0]
    x = solver.solve(points, Run(asked, PerImageNoise(1)), start.sigma * noise)
    return Made(x, calls[0])


def by_rules(how: Sequence[Any], problem: Problem, points: Points, denoise: Denoise) -> Denoise:
    """D with the rules of ``how``, which know the values that are kept exactly."""
    operator = Inpaint((problem.mask == 0).double())
    measured = Measurement(operator, operator.forward(problem.y.reshape(1, 1, 1, SIZE)))
    rules = tuple(rule(measurement=measured) for rule in how)
    run = Guidance(rules).begin(points.path, points.sigmas())
    return lambda x, sigma: run(x, sigma, lambda y, s, names: {COND: denoise(y, s)})


def rows(names: Sequence[str], path: Path, count: int) -> list[dict[str, Any]]:
    """One row for every problem and method."""
    table = []
    for name in names:
        problem = world(name)
        exact = problem.exact(count, seed=1)
        table.append(row(name, "exact draws", problem, exact, problem.exact(count, seed=2), 0))
        for method in METHODS:
            made = sampled(problem, method, path, count)
            table.append(row(name, method, problem, exact, problem.new(made.x), made.evaluations))
    return table


def row(name: str, method: str, problem: Problem, exact: Tensor, new: Tensor, evaluations: int) -> dict[str, Any]:  # fmt: skip
    last, first = problem.y[KEPT - 1], -(SIZE - KEPT)

    def jump(x: Tensor) -> float:
        return (x[:, first] - last).square().mean().sqrt().item()

    return dict(
        problem=name, method=method, evaluations=evaluations, distance=energy_distance(exact, new),
        p=chance(exact, new, SHUFFLES), seam=jump(new) / jump(exact) - 1,
    )  # fmt: skip


def written(table: Sequence[dict[str, Any]]) -> str:
    heads = ["problem", "method", "evaluations", "distance", "p", "seam"]
    show: dict[str, Callable[[Any], str]] = {
        "distance": "{:.3f}".format, "p": "{:.3f}".format, "seam": "{:+.0%}".format,
    }  # fmt: skip
    return text_table(heads, [[show.get(h, str)(line[h]) for h in heads] for line in table])


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    named = {path.name: path for path in PATHS}
    parser.add_argument("--path", choices=list(named), default=VE.name)
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--problem", choices=list(WORLDS), nargs="*", default=list(WORLDS))
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(argv)
    table = rows(args.problem, named[args.path](), args.count)
    print(json.dumps(table, indent=1) if args.json else written(table))


if __name__ == "__main__":
    main()
