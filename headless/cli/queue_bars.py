"""What a person sees while a queue is worked off: one bar for the jobs, one for the node that runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...schedulers.whole_file import passing, write_whole
from ..bars import bar, on_terminal
from ..queue import Done, Watcher
from ..terminal_text import indented, one_line, say


class QueueBars(Watcher):
    """Bars on stderr where it is a terminal, file names on stdout; ``quiet``: neither."""

    def __init__(
        self, folder: Path, jobs: int, previews: bool = False, quiet: bool = False
    ) -> None:
        self.folder, self.jobs, self.previews, self.quiet = folder, jobs, previews, quiet
        self.shown = not quiet and on_terminal()

    def __enter__(self) -> QueueBars:
        self.all = bar("jobs", self.jobs, self.shown, unit="job")
        self.steps = bar("steps", 1, self.shown, leave=False)
        return self

    def __exit__(self, *_: Any) -> None:
        self.steps.close()
        self.all.close()

    def progress(self, label: str, node: str, step: int, total: int) -> None:
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
        if self.quiet or done.error:
            return
        for text in done.texts:
            self.note(indented(text))
        with self.all.external_write_mode():
            say("\n".join(str((self.folder / name).resolve()) for name in done.files))

    def note(self, text: str) -> None:
        if not self.quiet:
            with self.all.external_write_mode():
                say(text, err=True)
