"""The embedded models against held-out postcards: the table of docs/embedded.md.

    python -m benchmarks.embedded [--count 10000] [--models network patches "CFG 2" ...] [--bf16]
                                  [--record FILE] [--seed 1]
    python -m benchmarks.embedded --card            how the weights were made, and their loss per noise level
    python -m benchmarks.embedded --sheet docs/network.png
    python -m benchmarks.embedded --time

Every model draws ``count`` pictures, as many of each class, at 32×32 in 20 evaluations (DPM-Solver++ 2M,
Karras steps from 80). Columns: Fréchet distance on fixed random features and sliced Wasserstein distance
to held-out postcards, as they are and over the floor, which is what a second set of true postcards has;
RMS distance to the nearest of 1000 training pictures per class and their mirror images (median, 5 %
quantile); accuracy of a judge that never saw a model (discriminant analysis of the features of the second
true set) and its mean log odds for the class, which do not saturate; milliseconds of processor time per
picture.

A model is ``network``, ``network-small``, ``patches``, ``unconditional`` (the network without class), or
``CFG w``, ``autoguidance w`` (the network, guided by network-small) and ``classifier s`` (the network
without class, guided by the classifier) with any weight. ``--record`` keeps the rows in a JSON file and
prints the table of all that are in it, so that models can be measured one after another, or with fewer
pictures: every number of pictures has its own floor. ``--seed``: of
the noise and of both sets of true postcards; choose settings with one and report with another.
``--bf16``: the networks compute in bf16, three times as fast on CPUs with AMX.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path as File
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sampling_kit.embedded import postcards, trained
from sampling_kit.embedded.train import RECIPES, Batch, losses
from sampling_kit.nodes.denoiser.embedded import Patches
from sampling_kit.schedulers import noise_schedule as schedules
from sampling_kit.schedulers.denoiser import Denoiser, network
from sampling_kit.schedulers.guidance import (
    CFG,
    COND,
    UNCOND,
    WEAK,
    Autoguidance,
    ClassifierGuidance,
    Guidance,
    Rule,
)
from sampling_kit.schedulers.measure.metrics import (
    frechet,
    nearest,
    random_features,
    sliced_wasserstein,
)
from sampling_kit.schedulers.noise import PerImageNoise
from sampling_kit.schedulers.path import VE
from sampling_kit.schedulers.sample import sample
from sampling_kit.schedulers.show.contact_sheet import tiles
from sampling_kit.schedulers.solver import DPMSolverMultistep
from sampling_kit.schedulers.solver.run import Run
from sampling_kit.schedulers.spacing import Karras, space

SIZE, STEPS, BATCH = 32, 20, 100
CLASSES = len(postcards.CLASSES)
KNOWN = 1000  # training pictures of each class that are looked at for copies
SETS = 2**20  # seeds apart from one set of pictures to the next
TRUE = "true postcards"


# ---------------------------------------------------------------------------------------- models


@lru_cache(maxsize=4)
def denoiser(kind: str) -> Denoiser:
    """patches, or a network by its name."""
    return Patches(size=SIZE).build(VE()) if kind == "patches" else trained.network(VE(), kind)


@dataclass(frozen=True)
class Model:
    """An embedded denoiser and the chain that guides it; without ``conditional`` it is not told the class."""

    kind: str = "network"
    guidance: Guidance = Guidance()
    conditional: bool = True
    bf16: bool = False

    def evaluate(
        self, x: Tensor, sigma: float, names: Sequence[str], classes: Tensor
    ) -> Mapping[str, Tensor]:
        """D of every branch; those of the network in one call."""
        own = [n for n in names if n != WEAK]
        rows = {COND: classes if self.conditional else 0 * classes, UNCOND: 0 * classes}
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.bf16):
            given = torch.cat([rows[n] for n in own])
            made = denoiser(self.kind)(x.repeat(len(own), 1, 1, 1), sigma, given).chunk(len(own))
            found = dict(zip(own, made, strict=True))
            if WEAK in names:
                found[WEAK] = denoiser("network-small")(x, sigma, classes)
        return {n: d.float() for n, d in found.items()}

    def draw(self, count: int, seed: int, steps: int = STEPS) -> Tensor:
        """Pictures [N, 3, 32, 32] in [−1, 1]; i has class i mod 10 and the noise of seed ``seed`` + i."""
        sigmas = space(schedules.EDM(), steps, Karras()).sigmas()
        made = []
        for start in range(0, count, BATCH):
            n = min(BATCH, count - start)
            classes = F.one_hot(torch.arange(start, start + n) % CLASSES, CLASSES).float()
            x = PerImageNoise(seed + start)(0, torch.empty(n, 3, SIZE, SIZE)) * sigmas[0]
            run = self.guidance.begin(VE(), sigmas)
            denoise = partial(run, evaluate=partial(self.evaluate, classes=classes))
            with torch.no_grad():
                made.append(
                    sample(DPMSolverMultistep(), VE(), Run(denoise), x, sigmas).clamp(-1, 1)
                )
        return torch.cat(made)


#: Rules by the name of their rows.
RULES: dict[str, Callable[[float], Rule]] = {
    "CFG": CFG,
    "autoguidance": Autoguidance,
    "classifier": lambda s: ClassifierGuidance(s, label=-1, classifier=trained.classifier(VE())),
}
PLAIN = "network", "network-small", "patches"
REPORTED = (
    *PLAIN, "CFG 1.5", "CFG 2", "CFG 4", "autoguidance 1.25", "unconditional", "classifier 1", "classifier 2",
)  # fmt: skip


def model(name: str, bf16: bool = False) -> Model:
    """The model of a row. Raises ValueError for an unknown name."""
    if name in PLAIN:
        return Model(name, bf16=bf16 and name != "patches")
    if name == "unconditional":
        return Model(conditional=False, bf16=bf16)
    rule, _, weight = name.rpartition(" ")
    if rule not in RULES:
        raise ValueError(
            f"model {name!r}: choose {', '.join(PLAIN)}, unconditional, or {', '.join(RULES)} with a weight"
        )
    chain = Guidance((RULES[rule](float(weight)),))
    return Model(guidance=chain, conditional=rule != "classifier", bf16=bf16)


# ----------------------------------------------------------------------------------------- table


def true_postcards(count: int, first: int) -> Tensor:
    """``count`` postcards [N, 3, 32, 32] in [−1, 1], i of class i mod 10, scene seeds from ``first`` on."""
    each = range(first, first + -(-count // CLASSES))
    images = torch.stack(
        [torch.from_numpy(postcards.scenes(k, each, SIZE)) for k in range(CLASSES)], 1
    )
    return images.flatten(0, 1)[:count].permute(0, 3, 1, 2).float() / 127.5 - 1


def judge(features: Tensor) -> Callable[[Tensor], Tensor]:
    """features [N, F] → log p(class) [N, 10] but for a number per picture: linear discriminant analysis,
    fitted to rows of class i mod 10."""
    groups = [features[k::CLASSES].double() for k in range(CLASSES)]
    means = torch.stack([g.mean(0) for g in groups])
    inner = torch.cat([g - m for g, m in zip(groups, means, strict=True)])
    covariance = torch.cov(inner.T) + 1e-6 * torch.eye(inner.shape[1], dtype=torch.float64)
    weight = torch.linalg.solve(covariance, means.T)
    bias = -0.5 * (means.T * weight).sum(0)
    return lambda rows: rows.double() @ weight + bias


class Yardstick:
    """Two sets of ``count`` held-out postcards, and the training pictures; measures other sets."""

    def __init__(self, count: int, seed: int) -> None:
        sets = (postcards.HELD_OUT + (2 * seed + k) * SETS for k in (0, 1))
        self.held, self.second = (true_postcards(count, first) for first in sets)
        self.features, second = random_features(self.held), random_features(self.second)
        self.judge = judge(second)
        known = true_postcards(KNOWN * CLASSES, 0)
        self.known = torch.cat([known, known.flip(-1)])
        self.floor = frechet(second, self.features), sliced_wasserstein(self.second, self.held)

    def row(self, images: Tensor) -> dict[str, float]:
        """The distances of pictures [count, 3, 32, 32], i of class i mod 10."""
        features = random_features(images)
        # the judge knows the second set of true ones by heart, so it is asked about the first
        scores = self.judge(self.features if images is self.second else features)
        labels = torch.arange(len(images)) % CLASSES
        own = scores.gather(1, labels[:, None])[:, 0]
        others = scores.scatter(1, labels[:, None], -torch.inf).logsumexp(1)
        near = nearest(images[:1000], self.known)[0]
        far = frechet(features, self.features), sliced_wasserstein(images, self.held)
        return {
            "frechet": far[0],
            "frechet over floor": far[0] / self.floor[0],
            "sliced": far[1],
            "sliced over floor": far[1] / self.floor[1],
            "nearest median": near.median().item(),
            "nearest 5 %": near.quantile(0.05).item(),
            "accuracy": (scores.argmax(1) == labels).double().mean().item(),
            "log odds": (own - others).mean().item(),
        }


Rows = dict[str, dict[str, Any]]


def measure(
    count: int, names: Sequence[str], seed: int, bf16: bool = False, record: File | None = None
) -> Rows:
    """A row for each name; with ``record`` also those in that file, which is kept up to date."""
    found: Rows = json.loads(record.read_text()) if record and record.exists() else {}
    yardstick = Yardstick(count, seed)
    for name in (TRUE, *names):
        facts: dict[str, Any] = dict(name=name, count=count, seed=seed, bf16=False, ms=None)
        images = yardstick.second
        if name != TRUE:
            start, drawing = time.process_time(), model(name, bf16)
            images = drawing.draw(count, (seed + 1) * SETS)
            facts |= dict(bf16=drawing.bf16, ms=1e3 * (time.process_time() - start) / count)
        found[f"{count} {name}"] = facts | yardstick.row(images)
        if record:
            record.write_text(json.dumps(found, indent=1))
    return found


def markdown(found: Rows) -> str:
    """The table of docs/embedded.md."""
    lines = [
        "| pictures | number | Fréchet | × floor | sliced W | × floor | nearest, median (5 %) | accuracy | log odds | ms |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for r in found.values():
        ms = "" if r["ms"] is None else f"{r['ms']:.0f}"
        lines.append(
            f"| {r['name']} | {r['count']} | {r['frechet']:.4f} | {r['frechet over floor']:.1f} | {r['sliced']:.4f} "
            f"| {r['sliced over floor']:.1f} | {r['nearest median']:.3f} ({r['nearest 5 %']:.3f}) "
            f"| {r['accuracy']:.3f} | {r['log odds']:.0f} | {ms} |"
        )
    return "\n".join(lines)


# ----------------------------------------------------------------------------------- the model card

LEVELS = 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0
FACTS = "steps", "images", "minutes", "device", "precision", "seed", "loss"


def card() -> str:
    """How each file was made (its header), and how good it is at each noise level."""
    files = {n: trained.file(n) for n in RECIPES}
    facts = {n: network.card(f) for n, f in files.items()}
    lines = [f"| | {' | '.join(files)} |", "|---|" + "---|" * len(files)]
    counts = {n: sum(p.numel() for p in held_out(n)[0].parameters()) for n in files}
    lines.append("| parameters | " + " | ".join(f"{c:,}" for c in counts.values()) + " |")
    sizes = (f"{f.stat().st_size / 1e6:.2f} MB" for f in files.values())
    lines.append("| file | " + " | ".join(sizes) + " |")
    for fact in FACTS:
        lines.append(
            f"| {fact} | " + " | ".join(str(c.get(fact, "")) for c in facts.values()) + " |"
        )
    lines += ["", "| σ | " + " | ".join(f"{v:g}" for v in LEVELS) + " |"]
    lines.append("|---|" + "---|" * len(LEVELS))
    for name in files:
        what = "accuracy" if name == "classifier" else "loss"
        values = " | ".join(f"{held_out(name)[1](sigma):.3f}" for sigma in LEVELS)
        lines.append(f"| {name}, {what} | {values} |")
    return "\n".join(lines)


@lru_cache(maxsize=3)
def held_out(name: str, count: int = 200) -> tuple[torch.nn.Module, Callable[[float], float]]:
    """A network, and its mean over held-out postcards at σ: EDM-weighted loss, or accuracy."""
    labels = torch.arange(count) % CLASSES
    x, classes = true_postcards(count, postcards.HELD_OUT), F.one_hot(labels, CLASSES).float()
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    level = torch.ones(count)
    if name == "classifier":
        judge = trained.classifier(VE())
        return judge, lambda s: float((judge(x + s * noise, s).argmax(1) == labels).float().mean())
    net = trained.network(VE(), name)
    return net, lambda s: float(losses(net, Batch(x, noise, s * level, classes, labels)).mean())


# ------------------------------------------------------------------------------- pictures and time


def write_sheet(file: File, name: str, per_class: int = 8, scale: int = 2) -> None:
    """A row of pictures per class, each picture with noise of its own."""
    from PIL import Image

    images = model(name).draw(per_class * CLASSES, 1).unflatten(0, (per_class, CLASSES))
    rows = (images.transpose(0, 1).flatten(0, 1).permute(0, 2, 3, 1) + 1) / 2
    tiled = tiles([rows], per_class, scale, 2)[0]
    Image.fromarray((tiled * 255).round().byte().numpy()).save(file, optimize=True)


def seconds(count: int, name: str = "network") -> float:
    """Wall time of ``count`` pictures at 20 evaluations as one batch, after a first evaluation."""
    model(name).draw(count, 0, steps=1)
    start = time.perf_counter()
    model(name).draw(count, 0)
    return time.perf_counter() - start


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--count", type=int, default=10000, help="pictures, a multiple of 10")
    parser.add_argument("--models", nargs="*", default=REPORTED, metavar="NAME")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--record", type=File, metavar="FILE.json")
    parser.add_argument(
        "--sheet", type=File, metavar="FILE.png", help="draw the first model's sheet"
    )
    parser.add_argument("--time", action="store_true", help="time 1 and 16 pictures")
    parser.add_argument("--card", action="store_true", help="print the model card's tables")
    options = parser.parse_args(arguments)
    if options.count < 20 or options.count % CLASSES:
        parser.error("--count: a multiple of 10, at least 20")
    for name in options.models:
        try:
            model(name)
        except ValueError as error:
            parser.error(str(error))
    if options.card:
        print(card())
    elif options.sheet:
        write_sheet(options.sheet, options.models[0])
    elif options.time:
        for n in (1, 16):
            print(
                f"{n} at {STEPS} evaluations: {seconds(n):.2f} s, {torch.get_num_threads()} threads"
            )
    else:
        o = options
        print(markdown(measure(o.count, o.models, o.seed, o.bf16, o.record)))


if __name__ == "__main__":
    main()
