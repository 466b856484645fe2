"""What a fit is worth where it was not made for: other seeds, another CFG scale, changed weights.

    python -m benchmarks.fit_transfer [--nfe 6] [--seeds 12] [--json] [--write]

The shipped fits of the embedded network, and the best training-free pair of ours where they were made (``benchmarks.fit``), on seeds that
neither has seen; ends are those of the fits' own teacher on the model that is run. "Changed weights" stand in for a LoRA: a random matrix of rank
RANK is added to every weight matrix, so large that it has the named share of its norm; "moved" is how far the teacher's end moves by it
(RMSE). ``--write`` puts the table into docs/fit.md. For a model of your own: ``sampling-kit fit compare``.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from sampling_kit.embedded import fits
from sampling_kit.schedulers.denoiser.network import Network
from sampling_kit.schedulers.fit.problem import Problem, rmse, summary
from sampling_kit.schedulers.path import VE

from . import pages, problems
from .fit import free_table

MARKS = pages.marks("transfer")
RANK = 4


@dataclass(frozen=True)
class Place:
    """Where a fit of ``guidance`` is run: with CFG ``scale``, weights changed by ``share``."""

    name: str
    guidance: str
    scale: float
    share: float = 0.0


PLACES = (
    Place("as fitted", "cond", 1.0),
    Place("weights changed by 1 %", "cond", 1.0, share=0.01),
    Place("weights changed by 3 %", "cond", 1.0, share=0.03),
    Place("as fitted", "cfg2", 2.0),
    Place("CFG 1.5", "cfg2", 1.5),
    Place("CFG 3", "cfg2", 3.0),
)


def changed(net: Network, share: float) -> Network:
    """A copy whose weight matrices have random ones of rank RANK added, with ``share`` of their norm."""
    other = copy.deepcopy(net)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in other.parameters():
            if weight.ndim < 2:
                continue
            flat = weight.flatten(1)
            a, b = (torch.randn(n, RANK, generator=generator) for n in flat.shape)
            move = a @ b.T
            weight.add_((move * (share * flat.norm() / move.norm())).reshape(weight.shape))
    return other


@torch.no_grad()
def row(net: Network, place: Place, nfe: int, seeds: int) -> dict[str, Any]:
    """Errors there, by the fit and by the pair."""
    rows = torch.arange(seeds)
    model = changed(net, place.share) if place.share else net
    x, denoise = fits.starts(rows), fits.field(model, rows, place.scale)
    ends = fits.teacher(denoise, x)
    at = Problem(VE(), denoise, fits.START, x, ends, rows, rows, batch=32)
    tables = {"fit": fits.ready(place.guidance).at(nfe).table, "pair": free_table(place.guidance, nfe)}  # fmt: skip
    found: dict[str, Any] = {n: summary(at.errors(table, rows)) for n, table in tables.items()}
    if place.share:
        before = fits.teacher(fits.field(net, rows, place.scale), x)
        found["moved"] = float(rmse(ends - before).square().mean().sqrt())
    return dict(place=place.name, guidance=place.guidance) | found


def table(rows: Sequence[dict[str, Any]]) -> str:
    header = ("fitted to", "run on", "fit", "best pair there", "ratio RMSE", "median", "moved")
    lines: list[Sequence[str]] = [header, ["---"] * len(header)]
    for facts in rows:
        pair, fit = facts["pair"], facts["fit"]
        errors = [f"{e['rmse']:.4f} ({e['median']:.4f})" for e in (fit, pair)]
        ratios = [f"{fit[key] / pair[key]:.2f}" for key in ("rmse", "median")]
        moved = f"{facts['moved']:.3f}" if "moved" in facts else ""
        guidance = fits.WORDS[facts["guidance"]]
        lines.append([guidance, facts["place"], *errors, *ratios, moved])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def measured(nfe: int, seeds: int) -> Iterator[dict[str, Any]]:
    net = problems.network()
    for place in PLACES:
        yield row(net, place, nfe, seeds)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--nfe", type=int, default=6, choices=fits.NFES)
    parser.add_argument("--seeds", type=int, default=12)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--write", action="store_true", help="put the table into docs/fit.md")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rows = []
    for facts in measured(options.nfe, options.seeds):
        rows.append(facts)
        if not options.json:
            print(json.dumps(facts), flush=True)
    if options.write:
        pages.write(pages.FIT, MARKS, table(rows))
    print(json.dumps(rows) if options.json else table(rows))


if __name__ == "__main__":
    main()
