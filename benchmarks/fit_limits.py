"""Where fits end: their worst seeds, and what lies outside of a table of numbers.

    python -m benchmarks.fit_limits [--problems hsc] [--nfe 6] [--seeds 128] [--parts tail rival losses operator wide weights instances noise]

``tail``: the seeds with the largest errors of the fit; the same seeds by the best training-free pair, and by Gaussian Adams
with twice and four times as many evaluations; and how far an end moves when its start moves by a thousandth. ``rival``: fits
that start at the best pair by RMSE, and by median with a loss that counts every picture alike. ``losses``: fits whose loss follows outliers less or more. ``operator``: a correction of the last state that is no weight of a
prediction: local, nonlinear, in closed form; ``wide``: the same on random ReLUs of larger neighbourhoods. ``weights``: the last
row's weights, for every picture by an oracle (the most that can be gained so) and by statistics of its run. ``instances``: one of several
tables for every picture (``fit_instances.py``). ``noise``: fresh noise before every evaluation (``fit_noise.py``). The judging seeds
choose nothing but the oracles.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sampling_kit.embedded.fits import TEACHER_STEPS
from sampling_kit.schedulers import spacing as spacings
from sampling_kit.schedulers.fit.forward import Forward
from sampling_kit.schedulers.fit.problem import Problem
from sampling_kit.schedulers.fit.run_fit import run_fit
from sampling_kit.schedulers.fit.track import Track, tracked
from sampling_kit.schedulers.solver import GaussianAdams
from sampling_kit.schedulers.solver.fitted import table_of

from .fit_gain import begun, errors, fit_of, judged, median, rmse, shown
from .fit_instances import instances
from .fit_noise import noise
from .fit_rivals import stored_pair
from .fit_tasks import EMBEDDED, NAMES, Task

WORST, MOVED = 10, 1e-3
#: δ of the losses that are tried beside the usual one; the first of Cauchy's is what ``rival`` has too.
HUBERS, CAUCHYS = (0.5, 8.0), (0.35, 0.7)
PLAIN, ALIKE = Forward(numbers=2), Forward(numbers=2, huber=0.35, shape=0.0)
#: Of the operator: ridge in units of the mean diagonal, chosen on trajectories of its own.
RIDGES = (1e-4, 1e-3, 1e-2, 1e-1)
UNITS = 192


# ------------------------------------------------------------------------------------------- tail


def tail(task: Task, nfe: int, seeds: int) -> dict[str, Any]:
    """RMSE of the fit's worst seeds, and of the others, by everything that runs."""
    at, fit = task.judges(seeds), fit_of(task, nfe).table
    mine = errors(at, fit)
    order = np.argsort(-mine)
    worst, others = order[:WORST], order[WORST:]
    runs = {"fit": mine, "pair": errors(at, stored_pair(task, nfe, "best", "rmse").table(at))}
    for more in (2, 4):
        points = spacings.space(task.schedule, more * nfe, spacings.Karras())
        runs[f"Gaussian Adams, {more * nfe} evaluations"] = errors(
            at, table_of(GaussianAdams().plan(points))
        )
    found = {name: dict(worst=rmse(e[worst]), others=rmse(e[others])) for name, e in runs.items()}
    share = float((mine[worst] ** 2).sum() / (mine**2).sum())
    return dict(share=share, runs=found, moves=moves(task, at, worst, others))


def moves(task: Task, at: Problem, worst: Any, others: Any) -> dict[str, float]:
    """By how much an end moves for every unit that its start moves, by 24 evaluations of Gaussian Adams."""
    table = table_of(GaussianAdams().plan(spacings.space(task.schedule, 24, spacings.Karras())))
    rows = torch.from_numpy(np.concatenate([worst, others[: 3 * WORST]]).copy())
    noise = torch.randn(at.start[rows].shape, generator=torch.Generator().manual_seed(1))
    nudged = replace(at, start=at.start.clone())
    nudged.start[rows] += MOVED * at.kappa * noise
    far = (nudged.run(table, rows) - at.run(table, rows)).flatten(1).square().mean(1).sqrt()
    each = np.asarray(far.double().numpy()) / MOVED
    return dict(worst=median(each[: len(worst)]), others=median(each[len(worst) :]))


def rival(task: Task, nfe: int, seeds: int) -> dict[str, Any]:
    """The fit, and one that starts at the best pair by RMSE: a start without the outliers that few trajectories hide."""
    seen, at = task.seen, task.judges(seeds)
    tables = {"fit": fit_of(task, nfe).table}
    for by, way in (("rmse", PLAIN), ("median", ALIKE)):
        start = stored_pair(task, nfe, "best", by).table(seen)
        seen.evaluations = TEACHER_STEPS * len(seen.start)
        tables[f"pair by {by}"] = start
        tables[f"from the pair by {by}"] = run_fit(seen, start, way).table
    return {name: shown(errors(at, table)) for name, table in tables.items()}


def losses(task: Task, nfe: int, seeds: int) -> dict[str, Any]:
    """Errors of the start and of fits with another δ and with the Cauchy loss; on the embedded network, whose fits are dear, of
    the usual loss and Cauchy's alone."""
    at = task.judges(seeds)
    begin = cache(lambda: begun(task, nfe))
    dear = task.name in EMBEDDED
    ways = {
        f"δ {h:g}": replace(PLAIN, huber=h) for h in (PLAIN.huber, *HUBERS[: 0 if dear else None])
    }
    ways |= {f"Cauchy {h:g}": replace(ALIKE, huber=h) for h in CAUCHYS[: 1 if dear else None]}
    made = {name: fit_of(task, nfe, way, begin) for name, way in ways.items()}
    tables = {"start": begin().start} | {name: fit.table for name, fit in made.items()}
    return {name: shown(errors(at, table)) for name, table in tables.items()}


# ---------------------------------------------------------------------------------------- operator


def features(track: Track, unit: float) -> Tensor:
    """[n, F, H, W]: neighbourhoods of the last predictions and their change, and nonlinear terms of both."""
    last, before = track.d[-1], track.d[-2]
    change = last - before
    parts = [around(last), around(change), *track.d[:-2]]
    size = change.square().mean((-2, -1), keepdim=True).sqrt() / unit
    parts += [change * change.abs() / unit, around(change * size), torch.tanh(last / unit) * change]
    return torch.cat(parts, 1)


def around(x: Tensor, far: int = 1) -> Tensor:
    """x and its neighbours up to ``far`` pixels away as channels [n, (2·far + 1)²·C, H, W]."""
    padded, side = F.pad(x, [far] * 4, mode="replicate"), range(2 * far + 1)
    h, w = x.shape[-2:]
    return torch.cat([padded[..., i : i + h, j : j + w] for i in side for j in side], 1)


def operator(task: Task, nfe: int, seeds: int) -> dict[str, Any]:
    """The fit, and the fit with the correction of its end."""
    unit = task.data_std
    return mended(task, nfe, seeds, lambda track: features(track, unit))


def wide(task: Task, nfe: int, seeds: int) -> dict[str, Any]:
    """The same by a network of one random layer: UNITS ReLUs of 5×5 neighbourhoods of the last two predictions and the
    last state, whose outer weights are least squares."""
    draw, unit = torch.Generator().manual_seed(0), task.data_std

    def looks(track: Track) -> Tensor:
        draw.manual_seed(0)
        parts = [track.d[-1], track.d[-1] - track.d[-2], track.y[-2] - track.d[-1]]
        seen = around(torch.cat(parts, 1) / unit, 2)
        inner = torch.randn(UNITS, seen.shape[1], generator=draw) / seen.shape[1] ** 0.5
        shift = torch.randn(UNITS, generator=draw)
        hidden = torch.einsum("nchw,uc->nuhw", seen, inner) + shift[:, None, None]
        return torch.cat([seen, hidden.relu()], 1)

    return mended(task, nfe, seeds, looks)


def mended(task: Task, nfe: int, seeds: int, looks: Callable[[Track], Tensor]) -> dict[str, Any]:
    """The fit, and the fit whose end is moved by ``looks`` [n, F, H, W] times weights in closed form."""
    seen, at, fit = task.seen, task.judges(seeds), fit_of(task, nfe).table

    def terms(problem: Problem, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        tracks = [tracked(problem, fit, some) for some in rows.split(16)]
        tracks = [Track([y.float() for y in t.y], [d.float() for d in t.d]) for t in tracks]
        targets = problem.target(rows).float().split(16)
        parts = [(looks(t), t.y[-1], aim) for t, aim in zip(tracks, targets, strict=True)]
        return tuple(map(torch.cat, zip(*parts, strict=True)))  # type: ignore[return-value]

    phi, end, target = terms(seen, seen.train)
    held = terms(seen, seen.held)
    flat = phi.movedim(1, -1).flatten(0, -2).double()
    aims = (target - end).movedim(1, -1).flatten(0, -2).double()
    gram, side = flat.T @ flat, flat.T @ aims
    best: tuple[float, Tensor | None] = (float((held[2] - held[1]).square().mean()), None)
    for ridge in RIDGES:
        eye = torch.eye(len(gram)).double() * ridge * gram.diagonal().mean()
        weights = torch.linalg.solve(gram + eye, side).float()
        off = held[2] - held[1] - corrected(held[0], weights)
        best = min(best, (float(off.square().mean()), weights), key=lambda entry: entry[0])
    phi, end, _ = terms(at, at.held)
    found: dict[str, Any] = dict(fit=shown(judged(at, end)), parameters=flat.shape[1])
    if best[1] is not None:
        found["corrected"] = shown(judged(at, end + corrected(phi, best[1])))
    return found


def corrected(phi: Tensor, weights: Tensor) -> Tensor:
    return torch.einsum("nfhw,fc->nchw", phi, weights)


# ----------------------------------------------------------------------------------------- weights


def weights(task: Task, nfe: int, seeds: int) -> dict[str, Any]:
    """The fit; its last row by an oracle for every picture; and by statistics, whose weights are least squares."""
    seen, at, fit = task.seen, task.judges(seeds), fit_of(task, nfe).table

    def run(problem: Problem, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        tracks = [tracked(problem, fit, some) for some in rows.split(32)]
        span = torch.cat([torch.stack([t.y[-2], *t.d], 1).flatten(2) for t in tracks])
        end = torch.cat([t.y[-1] for t in tracks]).flatten(1)
        return span.double(), end.double(), problem.target(rows).flatten(1).double()

    span, end, target = run(seen, torch.cat([seen.train, seen.held]))
    middle, spread = (f(statistics(span), 0) for f in (torch.mean, torch.std))
    look = lambda s: torch.cat([torch.ones(len(s), 1), (statistics(s) - middle) / spread], 1)  # noqa: E731
    terms = lambda s: torch.einsum("nf,nkp->nfkp", look(s), s).flatten(1, 2)  # noqa: E731
    a, off = terms(span), target - end
    gram, side = (torch.einsum("nap,n...p->a...", a, v) for v in (a, off))
    near, far, there = run(at, at.held)
    oracle = torch.stack([s.T @ torch.linalg.lstsq(s.T, t).solution for s, t in zip(near, there, strict=True)])  # fmt: skip
    rms = lambda off: np.asarray(off.square().mean(1).sqrt())  # noqa: E731
    found: dict[str, Any] = dict(fit=shown(rms(there - far)), oracle=shown(rms(there - oracle)))
    for ridge in RIDGES:
        eye = torch.diag(gram.diagonal()) * ridge
        moves = torch.einsum("nap,a->np", terms(near), torch.linalg.solve(gram + eye, side))
        found[f"ridge {ridge:g}"] = shown(rms(there - far - moves))
    return found


def statistics(span: Tensor) -> Tensor:
    """Logarithms of the sizes of a run's state and predictions, and the angles of each to the next [n, 2K + 1]."""
    sizes = span.square().mean(-1).sqrt()
    turns = (span[:, 1:] * span[:, :-1]).mean(-1) / (sizes[:, 1:] * sizes[:, :-1])
    return torch.cat([sizes.log(), turns], 1)


PARTS: dict[str, Callable[[Task, int, int], dict[str, Any]]] = {
    "tail": tail,
    "rival": rival,
    "losses": losses,
    "operator": operator,
    "wide": wide,
    "weights": weights,
    "instances": instances,
    "noise": noise,
}


@torch.no_grad()
def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--problems", nargs="+", choices=NAMES, default=["hsc"])
    parser.add_argument("--nfe", nargs="+", type=int, default=[6])
    parser.add_argument("--seeds", type=int, default=128)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    for name in options.problems:
        task = Task(name)
        for nfe in options.nfe:
            for part in options.parts:
                print(
                    name, nfe, part, json.dumps(PARTS[part](task, nfe, options.seeds)), flush=True
                )


if __name__ == "__main__":
    main()
