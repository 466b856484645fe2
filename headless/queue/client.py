"""The queue client: jobs, servers, results."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..workflow import WorkflowError
from . import limits
from .access import Access
from .faults import NodeFailure, Refuses, Unreachable, local_errors
from .http import Server
from .jobs import Done, Job, Task, Watcher
from .lane import Lane
from .ledger import Ledger
from .share import Share


@dataclass
class Queue:
    """Jobs on one server or several, whose results go to ``folder``.

    ``patience``: seconds to wait for a server that does not answer. ``watch``: stay until all is
    done; else submit what the servers do not know yet, fetch what is done, and leave the rest.
    Several servers take one job at a time each; those of a lost one go to the others.
    """

    server: str | Sequence[str] = field(repr=False)  # may hold a token
    folder: Path
    watcher: Watcher = field(default_factory=Watcher)
    patience: float = 600.0
    watch: bool = True
    ahead: int = limits.AHEAD
    previews: bool = False
    access: Access = field(default_factory=Access)

    def __post_init__(self) -> None:
        addresses = [self.server] if isinstance(self.server, str) else list(self.server)
        self.servers = [Server(address, self.access) for address in addresses]
        self.lanes: list[Lane] = []

    async def run(self, jobs: Sequence[Job]) -> list[Done]:
        """Run the jobs that the folder does not hold yet; results in the order of ``jobs``.

        A job that fails has an ``error``; the others go on. Cancelling (Ctrl-C) takes its prompts
        off the servers. Raises WorkflowError if every graph is refused, Unreachable or Refuses if
        no server is left, LocalFailure where results cannot be written.
        """
        with local_errors(self.folder, ()):
            ledger = Ledger(self.folder, self.watcher.note)
        try:
            return await self._run(jobs, ledger)
        finally:
            ledger.close()

    async def _run(self, jobs: Sequence[Job], ledger: Ledger) -> list[Done]:
        ids = [job.id(ledger.name) for job in jobs]
        every = dict(zip(ids, jobs, strict=True))
        results = dict[str, Done]()

        def ended(key: str, done: Done) -> None:
            """``done`` may be of another process, or of an earlier call, which called the job otherwise."""
            results[key] = replace(done, label=every[key].label)
            self.watcher.finished(results[key])

        for id, done in ledger.finished().items():
            if id in every:
                ended(id, done)
        tasks = {id: Task(id, job, ledger.name) for id, job in every.items() if id not in results}
        share = Share(self.folder, ledger, tasks, ended)
        async with AsyncExitStack() as stack:
            for server in self.servers:
                await stack.enter_async_context(server)
            self.lanes = [self._lane(server, share, len(tasks)) for server in self.servers]
            try:
                await self._work(share)
            except BaseException:
                with suppress(Exception):
                    await asyncio.wait_for(self.cancel(), limits.CANCEL_SECONDS)
                raise
        failed = [done for done in results.values() if done.error is not None]
        if share.refused and len(share.refused) == len(jobs):
            raise WorkflowError(str(failed[0].error))
        named = ((results.get(id), job.label) for id, job in zip(ids, jobs, strict=True))
        return [replace(done, label=label) for done, label in named if done is not None]

    def _lane(self, server: Server, share: Share, count: int) -> Lane:
        alone = len(self.servers) == 1
        ahead = self.ahead if alone else 1
        if not self.watch:  # all of them, evenly
            ahead = -(-count // len(self.servers))
        return Lane(
            server, share, self.watcher, self.patience, self.watch, ahead, self.previews, alone
        )

    async def _work(self, share: Share) -> None:
        """All servers at once, until no job is left or no server."""
        if len(self.lanes) > 1:
            await asyncio.gather(*(lane.adopt() for lane in self.lanes))
        working = {asyncio.ensure_future(lane.run()): lane for lane in self.lanes}
        reasons: list[NodeFailure] = []
        try:
            while working and share.open:
                ended, _ = await asyncio.wait(set(working), return_when=asyncio.FIRST_COMPLETED)
                for one in ended:
                    lane = working.pop(one)
                    try:
                        one.result()
                    except (Refuses, Unreachable) as error:
                        reasons.append(error)
                        await lane.leave(error)
                        for other in working.values():
                            other.alone = len(working) == 1
                        if working:
                            self.watcher.note(f"{error}; the other servers go on")
        finally:
            for one in working:
                one.cancel()
            await asyncio.gather(*working, return_exceptions=True)
        if share.open and reasons:
            raise reasons[0]

    async def cancel(self) -> None:
        """Take what this process has submitted and is not finished off the servers."""
        await asyncio.gather(*(lane.cancel() for lane in self.lanes), return_exceptions=True)
