"""What goes to a server, what comes back, and who is told."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from typing import Any

from ..workflow import Prompt


@dataclass(frozen=True)
class Job:
    """One graph to run. ``label`` names its files and its line of the ledger."""

    label: str
    prompt: Prompt
    ui: dict[str, Any] | None = None

    def id(self, folder: str) -> str:
        """The prompt id: a UUID of the graph within the folder called ``folder``."""
        text = json.dumps(self.prompt, sort_keys=True, separators=(",", ":"))
        return str(uuid.uuid5(uuid.UUID(folder), text))


@dataclass(frozen=True)
class Done:
    """A finished job: files below the output folder, and texts that nodes showed."""

    label: str
    files: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    error: str | None = None


class Watcher:
    """Told what happens; the command line draws bars with it."""

    def progress(self, label: str, node: str, step: int, total: int) -> None: ...
    def preview(self, label: str, picture: bytes) -> None: ...
    def finished(self, done: Done) -> None: ...
    def note(self, text: str) -> None: ...
