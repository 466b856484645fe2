"""Train the networks that ship, on postcards painted as they are needed.

    python -m sampling_kit.embedded.train --minutes 64                  # the network
    python -m sampling_kit.embedded.train --small --steps 2000          # its weaker twin
    python -m sampling_kit.embedded.train --classifier --steps 4000     # the noise-conditional classifier
    python -m sampling_kit.embedded.train --device cuda --minutes 20 --batch 512 --workers 16

The folder (``--folder``) holds the run: ``checkpoint.safetensors`` (everything needed to go on, written
whole or not at all), ``log.jsonl`` (loss, also per noise level), ``NAME.safetensors`` (the running average
of the weights in fp16, what ships) and ``guide-15/30/50.safetensors`` (that average early on, for
autoguidance). The same command goes on where the run was stopped, however it was stopped; a larger
``--minutes`` or ``--steps`` trains on after the end, and on a run that is done it writes the weights again.

No picture is shown twice: the n-th of a run has class n mod 10 and its own scene seed below
``postcards.HELD_OUT``. Everything random in a step depends on (``--seed``, step) alone, so that on a CPU
a run with ``--steps`` gives the same weights whether it was interrupted or not.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path as File
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..schedulers.denoiser.network import KINDS, Classifier, Config, Network, save
from ..schedulers.noise import mix
from ..schedulers.path import VE
from ..schedulers.store import Format
from ..schedulers.whole_file import append_line, write_whole
from . import postcards

SIGMA_DATA = 0.56  # standard deviation of the postcards in [−1, 1]
CHECKPOINT = Format("sampling_kit_training", "checkpoint of a training", infinity=True)
BINS = 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0  # σ between the bins of the log


@dataclass(frozen=True)
class Recipe:
    """What to train and how. ln σ ~ N(mean, deviation²); ``average``: of the weights, see :func:`blend`."""

    config: Config
    rate: float = 1.5e-3
    batch: int = 32
    mean: float = -0.7
    deviation: float = 1.4
    dropout: float = 0.12
    warm_up: int = 200
    average: float = 16.97
    decay_from: float = 0.4


RECIPES = {
    "network": Recipe(Config(channels=64, multiples=(1, 2, 2), sigma_data=SIGMA_DATA)),
    "network-small": Recipe(
        Config(channels=32, multiples=(1, 2), attention=(1,), sigma_data=SIGMA_DATA)
    ),
    "classifier": Recipe(
        Config(
            kind="classifier", channels=32, multiples=(1, 2, 2), attention=(), sigma_data=SIGMA_DATA
        ),
        mean=0.5,
        deviation=1.8,
    ),
}
GUIDES = 15, 30, 50  # percent of the run at which the average is kept


# -------------------------------------------------------------------------------------------- data


class Batch(NamedTuple):
    """x0 [B, 3, H, W] in [−1, 1], noise of that shape, σ [B], class weights [B, K] (zeros: dropped), class [B]."""

    x: Tensor
    noise: Tensor
    sigma: Tensor
    classes: Tensor
    labels: Tensor

    def to(self, device: torch.device) -> Batch:
        return Batch(*(t.to(device, non_blocking=True) for t in self))


@dataclass(frozen=True)
class Batches(Dataset[Batch]):
    """Item ``step`` is the batch of that step, a pure function of (recipe, seed, step)."""

    recipe: Recipe
    seed: int

    def __getitem__(self, step: int) -> Batch:
        r, count = self.recipe, len(postcards.CLASSES)
        first = self.seed * 2**24 * count + step * r.batch
        place = [divmod(first + j, count) for j in range(r.batch)]
        images = [postcards.scene(k, n % postcards.HELD_OUT, r.config.size) for n, k in place]
        labels = torch.tensor([k for _, k in place])
        generator = torch.Generator().manual_seed(mix(self.seed, step + 1))
        x = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 127.5 - 1
        noise = torch.randn(x.shape, generator=generator)
        # one σ from each of B equally likely parts of its distribution, in random order
        u = torch.randperm(r.batch, generator=generator) + torch.rand(r.batch, generator=generator)
        normal = torch.special.ndtri((u / r.batch).clamp(1e-6, 1 - 1e-6))
        sigma = (r.mean + r.deviation * normal).exp()
        kept = torch.rand(r.batch, generator=generator) >= r.dropout
        classes = F.one_hot(labels, count) * kept[:, None]
        return Batch(x, noise, sigma, classes.float(), labels)


# ------------------------------------------------------------------------------------------- steps


def losses(model: Network | Classifier, batch: Batch) -> Tensor:
    """One loss per image [B]: EDM's weighted square error, or cross entropy."""
    level = batch.sigma[:, None, None, None]
    x = batch.x + level * batch.noise
    x = x.contiguous(memory_format=torch.channels_last)
    if isinstance(model, Classifier):
        return F.cross_entropy(model(x, batch.sigma).float(), batch.labels, reduction="none")
    s = model.config.sigma_data
    weight = (batch.sigma**2 + s * s) / (batch.sigma * s) ** 2
    return weight * (model(x, batch.sigma, batch.classes) - batch.x).square().mean((1, 2, 3))


def blend(step: int, power: float) -> float:
    """Share of the old average at ``step`` (from 1): a power function needs no length of the run.

    Karras et al. 2024 (arXiv 2312.02696), eq. 125: weights at time t count as t^γ; γ = 16.97 looks
    back over 5 % of the run.
    """
    return (1 - 1 / step) ** (power + 1)


def rate(recipe: Recipe, step: int, done: float) -> float:
    """Learning rate: warm-up, plateau, then a straight line to 0 at the end of the run."""
    warm = min(1.0, (step + 1) / recipe.warm_up)
    return recipe.rate * warm * min(1.0, max(1 - done, 0.0) / (1 - recipe.decay_from))


class Run:
    """A training run in a folder: model, average, optimizer, and how far it is."""

    def __init__(
        self, name: str, recipe: Recipe, seed: int, device: torch.device, bf16: bool = False
    ) -> None:
        self.name, self.recipe, self.seed, self.device = name, recipe, seed, device
        self.bf16 = bf16
        torch.manual_seed(seed)
        kind = KINDS[recipe.config.kind]
        layout: Any = dict(device=device, memory_format=torch.channels_last)
        self.model = kind(VE(), recipe.config).to(**layout)
        self.average = kind(VE(), recipe.config).to(**layout).requires_grad_(False)
        self.average.load_state_dict(self.model.state_dict())
        self.weights = dict(self.model.named_parameters())
        self.optimizer = torch.optim.Adam(self.weights.values(), recipe.rate, betas=(0.9, 0.99))
        self.step, self.minutes, self.loss = 0, 0.0, math.nan
        self.bins = torch.zeros(2, len(BINS) + 1, device=device)
        self.edges = torch.tensor(BINS, device=device)

    # -- one step

    def advance(self, batch: Batch, done: float) -> None:
        batch = batch.to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            each = losses(self.model, batch)
        self.optimizer.param_groups[0]["lr"] = rate(self.recipe, self.step, done)
        self.optimizer.zero_grad()
        each.mean().backward()
        torch.nn.utils.clip_grad_norm_(list(self.weights.values()), 1.0)
        self.optimizer.step()
        self.step += 1
        share = blend(self.step, self.recipe.average)
        with torch.no_grad():
            torch._foreach_lerp_(
                list(self.average.parameters()), list(self.weights.values()), 1 - share
            )
            index = torch.bucketize(batch.sigma, self.edges)
            self.bins[0].index_add_(0, index, each.detach().float())
            self.bins[1].index_add_(0, index, torch.ones_like(batch.sigma))

    def report(self) -> dict[str, Any]:
        """A line of the log: means since the last one."""
        total, count = self.bins.tolist()
        self.bins.zero_()
        self.loss = sum(total) / max(sum(count), 1)
        if not math.isfinite(self.loss):
            raise FloatingPointError(f"the loss is {self.loss} at step {self.step}")
        per_bin = [round(t / n, 5) if n else None for t, n in zip(total, count, strict=True)]
        return {
            "step": self.step,
            "images": self.step * self.recipe.batch,
            "minutes": round(self.minutes, 3),
            "rate": self.optimizer.param_groups[0]["lr"],
            "loss": round(self.loss, 5),
            "loss_per_sigma": per_bin,
        }

    # -- files

    def card(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "data": f"postcards {postcards.VERSION}",
            "classes": list(postcards.CLASSES),
            "steps": self.step,
            "images": self.step * self.recipe.batch,
            "minutes": round(self.minutes, 1),
            "device": self.device.type,
            "precision": "bf16" if self.bf16 else "fp32",
            "seed": self.seed,
            "training": {k: v for k, v in asdict(self.recipe).items() if k != "config"},
            "loss": round(self.loss, 5) if math.isfinite(self.loss) else None,
            "licence": "Apache-2.0",
        }

    def export(self, file: File) -> None:
        """The average in fp16."""
        save(self.average, file, self.card())

    def checkpoint(self, file: File) -> None:
        tensors = {f"model.{n}": t for n, t in self.model.state_dict().items()}
        tensors |= {f"average.{n}": t for n, t in self.average.state_dict().items()}
        for name, weight in self.weights.items():
            for part, t in self.optimizer.state[weight].items():
                tensors[f"adam.{part}.{name}"] = t
        loss = None if math.isnan(self.loss) else self.loss
        progress = {"step": self.step, "minutes": self.minutes, "loss": loss}
        CHECKPOINT.write(file, tensors, self.identity() | progress)

    def identity(self) -> dict[str, Any]:
        """What a checkpoint must share with the run that goes on from it."""
        return {"recipe": asdict(self.recipe), "seed": self.seed}

    def resume(self, file: File) -> None:
        """Go on from a checkpoint. Raises ValueError if it belongs to another run."""
        with CHECKPOINT.opened(file) as stored:
            facts = stored.facts
            mine = json.loads(json.dumps(self.identity()))
            other = [k for k, v in mine.items() if facts.get(k) != v]
            if other:
                raise ValueError(
                    f"it is of a run with another {', '.join(other)}: choose another --folder"
                )
            tensors = stored.tensors()
        for prefix, module in (("model.", self.model), ("average.", self.average)):
            module.load_state_dict(
                {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
            )
        parts = "step", "exp_avg", "exp_avg_sq"
        if facts["step"]:
            for name, weight in self.weights.items():
                self.optimizer.state[weight] = {
                    part: _like(tensors[f"adam.{part}.{name}"], weight) for part in parts
                }
        self.step, self.minutes = facts["step"], facts["minutes"]
        self.loss = math.nan if facts["loss"] is None else facts["loss"]


def _like(t: Tensor, weight: Tensor) -> Tensor:
    """Adam's state as Adam makes it: the count on the CPU, moments in the weight's memory format."""
    return torch.empty_like(weight).copy_(t) if t.shape == weight.shape else t.cpu().clone()


def fast_bf16(device: torch.device) -> bool:
    """Whether bf16 is faster than float32 there: on CUDA, and on CPUs with AMX."""
    if device.type == "cpu":
        return bool(getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)())
    return device.type == "cuda"


def keep_log(file: File, step: int) -> None:
    """Drop lines after ``step``, and one that was cut short: what a kill left behind."""
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= step]
    write_whole(file, "".join(f"{line}\n" for line in kept))


def go_on(run: Run, folder: File) -> tuple[File, File]:
    """Puts ``run`` where the folder's checkpoint ends; the files of the checkpoint and of the log."""
    for part in folder.glob(".*.part"):  # a file that a kill left unfinished
        part.unlink()
    state, log = folder / "checkpoint.safetensors", folder / "log.jsonl"
    if state.exists():
        run.resume(state)
    keep_log(log, run.step)
    return state, log


def batches_of(run: Run, seed: int, steps: int | None, workers: int) -> Iterator[Any]:
    """The batches of the run's steps from where it is to ``steps`` (None: without end)."""
    loader = DataLoader(
        Batches(run.recipe, seed),
        batch_size=None,
        sampler=range(run.step, steps or 2**40),
        num_workers=workers,
        prefetch_factor=8 if workers else None,
        pin_memory=run.device.type == "cuda",
    )
    return iter(loader)


def save_guides(run: Run, folder: File, share: float) -> None:
    """Write each early average that ``share`` of the run has reached and that is not there."""
    for percent in GUIDES:
        guide = folder / f"guide-{percent}.safetensors"
        if share >= percent / 100 and not guide.exists():
            run.export(guide)


def train(
    name: str,
    folder: File,
    *,
    recipe: Recipe | None = None,
    minutes: float = math.inf,
    steps: int | None = None,
    seed: int = 0,
    device: str = "cpu",
    bf16: bool | None = None,
    workers: int = 0,
    every: int = 50,
    save_minutes: float = 1.0,
    bar: bool = False,
) -> Run:
    """Train until ``minutes`` of training or ``steps`` in all are done; returns the run.

    ``bf16``: None takes it where it is fast. A checkpoint is written at the end and after
    ``save_minutes``, on steps that ``every`` divides.
    """
    from tqdm import tqdm

    if not minutes > 0 or (math.isinf(minutes) if steps is None else steps < 1):
        raise ValueError("say when to stop: --minutes or --steps, above 0")
    folder.mkdir(parents=True, exist_ok=True)
    place = torch.device(device)
    bf16 = fast_bf16(place) if bf16 is None else bf16
    run = Run(name, recipe or RECIPES[name], seed, place, bf16)
    state, log = go_on(run, folder)
    before, start, saved = run.minutes, time.monotonic(), time.monotonic()

    def save_run() -> None:
        run.checkpoint(state)
        run.export(folder / f"{name}.safetensors")

    def done() -> float:
        return max(run.minutes / minutes, run.step / steps if steps else 0.0)

    progress = tqdm(total=100.0, initial=round(100 * done(), 1), unit="%", disable=not bar)
    data = batches_of(run, seed, steps, workers)
    while (reached := done()) < 1:
        run.advance(next(data), reached)
        run.minutes = before + (time.monotonic() - start) / 60
        end = done() >= 1
        if run.step % every and not end:
            continue
        line = run.report()
        append_line(log, json.dumps(line))
        progress.update(round(100 * min(done(), 1.0) - progress.n, 1))
        progress.set_postfix(step=run.step, loss=f"{run.loss:.4f}")
        save_guides(run, folder, done())
        if not end and time.monotonic() - saved > 60 * save_minutes:
            save_run()
            saved = time.monotonic()
    save_run()
    progress.close()
    return run


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--small", dest="name", action="store_const", const="network-small")
    which.add_argument("--classifier", dest="name", action="store_const", const="classifier")
    parser.set_defaults(name="network")
    parser.add_argument("--folder", type=File, help="where the run lives (default: ./train/NAME)")
    parser.add_argument("--minutes", type=float, default=math.inf, help="of training, in all")
    parser.add_argument("--steps", type=int, help="in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch", type=int, help="pictures per step")
    parser.add_argument("--rate", type=float, help="learning rate")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, mps")
    parser.add_argument(
        "--precision", choices=("bf16", "fp32"), help="default: bf16 where it is fast"
    )
    parser.add_argument("--workers", type=int, default=1, help="processes that paint")
    parser.add_argument("--threads", type=int, help="of the CPU")
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    changes: Mapping[str, Any] = {
        k: v for k in ("batch", "rate") if (v := getattr(options, k)) is not None
    }
    folder = options.folder or File("train") / options.name
    run = train(
        options.name,
        folder,
        recipe=replace(RECIPES[options.name], **changes),
        minutes=options.minutes,
        steps=options.steps,
        seed=options.seed,
        device=options.device,
        bf16=None if options.precision is None else options.precision == "bf16",
        workers=options.workers,
        bar=True,
    )
    print(f"{folder / options.name}.safetensors: {run.step} steps, loss {run.loss:.4f}")


if __name__ == "__main__":
    main()
