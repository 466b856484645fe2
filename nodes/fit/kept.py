"""A fit in the folder of its recording, so that it goes on after an interruption; and its card as text."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ...schedulers.fit import fit_files
from ...schedulers.fit.starts import Starts
from ...schedulers.solver.fitted import FittedSolver
from ...schedulers.whole_file import write_whole
from .recording import Recording

SUFFIX = ".safetensors"


class Beginning(NamedTuple):
    """Where fits begin, and the best training-free pair; their names are "start" on their cards."""

    starts: list[FittedSolver]
    pair: FittedSolver | None


@dataclass(frozen=True)
class Kept:
    """A fit in the folder of its recording: its starts and states while it runs, the result later."""

    recording: Recording
    key: tuple[Any, ...]

    def file(self, what: str) -> Path:
        digest = hashlib.sha256(repr(self.key).encode()).hexdigest()[:16]
        return self.recording.trajectories.folder / f"fit-{digest}-{what}{SUFFIX}"

    @property
    def done(self) -> Path:
        return self.file("done")

    def starts(self, make: Callable[[], Starts]) -> Beginning:
        """The tables to start from, each with its name on its card, and the best pair; made once. They count when their list is
        there, which is written last: a fit does not go on from a part of its starts."""
        folder, pair = self.recording.trajectories.folder, self.file("pair")
        count, paired = self._counts()
        files = [self.file(f"start-{i:02}") for i in range(count)]
        if not files or not all(file.is_file() for file in (*files, *[pair][:paired])):
            for old in folder.glob(self.file("state-*").name):  # of other starts
                old.unlink()
            made = make()
            files = [self.file(f"start-{i:02}") for i in range(len(made.tables))]
            for file, (name, table) in zip(files, made.tables.items(), strict=True):
                fit_files.save(file, [FittedSolver(table, {"start": name})])
            if paired := made.pair is not None:
                fit_files.save(pair, [FittedSolver(made.pair.table, {"start": made.pair.name})])
            write_whole(self.listing, json.dumps({"starts": len(files), "pair": paired}))
        first = lambda file: fit_files.load(file).fits[0]  # noqa: E731
        return Beginning([first(file) for file in files], first(pair) if paired else None)

    @property
    def listing(self) -> Path:
        return self.file("starts").with_suffix(".json")

    def _counts(self) -> tuple[int, bool]:
        """How many starts there are, and whether there is a pair; (0, False) where they are not all there."""
        try:
            listed = json.loads(self.listing.read_text(encoding="utf-8"))
            count, paired = listed["starts"], listed["pair"]
        except (OSError, ValueError, TypeError, KeyError):
            return 0, False
        fair = isinstance(count, int) and 0 < count < 1000 and isinstance(paired, bool)
        return (count, paired) if fair else (0, False)

    def finish(self, fit: FittedSolver) -> None:
        fit_files.save(self.done, [fit])
        self.listing.unlink(missing_ok=True)
        for name in ("start-*", "state-*", "pair"):
            for file in self.recording.trajectories.folder.glob(self.file(name).name):
                file.unlink(missing_ok=True)  # another process may be at the same fit


def in_short(fit: FittedSolver) -> str:
    """The verdict, or for files of before there was one the errors."""
    before, after = fit.card["before"]["rmse"], fit.card["after"]["rmse"]
    return fit.card.get("verdict") or f"held-out error {after:.4g}, before {before:.4g}"


def card_text(fit: FittedSolver) -> str:
    """The card for people, the verdict first."""
    verdict = {"verdict": fit.card["verdict"]} if "verdict" in fit.card else {}
    rows = verdict | {"evaluations per run": fit.table.nfe, "window": fit.table.window, **fit.card}
    return "\n".join(f"{k}: {v}" for k, v in rows.items() if v is not None)
