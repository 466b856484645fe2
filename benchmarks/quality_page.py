"""The measured parts of docs/quality.md: error and distribution against the number of evaluations, ours and peers'.

    python -m benchmarks.quality_page [--count 128] [--rows FILE] [--write]

The exact denoiser of postcards (one Gaussian of rank 6 a class, 32×32) on Stable Diffusion's schedule. Deterministic samplers: RMSE to the
exact ends, median, 95th percentile, and the Fréchet distance of their pictures to true ones in the features of the embedded classifier
(its last layer before the logits). Stochastic ones by that distance alone, at NOISY evaluations. "floor" is what a second set of true
pictures has. The picture shows the worst seeds of each. ``--rows``: a file that ``benchmarks.policy --keep`` wrote, for the curves
over the problems that judge auto.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sampling_kit.embedded import postcards, trained
from sampling_kit.schedulers import policy
from sampling_kit.schedulers import spacing as spacings
from sampling_kit.schedulers.denoiser import Mixture
from sampling_kit.schedulers.measure.metrics import frechet
from sampling_kit.schedulers.noise import PerImageNoise
from sampling_kit.schedulers.noise_schedule import ScaledLinearVP
from sampling_kit.schedulers.path import VE
from sampling_kit.schedulers.points import Points
from sampling_kit.schedulers.show.contact_sheet import Row, sheet
from sampling_kit.schedulers.show.style import BLACK, BLUE, GREY, ORANGE, VERMILION, new_figure
from sampling_kit.schedulers.solver import (
    DDPM,
    ERSDE,
    DPMSolver,
    DPMSolverMultistep,
    EulerAncestral,
    SASolver,
    Solver,
)
from sampling_kit.schedulers.solver.run import Run
from sampling_kit.schedulers.text_table import markdown_table

from . import pages
from .policy import DEFAULTS, Judged, mean, read
from .problems import Problem, gaussian_noise, median, rmse, two_products

SIDE, RANK, FINE = 32, 6, 150
FEW, NOISY = (4, 6, 8, 10, 15, 20), (10, 20, 50, 100)
SHOWN, WORST = 6, 5  # evaluations and seeds of the picture
STOCHASTIC: tuple[Solver, ...] = (
    DDPM(),
    EulerAncestral(),
    DPMSolverMultistep(eta=1.0),
    DPMSolver(2, eta=1.0),
    SASolver(),
    ERSDE(),
)
MARKS, NOISY_MARKS, CURVES = (
    pages.marks(name) for name in ("deterministic", "stochastic", "curves")
)
PICTURE, PLOT = pages.DOCS / "quality-worst.png", pages.DOCS / "quality.png"
Levels = Callable[[int], tuple[Solver, Points]]


@dataclass(frozen=True)
class Gallery:
    """A problem of pictures, its exact ends, and true pictures."""

    task: Problem
    end: Tensor
    true: Tensor

    @classmethod
    def make(cls, count: int) -> Gallery:
        mixture, schedule = of_postcards(), ScaledLinearVP()
        start = schedule.kappa_max * gaussian_noise(count, 3, SIDE, SIDE, seed=7)
        task = Problem("postcards 32", VE(), schedule, two_products(mixture), start)
        return cls(task, task.finer_run(FINE), drawn(mixture, count, 1))


@lru_cache(maxsize=1)
def of_postcards() -> Mixture:
    pictures = np.stack([postcards.scenes(name, range(50), SIDE) for name in postcards.CLASSES])
    images = torch.from_numpy(pictures).permute(0, 1, 4, 2, 3).double() / 127.5 - 1
    return Mixture.fit(VE(), images, rank=RANK)


def drawn(mixture: Mixture, count: int, seed: int) -> Tensor:
    """True pictures [count, 3, SIDE, SIDE]."""
    return samples(mixture, count, seed).view(count, 3, SIDE, SIDE)


def samples(mixture: Mixture, count: int, seed: int) -> Tensor:
    """True samples [count, values]."""
    generator = torch.Generator().manual_seed(seed)
    which = torch.multinomial(mixture.weights, count, replacement=True, generator=generator)
    rank = mixture.variances.shape[1]
    inside = torch.randn(count, rank, generator=generator, dtype=torch.float64)
    across = torch.randn(count, mixture.means.shape[1], generator=generator, dtype=torch.float64)
    wide = torch.einsum(
        "br,brd->bd", inside * mixture.variances[which].sqrt(), mixture.basis[which]
    )
    return mixture.means[which] + wide + mixture.floor[which, None] * across


@torch.no_grad()
def features(images: Tensor) -> Tensor:
    """[B, F] of the embedded classifier, before its logits."""
    net, kept = trained.classifier(VE()).eval(), list[Tensor]()
    hook = net.leave.register_forward_pre_hook(lambda _, inputs: kept.append(inputs[0]))
    try:
        for part in images.float().split(64):
            net(part, 0.02)
    finally:
        hook.remove()
    return torch.cat(kept)


def contestants(schedule: ScaledLinearVP) -> dict[str, Levels]:
    """Name → (solver, levels) for a number of evaluations: auto, and the peers' defaults."""

    def auto(nfe: int) -> tuple[Solver, Points]:
        choice = policy.choose(schedule, nfe, side=SIDE)
        return choice.solver, choice.points(schedule, choice.steps)

    def default(solver: Solver, spacing: spacings.Spacing) -> Levels:
        return lambda nfe: (solver, spacings.space(schedule, nfe, spacing))

    return {"auto": auto} | {name: default(*pair) for name, pair in DEFAULTS.items()}


def end_of(at: Gallery, solver: Solver, points: Points, noise: bool = False) -> Tensor:
    levels = points.on(VE())
    x = at.task.start * (levels[0].sigma / at.task.schedule.kappa_max)
    return solver.solve(levels, Run(at.task.denoise, PerImageNoise(9) if noise else None), x)


COLUMNS = ("sampler", "NFE", "RMSE", "median", "95 %", "Fréchet")


def deterministic(at: Gallery) -> tuple[list[list[str]], list[Row]]:
    """Rows of the table, and of the picture."""
    true = features(at.true)
    rows = [["exact ends", "", "", "", "", f"{frechet(features(at.end), true):.3f}"]]
    shown = list[Row]()
    for name, levels in contestants(ScaledLinearVP()).items():
        for nfe in FEW:
            end = end_of(at, *levels(nfe))
            errors = rmse(end, at.end)
            high = float(np.quantile(errors.numpy(), 0.95))
            size = float(errors.square().mean().sqrt())
            numbers = [f"{v:.4f}" for v in (size, median(errors), high)]
            rows.append([name, str(nfe), *numbers, f"{frechet(features(end), true):.3f}"])
            if nfe == SHOWN:
                shown += worst(name, errors, end, at.end)
    return rows, shown


def worst(name: str, errors: Tensor, end: Tensor, exact: Tensor) -> list[Row]:
    seeds = errors.argsort(descending=True)[:WORST]
    captions = [f"seed {int(s)}: {float(errors[s]):.2f}" for s in seeds]
    label = (
        name.replace(", ", "\n")
        .replace("ComfyUI ", "ComfyUI\n")
        .replace("diffusers ", "diffusers\n")
    )
    return [
        Row(_pictures(end[seeds]), label, captions),
        Row(_pictures(exact[seeds]), "exact"),
    ]


def _pictures(x: Tensor) -> Tensor:
    large = F.interpolate(x.float(), scale_factor=3, mode="nearest")
    return ((large + 1) / 2).clamp(0, 1).permute(0, 2, 3, 1)


def stochastic(at: Gallery) -> Iterator[list[str]]:
    true = features(at.true)
    floor = features(drawn(of_postcards(), len(at.true), 2))
    yield ["floor: true pictures", *[f"{frechet(floor, true):.3f}"] * len(NOISY)]
    for solver in STOCHASTIC:
        cells = list[str]()
        for nfe in NOISY:
            steps = next(n for n in range(nfe, 0, -1) if solver.nfe(n) <= nfe)
            points = spacings.space(ScaledLinearVP(), steps, spacings.Karras())
            cells.append(f"{frechet(features(end_of(at, solver, points, noise=True)), true):.3f}")
        yield [f"`{solver.call}`", *cells]


# ---- curves


def curves(rows: Sequence[Judged], file: Path) -> None:
    """Error against the number of evaluations, geometric means over the problems of a kind, as a picture."""
    kinds = {
        "without guidance": [r for r in rows if "cfg" not in r.problem],
        "with CFG": [r for r in rows if "cfg" in r.problem],
    }
    figure = new_figure(900, 380)
    for axes, (title, some) in zip(figure.subplots(1, 2, sharey=True), kinds.items(), strict=True):
        nfes = sorted({r.nfe for r in some})
        for name, colour in (
            ("best", BLACK),
            ("auto", BLUE),
            ("before", ORANGE),
            ("default", VERMILION),
        ):
            label = {
                "best": "best pair of ours",
                "before": "auto of the version before",
                "default": "best of peers' defaults",
            }
            means = [mean([getattr(r, name).rmse for r in some if r.nfe == n]) for n in nfes]
            axes.loglog(nfes, means, "o-", color=colour, label=label.get(name, name))
        axes.set_xticks(nfes, [str(n) for n in nfes])
        axes.minorticks_off()
        axes.set_title(title)
        axes.set_xlabel("evaluations")
        axes.grid(color=GREY, alpha=0.3)
    figure.axes[0].set_ylabel("RMSE to the exact end")
    figure.axes[0].legend(frameon=False)
    figure.savefig(file)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--count", type=int, default=128)
    parser.add_argument("--rows", type=Path)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if options.rows and options.write:
        curves(read(options.rows), PLOT)
    at = Gallery.make(options.count)
    rows, shown = deterministic(at)
    tables = {
        MARKS: markdown_table(COLUMNS, rows),
        NOISY_MARKS: markdown_table(["solver", *map(str, NOISY)], list(stochastic(at))),
    }
    for marks, text in tables.items():
        print(text)
        if options.write:
            pages.write(pages.QUALITY, marks, text)
    if options.write:
        save(sheet(shown, 3 * SIDE, size=12), PICTURE)


def save(picture: Tensor, file: Path) -> None:
    from PIL import Image

    Image.fromarray((picture[0] * 255).round().byte().numpy()).save(file)


if __name__ == "__main__":
    main()
