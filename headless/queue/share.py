"""The jobs that are not finished, shared by the servers that run them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from .faults import local_errors
from .jobs import Done, Task
from .ledger import Ledger


@dataclass
class Share:
    """``free``: tasks that no server has, in order. ``open``: all that are not finished.

    ``ended`` is told of each result, once; ``refused``: labels of jobs whose graph a server refused.
    """

    folder: Path
    ledger: Ledger
    open: dict[str, Task]
    ended: Callable[[str, Done], None]
    free: dict[str, Task] = field(init=False)
    refused: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.free = dict(self.open)

    def claim(self) -> Task | None:
        """The next task that nobody has."""
        key = next(iter(self.free), None)
        return None if key is None else self.free.pop(key)

    def give_back(self, tasks: Iterable[Task]) -> None:
        """Tasks of a server that is lost; they come first."""
        back = {task.key: task for task in tasks if task.key in self.open}
        self.free = back | self.free

    def end(self, task: Task, done: Done) -> None:
        """Write a result down (a failure is not), and tell."""
        if self.open.pop(task.key, None) is None:
            return
        if done.error is None:
            with local_errors(self.ledger.file):
                self.ledger.finish(task.key, done)
        self.ended(task.key, done)
