"""Fuzzing of everything that reads what a stranger wrote.

    python -m benchmarks.fuzz workflow|png|fit|route|folder [--minutes 10] [--keep DIR] [--blind]

workflow   a workflow file: read, seeded, checked against every node; nothing is run
png        a picture: its texts, its workflow, its facts, its pixels
fit        a fitted solver, a fit that is not finished, AMED's predictor, a stopped run, network weights
route      a request of the page
folder     the texts of a model folder, beside weights that stay as they are

An input must give a result, or the one error that its reader promises, within a second and 512 MB. What does
neither is a finding: it is kept in ``--keep`` (tests/fuzz_seeds/TARGET, where tests/test_fuzz_seeds.py runs it
again for ever) and the fuzzing goes on. Inputs are guided by coverage where atheris is installed, and made at
random with ``--blind``; both change JSON values, PNG chunks and tensors (``benchmarks.mutate``), not only bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from random import Random

from sampling_kit.benchmarks.fuzz_targets import (
    PACK,
    TARGETS,
    Target,
    clear_scratch,
    import_all,
    scratch,
)
from sampling_kit.benchmarks.mutate import Change

SEEDS = PACK / "tests" / "fuzz_seeds"
SECONDS, MEGABYTES = 1.0, 512
LARGEST = 2**17  # bytes of an input


@dataclass(frozen=True)
class Finding:
    """``what`` is the same for the same mistake."""

    what: str
    detail: str


def examine(target: Target, data: bytes) -> Finding | None:
    """What is wrong with how the target takes ``data``."""
    before, start = peak(), time.process_time()
    try:
        target.run(data)
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        ours = [f for f in frames if PACK in Path(f.filename).resolve().parents][-1]
        place = f"{Path(ours.filename).name}:{ours.lineno}"
        return Finding(f"{type(error).__name__} at {place}", traceback.format_exc()[-2000:])
    seconds, more = time.process_time() - start, peak() - before
    if seconds > SECONDS:
        return Finding("slow", f"{seconds:.1f} s")
    return Finding("large", f"{more:.0f} MB more") if more > MEGABYTES else None


def peak() -> float:
    """MB of memory that this process has had at most; 0 where the system does not tell."""
    try:
        import resource
    except ImportError:
        return 0.0
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (2**20 if sys.platform == "darwin" else 2**10)


def seeds_of(name: str) -> dict[str, bytes]:
    """{file name: input} of what was found before."""
    folder = SEEDS / name
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    return {file.name: file.read_bytes() for file in files}


# ------------------------------------------------------------------------------------------ engine


class Campaign:
    """One target for some time: counts, keeps findings, says how it stands."""

    def __init__(self, name: str, seconds: float, keep: Path) -> None:
        self.name, self.target, self.keep = name, TARGETS[name], keep
        self.began, self.seconds = time.monotonic(), seconds
        self.runs = 0
        self.found: dict[str, int] = {}
        self.base = peak()

    def one(self, data: bytes) -> None:
        self.runs += 1
        finding = examine(self.target, data)
        if finding is not None:
            if finding.what not in self.found:
                self.keep.mkdir(parents=True, exist_ok=True)
                file = self.keep / hashlib.sha256(data).hexdigest()[:12]
                file.write_bytes(data)
                print(f"{finding.what}: {file}\n{finding.detail}", flush=True)
            self.found[finding.what] = self.found.get(finding.what, 0) + 1
        if time.monotonic() > self.began + self.seconds:
            self.end()

    def end(self) -> None:
        """The summary; the process ends here, since atheris knows no other way back."""
        facts = dict(
            target=self.name,
            executions=self.runs,
            seconds=round(time.monotonic() - self.began),
            findings=self.found,
            peak_mb=round(peak()),
            growth_mb=round(peak() - self.base),
        )
        print(json.dumps(facts), flush=True)
        clear_scratch()
        os._exit(1 if self.found else 0)


def blind(campaign: Campaign, inputs: list[bytes], change: Change, seed: int) -> None:
    chance = Random(seed)
    while True:
        data = chance.choice(inputs)
        for _ in range(chance.choice((1, 1, 2, 3))):
            data = change(data, chance)
        campaign.one(data[:LARGEST])


def guided(campaign: Campaign, inputs: list[bytes], change: Change, seed: int) -> None:
    import atheris

    folder = scratch() / "corpus"
    folder.mkdir()
    for i, data in enumerate(inputs):
        (folder / f"{i:04}").write_bytes(data)

    def mutate(data: bytes, largest: int, seed: int) -> bytes:
        chance = Random(seed)
        if chance.random() < 0.15:
            return bytes(atheris.Mutate(data, largest))
        return change(data, chance)[:largest]

    options = [
        f"-max_len={LARGEST}",
        f"-seed={seed}",
        "-timeout=30",  # of one input: nothing else stops a loop that never ends
        "-rss_limit_mb=6144",
        f"-artifact_prefix={campaign.keep}/",
        "-reload=0",
    ]
    campaign.keep.mkdir(parents=True, exist_ok=True)
    atheris.Setup([sys.argv[0], *options, str(folder)], campaign.one, custom_mutator=mutate)
    atheris.Fuzz()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("target", choices=list(TARGETS))
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--keep", type=Path, help="folder of findings")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--blind", action="store_true", help="without atheris and coverage")
    options = parser.parse_args()
    if not options.blind:
        try:
            import atheris
        except ImportError:
            parser.error("no atheris: pip install atheris, or fuzz with --blind")
        with atheris.instrument_imports(include=["sampling_kit"]):
            import_all()
    target = TARGETS[options.target]
    inputs = [*target.good(), *seeds_of(options.target).values()]
    for data in inputs:  # what is imported or made once is not the reader's time
        target.run(data)
    engine = blind if options.blind else guided
    keep = options.keep or SEEDS / options.target
    engine(
        Campaign(options.target, 60 * options.minutes, keep), inputs, target.change(), options.seed
    )


if __name__ == "__main__":
    main()
