"""A planned solver as a closure that owns the loop, while the host keeps model, noise and previews.

The names are those of the proposal (Comfy-Org/ComfyUI, ``comfy_api/latest/_node_closures.py`` at 990ec7a8e435; the calls
as the converted packs make them, Comfy-Org/ComfyUI-Secure-V2-API-NodeDB at a2aa553f8e23). A closure is called once for
a run, as ``await closure(broker, latent, sigmas)``, and may await four operations of the broker, nothing else.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from ..schedulers.path import VP, Flow, Path
from ..schedulers.points import Points
from ..schedulers.sample import require_latent
from ..schedulers.solver import Plan, Progress, Run, Solver, State, drive_async
from ..schedulers.solver.base import host_plan

Closure = Callable[["Broker", Tensor, Tensor], Awaitable[Tensor]]


class Broker(Protocol):
    """What the host lends a closure for one run. Levels σ are 0-d tensors, as SIGMAS have them."""

    async def denoise(self, latent: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor | None]:
        """(D, the unconditional D if it was asked for)."""

    async def noise_like(
        self, latent: Tensor, *, step: int, sigma_from: Tensor, sigma_to: Tensor, purpose: str
    ) -> Tensor:
        """Standard normal noise of the run's next draw, like ``latent`` [B, …]."""

    async def preview(
        self, step: int, latent: Tensor, sigma: Tensor, sigma_hat: Tensor, denoised: Tensor
    ) -> None:
        """A step began: the state, its level, the level that the model saw, and D."""

    async def schedule_parameters(self) -> Mapping[str, Any]:
        """``parameterization``: "const" for flow, else "sigma"; ``noise_scale``: the deviation of flow's noise."""


def custom_sampler(solver: Solver, path: Path | None = None) -> Closure:
    """``solver`` as a closure of kind ``custom_sampler``; its run has the bits of ``solver.solve``.

    ``path``: of the model; by default Flow() where the host says "const", else VP(), the path of most other models.
    Raises ValueError for a solver without a plan: when it draws noise depends on the data, and noise is awaited here.
    """
    if not solver.planned:
        raise ValueError(
            f"{solver.title or type(solver).__name__} has no plan (its next step depends on the data) and does not run "
            "as a closure: take a solver with a table, such as UniPC"
        )

    async def closure(broker: Broker, latent: Tensor, sigmas: Tensor) -> Tensor:
        levels = [float(sigma) for sigma in sigmas]
        schedule = await broker.schedule_parameters()
        chosen = path or (Flow() if schedule["parameterization"] == "const" else VP())
        require_latent(chosen, levels)
        points = Points.from_sigmas(chosen, levels)
        if len(points) < 2:
            return latent
        visit = _Visit(broker, sigmas, float(schedule.get("noise_scale", 1.0)))
        visit.draws = draws_of_questions(host_plan(solver, points))
        await visit.draw_ahead(latent)
        program = solver.steps(points, State((latent,)), visit.noise)
        run = Run(_no_denoiser, visit.noise, visit.began.append)
        state = await drive_async(program, run, visit.denoise)
        await visit.show()
        return state.x

    return closure


class Draw(NamedTuple):
    """A noise draw of a run: its number from 1, its step, and the levels σ that it leads from and to."""

    position: int
    step: int
    sigma_from: float
    sigma_to: float


def draws_of_questions(plan: Plan) -> list[list[Draw]]:
    """The draws before the first question for D, between the first and the second, … and after the last."""
    groups: list[list[Draw]] = [[]]
    here, count = plan.start.sigma, 0
    for stage in plan.stages:
        if stage.noise:
            count += 1
            groups[-1].append(Draw(count, stage.step, here, stage.at.sigma))
        if stage.commit:
            here = stage.at.sigma
        if stage.evaluate:
            groups.append([])
    return groups


class _Visit:
    """One run at a broker. A plan says when it draws, so noise is awaited before the program needs it."""

    def __init__(self, broker: Broker, sigmas: Tensor, noise_scale: float) -> None:
        self.broker, self.sigmas, self.noise_scale = broker, sigmas, noise_scale
        self.draws: list[list[Draw]] = []
        self.drawn: dict[int, Tensor] = {}
        self.began: list[Progress] = []  # steps that were not shown yet

    async def denoise(self, y: Tensor, sigma: float) -> Tensor:
        await self.show()
        d, _ = await self.broker.denoise(y, self.level(sigma))
        await self.draw_ahead(y)
        return d

    async def draw_ahead(self, like: Tensor) -> None:
        """What the program draws before its next question."""
        for draw in self.draws.pop(0):
            self.drawn[draw.position] = await self.broker.noise_like(
                like,
                step=draw.step,
                sigma_from=self.level(draw.sigma_from),
                sigma_to=self.level(draw.sigma_to),
                purpose="sampling-kit",
            )

    def noise(self, position: int, like: Tensor) -> Tensor:
        return self.drawn.pop(position).to(like) * self.noise_scale

    async def show(self) -> None:
        """Steps that began: always before the next evaluation, the last ones at the end."""
        for step in self.began:
            level = self.level(step.sigma)
            await self.broker.preview(step.step, step.x, level, level, step.denoised)
        self.began.clear()

    def level(self, sigma: float) -> Tensor:
        return self.sigmas.new_tensor(sigma)


def _no_denoiser(y: Tensor, sigma: float) -> Tensor:
    raise AssertionError("a closure's D is awaited")  # drive_async never calls it
