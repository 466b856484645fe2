"""Whether the tests would notice: plants one defect at a time in a copy and runs the tests that are to fail.

    python -m benchmarks.defects [NAME …] [--jobs N] [--list]

The defects are the rows of ``benchmarks.planted``. First all their tests run on the copy as it is and must
pass. Then each defect is planted alone and its tests run until the first failure. Exit status: 0 if every
defect was noticed, 1 if some survived, 2 for a stale row (its text is not there exactly once, or the new
file is no Python) or tests that cannot run. NAME is a row's name or the beginning of some.
"""

from __future__ import annotations

import argparse
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from sampling_kit.benchmarks.defect import Defect

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "sampling_kit"
#: pytest's exit statuses.
PASSED, FAILED = 0, 1
#: The longest that the tests of one defect may take: a defect may make a loop endless.
SECONDS = 300


@dataclass(frozen=True)
class Outcome:
    """What the tests did with a defect: ``status`` is pytest's, None if they took too long."""

    status: int | None
    seconds: float
    output: str = ""

    @property
    def noticed(self) -> bool:
        """A loop without end is noticed too."""
        return self.status in (FAILED, None)

    @property
    def survived(self) -> bool:
        return self.status == PASSED


class Copy:
    """A copy of the repository's files in a folder of its own, which Python imports the package from."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / PACKAGE
        for name in files():
            target = self.root / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target)

    def try_out(self, defect: Defect) -> Outcome:
        """Plant, run, and put the file back. Raises ValueError for a stale row."""
        file = self.root / defect.file
        text = file.read_text(encoding="utf-8")
        try:
            self._write(file, defect.planted(text))
            return self.run(defect.tests)
        finally:
            self._write(file, text)

    def run(self, tests: Sequence[str]) -> Outcome:
        """The tests in a new process, until the first failure."""
        command = [sys.executable, "-m", "pytest", "-n", "0", "-x", "-q", "-p", "no:cacheprovider"]
        environment = {**os.environ, "PYTHONPATH": str(self.root.parent)}
        begun = time.perf_counter()
        try:
            done = subprocess.run(
                [*command, *tests], cwd=self.root, env=environment, timeout=SECONDS, check=False,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, encoding="utf-8", errors="replace",
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return Outcome(None, time.perf_counter() - begun)
        return Outcome(done.returncode, time.perf_counter() - begun, done.stdout)

    @staticmethod
    def _write(file: Path, text: str) -> None:
        """Python takes a file of the same size and second for the one it has compiled."""
        for compiled in (file.parent / "__pycache__").glob(f"{file.stem}.*.pyc"):
            compiled.unlink()
        file.write_text(text, encoding="utf-8", newline="\n")


def files() -> list[str]:
    """The repository's files, those not committed yet among them."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    names = [name for name in listed.split("\0") if name]
    return [n for n in names if (ROOT / n).is_file() and not (ROOT / n).is_symlink()]


def stale(defects: Iterable[Defect]) -> list[str]:
    """What is wrong with the rows, one line each."""
    found, names = [], set()
    for defect in defects:
        if defect.name in names:
            found.append(f"{defect.name}: the name is there twice")
        names.add(defect.name)
        file = ROOT / defect.file
        missing = [t for t in defect.tests if not (ROOT / t.split("::")[0]).is_file()]
        if missing or not file.is_file():
            found.append(f"{defect.name}: no file {(*missing, defect.file)[0]}")
            continue
        try:
            defect.planted(file.read_text(encoding="utf-8"))
        except ValueError as error:
            found.append(str(error))
    return found


def hunt(defects: Sequence[Defect], jobs: int = 1) -> list[Outcome]:
    """What became of each, in their order; prints as it goes."""
    with ExitStack() as stack:
        free: queue.Queue[Copy] = queue.Queue()
        for _ in range(min(jobs, len(defects))):
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="defects-"))
            free.put(Copy(Path(folder)))

        def one(defect: Defect) -> Outcome:
            copy = free.get()
            try:
                outcome = copy.try_out(defect)
            finally:
                free.put(copy)
            words = {PASSED: "SURVIVES", FAILED: "noticed", None: "noticed (endless)"}
            word = words.get(
                outcome.status, f"pytest ended with {outcome.status}:\n{outcome.output}"
            )
            print(f"{outcome.seconds:6.1f} s  {defect.name}: {word}", flush=True)
            return outcome

        with ThreadPoolExecutor(max(jobs, 1)) as pool:
            return list(pool.map(one, defects))


def sound(defects: Sequence[Defect]) -> Outcome:
    """All their tests once, without any defect."""
    tests = sorted({test for defect in defects for test in defect.tests})
    whole = {t for t in tests if "::" not in t}
    tests = [t for t in tests if t in whole or t.split("::")[0] not in whole]
    with tempfile.TemporaryDirectory(prefix="defects-") as folder:
        return Copy(Path(folder)).run(tests)


def main(arguments: Sequence[str] | None = None) -> int:
    from sampling_kit.benchmarks.planted import DEFECTS

    parser = argparse.ArgumentParser(
        prog="benchmarks.defects", description="Would the tests notice?"
    )
    parser.add_argument("names", nargs="*", help="rows, by name or its beginning; none: all")
    parser.add_argument("--jobs", type=int, default=1, help="defects that are tried at once")
    parser.add_argument("--list", action="store_true", help="print the rows and stop")
    options = parser.parse_args(arguments)
    starts = tuple(options.names) or ("",)
    chosen = [d for d in DEFECTS if d.name.startswith(starts)]
    unknown = [n for n in options.names if not any(d.name.startswith(n) for d in DEFECTS)]
    if unknown or options.jobs < 1:
        parser.error(f"no row begins with {unknown[0]!r}" if unknown else "--jobs: at least 1")
    if options.list:
        print("\n".join(f"{d.name}: {d.file}: {d.old!r} → {d.new!r}" for d in chosen))
        return 0
    if wrong := stale(chosen):
        print("stale rows:", *wrong, sep="\n")
        return 2
    before = sound(chosen)
    if before.status != PASSED:
        print(f"the tests do not pass without any defect:\n{before.output}")
        return 2
    print(f"{before.seconds:6.1f} s  no defect: all tests pass", flush=True)
    outcomes = hunt(chosen, options.jobs)
    survivors = [d.name for d, o in zip(chosen, outcomes, strict=True) if o.survived]
    broken = [
        d.name for d, o in zip(chosen, outcomes, strict=True) if not (o.survived or o.noticed)
    ]
    spent = os.times()
    cpu = f"{(spent.children_user + spent.children_system) / 60:.1f} CPU-minutes"
    print(f"{len(chosen)} defects, {len(survivors)} survive, {cpu}")
    for title, names in (("survivors", survivors), ("could not run", broken)):
        if names:
            print(f"{title}: {', '.join(names)}")
    return 2 if broken else int(bool(survivors))


if __name__ == "__main__":
    sys.exit(main())
