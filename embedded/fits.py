"""Ready fits of the embedded network, and the command that makes them.

    python -m sampling_kit.embedded.fits [--guidance cond cfg2] [--nfe 4 5 6 8 10] [--work FOLDER]

For each guidance two families lie in ``solvers``, both made from evaluations alone (``fit.forward``): ``network-cond-forward``
within that fit's own budget (10 000 evaluations at 6 per run, teacher and choice of the start included), and
``network-cond``, the best on held-out trajectories of a longer fit (``EFFORTS``), of the one within the budget, and of their mean.
Trajectories start from seeds far from those that benchmarks use. All twenty take about 30 minutes on one core; an interrupted
run goes on with what the work folder holds.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path as File
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from ..schedulers import noise_schedule as schedules
from ..schedulers import spacing as spacings
from ..schedulers.denoiser.network import Attention, Network, Residual, load, preconditioned
from ..schedulers.fit import ends, fit_files
from ..schedulers.fit.ends import Ends
from ..schedulers.fit.fingerprint import fingerprint
from ..schedulers.fit.forward import Forward, ForwardState
from ..schedulers.fit.problem import Field, Problem, summary
from ..schedulers.fit.run_fit import run_fit
from ..schedulers.fit.table_numbers import mean_table
from ..schedulers.noise import PerImageNoise
from ..schedulers.path import VE
from ..schedulers.solver import DEIS, AdamsBashforth, GradientEstimation, Run, Solver, UniPC
from ..schedulers.solver.fitted import FittedSolver
from ..schedulers.store import Format
from . import postcards, trained

FOLDER = File(__file__).parent / "solvers"
GUIDANCE = {"cond": 1.0, "cfg2": 2.0}
NFES = (4, 5, 6, 8, 10)
#: Of the fitted trajectories; benchmarks take seeds from 0 on.
FIRST_SEED = 1_000_000
START = 80.0
#: Ends 0.001 (RMSE; median 0.0003) from the ODE's end with CFG 2.
TEACHER, TEACHER_STEPS = UniPC(max_order=3), 30
TEACHERS_ENDS = Format("sampling_kit_teacher", "set of a teacher's ends")
#: As nodes say it; they warn where a run has other guidance.
WORDS = {"cond": "no guidance", "cfg2": "CFG 2"}


@dataclass(frozen=True)
class Effort:
    """What the fits of a family may use: ``train`` trajectories, and ``held`` to judge by. Every start first runs on ``few`` of
    those; then ``search`` runs on ``train`` ones may move the ends of the best; then the fit."""

    train: int
    held: int
    few: int
    search: int
    settings: Forward


EFFORTS = {
    "best": Effort(512, 128, 12, 16, Forward(numbers=3, images=32, budget=10**9, memory=0.7)),
    "forward": Effort(40, 32, 8, 0, Forward()),
}


def ready(guidance: str, effort: str = "best", folder: File = FOLDER) -> fit_files.Family:
    """The shipped fits for "cond" or "cfg2", "best" or "forward". Raises ValueError if there is none."""
    if guidance not in GUIDANCE or effort not in EFFORTS:
        raise ValueError(f"there are fits for {', '.join(GUIDANCE)}: {' and '.join(EFFORTS)}")
    return fit_files.load(file(guidance, effort, folder))


def file(guidance: str, effort: str, folder: File = FOLDER) -> File:
    suffix = "" if effort == "best" else f"-{effort}"
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


class Halved(nn.Module):
    """A layer in bfloat16, between float32."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer.bfloat16()

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.layer(x.bfloat16())
        return found.float()


#: The layers that take most of the time.
HALVED: dict[type[nn.Module], tuple[str, ...]] = {
    Residual: ("first", "second"),
    Attention: ("qkv", "out"),
}


def matrix_units() -> bool:
    """Whether this CPU multiplies bfloat16 matrices in hardware. Elsewhere ``fast`` is five times slower than float32."""
    ask = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return bool(ask and ask())


def field(net: Network, seeds: Tensor, scale: float, fast: bool = False) -> Field:
    """D of the network with CFG ``scale`` for the trajectories of ``seeds``.

    ``fast``: bfloat16 inside the residual branches and around attention, for gradients and screening: twice as
    fast where the CPU has matrix units for it. The error of D is 0.0006; with all of the network in
    bfloat16 it is 0.0025, and a fine run then ends 0.02 from where it should.
    """
    classes = classes_of(seeds)
    inner = copy.deepcopy(net.net).float()
    inner.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # a third faster
    if fast:
        for part in list(inner.modules()):
            for name in HALVED.get(type(part), ()):
                setattr(part, name, Halved(getattr(part, name)))

    def evaluate(x: Tensor, sigma: float | Tensor, given: Tensor) -> Tensor:
        seen, (skip, out), log_kappa = preconditioned(x, net.path, sigma, net.config.sigma_data)
        seen = seen.float().contiguous(memory_format=torch.channels_last)
        return skip * x + out * inner(seen, log_kappa, given).to(x.dtype)

    def denoise(x: Tensor, sigma: float | Tensor, rows: Tensor) -> Tensor:
        given = classes[rows]
        if scale == 1:
            return evaluate(x, sigma, given)
        both = evaluate(torch.cat([x, x]), sigma, torch.cat([given, torch.zeros_like(given)]))
        cond, uncond = both.chunk(2)
        return uncond + scale * (cond - uncond)

    return denoise


def problem(
    net: Network, guidance: str, seeds: Tensor, held: int, kept: File | None = None
) -> Problem:
    """Trajectories of the seeds, the last ``held`` to judge by; the teacher's ends are kept in a file."""
    x = starts(seeds)
    if kept is None or not kept.exists():
        end = teacher(field(net, seeds, GUIDANCE[guidance]), x)
        if kept is not None:
            TEACHERS_ENDS.write(kept, {"end": end}, {})
    else:
        end = load_file(kept)["end"]
    rows = torch.arange(len(seeds))
    denoise = field(net, seeds, GUIDANCE[guidance], fast=matrix_units())
    spent = TEACHER_STEPS * len(rows)
    return Problem(
        VE(), denoise, START, x, end, rows[:-held], rows[-held:], batch=32, evaluations=spent
    )


def part(task: Problem, effort: Effort) -> Problem:
    """With no more trajectories than the effort may use, and only those paid for."""
    train, held = task.train[: effort.train], task.held[: effort.held]
    spent = TEACHER_STEPS * (len(train) + len(held))
    return replace(task, train=train, held=held, evaluations=spent)


@torch.no_grad()
def teacher(denoise: Field, x: Tensor, batch: int = 32) -> Tensor:
    """Where the ODE ends from ``x`` [B, …]."""
    points = spacings.space(schedules.EDM(), TEACHER_STEPS, spacings.Exponential()).on(VE())
    ends = []
    for rows in torch.arange(len(x)).split(batch):
        call = lambda y, sigma, rows=rows: denoise(y, sigma, rows)  # noqa: E731
        ends.append(TEACHER.solve(points, Run(call), x[rows]))
    return torch.cat(ends)


# ------------------------------------------------------------------------------------------ making

SOLVERS: dict[str, Solver] = {
    "iPNDM-2": AdamsBashforth(2),
    "iPNDM-3": AdamsBashforth(3),
    "Adams–Bashforth 3 in ln σ": AdamsBashforth(3, weights="variable", coordinate="log_sigma"),
    "DEIS-2": DEIS(2),
    "gradient estimation": GradientEstimation(),
}
ENDS = (Ends(80.0, 0.03, 0.1), Ends(40.0, 0.03), Ends(40.0, 0.1), Ends(30.0, 0.2))


def begun(task: Problem, nfe: int, effort: Effort) -> FittedSolver:
    """The best training-free solver between ends of its own."""
    tables = {(n, e): ends.table(task, s, nfe, e) for n, s in SOLVERS.items() for e in ENDS}
    left = list(tables)
    for count in (effort.few, 4 * effort.few):
        marks = {key: ends.mark(task.errors(tables[key], task.held[:count])) for key in left}
        left = sorted(left, key=marks.__getitem__)[:4]
    (name, between), table = left[0], tables[left[0]]
    if effort.search:
        rows, most = task.train[: 4 * effort.few], effort.search
        *_, (_, between, table) = ends.search(task, SOLVERS[name], nfe, between, rows, most)
    return FittedSolver(table, dict(start=f"{name}, σ {between}"))


@torch.no_grad()
def fitted(
    task: Problem, nfe: int, effort: Effort, work: File | None = None, say: Callable[[str], None] = print
) -> FittedSolver:  # fmt: skip
    """A start, then all moves of the forward fit. ``work``: where both are kept, to go on from."""
    kept = [work.with_suffix(f".{name}.safetensors") for name in ("start", "state")] if work else []
    if kept and kept[0].exists():
        start = fit_files.load(kept[0]).fits[0]
    else:
        start = begun(task, nfe, effort)
        if kept:
            fit_files.save(kept[0], [start])
    say(f"{nfe} evaluations, start {start.card['start']}")

    def progress(state: ForwardState) -> None:
        say(f"{state.evaluations} spent, {shown(state.before)} → {shown(state.after)}")

    file = kept[1] if kept else None
    state = run_fit(task, start.table, effort.settings, progress, file=file)
    found = dict(before=state.before, after=state.after, evaluations=state.evaluations)
    return FittedSolver(state.table, dict(method="forward", start=start.card["start"]) | found)


def shown(errors: dict[str, float]) -> str:
    return f"{errors['rmse']:.4f} (median {errors['median']:.4f})"


def make(guidance: str, nfes: tuple[int, ...], weights: File, folder: File, work: File) -> None:
    """Both families of one guidance."""
    net = load(weights, VE(), Network)
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    began = time.process_time()
    say = lambda text: print(f"{guidance} {time.process_time() - began:5.0f} s  {text}", flush=True)  # noqa: E731
    work = work / f"{digest[:12]}-{guidance}"
    work.mkdir(parents=True, exist_ok=True)
    most = EFFORTS["best"]
    seeds = torch.arange(most.train + most.held) + FIRST_SEED
    task = problem(net, guidance, seeds, most.held, work / "teacher.safetensors")
    say("teacher done")
    card: dict[str, Any] = dict(
        model=fingerprint([*net.named_parameters(), *net.named_buffers()]),
        weights=digest,
        path="VE",
        prediction="edm",
        guidance=WORDS[guidance],
        shape=[3, 32, 32],
        dtype="float32",
        teacher=f"{TEACHER.title} 3, exponential, {TEACHER_STEPS} evaluations",
    )
    for nfe in nfes:
        made = {}
        for name, effort in EFFORTS.items():
            own = part(task, effort)
            fit = fitted(own, nfe, effort, work / f"{nfe}-{name}", say)
            ranges = [[int(seeds[r[0]]), int(seeds[r[-1]])] for r in (own.train, own.held)]
            made[name] = replace(fit, card={**fit.card, **card, "seeds": ranges})
        made["best"] = best_of(task, made["best"], made["forward"])
        say(f"best: {made['best'].card['start']}, {shown(made['best'].card['after'])}")
        for name, fit in made.items():
            add(file(guidance, name, folder), fit)


@torch.no_grad()
def best_of(task: Problem, long: FittedSolver, short: FittedSolver) -> FittedSolver:
    """Of a long fit, a short one and their mean, that with the best mark on the held-out trajectories of the long one."""
    names = "{0}", "{1}", "mean of fits from {0} and {1}"
    tables = long.table, short.table, mean_table(long.table, short.table)
    errors = [task.errors(table, task.held) for table in tables]
    i = min(range(len(tables)), key=lambda i: ends.mark(errors[i]))
    spent = long.card["evaluations"] + short.card["evaluations"]
    own = dict(start=names[i].format(long.card["start"], short.card["start"]), evaluations=spent)
    return FittedSolver(tables[i], {**long.card, **own, "after": summary(errors[i])})


def add(target: File, fit: FittedSolver) -> None:
    """Put a fit into a family, in place of the one with as many evaluations."""
    target.parent.mkdir(parents=True, exist_ok=True)
    others = fit_files.load(target).fits if target.exists() else ()
    fit_files.save(target, [*(f for f in others if f.table.nfe != fit.table.nfe), fit])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--guidance", nargs="+", choices=GUIDANCE, default=list(GUIDANCE))
    parser.add_argument("--nfe", nargs="+", type=int, default=list(NFES))
    parser.add_argument("--network", type=File, default=trained.file("network"))
    parser.add_argument("--folder", type=File, default=FOLDER, help="where the families go")
    parser.add_argument(
        "--work", type=File, default=File(tempfile.gettempdir()) / "sampling-kit-fits",
        help="what is needed to go on after an interruption",
    )  # fmt: skip
    options = parser.parse_args()
    for guidance in options.guidance:
        make(guidance, tuple(options.nfe), options.network, options.folder, options.work)


if __name__ == "__main__":
    main()
