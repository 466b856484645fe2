r"""Fitting with autograd: all numbers of a table at once, against where the run ends.

One gradient costs about as much as three runs, whatever the number of numbers, so levels, weights and
frequency bands move together. Every evaluation is checkpointed (Chen et al. 2016): what is kept of a
run is one state per evaluation, and the activations of one evaluation at a time.

The numbers are corrections to a table, all 0 at the start. With u the change of ln κ,

    κ_i = κ_i°·e^{u_i} ,   x_i = x_i°·X(κ_{i−1}, κ_i)/X(κ_{i−1}°, κ_i°) + … ,   likewise every d_{ij} with DDIM's D weight,

where X, D are the weights of DDIM's exact step: moving a level moves the step, not a label only. Predictions
of neighbouring steps are almost equal, so weights on them make a badly conditioned problem. Each row's
weights are therefore written as v·L⁻¹ with L·Lᵀ the products of the row's terms, averaged over a few
trajectories and pixels (for bands: within each band) and divided by their mean square. Then any
element of v changes the state by about v times its size, and plain descent finds its way. (Adam does not:
most elements of the bands have next to no gradient, and their noise, scaled up, undoes what the others gain.)

The loss per image is q = mean square difference to the teacher's end (with a feature network also that of the
features), made robust by 2δ(√(q + δ²) − δ) (pseudo-Huber): a few images that end elsewhere must not rule.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path as File
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..denoiser.network import write
from ..files import LARGEST_TABLES, read_tensors
from ..measure import plain
from ..path import VP, Path, rescale
from ..settings import Settings, knob
from ..solver.band_mix import Mix, band_weights
from ..solver.fitted import Table, ddim
from ..solver.run import Ask, Program, Run, drive
from .problem import Problem, error_from, summary

Features = Callable[[Tensor], Tensor]

#: Radial frequencies / Nyquist of the bands, where the start has none.
KNOTS = (0.0, 0.0625, 0.125, 0.25, 0.5, 1.0)
#: Added to the products before they are factored, in units of their mean.
RIDGE = 1e-4
HEADER, VERSION = "sampling_kit_gradient_fit", 1


@dataclass(frozen=True)
class Gradient(Settings):
    """Gradient descent on levels, weights and frequency bands together, through the whole run; needs a model that
    can be differentiated."""

    title: ClassVar[str] = "Gradient"
    iterations: int = knob(120, "Gradients in all.", low=0, high=100_000)
    batch: int = knob(16, "Trajectories per gradient.", low=1, high=4096)
    bands: bool = knob(True, "Fit frequency bands too, with mixed channels.")
    level_rate: float = knob(0.05, "Length of a step of all ln κ of the levels.", low=0.0, high=1.0)
    weight_rate: float = knob(0.003, "Length of a step of all weights.", low=0.0, high=100.0)
    band_rate: float = knob(0.005, "Length of a step of all bands.", low=0.0, high=100.0)
    huber: float = knob(
        2.0, "δ over the start's median error; 0: plain squares.", low=0.0, high=1e6
    )
    feature_weight: float = knob(
        0.1, "Weight of the features' mean square, where a feature network is given.", low=0.0
    )
    every: int = knob(10, "Gradients between two looks at the held-out trajectories.", low=1)
    patience: int = knob(6, "Looks without a gain before it stops.", low=1)
    seed: int = knob(0, "Of the order of trajectories.", low=0, high=2**31, advanced=True)


class Record(NamedTuple):
    """Errors on the held-out trajectories after so many gradients, whether they were the best so far, and
    what was spent by then."""

    kind: str
    iteration: int
    evaluations: int
    rmse: float
    median: float
    taken: bool


@dataclass(frozen=True, eq=False)
class State:
    """A fit between two looks; :func:`states` goes on from it.

    ``numbers``, ``first``, ``second``: the corrections, their momentum, and the mean square of each tensor's gradient. ``table`` is the best so
    far. ``factors``: the L of every row.
    """

    start: Table
    table: Table
    numbers: dict[str, Tensor]
    first: dict[str, Tensor]
    second: dict[str, Tensor]
    best: dict[str, Tensor]
    factors: dict[str, Tensor]
    records: tuple[Record, ...]
    iteration: int = 0

    @property
    def before(self) -> dict[str, float]:
        return {"rmse": self.records[0].rmse, "median": self.records[0].median}

    @property
    def after(self) -> dict[str, float]:
        last = [record for record in self.records if record.taken][-1]
        return {"rmse": last.rmse, "median": last.median}

    @property
    def evaluations(self) -> int:
        return self.records[-1].evaluations


# ---------------------------------------------------------------------------------------- the fit


def fit(
    problem: Problem,
    table: Table,
    settings: Gradient | None = None,
    progress: Callable[[State], None] | None = None,
    state: State | None = None,
    features: Features | None = None,
) -> State:
    """The best table found from ``table`` on, which is what iteration 0 is, or from ``state`` on.

    ``problem.field`` is called with σ as a tensor [1] and must be differentiable in x, and in σ if levels
    are to move. progress sees every look at the held-out trajectories and may raise to stop; what it saw
    last can go on. Never worse than the start on the held-out trajectories, in RMSE and in median.
    Raises ValueError for a model without gradients.
    """
    settings = settings or Gradient()
    for state in states(problem, table, settings, state, features):  # noqa: B020
        if progress is not None:
            progress(state)
    assert state is not None
    return state


def states(
    problem: Problem,
    table: Table,
    settings: Gradient,
    state: State | None = None,
    features: Features | None = None,
) -> Iterator[State]:
    """The start (unless a state is given), then the state at every look."""
    with torch.inference_mode(False), torch.enable_grad():
        problem = differentiable(problem)
        if state is None:
            state = begin(problem, table, settings)
            yield state
        problem.evaluations = max(problem.evaluations, state.evaluations)
        moved = follows_level(problem, state.start)
        delta = settings.huber * state.before["median"]
        while state.iteration < settings.iterations and not stalled(state, settings):
            for _ in range(min(settings.every, settings.iterations - state.iteration)):
                rows = batch_of(problem.train, settings, state.iteration)
                gradients = gradient(problem, state, rows, delta, settings, features, moved)
                state = descended(state, gradients, settings)
            state = look(problem, state)
            yield state


def begin(problem: Problem, table: Table, settings: Gradient) -> State:
    """Iteration 0: the table itself, and the scales of its rows."""
    with torch.no_grad():
        errors = problem.errors(table, problem.held)
        some = batch_of(problem.train, settings, 0)[: problem.batch]
        factors = row_factors(problem, table, some, knots_of(problem, table, settings))
    zeros = blank(table, factors, problem.start.shape[1])
    first = Record("start", 0, problem.evaluations, **summary(errors), taken=True)
    if not math.isfinite(first.rmse):
        raise ValueError("the start ends in NaN or infinity on the held-out trajectories")
    none = {name: torch.zeros(()).double() for name in zeros}
    return State(table, table, zeros, zeros, none, zeros, factors, (first,))


def look(problem: Problem, state: State) -> State:
    """Judge the numbers on the held-out trajectories; keep them if the worse of RMSE and median, each in units
    of the start's, is the best so far."""
    found, (root, middle) = None, (math.inf, math.inf)
    try:
        found = table_from(state)
        with torch.no_grad():
            root, middle = summary(problem.errors(found, problem.held)).values()
    except (ValueError, FloatingPointError):  # levels that rise, a run that diverged
        pass
    reference, best = state.before, state.after
    worst = lambda r, m: max(r / reference["rmse"], m / reference["median"])  # noqa: E731
    better = worst(root, middle) < worst(best["rmse"], best["median"])
    entry = Record("gradient", state.iteration, problem.evaluations, root, middle, better)
    state = replace(state, records=(*state.records, entry))
    if better and found is not None:
        return replace(state, table=found, best=state.numbers)
    return state


def stalled(state: State, settings: Gradient) -> bool:
    recent = state.records[-settings.patience :]
    return len(state.records) > settings.patience and not any(record.taken for record in recent)


def batch_of(rows: Tensor, settings: Gradient, iteration: int) -> Tensor:
    """The rows of one gradient: every epoch in another order, a function of the iteration alone."""
    size = min(settings.batch, len(rows))
    epoch, part = divmod(iteration, len(rows) // size)
    generator = torch.Generator().manual_seed(settings.seed + epoch)
    order = torch.randperm(len(rows), generator=generator)
    return rows[order[part * size : (part + 1) * size]]


#: Which rate a tensor of numbers goes by.
GROUPS = {"levels": "levels", "x": "weights", "weights": "weights", "bands": "bands"}


def group(name: str) -> str:
    return GROUPS[name.split(".")[0]]


def descended(state: State, gradients: Mapping[str, Tensor], settings: Gradient) -> State:
    """One step of gradient descent with momentum 0.9, whose length is the rate of its group: Adam with one second
    moment (β = 0.99) per group. The rate rises over five steps and then falls as a half cosine."""
    n = state.iteration + 1
    rates = {
        "levels": settings.level_rate,
        "weights": settings.weight_rate,
        "bands": settings.band_rate,
    }
    pace = min(1.0, n / 5) * (1 + math.cos(math.pi * (n - 1) / settings.iterations)) / 2
    first = {k: 0.9 * state.first[k] + 0.1 * g for k, g in gradients.items()}
    second = {k: 0.99 * state.second[k] + 0.01 * (g * g).sum() for k, g in gradients.items()}
    size = dict.fromkeys(rates, 0.0)
    for name in sorted(second):  # in one order, also after a file
        size[group(name)] += float(second[name]) / (1 - 0.99**n)
    numbers = {}
    for name, m in first.items():
        length = rates[group(name)] * pace / (math.sqrt(size[group(name)]) + 1e-30)
        numbers[name] = state.numbers[name] - length * m / (1 - 0.9**n)
    return replace(state, numbers=numbers, first=first, second=second, iteration=n)


def gradient(
    problem: Problem,
    state: State,
    rows: Tensor,
    delta: float,
    settings: Gradient,
    features: Features | None = None,
    moved: bool = True,
) -> dict[str, Tensor]:
    """Of the mean loss over the rows. Parts of ``problem.batch`` rows one after another."""
    leaves = {name: t.clone().requires_grad_() for name, t in state.numbers.items()}
    grads = {name: torch.zeros_like(t) for name, t in leaves.items()}
    for part in rows.split(problem.batch):
        target = problem.target(part)
        ends = run(problem, Numbers(state.start, leaves, state.factors), part)
        q = (ends - target).flatten(1).square().mean(1)
        if features is not None:
            with torch.no_grad():
                wanted = features(target)
            seen = (features(ends) - wanted).flatten(1).square().mean(1)
            q = q + settings.feature_weight * seen
        losses = 2 * delta * ((q + delta**2).sqrt() - delta) if delta else q
        found = torch.autograd.grad(
            losses.sum() / len(rows), list(leaves.values()), allow_unused=True
        )
        for name, g in zip(leaves, found, strict=True):
            if g is not None and (moved or name != "levels"):
                grads[name] += g.nan_to_num(0.0, 0.0, 0.0)
    return grads


# ------------------------------------------------------------------------------------ the numbers


@dataclass(frozen=True)
class Numbers:
    """Corrections to ``base``. Values (float64, on the CPU): ``levels`` [K] of ln κ; ``x`` [1], relative, of the first row;
    ``weights.i`` [1 + i + 1] and ``bands.i`` [bands, C, C·(1 + i + 1)] of y_i's and the D's weights in y_{i+1}.
    """

    base: Table
    values: Mapping[str, Tensor]
    factors: Mapping[str, Tensor]

    def levels(self) -> Tensor:
        return double(self.base.levels) * self.values["levels"].exp()

    def opening(self, levels: Tensor) -> Tensor:
        """The weight of x_start."""
        base = self.base
        now = wave(levels[0])[1] / wave(double(base.levels[0]))[1]
        return base.x[0] * now * (1 + self.values["x"][0])

    def row(self, i: int, levels: Tensor) -> Tensor:
        """Weights [1 + i + 1] of y_i and of D_i … D_0 in y_{i+1}."""
        base = self.base
        given = [base.x[i + 1], *base.d[i], *[0.0] * (i + 1 - len(base.d[i]))]
        x, d = torch.ones(()).double(), torch.ones(()).double()
        if i + 1 < base.nfe:
            x0, d0 = ddim(base.levels[i], base.levels[i + 1])
            a, b = wave(levels[i]), wave(levels[i + 1])
            x = b[1] / a[1] / x0
            if abs(d0) > 1e-3:
                d = (b[0] - a[0] * b[1] / a[1]) / d0
        ratios = torch.stack([x, *[d] * (i + 1)])
        weights, change = double(given) * ratios, self.values[f"weights.{i}"]
        if f"weights.{i}" in self.factors:
            weights = weights + unscaled(self.factors[f"weights.{i}"], change[None])[0]
        return weights

    def matrices(self, i: int) -> Tensor | None:
        """[1 + i + 1, bands, C, C] of y_i and of D_i … D_0 in y_{i+1}."""
        mix, change = self.base.mix[i], self.values.get(f"bands.{i}")
        total: Tensor | None = None
        if change is not None:
            flat = unscaled(self.factors[f"bands.{i}"], change)
            bands, c = flat.shape[:2]
            total = flat.reshape(bands, c, i + 2, c).permute(2, 0, 1, 3)
        if mix is not None:
            bands, c = len(mix.knots), mix.channels
            given = torch.zeros(i + 2, bands, c, c).double()
            given[: len(mix.x)] = double(mix.x)
            given[1 : 1 + len(mix.d)] = double(mix.d)
            total = given if total is None else total + given
        return total

    @property
    def knots(self) -> tuple[float, ...]:
        if "knots" in self.factors:
            return tuple(self.factors["knots"].tolist())
        return next((mix.knots for mix in self.base.mix if mix), ())


def unscaled(factor: Tensor, values: Tensor) -> Tensor:
    """values·L⁻¹."""
    return torch.linalg.solve_triangular(factor, values, upper=False, left=False)


def table_from(state: State) -> Table:
    """The table with its corrections. Raises ValueError if its levels no longer fall."""
    numbers = Numbers(state.start, state.numbers, state.factors)
    base = state.start
    if not any(v.any() for v in state.numbers.values()):
        return base
    with torch.no_grad():
        levels = numbers.levels()
        rows = [numbers.row(i, levels).tolist() for i in range(base.nfe)]
        mixes: list[Mix | None] = []
        for i in range(base.nfe):
            m = numbers.matrices(i)
            mixes.append(
                Mix(numbers.knots, m[:1].numpy(), m[1:].numpy()) if m is not None else None
            )
        x = (float(numbers.opening(levels)), *(row[0] for row in rows))
        d = tuple(tuple(row[1:]) for row in rows)
    return replace(base, levels=tuple(levels.tolist()), x=x, d=d, mix=tuple(mixes))


def blank(table: Table, factors: Mapping[str, Tensor], channels: int) -> dict[str, Tensor]:
    """All corrections 0."""
    sizes: dict[str, tuple[int, ...]] = {"levels": (table.nfe,), "x": (1,)}
    for i in range(table.nfe):
        sizes[f"weights.{i}"] = (i + 2,)
        if f"bands.{i}" in factors:
            sizes[f"bands.{i}"] = (len(factors["knots"]), channels, channels * (i + 2))
    return {name: torch.zeros(size, dtype=torch.float64) for name, size in sizes.items()}


def knots_of(problem: Problem, table: Table, settings: Gradient) -> tuple[float, ...]:
    """The bands to fit: the start's own if it has some; none for what is no picture."""
    own = {mix.knots for mix in table.mix if mix}
    if len(own) > 1:
        raise ValueError(f"the start's rows have different bands: {sorted(own)}")
    if not settings.bands or problem.start.ndim not in (4, 5):
        return ()
    return own.pop() if own else KNOTS


def row_factors(
    problem: Problem, table: Table, rows: Tensor, knots: Sequence[float]
) -> dict[str, Tensor]:
    """The L of every row: one run of the table, without gradients."""
    found: dict[str, Tensor] = {"knots": double(knots)} if knots else {}

    def keep(i: int, terms: list[Tensor]) -> None:
        flat = torch.stack([t.double().flatten() for t in terms])
        found[f"weights.{i}"] = factor(flat @ flat.T)
        if not knots:
            return
        f = torch.cat([spectrum(t.double()) for t in terms])  # [T·C, B, frames, H, W/2 + 1, 2]
        share = band_weights(tuple(knots), *problem.start.shape[-2:]).to(f)
        products = torch.einsum("khw,ibthwz,jbthwz->kij", share, f, f)
        found[f"bands.{i}"] = factor(products)

    run(problem, Numbers(table, blank(table, {}, 0), {}), rows, keep)
    return {name: t.cpu() for name, t in found.items()}


def factor(products: Tensor) -> Tensor:
    """L of products [..., n, n], which are first divided by their mean diagonal."""
    n = products.shape[-1]
    mean = products.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None].clamp(min=1e-30)
    eye = torch.eye(n, dtype=products.dtype, device=products.device)
    return torch.linalg.cholesky((products / mean).cpu() + RIDGE * eye.cpu()).contiguous()


# ---------------------------------------------------------------------------------------- the run

Keep = Callable[[int, list[Tensor]], None]


def run(problem: Problem, numbers: Numbers, rows: Tensor, keep: Keep | None = None) -> Tensor:
    """Where the rows end [B, …], differentiable in the numbers; equals ``problem.run`` of their table.

    ``keep(i, [y_i, D_i, …])`` sees the terms of each row. A run that diverges ends in NaN.
    """

    def denoise(y: Tensor, kappa: Any) -> Tensor:
        return kept_small(partial(evaluate, problem, rows), y, kappa)

    return drive(walk(problem, numbers, rows, keep), Run(denoise, finite=False))


def walk(
    problem: Problem, numbers: Numbers, rows: Tensor, keep: Keep | None = None
) -> Program[Tensor]:
    """The questions of :func:`run`, whose levels are κ as tensors [] that may need gradients."""
    levels = numbers.levels()
    y = problem.begin(rows) * cast(numbers.opening(levels), problem.start)
    history: list[Tensor] = []
    for i, kappa in enumerate(levels.unbind()):
        level: Any = kappa
        history.insert(0, (yield y, Ask(level, i, len(levels))))
        terms = [y, *history]
        if keep is not None:
            keep(i, terms)
        weights, matrices = numbers.row(i, levels), numbers.matrices(i)
        y = kept_small(partial(combined, numbers.knots), weights, matrices, *terms)
    return y


def kept_small(function: Callable[..., Tensor], *given: Any) -> Tensor:
    """function(*given), of which only ``given`` is kept for the gradient: the rest is computed again."""
    if not torch.is_grad_enabled():
        return function(*given)
    found: Tensor = checkpoint(function, *given, use_reentrant=False)
    return found


def combined(
    knots: Sequence[float], weights: Tensor, matrices: Tensor | None, *terms: Tensor
) -> Tensor:
    """Σ weight·term and the terms' bands."""
    y = torch.zeros_like(terms[0])
    for w, term in zip(weights.unbind(), terms, strict=True):
        y = y + cast(w, term) * term
    if matrices is not None:
        y = y + mixed(matrices, knots, [spectrum(term) for term in terms], y)
    return y


def double(values: Any) -> Tensor:
    """Numbers as float64."""
    return torch.tensor(values, dtype=torch.float64)


def cast(number: Tensor, like: Tensor) -> Tensor:
    """A number of the table beside a state."""
    return number.to(like.dtype).to(like.device)


def spectrum(term: Tensor) -> Tensor:
    """[C, B, frames, H, W/2 + 1, 2]."""
    five = term if term.ndim == 5 else term[:, :, None]
    return torch.view_as_real(torch.fft.rfft2(five)).transpose(0, 1)


def mixed(
    matrices: Tensor, knots: Sequence[float], spectra: Sequence[Tensor], like: Tensor
) -> Tensor:
    """``Mix.apply`` with matrices [T, bands, C, C] that may need gradients."""
    shape = like.shape[-2], like.shape[-1]
    bands = cast(band_weights(tuple(knots), *shape), like)
    gain = torch.einsum("nkij,khw->nijhw", cast(matrices, like), bands)
    total = sum(
        torch.einsum("ijhw,jbthwz->bithwz", g, s)
        for g, s in zip(gain.unbind(), spectra, strict=True)
    )
    assert isinstance(total, Tensor)
    found = torch.fft.irfft2(torch.view_as_complex(total.contiguous()), s=shape)
    return found.reshape(like.shape)


def evaluate(problem: Problem, rows: Tensor, y: Tensor, kappa: Tensor) -> Tensor:
    """D of y on VP, told κ (0-dim)."""
    if problem.check is not None:
        problem.check()
    problem.evaluations += len(y)
    sigma, scale = on_path(kappa, problem.path)
    told: Any = cast(sigma, y).reshape(1) if torch.is_grad_enabled() else float(sigma)
    return problem.field(y * cast(scale, y), told, rows).to(y.dtype)


def wave(kappa: Tensor) -> tuple[Tensor, Tensor]:
    """(α, σ) on VP."""
    alpha = 1 / (1 + kappa * kappa).sqrt()
    return alpha, alpha * kappa


def on_path(kappa: Tensor, path: Path) -> tuple[Tensor, Tensor]:
    """(σ on the path, x there / x on VP) at κ > 0, differentiable: values and slopes from ``rescale``."""

    def at(k: float) -> tuple[float, float]:
        point, scale = rescale(VP().at(k), path)
        return point.sigma, scale

    k = float(kappa.detach())
    step = 1e-4 * k
    values, up, down = at(k), at(k + step), at(k - step)
    move = kappa - kappa.detach()
    pair = [v + move * ((a - b) / (2 * step)) for v, a, b in zip(values, up, down, strict=True)]
    return pair[0], pair[1]


def differentiable(problem: Problem) -> Problem:
    """The same problem with its tensors made outside inference mode."""
    return replace(problem, start=problem.start.clone(), end=problem.end.clone())


def follows_level(problem: Problem, table: Table) -> bool:
    """Whether the field's D has a slope in σ; levels stay where it has none (a table of time steps, say).

    Raises ValueError if it has none in x either.
    """
    rows = problem.train[:1]
    x = problem.start[rows].requires_grad_()
    sigma = x.detach().new_full((1,), problem.path.at(table.levels[0]).sigma).requires_grad_()
    wrong = "this model cannot be differentiated ({}); fit it forward only, which needs evaluations alone"
    try:
        d = problem.field(x, sigma, rows)  # type: ignore[arg-type]
        if not d.requires_grad:
            raise ValueError(wrong.format("its prediction is cut off from its input"))
        by_x, by_level = torch.autograd.grad(d.sum(), [x, sigma], allow_unused=True)
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        text = str(error).splitlines()[0]
        raise ValueError(wrong.format(text)) from error
    if by_x is None:
        raise ValueError(wrong.format("its prediction does not depend on its input"))
    return by_level is not None


# ------------------------------------------------------------------------------------------ files

PARTS = ("numbers", "first", "second", "best", "factors")


def save(file: File, state: State, settings: Gradient) -> None:
    """Everything that :func:`load` needs to go on; the file appears whole or not at all."""
    # several groups are one tensor at first, which safetensors refuses
    tensors = {f"{g}/{n}": t.clone() for g in PARTS for n, t in getattr(state, g).items()}
    facts = {
        "version": VERSION,
        "start": state.start.digest,
        "settings": asdict(settings),
        "iteration": state.iteration,
        "records": plain(state.records),  # ∞, the error of a run that failed, is null
    }
    write(file, tensors, facts, HEADER)


def load(file: File, table: Table, settings: Gradient) -> State:
    """The state of an interrupted fit from ``table``. Raises ValueError if the file is of another one."""
    way_out = f"{file}: {{}}; delete it to fit from the start"
    try:
        facts, tensors = read_tensors(file, HEADER, "gradient fit", LARGEST_TABLES)
        same = facts["start"] == table.digest and facts["settings"] == asdict(settings)
        records = tuple(Record(*map(error_from, entry)) for entry in facts["records"])
        iteration, version = int(facts["iteration"]), int(facts["version"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(way_out.format(f"not a gradient fit ({error})")) from None
    if version != VERSION or not same:
        raise ValueError(way_out.format("it is the fit of another start or with other settings"))
    groups: dict[str, dict[str, Tensor]] = {g: {} for g in PARTS}
    for name, t in tensors.items():
        group, _, key = name.partition("/")
        groups[group][key] = t
    state = State(table, table, records=records, iteration=iteration, **groups)
    return replace(state, table=table_from(replace(state, numbers=state.best)))
