"""Predictor–corrector sampling: a step of the reverse process, then Langevin moves at the level reached."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..noise import DrawNoise
from ..path import Point
from ..points import Points
from ..settings import knob
from .data_dependent import DataDependent
from .ddim import ddim_step
from .formula import LinearStep
from .run import Ask, Program
from .state import State
from .stochastic import reverse_sde_step

PREDICTORS: dict[str, Callable[[Point, Point], LinearStep]] = {
    "reverse_sde": reverse_sde_step,
    "ancestral": lambda p, q: ddim_step(p, q, 1.0),
    "ddim": ddim_step,
}


@dataclass(frozen=True)
class Langevin(DataDependent):
    """Predictor–corrector of the score SDE: after each step, Langevin moves at the level it reached.

    A corrector move costs one evaluation; there is none at level 0. It draws the state towards the
    marginal of its level whatever error the predictor left, but with a bias of its own: for Gaussian
    data in many dimensions it settles at (1 + snr²) times the right variance. Not a table, since the
    size of a move depends on the data.
    """

    title: ClassVar[str] = "Langevin Predictor-Corrector"
    aliases: ClassVar[tuple[str, ...]] = (
        "langevin", "predictor corrector", "PC sampler", "score SDE", "ScoreSdeVeScheduler", "ALD", "scheduler",
    )  # fmt: skip
    paper: ClassVar[str] = "Song et al. 2021 (arXiv 2011.13456), app. G, alg. 2-5"
    equals: ClassVar[str] = (
        "reverse_sde: diffusers ScoreSdeVe, which corrects before it predicts; there and in the paper "
        "the size of a move is averaged over the batch, here each image has its own"
    )
    predictor: str = knob(
        "reverse_sde",
        "The step: Euler–Maruyama on the reverse SDE, DDPM's (ancestral), or the ODE's (ddim).",
        options=tuple(PREDICTORS),
    )
    corrector_steps: int = knob(1, "Langevin moves after each step (M).", low=0, high=100)
    snr: float = knob(
        0.16, "Signal-to-noise ratio r of a move; 0 is none.", low=0.0, high=1.0, step=0.01
    )

    @property
    def moves(self) -> int:
        """Langevin moves per level; a ratio of 0 would move nothing."""
        return self.corrector_steps if self.snr > 0 else 0

    @property
    def stochastic(self) -> bool:
        return self.predictor != "ddim" or self.moves > 0

    def nfe(self, steps: int) -> int:
        return steps + (steps - 1) * self.moves

    def walk(
        self, points: Points, state: State, noise: DrawNoise | None = None, level: int | None = None
    ) -> Program[State]:
        """See the base class. Draws have the positions 1, 2, … in the order in which they are made, as in a
        plan. Nothing is read back from a device before the end.
        """
        self._check(points)
        if self.stochastic and noise is None:
            raise ValueError(f"{self!r} draws noise: pass a noise source")
        x, draws, steps = state.x, state.draws, points.steps

        def draw() -> Tensor:
            nonlocal draws
            draws += 1
            assert noise is not None
            return noise(draws, x)

        last = len(steps) if level is None else level
        for i, (p, q) in list(enumerate(steps))[state.stage : last]:
            d = yield x, Ask(p.sigma, i, len(steps))
            step = PREDICTORS[self.predictor](p, q)
            x = step.x * x + step.d * d if step.x else step.d * d
            if step.noise:
                x.add_(draw(), alpha=step.noise)
            for _ in range(self.moves if q.sigma else 0):
                d = yield x, Ask(q.sigma, i, len(steps), begins=False)
                x = langevin_move(x, d, q, draw(), self.snr)
        return State((x,), stage=max(last, state.stage), draws=draws)


def langevin_move(x: Tensor, d: Tensor, at: Point, z: Tensor, snr: float) -> Tensor:
    """x + δ·s + √(2δ)·z with the score s = −(x − αD)/σ² and δ = 2(r‖z‖/‖s‖)², norms per image (alg. 4).

    In n = x − αD, the noise that the denoiser sees: with u = r·σ·‖z‖/‖n‖ this is x − 2u²·n + 2uσ·z. It
    is the same in every path's coordinates, since u is. The paper multiplies δ by 1 − β on VP, which is
    near 1 and stands for the number of steps; that is left out. No move where n = 0.
    """
    n = x - at.alpha * d
    size = torch.linalg.vector_norm(n.flatten(1), dim=1)
    ratio = torch.linalg.vector_norm(z.flatten(1), dim=1) / size
    u = torch.where(size > 0, snr * at.sigma * ratio, 0.0)
    u = u.reshape(-1, *(1,) * (x.ndim - 1))
    return x - 2 * u * u * n + 2 * at.sigma * u * z
