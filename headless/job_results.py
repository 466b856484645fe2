"""What comes back of a job on a server, and who is told. Light to import: the queue itself needs aiohttp."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Done:
    """A finished job: files below the output folder, and texts that nodes showed."""

    label: str
    files: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    error: str | None = None
    chosen: Mapping[str, str] = field(default_factory=dict)  # texts that came of choices in prompts


class Watcher:
    """Told what happens; the command line draws bars with it."""

    def begin(self, jobs: int) -> None: ...
    def progress(self, label: str, node: str, step: int, total: int) -> None: ...
    def preview(self, label: str, picture: bytes) -> None: ...
    def finished(self, done: Done) -> None: ...
    def note(self, text: str) -> None: ...
