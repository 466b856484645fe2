r"""Inpainting by Langevin moves: at every noise level the part to make anew is drawn again, given the part that is kept.

x = (u, k) with k under the mask, y its picture. What a run should pass through at a level is p(u | y), the noised part to make
anew given the *clean* kept part; beside it k = αy + σz with a z of its own, since the noise of k says nothing about u once y
is there. A network gives the score of the joint p(u, k), of which the u part is that of p(u | k): it sees the kept part through
its noise.

**Plain masking** (k = αy + σz, D_k replaced by y) follows that score in steps that leave no time: u came from a level where k
said less, and a step of the ODE, made for one joint sample, does not move it to where the new k wants it. Langevin moves at
the level do: with k held they leave p(u | k) as it is, and draw u towards it from anywhere. At σ → 0 it is p(u | y).

**What k is.** p(u | k) is still not p(u | y), and modes freeze before σ reaches 0. Take the k for which D_k(u, k) = y:

- For Gaussian data E[u₀ | x] is linear in E[k₀ | x], so that the score of u there *is* that of p(u | y), at every level. It is
  the k where ΠGDM's correction of u, Cov(u₀, k₀)·(y − D_k)/…, is 0, and no gradient through the network is needed.
- For any data, log p(u, k) + k²/2σ² is in αk/σ² the cumulant generating function of k₀, and that k is the saddle point of the
  integral for p(u, y). Its u-gradient is the score there (envelope theorem). Left out is −½·∇_u log det Cov(k₀ | x): where
  components of a mixture differ in it, their weights come out wrong. That is what this method cannot do.

It is approached by o = λ(y − D_k), k = α(y + o) + σz, which divides what D_k misses of y by up to 1 + λ. On Gaussian data D_k
moves by no more than o does, so o ← o + (λ(y − D_k) − o)/(1 + λ) converges without overshoot. λ = 0 is the noised picture alone (RePaint's target);
LanPaint's bidirectional score, −(1 + λ)(k − αy) + λ(k − αD_k), has its zero at the same k and adds noise around it. Between
levels o shrinks with κ², as its need does.

**The move** on u, in units of the level: h = θσ² and s = −(u − αD)/σ² give

    u ← u + θ(αD − u) + √(2θ)·σ·(z + z')/2 ,   z' is the next move's z

(Leimkuhler & Matthews 2013). With fresh noise in place of (z + z')/2, Euler–Maruyama, Gaussian data settle at 1/(1 − b/2) times
their variance, b = θ(1 − α²Cov(u₀ | x)/σ²) ≤ θ; with this, at the variance itself for any θ < 2. A first move without a z behind it
is half a move: u + ½θ(αD − u) + √(θ/2)·σ·(√(1 − θ/4)·r + z). Directions of variance P forget their start by
κ²/(P + κ²) a move: fast at high levels, hardly at low ones, where the levels before have done it. Momentum (underdamped
dynamics) helps only after more moves than a run can pay, and is left out.

**Soft masks.** A value m between 0 and 1 says that the picture there is measured with the noise of flow time m: what is drawn
is p(x₀ | y'), y' = y + κ(m)·z, κ(m) = m/(1 − m). That is img2img of strength m, value by value. Down to that level y' is held as
the kept part is, with λ at most (κ/κ(m))² − 1, for which the state and y' say the same of u. Below, the state x is free, and
y' is what the forward process makes of it, N(x/α, κ(m)² − κ²): no approximation. The moves there follow
αD − x + c(αy' − x), c = κ²/(κ(m)² − κ²), with θ/(1 + c) for θ. A run frees a value at the last level not below κ(m).

After LanPaint (Zheng, Lan & Wang 2025, arXiv 2502.03491) and RePaint (Lugmayr et al. 2022, 2201.09865).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from .noise import DrawNoise, draws_of
from .path import Path, Point
from .points import Points
from .settings import Settings, knob
from .solver import DDIM, Ask, Progress, Solver, State
from .solver.base import Around
from .solver.run import Denoise, Program

CLOSE = 1 + 1e-5  # of a level: SIGMAS are float32
BESIDE = (
    1 << 41
)  # the draw of an image's noise that its kept part gets in a run that starts without noise


def noise_beside(seed: int, like: Tensor) -> Tensor:
    """Noise of the kept part [B, …] in a run that adds none."""
    return draws_of(seed)(BESIDE, like)


@dataclass(frozen=True, eq=False)
class KeptPart:
    """What a mask keeps: the picture and its noise z [B, …], and the mask [B or 1, …], 1 where a picture is made anew.

    In the denoiser's units, on its device. ``mask_at(σ)``: another mask at every level; soft values count as their nearest.
    """

    picture: Tensor
    noise: Tensor
    mask: Tensor
    mask_at: Callable[[float], Tensor] | None = None

    def __repr__(self) -> str:
        return f"KeptPart({'×'.join(map(str, self.picture.shape))})"

    def until(self) -> Tensor:
        """κ down to which a value is kept [B, …]: 0 to the end, ∞ never."""
        mask = self.mask.to(self.picture).clamp(0, 1).expand(self.picture.shape)
        return mask / (1 - mask)

    def held(self, start: Point, end: Point) -> Tensor:
        """Which values a step from ``start`` to ``end`` keeps [B, …], as bool."""
        if self.mask_at is not None:
            return (self.mask_at(start.sigma).to(self.picture) < 0.5).expand(self.picture.shape)
        return self.until() <= end.kappa * CLOSE

    def soft(self) -> bool:
        """Whether any value is neither kept nor free."""
        return self.mask_at is None and bool(((self.mask > 0) & (self.mask < 1)).any())

    def measured(self) -> Tensor:
        """y' = y + κ(m)·z; y where it is not measured."""
        until = self.until()
        return self.picture + torch.where(until.isfinite(), until, 0.0) * self.noise

    def noised(self, at: Point, beside: Tensor | float = 0.0) -> Tensor:
        """The kept part's state, α(y + o) + σz."""
        return at.alpha * (self.picture + beside) + at.sigma * self.noise


def plainly(denoise: Denoise, kept: KeptPart, path: Path) -> Denoise:
    """D under plain masking, as ComfyUI's samplers do it: the noised picture goes in, the picture comes out, blended by
    the mask."""

    def masked(x: Tensor, sigma: float) -> Tensor:
        mask = kept.mask if kept.mask_at is None else kept.mask_at(sigma)
        mask = mask.to(x)
        x = x * mask + kept.noised(path.host.on(sigma)) * (1 - mask)
        return denoise(x, sigma) * mask + kept.picture * (1 - mask)

    return masked


@dataclass(frozen=True)
class LangevinMoves(Settings):
    """What a mask keeps stays, and the rest is drawn given it: after each step, Langevin moves at the level it reached make
    the new part fit the kept one.

    Price: moves × (steps − 1) evaluations more than the solver's. A soft mask value is the strength with which its place is
    made anew, as denoise is for img2img.
    """

    title: ClassVar[str] = "Langevin Inpainting"
    aliases: ClassVar[tuple[str, ...]] = (
        "LanPaint", "inpaint", "outpaint", "RePaint", "mask", "think mode", "noise mask", "soft mask",
    )  # fmt: skip
    moves: int = knob(
        5,
        "Langevin moves after each step: each is one evaluation. 0: plain masking.",
        low=0,
        high=100,
    )
    overdrive: float = knob(
        8.0, "λ: how far the kept part is moved for the prediction of it to agree with the picture. 0: not.",
        low=0.0, high=100.0, step=0.1,
    )  # fmt: skip
    size: float = knob(
        1.0, "θ: the size of a move in units of the noise level; smaller is slower and more careful.",
        low=0.05, high=1.9, step=0.05,
    )  # fmt: skip


@dataclass(frozen=True)
class Inpainting(Around):
    """A run of ``solver`` that keeps ``kept`` and fits the rest to it; without ``kept`` the moves alone."""

    title: ClassVar[str] = LangevinMoves.title
    paper: ClassVar[str] = "Zheng, Lan & Wang 2025 (LanPaint, arXiv 2502.03491)"
    equals: ClassVar[str] = (
        "the pack LanPaint, as sampler nodes of its own with hard masks; RePaint where overdrive is 0"
    )
    solver: Solver = field(default_factory=DDIM)
    settings: LangevinMoves = field(default_factory=LangevinMoves)
    kept: KeptPart | None = None

    @property
    def order(self) -> int:
        return min(self.solver.order, 1) if self.settings.moves else self.solver.order

    @property
    def stochastic(self) -> bool:
        return self.solver.stochastic or self.settings.moves > 0

    def nfe(self, steps: int) -> int:
        return self.solver.nfe(steps) + self.settings.moves * max(steps - 1, 0)

    def keeping(self, kept: KeptPart) -> Inpainting:
        return replace(self, kept=kept)

    def steps(
        self, points: Points, state: State, noise: DrawNoise | None = None, level: int | None = None
    ) -> Program[State]:
        """The questions of a run from ``state``, at its first level, on to ``level``. The solver's draws and those of the
        moves share one stream, in the order in which they are made."""
        self._check(points)
        if self.stochastic and noise is None:
            raise ValueError(f"{self.title} draws noise: pass a noise source")
        host, last = points.host, len(points) - 1
        run = _Run(self, host, state.x)
        for number in range(1, (last if level is None else level) + 1):
            run.begin(number)
            program = self.solver.steps(points, state, noise, number)
            state = yield from run.answered(program)
            run.arrive(host[number])
            x = run.kept_in(state.x, host[number])
            if host[number].sigma and self.settings.moves:
                assert noise is not None
                x, draws = yield from run.moved(x, noise, state.draws)
                state = replace(state, draws=draws)
            state = state.moved(x)
        return state


class _Run:
    """What a run knows of its kept part: which values the current step holds, and their o."""

    def __init__(self, owner: Inpainting, points: Points, x: Tensor) -> None:
        self.settings, self.kept, self.points = owner.settings, owner.kept, points
        self.number, self.at = 0, points[0]
        self.held: Tensor | None = None
        self.beside = torch.zeros_like(x)
        self.soft = self.kept is not None and self.kept.soft()
        if self.kept is not None and self.kept.picture.shape != x.shape:
            raise ValueError(
                f"{owner.title}: the picture under the mask has shape {tuple(self.kept.picture.shape)}, the latent "
                f"{tuple(x.shape)}"
            )

    def begin(self, number: int) -> None:
        """Step ``number`` begins, at ``at``."""
        self.number = number
        if self.kept is not None:
            self.held = self.kept.held(self.points[number - 1], self.points[number])

    def arrive(self, at: Point) -> None:
        self.beside = self._beside(at)
        self.at = at

    def _beside(self, at: Point) -> Tensor:
        """o at ``at``, from that at the level before: it falls with κ²."""
        share = at.kappa / self.at.kappa if math.isfinite(self.at.kappa) and self.at.kappa else 0.0
        return self.beside * min(share, 1.0) ** 2

    def kept_in(self, x: Tensor, at: Point) -> Tensor:
        """x with the kept part's state at ``at`` in its place."""
        if self.held is None or self.kept is None:
            return x
        return torch.where(self.held, self.kept.noised(at, self._beside(at)), x)

    def shown(self, d: Tensor, images: slice | None = None) -> Tensor:
        """D with the picture where it is kept."""
        if self.held is None or self.kept is None:
            return d
        rows = slice(None) if images is None else images
        return torch.where(self.held[rows], self.kept.picture[rows].to(d), d)

    def answered(self, program: Program[State]) -> Program[State]:
        """The solver's own questions, with the kept part in their states and in what they and the callback are told."""
        answer: Any = None
        while True:
            try:
                question: Any = program.send(answer)
            except StopIteration as end:
                return end.value
            if isinstance(question, Progress):
                question = replace(question, denoised=self.shown(question.denoised))
            if not isinstance(question, tuple):
                answer = yield question
                continue
            y, ask = question
            y = self.kept_in(y, self.points.path.on(ask.level))
            d = yield y, replace(ask, begins=False)
            answer = self.shown(d, ask.images)
            if ask.begins:
                yield Progress(ask.step, ask.steps, y, ask.level, answer)

    def moved(self, x: Tensor, noise: DrawNoise, draws: int) -> Program[tuple[Tensor, int]]:
        """x after the moves at ``at``, and the number of draws made by then."""
        at, steps, (theta, pull) = self.at, len(self.points) - 1, self._force()
        before: Tensor | None = None
        for _ in range(self.settings.moves):
            d = yield x, Ask(at.sigma, self.number - 1, steps, begins=False)
            self._drive(d)
            move = theta * pull(x, d)
            if before is None:
                draws += 1
                before = (1 - theta / 4) ** 0.5 * noise(draws, x)
                move = move / 2
            draws += 1
            after = noise(draws, x)
            x = self.kept_in(x + move + at.sigma * (theta / 2) ** 0.5 * (before + after), at)
            before = after
        return x, draws

    def _force(self) -> tuple[Any, Callable[[Tensor, Tensor], Tensor]]:
        """θ of every value at ``at``, a number or a tensor, and the force (x, D) → αD − x + c(αy' − x)."""
        at, theta = self.at, self.settings.size
        if self.kept is None or not self.soft:
            return theta, lambda x, d: at.alpha * d - x
        until, target = self.kept.until(), at.alpha * self.kept.measured()
        c = torch.where(until > at.kappa * CLOSE, at.kappa**2 / (until**2 - at.kappa**2), 0.0)
        return theta / (1 + c), lambda x, d: at.alpha * d - x + c * (target - x)

    def _drive(self, d: Tensor) -> None:
        """o of the next question, from D at this one."""
        if self.held is None or self.kept is None:
            return
        most, pictured = self.settings.overdrive, self.kept.picture
        limit: Any = most
        if self.soft:
            share = self.at.kappa / self.kept.until()
            limit, pictured = (share**2 - 1).clamp(0, most), self.kept.measured()
        o = self.beside + (limit * (pictured - d) - self.beside) / (1 + limit)
        self.beside = torch.where(self.held, o, 0.0)
