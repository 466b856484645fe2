"""One forward pass with both branches of CFG against one pass for each, on the network that ships.

    python -m benchmarks.batched [--threads 1,2] [--batches 1,4,16] [--kind network] [--json]

Milliseconds of one guided D at 1, 4, … images, the best of several in turn on the CPU, and the ratio of two
passes to one. Beyond ``denoiser.many.MOST_VALUES`` the engine makes two passes; here it is asked for one.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from sampling_kit.embedded import trained
from sampling_kit.schedulers.denoiser.many import levels
from sampling_kit.schedulers.path import VE

REPEATS, SIGMA = 9, 2.0
Row = dict[str, Any]


def timed(calls: Sequence[Callable[[], Any]], repeats: int) -> list[float]:
    """The shortest time of each call in milliseconds; they take turns."""
    best = [float("inf")] * len(calls)
    for i in range(repeats + 1):
        for k, call in enumerate(calls):
            start = time.perf_counter()
            call()
            spent = 1e3 * (time.perf_counter() - start)
            best[k] = min(best[k], spent) if i else best[k]  # the first warms up
    return best


def measure(kind: str, threads: int, batch: int, repeats: int = REPEATS) -> Row:
    net = trained.network(VE(), kind)
    draw = torch.Generator().manual_seed(0)
    x = SIGMA * torch.randn(batch, *net.config.shape, generator=draw)
    rows = (
        torch.eye(net.classes)[torch.arange(batch) % net.classes],
        torch.zeros(batch, net.classes),
    )

    def apart() -> list[Tensor]:
        return [net(x, SIGMA, c) for c in rows]

    def joined() -> tuple[Tensor, ...]:
        return net(torch.cat([x] * 2), levels(SIGMA, 2), torch.cat(rows)).chunk(2)

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.inference_mode():
            two, one = timed((apart, joined), repeats)
            distance = max(
                float((a - b).abs().max()) for a, b in zip(apart(), joined(), strict=True)
            )
    finally:
        torch.set_num_threads(before)
    return dict(threads=threads, batch=batch, two_passes=two, one_pass=one, ratio=two / one, distance=distance)  # fmt: skip


def numbers(text: str) -> list[int]:
    return [int(v) for v in text.split(",")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=numbers, default=[1, 2])
    parser.add_argument("--batches", type=numbers, default=[1, 4, 16])
    parser.add_argument("--kind", default="network")
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = (
        measure(options.kind, threads, batch, options.repeats)
        for threads in options.threads
        for batch in options.batches
    )
    if options.json:
        print(json.dumps(list(rows)))
        return
    print("threads  images  two passes ms  one pass ms  ratio  largest distance")
    for row in rows:
        print(
            f"{row['threads']:7} {row['batch']:7} {row['two_passes']:14.1f} {row['one_pass']:12.1f} "
            f"{row['ratio']:6.2f} {row['distance']:17.1e}",
            flush=True,
        )


if __name__ == "__main__":
    main()
