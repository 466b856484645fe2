"""The jobs that are not finished, shared by the servers that run them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from . import limits
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
    tried: int = 32  # leases asked for at a time
    heard: float = 0.0  # when news of other processes were last asked for
    refused: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.free = dict(self.open)

    def claim(self) -> Task | None:
        """The next task that nobody has, in this process or another."""
        for key in list(self.free)[: self.tried]:
            task = self.take(key)
            if task is not None:
                return task
            self.free[key] = self.free.pop(key)  # those of other processes come last
        return None

    def take(self, key: str) -> Task | None:
        """This task, if nobody has it."""
        with local_errors(self.ledger.file, ()):
            ours = key in self.free and self.ledger.lease(key)
        return self.free.pop(key) if ours else None

    def hear(self) -> None:
        """Report what other processes have finished, now and then."""
        if time.monotonic() - self.heard < limits.NEWS:
            return
        self.heard = time.monotonic()
        with local_errors(self.ledger.file, ()):
            news = self.ledger.news()
        for key, done in news.items():
            self.free.pop(key, None)
            if self.open.pop(key, None) is not None:
                self.ended(key, done)

    def give_back(self, tasks: Iterable[Task]) -> None:
        """Tasks of a server that is lost; they come first."""
        back = {task.key: task for task in tasks if task.key in self.open}
        self.free = back | self.free

    def end(self, task: Task, done: Done) -> None:
        """Write a result down (a failure is not), and tell."""
        if self.open.pop(task.key, None) is None:
            return
        done = replace(done, chosen=task.job.chosen)
        with local_errors(self.ledger.file, ()):
            if done.error is None:
                self.ledger.finish(task.key, done)
            else:
                self.ledger.release(task.key)
        self.ended(task.key, done)
