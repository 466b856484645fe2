"""Editing where the answer is known: pictures of one class of an exact mixture taken to another, by inversion and without.

    python -m benchmarks.editing [--count 400] [--json]

A mixture on R⁶ with two classes of unlike covariances; rectified flow, and levels that fall by one factor from t = 0.95 to
0.01. "there and back" is the RMS distance of pictures from themselves after an edit with their own condition, in units of the data's
deviation: what the method itself costs. "to class 2" is the energy distance of edited pictures to draws of the other class, "moved"
their RMS distance from where they began. Sources: O-BELM (arXiv 2410.07273); RF-Inversion, whose controllers mix the velocity on the way up with
that to one fixed noise (γ) and on the way back with that to the picture (η; Rout et al. 2024, 2410.10792); FlowEdit, an ODE between the
two classes with fresh noise at every step (Kulikov et al. 2024, 2412.08629).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from sampling_kit.schedulers.denoiser import Mixture
from sampling_kit.schedulers.measure.metrics import energy_distance
from sampling_kit.schedulers.path import Flow
from sampling_kit.schedulers.points import Points
from sampling_kit.schedulers.solver import Invertible, Run, State
from sampling_kit.schedulers.solver.run import drive
from sampling_kit.schedulers.split import Stopped
from sampling_kit.schedulers.text_table import text_table
from sampling_kit.schedulers.turn_back import turned_back

SIZE, STEPS = 6, 28
KAPPAS = tuple(19.0 * (0.0101 / 19.0) ** (i / STEPS) for i in range(STEPS + 1))
LEVELS = tuple(k / (1 + k) for k in KAPPAS)

Velocity = Callable[[Tensor, float], Tensor]


@dataclass(frozen=True, eq=False)
class World:
    """The denoiser of both classes, draws of each, and further draws of the second."""

    model: Mixture
    pictures: tuple[Tensor, Tensor]
    others: Tensor

    def denoiser(self, label: int) -> Velocity:
        """D(x, t) under the condition ``label``."""

        def denoise(x: Tensor, t: float) -> Tensor:
            classes = torch.zeros(len(x), 2, dtype=x.dtype)
            classes[:, label] = 1
            return self.model(x.reshape(-1, 1, 1, SIZE), t, classes).reshape(x.shape)

        return denoise


def world(count: int) -> World:
    draw = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    turns = torch.linalg.qr(normal(2, SIZE, SIZE))[0]
    spread = torch.tensor([1.0, 0.6, 0.3, 0.1, 0.05, 0.05], dtype=torch.float64)
    means = 0.7 * normal(2, SIZE)

    def draws(label: int) -> Tensor:
        return means[label] + (normal(count, SIZE) * spread.sqrt()) @ turns[label].mT

    floor = torch.full((2,), float(spread[-1].sqrt()), dtype=torch.float64)
    model = Mixture(
        Flow(), means.reshape(2, 1, 1, SIZE), floor, turns.mT.reshape(2, SIZE, 1, 1, SIZE),
        (spread - spread[-1]).expand(2, SIZE), labels=torch.arange(2),
    )  # fmt: skip
    return World(model, (draws(0), draws(1)), draws(1))


def at_start(x: Tensor) -> Tensor:
    """A picture as the state of the lowest level, as an inversion takes it."""
    return x * (1 - LEVELS[-1])


def exact(x: Tensor, source: Velocity, target: Velocity) -> Tensor:
    """O-BELM up and back from its last two states."""
    solver, points = Invertible(), Points(Flow(), KAPPAS[::-1])
    state = solver.advance(points, Run(source), State((at_start(x),)))
    up = Stopped(repr(solver), repr(Flow()), LEVELS[::-1], STEPS, 0, state)
    back = turned_back(up, solver)
    down = drive(solver.steps(Points(Flow(), KAPPAS), back.state), Run(target))
    return down.x / (1 - LEVELS[-1])


def euler(x: Tensor, source: Velocity, target: Velocity, gamma: float = 0.0, eta: float = 0.0) -> Tensor:  # fmt: skip
    """Euler up and back; RF-Inversion with γ on the way up and η on the first half of the way back."""
    picture, x = x, at_start(x)
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=x.dtype)
    for t, after in zip(LEVELS[::-1], LEVELS[-2::-1], strict=False):
        v = (x - source(x, t)) / t
        x = x + (after - t) * (v + gamma * ((noise - x) / (1 - t) - v))
    for i, (t, after) in enumerate(pairwise(LEVELS)):
        d = target(x, t)
        d = d + (eta if i < STEPS // 2 else 0.0) * (picture - d)
        x = x + (after - t) * (x - d) / t
    return x / (1 - LEVELS[-1])


def flow_edit(x: Tensor, source: Velocity, target: Velocity, top: float = 1.0) -> Tensor:
    """Z ← Z + (t' − t)·(v_target(Z + Z_s − x, t) − v_source(Z_s, t)), Z_s = (1 − t)x + tε, from the levels at or below ``top``."""
    draw, edited = torch.Generator().manual_seed(1), x
    for t, after in zip(LEVELS, (*LEVELS[1:-1], 0.0), strict=False):
        if t <= top:
            noise = torch.randn(x.shape, generator=draw, dtype=x.dtype)
            begun = (1 - t) * x + t * noise
            ours = edited + begun - x
            v = (ours - target(ours, t) - begun + source(begun, t)) / t
            edited = edited + (after - t) * v
    return edited


METHODS: dict[str, tuple[str, Callable[[Tensor, Velocity, Velocity], Tensor]]] = {
    "nothing": ("0", lambda x, s, t: x),
    "O-BELM, exact inversion": ("2N", exact),
    "Euler inversion": ("2N", euler),
    "RF-Inversion, γ 0.5, η 0": ("2N", lambda x, s, t: euler(x, s, t, 0.5)),
    "RF-Inversion, γ 0.5, η 0.5": ("2N", lambda x, s, t: euler(x, s, t, 0.5, 0.5)),
    "RF-Inversion, γ 0.5, η 0.9": ("2N", lambda x, s, t: euler(x, s, t, 0.5, 0.9)),
    "FlowEdit": ("2N", flow_edit),
    "FlowEdit from t = 0.7": ("2N below", lambda x, s, t: flow_edit(x, s, t, 0.7)),
}


def rows(count: int) -> list[dict[str, Any]]:
    made = world(count)
    first, second = made.pictures
    bound = {"method": "draws of class 2", "evaluations": "0", "there and back": 0.0}
    table = [bound | {"to class 2": energy_distance(second, made.others), "moved": rms(made.others - first)}]  # fmt: skip
    source, target = made.denoiser(0), made.denoiser(1)
    for name, (price, edit) in METHODS.items():
        back, out = edit(first, source, source), edit(first, source, target)
        table.append(
            {
                "method": name,
                "evaluations": price,
                "there and back": rms(back - first) / first.std().item(),
                "to class 2": energy_distance(second, out),
                "moved": rms(out - first),
            }
        )
    return table


def rms(x: Tensor) -> float:
    return x.square().mean().sqrt().item()


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(argv)
    table = rows(args.count)
    if args.json:
        print(json.dumps(table, indent=1))
        return
    print(text_table(list(table[0]), [[f"{v:.2g}" if isinstance(v, float) else v for v in row.values()] for row in table]))  # fmt: skip


if __name__ == "__main__":
    main()
