"""The queue client: what to ask a server next, until every job has its files."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..workflow import WorkflowError
from .http import LOST, Server
from .jobs import Done, Job, Watcher
from .ledger import Ledger
from .protocol import entries, event, failure, file_names, picture
from .websocket import listen

AHEAD = 16  # jobs in the server's queue at a time
TRIES = 3  # submissions of one job


@dataclass
class Queue:
    """Jobs on one server, whose results go to ``folder``.

    ``patience``: seconds to wait for a server that does not answer. ``watch``: stay until all is
    done; else submit what the server does not know yet, fetch what is done, and leave the rest.
    """

    server: str
    folder: Path
    watcher: Watcher = field(default_factory=Watcher)
    patience: float = 600.0
    watch: bool = True
    ahead: int = AHEAD
    previews: bool = False

    def __post_init__(self) -> None:
        self.http = Server(self.server)
        self.submitted: set[str] = set()
        self.deaths: dict[str, int] = {}  # prompt id: how often the server went away while it ran
        self.waiting: dict[str, Job] = {}
        self.running = ""

    # ------------------------------------------------------------------ the whole thing

    async def run(self, jobs: Sequence[Job]) -> list[Done]:
        """Run the jobs that the folder does not hold yet; results in the order of ``jobs``.

        Cancelling it (Ctrl-C) takes its prompts off the server. Raises WorkflowError if the
        server refuses a graph, ConnectionError if it cannot be reached for ``patience`` seconds.
        """
        self.ledger = Ledger(self.folder, self.watcher.note)
        ids = [job.id(self.ledger.name) for job in jobs]
        results = {id: done for id, done in self.ledger.finished().items() if id in set(ids)}
        for done in results.values():
            self.watcher.finished(done)
        self.waiting = {id: job for id, job in zip(ids, jobs, strict=True) if id not in results}
        try:
            async with self.http:
                async for id, done in self._results():
                    results[id] = done
                    self.watcher.finished(done)
        except (asyncio.CancelledError, WorkflowError):
            with suppress(Exception):
                async with self.http:
                    await asyncio.wait_for(self.cancel(), 10)
            raise
        finally:
            self.ledger.close()
        return [results[id] for id in ids if id in results]

    async def _results(self) -> AsyncIterator[tuple[str, Done]]:
        """Results as they come, through lost connections."""
        pause, since = 0.5, time.monotonic()
        while self.waiting:
            try:
                async with self.http.socket() as socket:
                    async for result in self._settle():
                        yield result
                    if not self.watch:
                        return
                    pause, since = 0.5, time.monotonic()
                    while self.waiting:
                        await listen(socket, self._text, self._binary)
                        async for result in self._settle():
                            yield result
                        since = time.monotonic()
            except LOST as error:
                gone = time.monotonic() - since
                self.deaths[self.running] = self.deaths.get(self.running, 0) + bool(self.running)
                self.running = ""
                if gone > self.patience:
                    raise ConnectionError(
                        f"{self.http.address} has not answered for {gone:.0f} s "
                        f"({error or type(error).__name__}). "
                        "Start it and run the same command again: finished jobs are kept"
                    ) from None
                self.watcher.note(f"no connection to {self.http.address}: trying again")
                await asyncio.sleep(pause)
                pause = min(2 * pause, 10.0)

    def _text(self, message: str) -> bool:
        """Whether the message says that one of our jobs ended."""
        kind, data = event(message)
        id = str(data.get("prompt_id", ""))
        job = self.waiting.get(id)
        if job is None:
            return False
        if kind == "progress":
            self.running = id
            step, total = int(data["value"]), int(data["max"])
            self.watcher.progress(job.label, str(data.get("node")), step, total)
        # sent once the result stands in the history
        return kind == "executing" and data.get("node") is None

    def _binary(self, message: bytes) -> None:
        preview = picture(message)
        if preview is not None and self.running in self.waiting:
            self.watcher.preview(self.waiting[self.running].label, preview)

    async def cancel(self) -> None:
        """Take what this process has submitted and is not finished off the server."""
        await self.http.cancel([id for id in self.waiting if id in self.submitted])

    # ------------------------------------------------------------------ one look at the server

    async def _settle(self) -> AsyncIterator[tuple[str, Done]]:
        """Fetch what is finished, and keep ``ahead`` jobs in the server's queue; leave those that other processes have."""
        for id, done in self.ledger.news().items():
            if self.waiting.pop(id, None):
                yield id, done
        running, pending = await self.http.queued()
        self.running = next((id for id in running if id in self.waiting), "")
        ahead, queued = 0, {*running, *pending}
        for id, job in list(self.waiting.items()):  # those that were submitted come first
            if self.watch and ahead >= self.ahead and id not in self.submitted:
                break
            if not self.ledger.lease(id):
                continue
            if id not in queued:
                entry = await self.http.history(id)
                if entry is not None:
                    done = await self._collect(id, job, entry)
                    del self.waiting[id]
                    yield id, done
                    continue
                if self.deaths.get(id, 0) >= TRIES:
                    del self.waiting[id]
                    self.ledger.release(id)
                    lost = f"the server was lost {TRIES} times while this job ran"
                    yield id, Done(job.label, error=lost)
                    continue
                await self.http.submit(id, job, self.previews)
                self.submitted.add(id)
            if not self.watch:
                self.ledger.release(id)
            ahead += 1

    async def _collect(self, id: str, job: Job, entry: Mapping[str, Any]) -> Done:
        """Download what the job made and write it down as finished; a failure is not written down."""
        error = failure(entry)
        if error is not None:
            self.ledger.release(id)
            return Done(job.label, error=error)
        outputs = [ui for ui in (entry.get("outputs") or {}).values() if isinstance(ui, dict)]
        every = [file for ui in outputs for file in entries(ui)]
        kept = [file for file in every if file.get("type") == "output"] or every
        names = file_names(kept, job.label, id)
        for file, name in zip(kept, names, strict=True):
            await self.http.download(file, self.folder / name)
        texts = [t for ui in outputs for t in ui.get("text") or () if isinstance(t, str)]
        done = Done(job.label, tuple(names), tuple(texts))
        self.ledger.finish(id, done)
        return done
