"""A solver as a k-diffusion sampling function: ``sample(model, x, sigmas, extra_args, callback, disable)``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor

from ..schedulers.path import VE, Path
from ..schedulers.points import Points
from ..schedulers.solver import Progress, Run, Solver
from ..schedulers.solver.base import host_plan

NoiseSampler = Callable[[Tensor, Tensor], Tensor]


class KDiffusionSampler(Protocol):
    """What k-diffusion calls a sampler. model(x, σ [B], **extra_args) → D; σ falls, and ends at 0 or above."""

    def __call__(
        self,
        model: Callable[..., Tensor],
        x: Tensor,
        sigmas: Tensor,
        extra_args: Mapping[str, Any] | None = None,
        callback: Callable[[dict[str, Any]], None] | None = None,
        disable: bool | None = None,
        noise_sampler: NoiseSampler | None = None,
    ) -> Tensor: ...


def k_diffusion_sampler(solver: Solver, path: Path | None = None) -> KDiffusionSampler:
    """``solver`` as a function of k-diffusion's form.

    ``path``: of the model, VE() by default; VP() for Stable Diffusion behind k-diffusion's wrappers, whose σ is κ = σ/α
    too; Flow() where sigmas are times in [0, 1]. ``noise_sampler(σ, σ_next)`` draws standard normal noise for solvers
    that need it, from the last evaluated level to the one that is reached; without it torch's generator does. The
    callback gets k-diffusion's dict (x, i, sigma, sigma_hat, denoised) once a step.

    The function raises ValueError for levels that the solver cannot run, FloatingPointError where D is NaN or infinite.
    """
    chosen = path or VE()

    def sample(
        model: Callable[..., Tensor],
        x: Tensor,
        sigmas: Tensor,
        extra_args: Mapping[str, Any] | None = None,
        callback: Callable[[dict[str, Any]], None] | None = None,
        disable: bool | None = None,
        noise_sampler: NoiseSampler | None = None,
    ) -> Tensor:
        points = Points.from_sigmas(chosen, [float(s) for s in sigmas])
        if len(points) < 2:
            return x
        levels = Levels(solver, points)
        ones = x.new_ones(len(x))

        def denoise(y: Tensor, sigma: float) -> Tensor:
            levels.asked(sigma)
            return model(y, ones * sigma, **(extra_args or {}))

        def draw(position: int, like: Tensor) -> Tensor:
            if noise_sampler is None:
                return torch.randn_like(like)
            start, end = levels.of_draw(position)
            return noise_sampler(like.new_tensor(start), like.new_tensor(end))

        with bar(len(points) - 1, disable) as advance:

            def report(now: Progress) -> None:
                if callback is not None:
                    facts = dict(i=now.step, x=now.x, denoised=now.denoised)
                    sigma, seen = sigmas[now.step], sigmas.new_tensor(now.sigma)
                    callback(facts | dict(sigma=sigma, sigma_hat=seen))
                advance()

            return solver.solve(points, Run(denoise, draw, report), x)

    return sample


class Levels:
    """Between which levels a run draws its noise."""

    def __init__(self, solver: Solver, points: Points) -> None:
        self.grid = [points.host_sigma(i) for i in range(len(points))]
        self.last = self.grid[0]
        self.draws: list[tuple[float, float]] = []
        if solver.planned:
            before = self.last
            for stage in host_plan(solver, points).stages:
                if stage.noise:
                    self.draws.append((before, stage.at.sigma))
                before = stage.at.sigma if stage.evaluate else before

    def asked(self, sigma: float) -> None:
        self.last = sigma

    def of_draw(self, position: int) -> tuple[float, float]:
        """(from, to) of draw number 1, 2, …; of a solver without a plan from the last level down to the next."""
        if position <= len(self.draws):
            return self.draws[position - 1]
        return self.last, max((s for s in self.grid if s < self.last), default=0.0)


@contextmanager
def bar(steps: int, disable: bool | None) -> Iterator[Callable[[], Any]]:
    """k-diffusion's progress bar, where tqdm is installed."""
    try:
        from tqdm.auto import tqdm
    except ImportError:
        yield lambda: None
        return
    with tqdm(total=steps, disable=disable) as shown:
        yield shown.update
