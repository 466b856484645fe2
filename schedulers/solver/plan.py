"""Plans: a solver written as a table of numbers, and the only loop of the pack.

A stage forms one state and may evaluate the denoiser there:

    y = Σ_j x_j·anchor_j + Σ_j d_j·D_j + noise·z        (newest anchor and newest D first)
    commit:   y becomes the newest anchor
    evaluate: D(y) becomes the newest entry of the history

Almost every published solver is such a table, so a solver never loops: it plans. The numbers are
Python floats computed once, in float64; ``advance`` runs them with one multiply-add per tensor, no
device synchronisation, and returns a state that another call continues bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..path import Path, Point, rescale

Denoise = Callable[[Tensor, float], Tensor]
DrawNoise = Callable[[int, Tensor], Tensor]


@dataclass(frozen=True)
class Stage:
    """One row of a plan. ``at`` is the noise level of the state it forms; ``step`` counts from 0."""

    step: int
    at: Point
    x: tuple[float, ...] = (1.0,)
    d: tuple[float, ...] = ()
    noise: float = 0.0
    commit: bool = True
    evaluate: bool = True
    told: Point | None = None

    @property
    def sigma(self) -> float:
        """The noise level the denoiser is told: that of the state, unless ``told`` says another."""
        return (self.told or self.at).sigma


@dataclass(frozen=True)
class Plan:
    """A solver's table for one run.

    ``order`` is the order of accuracy its solver claims, ``clip_x0`` (0 = off) limits every D to
    [−clip_x0, clip_x0] before it is used. The run starts with one anchor at ``start``.
    """

    solver: str
    path: Path
    start: Point
    stages: tuple[Stage, ...]
    order: int
    clip_x0: float = 0.0

    @property
    def nfe(self) -> int:
        """Denoiser evaluations of the whole run."""
        return sum(stage.evaluate for stage in self.stages)

    @property
    def stochastic(self) -> bool:
        """Whether any stage draws noise."""
        return any(stage.noise for stage in self.stages)

    @property
    def steps(self) -> int:
        return max((stage.step + 1 for stage in self.stages if stage.evaluate), default=0)

    def on(self, path: Path) -> Plan:
        """The same plan in another path's coordinates: x there is c·x here, so weights scale by c."""
        if path == self.path:
            return self
        start, c = rescale(self.start, path)
        scales, stages = [c], []
        for stage in self.stages:
            at, c = rescale(stage.at, path)
            stages.append(
                replace(
                    stage,
                    at=at,
                    told=stage.told and path.at(stage.told.kappa),
                    x=tuple(w * c / s for w, s in zip(stage.x, scales, strict=False)),
                    d=tuple(w * c for w in stage.d),
                    noise=stage.noise * c,
                )
            )
            if stage.commit:
                scales.insert(0, c)
        return replace(self, path=path, start=start, stages=tuple(stages))

    def rows(self) -> Iterator[dict[str, float | int | str]]:
        """The table as one flat record per stage, for printing, saving and plotting."""
        for i, stage in enumerate(self.stages):
            row: dict[str, float | int | str] = dict(
                stage=i, step=stage.step, alpha=stage.at.alpha, sigma=stage.at.sigma
            )
            row |= {f"x[{j}]": w for j, w in enumerate(stage.x)}
            row |= {f"D[{j}]": w for j, w in enumerate(stage.d)}
            yield row | dict(
                noise=stage.noise, commit=int(stage.commit), evaluate=int(stage.evaluate)
            )

    def table(self, digits: int = 6) -> str:
        """The plan as a Markdown table."""
        rows = list(self.rows())
        names = list(dict.fromkeys(name for row in rows for name in row))
        order = ["stage", "step", "alpha", "sigma"]
        order += sorted(n for n in names if n[0] == "x") + sorted(n for n in names if n[0] == "D")
        order += ["noise", "commit", "evaluate"]
        cell = lambda v: f"{v:.{digits}f}" if isinstance(v, float) else str(v)  # noqa: E731
        lines = ["| " + " | ".join(order) + " |", "|" + "---|" * len(order)]
        lines += ["| " + " | ".join(cell(row.get(n, "")) for n in order) + " |" for row in rows]
        return "\n".join(lines)


@dataclass(frozen=True)
class State:
    """Everything a run needs to go on: tensors newest first, the next stage, noise draws made."""

    anchors: tuple[Tensor, ...]
    history: tuple[Tensor, ...] = ()
    stage: int = 0
    draws: int = 0


@dataclass(frozen=True)
class Progress:
    """What a callback sees once per step, after the step's first evaluation.

    ``x`` is the state the denoiser saw, ``sigma`` its noise level in the plan's coordinates.
    """

    step: int
    steps: int
    x: Tensor
    sigma: float
    denoised: Tensor


def run(
    plan: Plan,
    denoise: Denoise,
    x: Tensor,
    noise: DrawNoise | None = None,
    callback: Callable[[Progress], None] | None = None,
    check: Callable[[], None] | None = None,
) -> Tensor:
    """Run a whole plan from x [B, …] at ``plan.start``; returns the state at its last level.

    denoise(x, sigma) → x0; noise(position, like) → standard normal, needed by stochastic plans;
    callback once per step; check before every evaluation (raise there to stop). x is not modified.
    """
    return advance(plan, denoise, State((x,)), noise, callback, check).anchors[0]


def advance(
    plan: Plan,
    denoise: Denoise,
    state: State,
    noise: DrawNoise | None = None,
    callback: Callable[[Progress], None] | None = None,
    check: Callable[[], None] | None = None,
    until: int | None = None,
) -> State:
    """Run stages ``state.stage`` … ``until`` (default: all) and return the state after them."""
    if plan.stochastic and noise is None:
        raise ValueError(f"{plan.solver} draws noise: pass a noise source")
    anchors, history, draws = list(state.anchors), list(state.history), state.draws
    keep_x = max((len(s.x) for s in plan.stages), default=1)
    keep_d = max((len(s.d) for s in plan.stages), default=0)
    stages, steps = plan.stages[state.stage : until], plan.steps
    seen = {s.step for s in plan.stages[: state.stage] if s.evaluate}
    sums: list[tuple[Stage, torch.dtype, Tensor]] = []
    for stage in stages:
        weights = [*stage.x, *stage.d]
        tensors = [*anchors[: len(stage.x)], *history[: len(stage.d)]]
        if stage.noise and noise is not None:
            draws += 1
            weights.append(stage.noise)
            tensors.append(noise(draws, anchors[0]))
        y = combine(weights, tensors)
        if stage.commit:
            anchors = [y, *anchors][:keep_x]
        if not stage.evaluate:
            continue
        if check is not None:
            check()
        d = denoise(y, stage.sigma)
        if d.shape != y.shape:
            raise ValueError(
                f"the denoiser returned shape {tuple(d.shape)} for x of shape {tuple(y.shape)}"
            )
        sums.append((stage, d.dtype, d.sum(dtype=torch.float32)))
        if y.device.type == "cpu":  # elsewhere reading a number back would synchronise
            require_finite(plan, *sums.pop())
        d = d.to(y.dtype)
        if plan.clip_x0:
            d = d.clamp(-plan.clip_x0, plan.clip_x0)
        history = [d, *history][:keep_d]
        if callback is not None and stage.step not in seen:
            callback(Progress(stage.step, steps, y, stage.at.sigma, d))
        seen.add(stage.step)
    for entry in sums:
        require_finite(plan, *entry)
    return State(tuple(anchors), tuple(history), state.stage + len(stages), draws)


def combine(weights: list[float], tensors: list[Tensor]) -> Tensor:
    """Σ w·t, skipping zero weights; a single unit weight returns that tensor itself.

    Two weights that add up to 1 (Euler and DDIM on VE and flow) are one interpolation.
    """
    terms = [(w, t) for w, t in zip(weights, tensors, strict=True) if w != 0]
    if not terms:
        return torch.zeros_like(tensors[0])
    (w, t), *rest = terms
    if w == 1 and not rest:
        return t
    if len(rest) == 1 and abs(w + rest[0][0] - 1) < 1e-12:
        return torch.lerp(rest[0][1], t, w)
    y = t * w
    for w, t in rest:
        y.add_(t, alpha=w)
    return y


def require_finite(plan: Plan, stage: Stage, dtype: torch.dtype, total: Tensor) -> None:
    """Raises FloatingPointError naming step, σ and dtype if a denoiser's output was not finite."""
    if math.isfinite(float(total)):
        return
    hint = "check the prediction type and the range of the noise levels"
    if dtype != torch.float64:
        hint = (
            "if the network runs in float16 use bfloat16 or float32 (float16 ends at 65504); else "
            + hint
        )
    raise FloatingPointError(
        f"the denoiser returned NaN or infinity at step {stage.step} of {plan.steps} "
        f"(σ = {stage.at.sigma:g}, {str(dtype).removeprefix('torch.')}): {hint}"
    )
