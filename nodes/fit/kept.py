"""A fit in the folder of its recording, so that it goes on after an interruption; and its card as text."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...schedulers.fit import fit_files
from ...schedulers.solver.fitted import FittedSolver, Table
from .recording import Recording

SUFFIX = ".safetensors"
PARTS = 1000  # of a progress bar


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

    def starts(self, make: Callable[[], Mapping[str, Table]]) -> list[FittedSolver]:
        """The tables to start from, each with its name on its card; made once."""
        files = sorted(self.recording.trajectories.folder.glob(self.file("start-*").name))
        if not files:
            for i, (name, table) in enumerate(make().items()):
                files.append(self.file(f"start-{i:02}"))
                fit_files.save(files[-1], [FittedSolver(table, {"start": name})])
        return [fit_files.load(file).fits[0] for file in files]

    def finish(self, fit: FittedSolver) -> None:
        fit_files.save(self.done, [fit])
        for name in ("start-*", "state-*"):
            for file in self.recording.trajectories.folder.glob(self.file(name).name):
                file.unlink()


def card_text(fit: FittedSolver) -> str:
    """The card for people."""
    rows = {"evaluations per run": fit.table.nfe, "window": fit.table.window, **fit.card}
    return "\n".join(f"{k}: {v}" for k, v in rows.items() if v is not None)
