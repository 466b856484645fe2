"""Is a peer ahead? Our best pair of solver and levels beside the best of all that peers offer, at equal evaluations.

    python -m benchmarks.lead [--problems drawn-2000-none …] [--nfe 4 5 6 8 10 15 20] [--sides ours peers] [--keep FILE] [--write]

Each side brings its whole lists (``lead_ours.py``, ``lead_peers.py``) and chooses one pair for each problem and number of evaluations
by the rounds of ``lead_choice.py``; the table has the RMSE and the median over other seeds. The problems are mixtures that no solver, spacing or policy
was chosen on, one for each schedule, without guidance and with CFG 2. "auto" has nothing to choose and stands beside them.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from sampling_kit.schedulers.text_table import markdown_table

from . import lead_ours, lead_peers, lead_skrample, pages
from .lead_choice import CHOSEN_BY, JUDGED_BY, Winner, task_of
from .lead_ours import AUTO, OURS
from .lead_peers import COMFY, DIFFUSERS
from .lead_skrample import SKRAMPLE
from .policy import DRAWN_STEPS, mean

NUMBERS = (2000, 2001, 2002)  # flow, Stable Diffusion's, EDM's
PROBLEMS = tuple(f"drawn-{n}-{guidance}" for guidance in ("none", "cfg2") for n in NUMBERS)
NFES = (4, 5, 6, 8, 10, 15, 20)
MARKS, ROW_MARKS = pages.marks("lead"), pages.marks("lead-rows")
PEERS = (COMFY, DIFFUSERS, SKRAMPLE)
SIDES = ("ours", "peers", SKRAMPLE)

Side = dict[str, Winner]


def measure(
    names: Sequence[str], nfes: Sequence[int], sides: Sequence[str] = SIDES
) -> Iterator[Winner]:
    answers = {}
    for name in names:
        answers[name] = task_of(name, CHOSEN_BY + JUDGED_BY).finer_run(DRAWN_STEPS)
        if "ours" in sides:
            yield from lead_ours.ours({name: answers[name]}, nfes)
    if "peers" in sides:
        yield from lead_peers.diffusers(answers, nfes)
        yield from lead_peers.comfy(answers, nfes)
    if SKRAMPLE in sides:
        try:
            yield from lead_skrample.skrample(answers, nfes)
        except lead_skrample.Missing as missing:
            print(f"{SKRAMPLE} is left out: {missing}")


def guidance(problem: str) -> str:
    return "CFG" + problem.split("cfg")[1] if "cfg" in problem else "none"


def cells(winners: Sequence[Winner]) -> dict[tuple[str, int], Side]:
    """By problem and evaluations: who stands there, "peer" the better of the peers."""
    found: dict[tuple[str, int], Side] = {}
    for winner in winners:
        found.setdefault((winner.problem, winner.nfe), {})[winner.side] = winner
    for side in found.values():
        if OURS in side and any(p in side for p in PEERS):
            side["peer"] = min((side[p] for p in PEERS if p in side), key=lambda w: w.rmse)
    return {key: side for key, side in found.items() if "peer" in side}


COLUMNS = (
    "guidance", "NFE", "ours ÷ best peer", "worst", "of medians", "a peer ahead in", "auto ÷ best peer", "worst",
)  # fmt: skip


def table(found: dict[tuple[str, int], Side]) -> list[list[str]]:
    rows = []
    for kind in dict.fromkeys(guidance(problem) for problem, _ in found):
        for nfe in sorted({nfe for _, nfe in found}):
            some = [s for (p, n), s in found.items() if n == nfe and guidance(p) == kind]
            if not some:
                continue
            ratios = [s[OURS].rmse / s["peer"].rmse for s in some]
            medians = [s[OURS].median / s["peer"].median for s in some]
            autos = [s[AUTO].rmse / s["peer"].rmse for s in some]
            ahead = sum(r > 1 for r in ratios)
            rows.append(
                [
                    kind, str(nfe), f"{mean(ratios):.2f}", f"{max(ratios):.2f}", f"{mean(medians):.2f}",
                    f"{ahead} of {len(some)}", f"{mean(autos):.2f}", f"{max(autos):.2f}",
                ]
            )  # fmt: skip
    return rows


ROW_COLUMNS = ("problem", "NFE", "ours", "RMSE (median)", "best peer", "RMSE (median)", "÷", "auto")


def rows(found: dict[tuple[str, int], Side]) -> list[list[str]]:
    def entry(w: Winner) -> list[str]:
        return [f"{_name(w)}, {w.spacing}", f"{w.rmse:.4f} ({w.median:.4f})"]

    return [
        [
            problem, str(nfe), *entry(side[OURS]), *entry(side["peer"]),
            f"{side[OURS].rmse / side['peer'].rmse:.2f}", f"{side[AUTO].rmse:.4f} ({side[AUTO].median:.4f})",
        ]
        for (problem, nfe), side in sorted(found.items())
    ]  # fmt: skip


def _name(winner: Winner) -> str:
    return f"`{winner.solver}`" if winner.side == OURS else f"{winner.side} {winner.solver}"


def findings(found: dict[tuple[str, int], Side]) -> str:
    if not found:
        return "No row has both sides."
    ratios = {key: side[OURS].rmse / side["peer"].rmse for key, side in found.items()}
    medians = {key: side[OURS].median / side["peer"].median for key, side in found.items()}
    ahead = [f"{p} with {n} ({r:.2f})" for (p, n), r in sorted(ratios.items()) if r > 1]
    tried = {
        name: max((s[name].tried for s in found.values() if name in s), default=0)
        for name in (OURS, *PEERS)
    }
    counts = ", ".join(f"{count} of {name}" for name, count in tried.items())
    return (
        f"Ours ÷ best peer in {len(ratios)} rows: {mean(list(ratios.values())):.2f} (geometric mean), medians "
        f"{mean(list(medians.values())):.2f}; up to .9 in {sum(r <= 0.9 for r in ratios.values())}. A peer is ahead in {len(ahead)}"
        f"{': ' if ahead else ''}{'; '.join(ahead)}. Pairs that ran, at most: {counts}."
    )


def read(file: Path) -> list[Winner]:
    return [Winner(**row) for row in json.loads(file.read_text(encoding="utf-8"))]


def kept(file: Path, winners: Sequence[Winner]) -> list[Winner]:
    """What the file holds and ``winners``, which replace its own of the same problem, side and number; both are kept there."""
    old = read(file) if file.exists() else []
    every = {(w.problem, w.side, w.nfe): w for w in [*old, *winners]}
    file.write_text(json.dumps([asdict(w) for w in every.values()], indent=1), encoding="utf-8")
    return list(every.values())


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--problems", nargs="*", default=PROBLEMS)
    parser.add_argument("--nfe", nargs="+", type=int, default=NFES)
    parser.add_argument("--sides", nargs="+", default=SIDES, choices=SIDES)
    parser.add_argument("--keep", type=Path, help="a JSON file for rows that are measured in parts")
    parser.add_argument("--write", action="store_true", help="write docs/quality.md")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    started, winners = time.perf_counter(), list[Winner]()
    for winner in measure(options.problems, options.nfe, options.sides):
        winners.append(winner)
        if options.keep:
            kept(options.keep, [winner])
    if options.keep:  # with no problems at all: what it holds
        winners = kept(options.keep, winners)
    found = cells(winners)
    short = f"{markdown_table(COLUMNS, table(found))}\n\n{findings(found)}"
    long = markdown_table(ROW_COLUMNS, rows(found))
    print(long, short, f"{time.perf_counter() - started:.0f} s", sep="\n\n")
    if options.write:
        pages.write(pages.QUALITY, MARKS, short)
        pages.write(pages.QUALITY, ROW_MARKS, long)


if __name__ == "__main__":
    main()
