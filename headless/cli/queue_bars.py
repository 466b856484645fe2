"""What a person sees while a queue is worked off: one bar for the jobs, one for the node that runs."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from ...schedulers.whole_file import passing, write_whole
from ..bars import bar, on_terminal
from ..job_results import Done, Watcher
from ..terminal_text import indented, one_line, say
from .report import Report


class QueueBars(Watcher):
    """Bars on stderr where it is a terminal, file names on stdout; with a ``report`` events alone."""

    def __init__(self, folder: Path, previews: bool = False, report: Report | None = None) -> None:
        self.folder, self.previews = folder, previews
        self.report = report or Report(None)
        self.quiet = bool(self.report)
        self.shown = not self.quiet and on_terminal()

    def __enter__(self) -> QueueBars:
        self.all = bar("jobs", 0, False)
        self.steps = bar("steps", 1, False)
        return self

    def begin(self, jobs: int) -> None:
        self.all = bar("jobs", jobs, self.shown, unit="job")
        self.steps = bar("steps", 1, self.shown, leave=False)

    def __exit__(self, *_: Any) -> None:
        self.steps.close()
        self.all.close()

    def progress(self, label: str, node: str, step: int, total: int) -> None:
        self.report.event("progress", label=label, node=node, step=step, total=total)
        self.steps.total = total
        self.steps.set_description(one_line(f"{label or 'job'}, node {node}"), refresh=False)
        self.steps.n = step
        self.steps.refresh()

    def preview(self, label: str, picture: bytes) -> None:
        if self.previews:
            with passing():  # many a second
                write_whole(self.folder / "preview.jpg", picture)

    def finished(self, done: Done) -> None:
        self.all.update()
        self.report.event("job", **asdict(done))
        if self.quiet or done.error:
            return
        for text in done.texts:
            self.note(indented(text))
        with self.all.external_write_mode():
            say("\n".join(str((self.folder / name).resolve()) for name in done.files))

    def note(self, text: str) -> None:
        self.report.event("note", text=text)
        if not self.quiet:
            with self.all.external_write_mode():
                say(text, err=True)
