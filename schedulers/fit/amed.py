r"""AMED and EPD: where in a step to take the direction, and how far to go along it, learned from a teacher.

The mean value theorem says that one well-chosen direction takes a step exactly; AMED (Zhou et al. 2024, arXiv
2312.00094) learns which. In y = x/α, from κ to κ', with d = (y − D)/κ,

    τ = κ'^r·κ^{1−r} ,   m = y + (τ − κ)·d ,   y' = y + c·(κ' − κ)·(m − D(m, a·τ))/τ ,

with r, c, a either three constants per step (then the solver is a table) or a small network's answer to
the levels and to features of the model seen at κ (then it is :class:`LearnedAMED`, which is none). As a plug-in,
any solver with one evaluation per step visits τ between its own levels instead, and its step from there is
scaled by c. EPD (Zhu et al. 2025, arXiv 2507.14797) averages K directions of one step.

Each interval is trained by itself, from the teacher's state to the teacher's next one: a gradient goes through
one evaluation only. :func:`fit` then fits the table's end as ``gradient`` does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..path import VE
from ..points import Points
from ..settings import knob
from ..solver.amed import AMED
from ..solver.base import Solver
from ..solver.data_dependent import DataDependent
from ..solver.fitted import Table, table_of
from ..solver.formula import Builder, total
from ..solver.plan import Plan
from ..solver.run import DrawNoise, Program, Progress, Run
from ..solver.state import State
from . import gradient
from .ends import from_noise
from .problem import Problem, summary

#: Side of the map that features are pooled to.
POOLED = 8


# -------------------------------------------------------------------------------------- predictors


class Predictor(nn.Module):
    """(r, c, a) [B, 3] for the step from κ to κ': r in (0, 1), c within 1 ± ``reach`` and a within
    1 ± ``shift``."""

    def __init__(self, reach: float = 0.2, shift: float = 0.2) -> None:
        super().__init__()
        self.reach, self.shift = reach, shift

    def limited(self, raw: Tensor) -> Tensor:
        r, c, a = raw.unbind(-1)
        wide = lambda v, by: 1 + by * (2 * v.sigmoid() - 1)  # noqa: E731
        return torch.stack([r.sigmoid(), wide(c, self.reach), wide(a, self.shift)], -1)


class Constants(Predictor):
    """Three numbers per step; at first ½, 1, 1, which is DPM-Solver-2 with the geometric midpoint."""

    def __init__(self, steps: int, reach: float = 0.2, shift: float = 0.2) -> None:
        super().__init__(reach, shift)
        self.raw = nn.Parameter(torch.zeros(steps, 3))

    def forward(self, step: int, p: float, q: float, features: Tensor | None, count: int) -> Tensor:
        return self.limited(self.raw[step]).expand(count, 3)


class FeaturePredictor(Predictor):
    """AMED's network, about 9 000 weights: the bottleneck's map [B, 64] to 4 numbers, each level to 8, and
    one linear map to each answer. Without features their part is 0. At first it answers ½, 1, 1."""

    def __init__(self, reach: float = 0.2, shift: float = 0.2, seed: int = 0) -> None:
        super().__init__(reach, shift)
        self.seen = nn.Sequential(nn.Linear(POOLED**2, 128), nn.SiLU(), nn.Linear(128, 4))
        self.level = nn.Sequential(nn.Linear(8, 8), nn.SiLU())
        self.out = nn.Linear(20, 3)
        draw_weights(self, seed)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, step: int, p: float, q: float, features: Tensor | None, count: int) -> Tensor:
        at = self.out.weight
        if features is None:
            seen = at.new_zeros(count, 4)
        else:
            seen = self.seen(features.to(at)).expand(count, 4)
        levels = [self.level(waves(k).to(at)).expand(count, 8) for k in (p, q)]
        return self.limited(self.out(torch.cat([seen, *levels], 1)))


def draw_weights(net: nn.Module, seed: int) -> None:
    """Linear layers as PyTorch begins them, U(±1/√inputs), but from the seed: not from what ran before."""
    generator = torch.Generator().manual_seed(seed)
    for layer in net.modules():
        if isinstance(layer, nn.Linear):
            bound = layer.in_features**-0.5
            for weight in layer.parameters():
                nn.init.uniform_(weight, -bound, bound, generator=generator)


def waves(kappa: float) -> Tensor:
    """[8] of ln κ / 4."""
    angles = torch.tensor([math.log(kappa) / 4 * 2.0**i for i in range(4)])
    return torch.cat([angles.sin(), angles.cos()])


#: What the place between a U-Net's way down and its way up is called, in ComfyUI, diffusers and here.
MIDDLES = ("middle_block", "mid_block", "middle")


def middle_of(net: nn.Module) -> nn.Module | None:
    """The bottleneck of a U-Net; None for a model that has none."""
    for name, part in net.named_modules():
        if name.rpartition(".")[2] in MIDDLES:
            return part[-1] if isinstance(part, nn.ModuleList) else part
    return None


class Bottleneck:
    """Features of a model: what ``module`` returned since they were last asked for, averaged over channels and
    pooled, [B, 64]. Use as a context. Where guidance evaluates several branches, in one call or in several, an
    image's features are the mean of theirs."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.seen: list[Tensor] = []

    def __enter__(self) -> Bottleneck:
        self.handle = self.module.register_forward_hook(self._keep)
        return self

    def __exit__(self, *error: object) -> None:
        self.handle.remove()

    def _keep(self, module: nn.Module, given: Any, found: Any) -> None:
        h = found[0] if isinstance(found, tuple | list) else found
        if h.ndim == 4:
            self.seen.append(pooled(h.detach()))

    def __call__(self, count: int) -> Tensor | None:
        """For a batch of ``count`` images; None if the model has no such map."""
        if not self.seen:
            return None
        branches = torch.cat(self.seen).split(count)
        self.seen = []
        return torch.stack([rows for rows in branches if len(rows) == count]).mean(0)


def pooled(h: Tensor) -> Tensor:
    """[B, 64] from a map [B, C, H, W]."""
    mean = h.float().mean(1, keepdim=True)
    return nn.functional.adaptive_avg_pool2d(mean, POOLED).flatten(1)


Features = Callable[[int], "Tensor | None"]


# -------------------------------------------------------------------------------------------- tables


def amed_table(points: Points, numbers: Sequence[Sequence[float]]) -> Table:
    """The table of AMED-Solver with (r, c, a) per step of ``points``."""
    columns = zip(*numbers, strict=True)
    r, c, a = (", ".join(repr(float(v)) for v in column) for column in columns)
    return table_of(AMED(r, c, a).plan(points.on(VE())))


def directions_table(points: Points, positions: Sequence[Sequence[float]]) -> Table:
    """EPD: step i takes one direction at each of ``positions[i]`` (r between 0 and 1), all from the same state,
    and goes along their mean. One position ½ is AMED at its start."""
    solver, grid = AMED(), points.on(VE())
    build = Builder(solver, grid)
    x = build.start
    for i, (p, q) in enumerate(grid.steps):
        x, d = build.advance(x, p, i)
        if q.sigma == 0:
            x = d
            continue
        found = []
        for r in positions[i]:
            tau = q.sigma**r * p.sigma ** (1 - r)
            middle = x + (tau - p.sigma) / p.sigma * (x - d)
            found.append((middle - build.evaluate(middle, grid.path.on(tau), i)) / tau)
        mean = total([1 / len(found)] * len(found), found)
        x = x + (q.sigma - p.sigma) * mean
    return table_of(build.finish(x))


def plugin_plan(base: Solver, points: Points, numbers: Sequence[Sequence[float]]) -> Plan:
    """AMED as a plug-in: ``base`` visits τ of every step but the last too (told a·τ), and its step from there is
    scaled by c. For solvers with one evaluation per step; on VE."""
    levels: list[float] = []
    for (p, q), (r, _, _) in zip(points.on(VE()).steps, numbers, strict=False):
        levels += [p.sigma] if q.sigma == 0 else [p.sigma, q.sigma**r * p.sigma ** (1 - r)]
    plan = base.plan(Points(VE(), (*levels, points.kappas[-1])))
    if plan.nfe != len(levels) or not all(s.commit for s in plan.stages):
        raise ValueError(
            f"{base.title}: AMED plugs into solvers with one evaluation per step, "
            f"this one has {plan.nfe} for {len(levels)} levels"
        )
    stages = list(plan.stages)
    for i, (_, c, a) in enumerate(numbers):
        if 2 * i + 2 < len(stages):
            middle, after = stages[2 * i + 1 : 2 * i + 3]
            stages[2 * i + 1] = replace(middle, told=VE().at(middle.at.kappa * a))
            stages[2 * i + 2] = scaled(after, c)
    return replace(plan, stages=tuple(stages))


def scaled(stage: Any, c: float) -> Any:
    """The stage that goes c times as far from the newest state."""
    first, *others = stage.x or (0.0,)
    x = (1 - c + c * first, *(c * w for w in others))
    return replace(stage, x=x, d=tuple(c * w for w in stage.d))


# -------------------------------------------------------------------------------------- the solver


@dataclass(frozen=True, eq=False, repr=False)
class LearnedAMED(DataDependent):
    """AMED whose predictor is asked at every step, per image.

    ``base`` None is AMED-Solver, else AMED plugs into it. ``features``: of the network on which it runs; found
    there (:func:`middle_of`) if they are not given. Images choose their own τ, so each runs by itself; a
    batch of B costs B calls of the whole batch per evaluation.
    """

    title: ClassVar[str] = "Learned AMED"
    predictor: Any = None
    features: Any = None
    base: Any = None

    @property
    def order(self) -> int:
        return 0

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.base!r})" if self.base else f"{type(self).__name__}()"

    def nfe(self, steps: int) -> int:
        return 2 * steps - 1

    @contextmanager
    def watching(self, net: nn.Module) -> Iterator[Solver]:
        middle = middle_of(net) if self.features is None else None
        if middle is None:
            yield self
            return
        with Bottleneck(middle) as features:
            yield replace(self, features=features)

    def plan_of(self, points: Points, numbers: Sequence[Sequence[float]]) -> Plan:
        if self.base is not None:
            return plugin_plan(self.base, points, numbers)
        columns = zip(*numbers, strict=True)
        r, c, a = (", ".join(repr(float(v)) for v in column) for column in columns)
        return AMED(r, c, a).plan(points.on(VE()))

    @torch.no_grad()
    def advance(self, points: Points, run: Run, state: State, level: int | None = None) -> State:
        return super().advance(points, run, state, level)

    def walk(
        self, points: Points, state: State, noise: DrawNoise | None = None, level: int | None = None
    ) -> Program[State]:
        self._check(points)
        last = len(points) - 1 if level is None else level
        if state.stage or last < len(points) - 1:
            raise ValueError(
                f"{self.title} keeps no state between two parts of a run: run it whole"
            )
        ends = []
        for image in range(len(state.x)):
            ends.append((yield from self._image(points, state.x, image)))
        return State((torch.cat(ends),), stage=last)

    def _image(self, points: Points, x: Tensor, image: int) -> Program[Tensor]:
        """One image of x from its start to its end; the first one's steps are reported."""
        rows = slice(image, image + 1)
        kappas, numbers = points.kappas, [(0.5, 1.0, 1.0)] * (len(points) - 1)
        state = State((x[rows],))
        for step in range(len(points) - 1):
            # stages 2·step and 2·step + 1 evaluate at κ and at τ; later ones are not decided yet
            plan = self.plan_of(points, numbers).on(points.path)
            state, seen = yield from self._part(plan, state, len(x), rows, 2 * step + 1)
            p, q = kappas[step : step + 2]
            if q > 0:
                rca = self.predictor(step, p, q, seen, 1)
                numbers[step] = tuple(rca[0].double().tolist())
                plan = self.plan_of(points, numbers).on(points.path)
                state, _ = yield from self._part(plan, state, len(x), rows, 2 * step + 2)
        state, _ = yield from self._part(plan, state, len(x), rows, None)
        return state.x

    def _part(
        self, plan: Plan, state: State, count: int, rows: slice, until: int | None
    ) -> Program[tuple[State, Tensor | None]]:
        """Stages of one image's plan, up to ``until``: each question is for a batch of ``count`` times its state, of
        whose answer these rows count. Ends in the state and the features of the last evaluation."""
        walk, seen = plan.walk(state, None, until), None
        try:
            y, ask = next(walk)
            while True:
                whole = y.expand(count, *y.shape[1:])  # what a host holds per image stays in place
                d = yield whole, replace(ask, begins=False, images=rows)
                features = self.features(count) if self.features is not None else None
                seen = features[rows] if features is not None else None
                if ask.begins and rows.start == 0:
                    yield Progress(ask.step, ask.steps, y, ask.level, d)
                y, ask = walk.send(d)
        except StopIteration as stop:
            return stop.value, seen


# ---------------------------------------------------------------------------------------- training


def train(
    problem: Problem,
    points: Points,
    predictor: Predictor,
    *,
    rate: float = 0.005,
    batch: int = 16,
    rounds: int = 1,
    features: Features | None = None,
    seed: int = 0,
    report: Callable[[float], None] | None = None,
) -> list[float]:
    """Fit the predictor to the teacher's states (``problem.states``), every interval by itself; mean loss per
    round. ``report`` is told the share that is done. Raises ValueError where the states were not kept."""
    if problem.states is None:
        raise ValueError("AMED learns from the teacher's states on the way: record them")
    with torch.inference_mode(False), torch.enable_grad():
        problem = gradient.differentiable(problem)
        optimizer = torch.optim.Adam(predictor.parameters(), rate)
        losses = []
        for turn in range(rounds):
            generator = torch.Generator().manual_seed(seed + turn)
            order = problem.train[torch.randperm(len(problem.train), generator=generator)]
            found = []
            batches = order.split(min(batch, problem.batch))
            for n, rows in enumerate(batches):
                if report is not None:
                    report((turn + n / len(batches)) / rounds)
                for i, (p, q) in enumerate(pairs(points)):
                    optimizer.zero_grad()
                    loss = interval_loss(problem, predictor, i, p, q, rows, features)
                    loss.backward()
                    for weight in predictor.parameters():
                        if weight.grad is not None:
                            weight.grad.nan_to_num_(0.0, 0.0, 0.0)
                    optimizer.step()
                    found.append(float(loss.detach()))
            losses.append(sum(found) / len(found))
    return losses


def pairs(points: Points) -> list[tuple[float, float]]:
    """The steps that AMED takes: all but the last one, to 0."""
    return [(p, q) for p, q in zip(points.kappas, points.kappas[1:], strict=False) if q > 0]


def interval_loss(
    problem: Problem,
    predictor: Predictor,
    step: int,
    p: float,
    q: float,
    rows: Tensor,
    features: Features | None = None,
) -> Tensor:
    """Mean square difference, on VP, to the teacher's state at κ = q after one step from its state at p."""
    assert problem.states is not None
    shrunk = lambda k: 1 / math.hypot(1, k)  # noqa: E731  VP's α: states of problems are VP's
    y = problem.states(p, rows).to(problem.start.dtype) / shrunk(p)
    with torch.no_grad():
        d = problem.denoise(y * shrunk(p), p, rows)
        seen = features(len(rows)) if features is not None else None
    given = predictor(step, p, q, seen, len(rows)).double()
    r, c, a = given.unbind(-1)
    wide = (-1, *[1] * (y.ndim - 1))
    tau = (math.log(p) + r * (math.log(q) - math.log(p))).exp()
    fit_to = lambda v: v.reshape(wide).to(y)  # noqa: E731
    middle = y + fit_to((tau - p) / p) * (y - d)
    told = a * tau
    moves = [gradient.on_path(k, problem.path) for k in told.unbind()]
    sigma, scale = (torch.stack(values) for values in zip(*moves, strict=True))
    lift = scale * (1 / (1 + told * told).sqrt())  # from y to the path's x at the level told
    if problem.check is not None:
        problem.check()
    problem.evaluations += len(rows)
    found = problem.field(middle * fit_to(lift), sigma.to(y), rows)  # type: ignore[arg-type]
    after = y + fit_to(c * (q - p) / tau) * (middle - found)
    wanted = problem.states(q, rows).to(y)
    return (after * shrunk(q) - wanted).square().mean()


# ------------------------------------------------------------------------------------------- fits


@dataclass(frozen=True)
class Amed(gradient.Gradient):
    """AMED's table: per step the place of one direction, its scale and the level told, trained interval by
    interval where the teacher's states are known; then the end of the run. More directions per step is EPD."""

    title: ClassVar[str] = "AMED / EPD"
    directions: int = knob(1, "Directions per step, EPD's K; 1 is AMED.", low=1, high=8)
    rounds: int = knob(2, "Times through the trajectories, per interval.", low=0, high=1000)
    rate: float = knob(0.02, "Adam's rate for r, c and a.", low=0.0, high=1.0)


def fit(
    problem: Problem,
    table: Table,
    settings: Amed | None = None,
    progress: Callable[[gradient.State], None] | None = None,
    state: gradient.State | None = None,
) -> gradient.State:
    """AMED's or EPD's table with at most as many evaluations as ``table``, over its range of levels; at the end
    ``table`` itself if that is better on the held-out trajectories."""
    settings = settings or Amed()
    begun = beginning(problem, table, settings) if state is None else state.start
    found = gradient.fit(problem, begun, settings, progress, state)
    with torch.no_grad():
        root, middle = summary(problem.errors(table, problem.held)).values()
    first = found.records[0]._replace(rmse=root, median=middle)
    if max(found.after["rmse"] / root, found.after["median"] / middle) > 1:
        return replace(found, table=table, records=(first,))
    return replace(found, records=(first, *found.records))


def beginning(problem: Problem, table: Table, settings: Amed) -> Table:
    """The table before the end is fitted."""
    per_step = settings.directions + 1
    steps = (table.nfe - 1) // per_step
    if steps < 1:
        raise ValueError(
            f"{settings.directions} directions per step need {per_step + 1} evaluations or more, "
            f"not {table.nfe}"
        )
    high, low = min(table.levels[0], 80.0), table.levels[-1]
    levels = [high * (low / high) ** (i / steps) for i in range(steps + 1)]
    points = Points(VE(), (*levels, table.end))
    if settings.directions > 1:
        k = settings.directions
        places = [[(j + 1) / (k + 1) for j in range(k)]] * steps
        found = directions_table(points, places)
    else:
        constants = Constants(steps)
        if problem.states is not None and settings.rounds:
            train(
                problem, points, constants, rate=settings.rate, batch=settings.batch,
                rounds=settings.rounds, seed=settings.seed,
            )  # fmt: skip
        numbers = constants.limited(constants.raw).detach().tolist()
        found = amed_table(points, [*numbers, (0.5, 1.0, 1.0)])
    return from_noise(found, table.start)
