"""One server at work on the shared jobs: what to ask it next."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass, field

from . import limits
from .answers import Entry, event, picture
from .collect import collect
from .faults import Gone, GraphRefused, JobFails, Lost, Refuses, Strange, Unreachable
from .http import Server
from .jobs import Done, Task, Watcher
from .share import Share
from .websocket import listen


@dataclass
class Lane:
    """``ahead`` of the shared jobs at a time on one server. ``alone``: there is no other server."""

    server: Server
    share: Share
    watcher: Watcher
    patience: float
    watch: bool
    ahead: int
    previews: bool
    alone: bool = True
    mine: dict[str, Task] = field(default_factory=dict)  # by key
    submitted: set[str] = field(default_factory=set)  # prompt ids, by this process
    left: set[str] = field(default_factory=set)  # prompt ids given back, perhaps still there
    there: set[str] = field(default_factory=set)  # prompt ids in the server's queue, others' too
    running: tuple[str, str] = "", ""  # (prompt id, node) that the server is at

    def __post_init__(self) -> None:
        self.wake, self.strange, self.hears = asyncio.Event(), 0, False

    # --------------------------------------------------------------------------- the whole thing

    async def run(self) -> None:
        """Work until no job is left. Raises Unreachable and Refuses; its jobs are then given back."""
        listener = asyncio.ensure_future(
            listen(self.server, self._text, self._binary, self._socket)
        )
        try:
            await self._wait(limits.SOCKET_PATIENCE)  # a message that comes earlier would be missed
            await self._work()
        except Refuses as error:
            reason = self.server.hide(str(error))
            raise Refuses(f"{self.server.address}: {reason}") from None
        finally:
            listener.cancel()
            with suppress(asyncio.CancelledError):
                await listener

    async def _work(self) -> None:
        pause, since = limits.FIRST_PAUSE, time.monotonic()
        while self.share.open:
            try:
                await self._look()
            except (Lost, Strange) as error:
                await self._without(error, time.monotonic() - since)
                await asyncio.sleep(pause)
                pause = min(2 * pause, limits.LONGEST_PAUSE)
                continue
            pause, since, self.strange = limits.FIRST_PAUSE, time.monotonic(), 0
            soon = any(task.strange or task.lost for task in self.mine.values())
            if not self.share.open or not (self.watch or self.share.free or soon):
                return
            await self._wait(limits.FIRST_PAUSE if soon else limits.LOOK)

    async def _wait(self, most: float) -> None:
        """Until a message says that a job of ours ended, but no longer than ``most`` seconds."""
        message = asyncio.ensure_future(self.wake.wait())
        try:
            await asyncio.wait({message}, timeout=most)
        finally:
            message.cancel()
        await asyncio.sleep(limits.REST)
        self.wake.clear()

    async def _without(self, error: Exception, gone: float) -> None:
        """The server did not answer, or not as one does."""
        reason = self.server.hide(str(error))
        if isinstance(error, Strange):
            self.strange += 1
            if self.strange >= limits.TRIES:
                raise Refuses(reason)
        only = next(iter(self.there)) if len(self.there) == 1 else ""
        ran = self._task(self.running[0] or only)
        if ran is not None and not ran.heard_end:
            ran.ran_when_lost = True
        self.running = "", ""
        if gone > self.patience:
            raise Unreachable(
                f"{self.server.address} has not answered for {gone:.0f} s ({reason}). "
                "Start it and run the same command again: finished jobs are kept"
            )
        if not self.alone and gone > limits.HANDOVER:
            self.give_back()
        self.watcher.note(f"no connection to {self.server.address} ({reason}): trying again")

    def give_back(self) -> None:
        """Leave our jobs to the other servers."""
        self.left |= {task.id for task in self.mine.values() if task.id in self.submitted}
        self._may_miss()
        self.share.give_back(self.mine.values())
        self.mine.clear()

    async def leave(self, reason: Exception) -> None:
        """Give the server up: our jobs go to the others, our prompts off it if it can still be reached."""
        self.give_back()
        if isinstance(reason, Refuses):
            with suppress(Lost, Strange, Refuses):
                await self.server.cancel(list(self.left))

    async def cancel(self) -> None:
        """Take what this process has submitted and is not finished off the server."""
        ours = [t.id for t in self.mine.values() if t.id in self.submitted]
        await self.server.cancel([*ours, *self.left])

    # ------------------------------------------------------------------------------ the websocket

    def _task(self, id: str) -> Task | None:
        return next((task for task in self.mine.values() if task.id == id), None)

    def _socket(self, open: bool) -> None:
        """The websocket has opened, or is not there."""
        self.hears = open
        if not open:
            self._may_miss()
        self.wake.set()

    def _may_miss(self) -> None:
        """Messages about our jobs are not heard for a while."""
        for task in self.mine.values():
            task.missed |= not task.heard_end

    def _text(self, message: str) -> None:
        said = event(message)
        task = self._task(said.id) if said is not None else None
        if said is None or task is None:
            return
        self.running = said.id, said.node or ""
        if said.kind == "progress":
            self.watcher.progress(task.job.label, said.node or "", said.step, said.total)
        elif said.node is None:  # sent once the result stands in the history
            task.heard_end = True
            self.wake.set()

    def _binary(self, message: bytes) -> None:
        shown = picture(message)
        if shown is None:
            return
        id, node = (shown.id, shown.node) if shown.id else self.running
        task = self._task(id)
        if task is None:
            return
        if node in task.job.senders:
            task.keep(shown)
        else:
            self.watcher.preview(task.job.label, shown.data)

    # -------------------------------------------------------------------------- one look at the server

    async def adopt(self) -> None:
        """Take the jobs that an earlier process left with this server."""
        with suppress(Lost, Strange, Refuses):
            queue = await self.server.queued()
            for task in list(self.share.free.values()):
                here = task.id in queue
                with suppress(JobFails):
                    here = here or await self.server.history(task.id) is not None
                if here and self.share.take(task.key):
                    self.mine[task.key] = task

    async def _look(self) -> None:
        """Fetch what is finished, and keep ``ahead`` jobs in the server's queue."""
        self.share.hear()
        if self.left:
            await self._take_back()
        await self._ask_queue()
        for task in list(self.mine.values()):
            await self._step(task)
        while claimed := self._claim():
            await self._ask_queue()  # again: who had them before may have submitted since
            for task in claimed:
                await self._step(task)

    async def _ask_queue(self) -> None:
        """What waits and runs on the server now; what the websocket said meanwhile is newer."""
        heard = self.running
        queue = await self.server.queued()
        self.there = {*queue.running, *queue.pending}
        if self.running == heard:
            node = heard[1] if heard[0] in queue.running else ""
            self.running = next((id for id in queue.running if self._task(id)), ""), node
        for task in self.mine.values():
            if task.id in self.there:  # the server has not died of it
                task.there, task.ran_when_lost = True, False

    async def _take_back(self) -> None:
        """Of the jobs given back, go on with those that no other server took; the others' prompts go."""
        for task in list(self.share.free.values()):
            if task.id in self.left and self.share.take(task.key):
                self.left.remove(task.id)
                self.mine[task.key] = task
        self.submitted -= self.left  # that they are interrupted will be no result
        await self.server.cancel(list(self.left))
        self.left.clear()

    def _claim(self) -> list[Task]:
        """Jobs that nobody has, as many as there is room for."""
        claimed = list[Task]()
        while len(self.mine) < self.ahead and (task := self.share.claim()) is not None:
            self.mine[task.key] = task
            claimed.append(task)
        return claimed

    async def _step(self, task: Task) -> None:
        """Bring one job on: wait, fetch, or submit."""
        if task.key not in self.share.open:  # another server was faster
            del self.mine[task.key]
            await self._withdraw(task)
            return
        try:
            while task.id not in self.there:
                entry = await self.server.history(task.id)
                if entry is None:
                    if self._has_room(task):
                        await self._submit(task)
                    break
                if self._is_result(task, entry) and await self._finish(task, entry):
                    break
                task.next_attempt()
                if task.attempt > limits.ATTEMPTS:
                    raise JobFails(
                        f"the server has {task.attempt} failed attempts of it: clear its history"
                    )
            task.strange = task.lost = 0
        except Strange as error:
            task.strange += 1
            if task.strange >= limits.TRIES:
                self._end(task, Done(task.job.label, error=str(error)))
        except Lost as error:
            self.mine[task.key] = self.mine.pop(task.key)  # the others come first
            task.lost += 1
            if task.lost < limits.TIMES_LOST:
                raise
            self._end(task, Done(task.job.label, error=str(error)))
        except GraphRefused as error:
            await self._withdraw(task, forget=True)
            self.share.refused.append(task.job.label)
            self._end(task, Done(task.job.label, error=str(error)))
        except JobFails as error:
            self._end(task, Done(task.job.label, error=str(error)))

    def _is_result(self, task: Task, entry: Entry) -> bool:
        """Whether this entry of the history counts. A failure, or a run of a part of the graph, from before this process
        submitted does not."""
        if task.id in self.submitted:
            return True
        whole = entry.executed is None or task.job.ends <= entry.executed
        return entry.error is None and whole

    def _has_room(self, task: Task) -> bool:
        """Whether the server gets it now. Of which of the jobs that were with it a server died is only known where each
        is alone, so those that it forgot go one at a time, before the rest."""
        task.suspect |= task.there
        others = any(t.id in self.there for t in self.mine.values())
        suspects = any(t.suspect for t in self.mine.values())
        return not self.watch or not suspects or (task.suspect and not others)

    async def _submit(self, task: Task) -> None:
        task.deaths += task.ran_when_lost
        task.ran_when_lost = False
        if task.deaths >= limits.TRIES:
            raise JobFails(f"the server was lost {task.deaths} times while this job ran")
        if task.job.senders and not self.hears:
            await self._wait(limits.SOCKET_PATIENCE)
        task.frames.clear()
        task.heard_end, task.missed = False, not self.hears
        self.submitted.add(task.id)  # even if its answer is lost
        self.there.add(task.id)
        await self.server.submit(task.id, task.to_submit(), self.previews)
        task.there = True

    async def _finish(self, task: Task, entry: Entry) -> bool:
        """Fetch the result; False where the server no longer has it, and the job must run again."""
        label, ours = task.job.label, task.id in self.submitted
        if entry.error is not None:
            self._end(task, Done(label, error=entry.error))
            return True
        if task.job.senders and not task.heard_end:  # its pictures may still be on their way
            task.heard_end = True
            return True
        try:
            if task.job.senders and (task.missed or not task.frames):
                some = "not all" if task.frames else "none"
                raise Gone(f"its pictures come over the websocket alone, and {some} came")
            done = await collect(
                self.server, self.share.folder, label, task.key, entry, task.frames
            )
        except Gone:
            nodes = {file.node for file in entry.files}
            if ours and (task.reruns or not (nodes & entry.cached or task.job.senders)):
                raise
            task.reruns += 1
            task.again |= nodes
            return False
        if not done.files and not done.texts:
            self.watcher.note(f"{label or 'job'}: its nodes made no file and showed no text")
        self._end(task, done)
        return True

    async def _withdraw(self, task: Task, forget: bool = False) -> None:
        if task.id in self.submitted:
            with suppress(Lost, Strange, Refuses):
                await self.server.cancel([task.id], forget)

    def _end(self, task: Task, done: Done) -> None:
        """Report a result without the secrets that a server may repeat."""
        self.mine.pop(task.key, None)
        hide = self.server.hide
        error = hide(done.error) if done.error is not None else None
        texts = tuple(hide(text) for text in done.texts)
        self.share.end(task, Done(done.label, done.files, texts, error))
