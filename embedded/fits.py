"""Ready fits of the embedded network, and the command that makes them.

    python -m sampling_kit.embedded.fits [--guidance cond cfg2] [--nfe 4 5 6 8 10] [--warm] [--work FOLDER]

For each guidance two families lie in ``solvers``: ``network-cond-forward`` (evaluations only) and ``network-cond``
(autograd, from there on). Everything starts from seeds far from those that benchmarks use. An interrupted run goes on with what the work folder
holds; ``--warm`` also tries the fits that lie there already, of earlier weights say, as starts of the autograd fit.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path as File
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..schedulers import noise_schedule as schedules
from ..schedulers import spacing as spacings
from ..schedulers.denoiser.network import Network, load, preconditioned, write
from ..schedulers.fit import forward, gradient, store
from ..schedulers.fit.problem import Field, Problem
from ..schedulers.fit.trajectories import fingerprint
from ..schedulers.noise import PerImageNoise
from ..schedulers.path import VE, VP
from ..schedulers.points import Points
from ..schedulers.solver import AdamsBashforth, GaussianAdams
from ..schedulers.solver.fitted import FittedSolver, Table, table_of
from ..schedulers.solver.plan import Progress
from . import postcards, trained

FOLDER = File(__file__).parent / "solvers"
GUIDANCE = {"cond": 1.0, "cfg2": 2.0}
NFES = (4, 5, 6, 8, 10)
#: Of the fitted trajectories; benchmarks take seeds from 0 on.
FIRST_SEED = 1_000_000
START = 80.0
TEACHER = GaussianAdams(
    prior=0.56, predictor=4, corrector=4, residual="network", coordinate="lambda"
)
TEACHER_STEPS = 36
#: As nodes say it; they warn where a run has other guidance.
CLOSED = ", bands in closed form"
WORDS = {"cond": "no guidance", "cfg2": "CFG 2"}


def ready(guidance: str, method: str = "gradient", folder: File = FOLDER) -> store.Family:
    """The shipped fits for "cond" or "cfg2", made by "gradient" or "forward". Raises ValueError if there is none."""
    if guidance not in GUIDANCE or method not in ("gradient", "forward"):
        raise ValueError(f"there are fits for {', '.join(GUIDANCE)}, by gradient or forward")
    return store.load(file(guidance, method, folder))


def file(guidance: str, method: str, folder: File = FOLDER) -> File:
    suffix = "" if method == "gradient" else f"-{method}"
    return folder / f"network-{guidance}{suffix}.safetensors"


# ---------------------------------------------------------------------------------------- problems


def classes_of(seeds: Tensor) -> Tensor:
    """One-hot [B, 10], class = seed mod 10."""
    return F.one_hot(seeds % len(postcards.CLASSES), len(postcards.CLASSES)).float()


def starts(seeds: Tensor) -> Tensor:
    """x at σ = 80 [B, 3, 32, 32], float32, for seeds that follow one another or not."""
    like = torch.empty(len(seeds), 3, postcards_side(), postcards_side())
    return PerImageNoise(0, tuple(seeds.tolist()))(0, like) * START


def postcards_side() -> int:
    return 32


def field(net: Network, seeds: Tensor, scale: float, fast: bool = False) -> Field:
    """D of the network with CFG ``scale`` for the trajectories of ``seeds``.

    ``fast``: bfloat16 with channels last, three times faster where the CPU has matrix units for it (error
    of D 0.002), for teachers and gradients.
    """
    classes = classes_of(seeds)
    inner = copy.deepcopy(net.net).to(torch.bfloat16 if fast else torch.float32)
    inner.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # a third faster

    def evaluate(x: Tensor, sigma: float | Tensor, given: Tensor) -> Tensor:
        seen, (skip, out), log_kappa = preconditioned(x, net.path, sigma, net.config.sigma_data)
        seen = seen.to(torch.bfloat16 if fast else torch.float32)
        seen = seen.contiguous(memory_format=torch.channels_last)
        return skip * x + out * inner(seen, log_kappa, given.to(seen.dtype)).to(x.dtype)

    def denoise(x: Tensor, sigma: float | Tensor, rows: Tensor) -> Tensor:
        given = classes[rows]
        if scale == 1:
            return evaluate(x, sigma, given)
        both = evaluate(torch.cat([x, x]), sigma, torch.cat([given, torch.zeros_like(given)]))
        cond, uncond = both.chunk(2)
        return uncond + scale * (cond - uncond)

    return denoise


def problem(net: Network, guidance: str, train: int, held: int, kept: File) -> Problem:
    """Trajectories of FIRST_SEED on: ``train`` to fit and ``held`` to judge by. Their ends are kept in a file."""
    from safetensors.torch import load_file

    seeds = torch.arange(FIRST_SEED, FIRST_SEED + train + held)
    x, denoise = starts(seeds), field(net, seeds, GUIDANCE[guidance], fast=True)
    if not kept.exists():
        end, states, slopes = teacher(denoise, x)
        write(kept, {"end": end, "x": states.half(), "d": slopes.half()}, {}, "teacher")
    known = load_file(kept)
    rows = torch.arange(train + held)
    course = Course(known["x"], known["d"])
    spent = TEACHER_STEPS * len(rows)
    return Problem(
        VE(), denoise, START, x, known["end"], rows[:train], rows[train:], course, batch=32, evaluations=spent
    )  # fmt: skip


def teacher_points() -> Points:
    return spacings.space(schedules.EDM(), TEACHER_STEPS, spacings.Karras(7.0)).on(VE())


@torch.no_grad()
def teacher(denoise: Field, x: Tensor, batch: int = 32) -> tuple[Tensor, Tensor, Tensor]:
    """Where the ODE ends from ``x`` [B, …], and (x/√(1 + σ²), D) [levels, B, …] on the way."""
    ends, states, slopes = [], [], []
    for rows in torch.arange(len(x)).split(batch):
        seen: list[Progress] = []
        call = lambda y, sigma, rows=rows: denoise(y, sigma, rows)  # noqa: E731
        ends.append(TEACHER.solve(teacher_points(), call, x[rows], callback=seen.append))
        states.append(torch.stack([p.x * VP().at(p.sigma).alpha for p in seen]))
        slopes.append(torch.stack([p.denoised for p in seen]))
    return torch.cat(ends), torch.cat(states, 1), torch.cat(slopes, 1)


@dataclass(frozen=True)
class Course:
    """The teacher's states between its levels: a cubic in ln σ, whose slope dx/d(ln σ) is x − D."""

    x: Tensor
    d: Tensor

    def __call__(self, kappa: float, rows: Tensor) -> Tensor:
        """On VP at κ."""
        at = np.log(teacher_points().kappas[:-1])
        i = int(np.clip(np.searchsorted(-at, -np.log(kappa)) - 1, 0, len(at) - 2))
        h = at[i + 1] - at[i]
        t = (np.log(kappa) - at[i]) / h
        alphas = [VP().at(float(np.exp(v))).alpha for v in at[i : i + 2]]
        x = [self.x[j][rows].float() / c for j, c in zip((i, i + 1), alphas, strict=True)]
        v = [h * (a - self.d[j][rows].float()) for j, a in zip((i, i + 1), x, strict=True)]
        y = (2 * t**3 - 3 * t**2 + 1) * x[0] + (t**3 - 2 * t**2 + t) * v[0]
        y = y + (3 * t**2 - 2 * t**3) * x[1] + (t**3 - t**2) * v[1]
        return y * VP().at(kappa).alpha


# ------------------------------------------------------------------------------------------ making


def beginnings(nfe: int) -> dict[str, Table]:
    """Training-free solvers as tables: on the schedule's own range, and on shorter ones.

    A run that starts lower takes x from 80 to there as if there were no data yet; both ends cost an
    evaluation otherwise that says little.
    """
    found = {}
    solvers = {f"iPNDM-{n}": AdamsBashforth(n) for n in (2, 3)}
    for name, solver in solvers.items():
        grids = {
            f"karras {rho:g}": spacings.space(schedules.EDM(), nfe, spacings.Karras(rho)).on(VE())
            for rho in (7.0, 10.0)
        }
        for high in (80.0, 40.0):
            for low in (0.03, 0.06, 0.12, 0.2):
                levels = (*np.geomspace(high, low, nfe).tolist(), 0.0)
                grids[f"exponential {high:g} to {low:g}"] = Points(VE(), levels)
        for grid, points in grids.items():
            found[f"{name}, {grid}"] = from_start(table_of(solver.plan(points)))
    return found


def from_start(table: Table) -> Table:
    """The same table with x given at START: pure noise, scaled to the table's own start."""
    ratio = VP().at(table.start).sigma / VP().at(START).sigma
    return replace(table, start=START, x=(table.x[0] * ratio, *table.x[1:]))


def best_starts(task: Problem, tables: dict[str, Table], keep: int = 1, few: int = 8) -> list[str]:
    """The ``keep`` tables with the least RMSE·median on the held-out trajectories: all on ``few`` of them, the
    best three on all."""
    left = list(tables)
    for rows in (task.held[:few], task.held):
        marks = {}
        for name in left:
            root, middle = gradient.summary(task.errors(tables[name], rows))
            marks[name] = root * middle
        left = sorted(left, key=lambda name: marks[name])[: max(keep, 3)]
    return left[:keep]


def fit_forward(task: Problem, nfe: int, work: File, say: Callable[[str], None]) -> FittedSolver:
    """The best start, then Gauss–Newton for what is left of the budget."""
    plain = beginnings(nfe)
    with torch.no_grad():
        name = best_starts(task, plain)[0]
    say(f"start {name}")
    settings = forward.Forward()
    state = store.load_state(work) if work.exists() else None

    def progress(state: forward.State) -> None:
        store.save_state(work, state)
        say(
            f"forward {state.evaluations} evaluations, {shown(state.before)} → {shown(state.after)}"
        )

    with torch.no_grad():
        state = forward.fit(task, plain[name], settings, progress, state)
    card = dict(method="forward", start=name, evaluations=state.evaluations)
    return FittedSolver(state.table, card | dict(before=state.before, after=state.after))


def fit_gradient(
    task: Problem,
    starts: dict[str, Table],
    settings: gradient.Gradient,
    work: File,
    say: Callable[[str], None],
) -> FittedSolver:
    with torch.no_grad():
        name = best_starts(task, starts, few=len(task.held))[0]
        table = starts[name]
    state = gradient.load(work, table, settings) if work.exists() else None

    def progress(state: gradient.State) -> None:
        gradient.save(work, state, settings)
        say(f"gradient {state.iteration}, {shown(state.before)} → {shown(state.after)}")

    state = gradient.fit(task, table, settings, progress, state)
    card = dict(method="gradient", start=name, evaluations=state.evaluations)
    return FittedSolver(state.table, card | dict(before=state.before, after=state.after))


def shown(errors: dict[str, float]) -> str:
    return f"{errors['rmse']:.4f} (median {errors['median']:.4f})"


def make(
    guidance: str,
    nfes: tuple[int, ...],
    weights: File,
    folder: File,
    work: File,
    settings: gradient.Gradient,
    train: int = 160,
    held: int = 64,
    warm: bool = False,
) -> None:
    """Both families of one guidance."""
    import hashlib

    net = load(weights, VE(), Network)
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    began = time.process_time()
    say = lambda text: print(f"{guidance} {time.process_time() - began:5.0f} s  {text}", flush=True)  # noqa: E731
    work = work / f"{digest[:12]}-{guidance}"
    work.mkdir(parents=True, exist_ok=True)
    task = problem(net, guidance, train, held, work / "teacher.safetensors")
    say("teacher done")
    own: dict[str, Any] = dict(
        model=fingerprint([*net.named_parameters(), *net.named_buffers()]),
        weights=digest,
        path="VE",
        prediction="edm",
        guidance=WORDS[guidance],
        shape=[3, 32, 32],
        dtype="float32",
        teacher=f"{TEACHER.title}, karras 7, {TEACHER_STEPS} evaluations, bfloat16",
        seeds=[
            [FIRST_SEED, FIRST_SEED + train - 1],
            [FIRST_SEED + train, FIRST_SEED + train + held - 1],
        ],
    )
    for nfe in nfes:
        say(f"{nfe} evaluations")
        # the forward fit pays for the trajectories it uses, and takes few
        few = replace(
            task, train=task.train[:40], held=task.held[:32], evaluations=72 * TEACHER_STEPS
        )
        by_forward = fit_forward(few, nfe, work / f"{nfe}-forward.safetensors", say)
        # both begin at the same start: from the end of the forward fit, gradients gained nothing
        start = by_forward.card["start"]
        tables = {start: beginnings(nfe)[start]}
        for method in ("forward", "gradient") if warm else ():
            old = file(guidance, method, folder)
            if old.exists() and nfe in store.load(old).nfes:
                tables[f"ready {method} fit of earlier weights"] = store.load(old).at(nfe).table
        by_gradient = fit_gradient(
            task, tables, settings, work / f"{nfe}-gradient.safetensors", say
        )
        tables = {"gradient": by_gradient.table, "forward": by_forward.table}
        if best_starts(task, tables, few=len(task.held)) == ["forward"]:
            by_gradient = by_forward
        for method, fit in (("forward", by_forward), ("gradient", by_gradient)):
            add(file(guidance, method, folder), replace(fit, card={**fit.card, **own}))


def add(target: File, fit: FittedSolver) -> None:
    """Put a fit into a family, in place of the one with as many evaluations."""
    target.parent.mkdir(parents=True, exist_ok=True)
    others = store.load(target).fits if target.exists() else ()
    store.save(target, [*(f for f in others if f.table.nfe != fit.table.nfe), fit])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--guidance", nargs="+", choices=GUIDANCE, default=list(GUIDANCE))
    parser.add_argument("--nfe", nargs="+", type=int, default=list(NFES))
    parser.add_argument("--iterations", type=int, default=60)
    parser.add_argument("--network", type=File, default=trained.file("network"))
    parser.add_argument("--folder", type=File, default=FOLDER, help="where the families go")
    parser.add_argument(
        "--work", type=File, default=File(tempfile.gettempdir()) / "sampling-kit-fits",
        help="what is needed to go on after an interruption",
    )  # fmt: skip
    parser.add_argument("--warm", action="store_true", help="also start from the fits in FOLDER")
    options = parser.parse_args()
    settings = gradient.Gradient(iterations=options.iterations)
    for guidance in options.guidance:
        make(
            guidance, tuple(options.nfe), options.network, options.folder, options.work, settings, warm=options.warm
        )  # fmt: skip


if __name__ == "__main__":
    main()
