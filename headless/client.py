"""Run workflows on a ComfyUI server through its queue, and lose nothing on the way.

A *job* is one API graph. Its prompt id is made from the graph and the output folder, so the same job
has the same id however often anything restarts. What is finished stands in ``queue.jsonl`` of the
output folder, one line per job, written after its files; everything else is asked of the server:

    known in its history    → fetch the results
    in its queue            → wait
    neither                 → submit (again: a server that restarts forgets its queue)

The websocket only speeds this up and draws the bar; a message that is lost costs a few seconds.
Needs aiohttp and tqdm (the extra ``queue``).
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ..schedulers.files import whole
from .workflow import Prompt, WorkflowError

if TYPE_CHECKING:
    import aiohttp

LEDGER = "queue.jsonl"
AHEAD = 16  # jobs in the server's queue at a time
LOOK = 5.0  # seconds without a message after which the server is asked
TRIES = 3  # submissions of one job
REPLY_LIMIT = 256 * 2**20  # bytes of one reply or message
PREVIEW = 1, 4  # binary messages that hold a picture


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


class Ledger:
    """The output folder's list of finished jobs. One process at a time may write it."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.file = folder, folder / LEDGER
        self.lines = list(self._read())
        if not self.lines:
            self.lines = [{"folder": str(uuid.uuid4())}]
            self.append(self.lines[0])
        self.name = str(self.lines[0]["folder"])

    def _read(self) -> Iterator[dict[str, Any]]:
        """Whole lines; one that a crash cut short is dropped from the file."""
        if not self.file.exists():
            return
        kept = b""
        for line in self.file.read_bytes().splitlines(keepends=True):
            try:
                yield json.loads(line)
            except ValueError:
                break
            if not line.endswith(b"\n"):
                line += b"\n"
            kept += line
        with whole(self.file) as part:
            part.write_bytes(kept)

    def append(self, line: Mapping[str, Any]) -> None:
        with self.file.open("ab") as out:
            out.write(json.dumps(line).encode() + b"\n")
            out.flush()
            os.fsync(out.fileno())

    def finished(self) -> dict[str, Done]:
        """{prompt id: result} of jobs that ran to their end."""
        return {
            line["id"]: Done(line["label"], tuple(line["files"]), tuple(line["texts"]))
            for line in self.lines[1:]
        }

    def finish(self, id: str, done: Done) -> None:
        line = dict(id=id, label=done.label, files=done.files, texts=done.texts)
        self.append(line)
        self.lines.append(line)


class Watcher:
    """Told what happens; the command line draws bars with it."""

    def progress(self, label: str, node: str, step: int, total: int) -> None: ...
    def preview(self, label: str, picture: bytes) -> None: ...
    def finished(self, done: Done) -> None: ...
    def note(self, text: str) -> None: ...


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

    def __post_init__(self) -> None:
        parts = urlsplit(self.server if "//" in self.server else f"http://{self.server}")
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query:
            raise WorkflowError(
                f"--server {self.server!r} is not an address such as http://127.0.0.1:8188"
            )
        self.server = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"
        self.client = uuid.uuid4().hex
        self.submitted: set[str] = set()
        self.deaths: dict[str, int] = {}  # prompt id: how often the server went away while it ran
        self.waiting: dict[str, Job] = {}
        self.running = ""

    # ------------------------------------------------------------------ the whole thing

    async def run(self, jobs: Sequence[Job]) -> list[Done]:
        """Run the jobs that the folder does not hold yet; results in the order of ``jobs``.

        Cancelling it (Ctrl-C) takes its own prompts off the server. Raises WorkflowError if the
        server refuses a graph, ConnectionError if it cannot be reached for ``patience`` seconds.
        """
        self.ledger = Ledger(self.folder)
        ids = [job.id(self.ledger.name) for job in jobs]
        results = {id: done for id, done in self.ledger.finished().items() if id in set(ids)}
        for done in results.values():
            self.watcher.finished(done)
        self.waiting = {id: job for id, job in zip(ids, jobs, strict=True) if id not in results}
        try:
            async with self._session() as self.http:
                async for id, done in self._results():
                    results[id] = done
                    self.watcher.finished(done)
        except (asyncio.CancelledError, WorkflowError):
            with suppress(Exception):
                async with self._session() as self.http:
                    await asyncio.wait_for(self.cancel(), 10)
            raise
        return [results[id] for id in ids if id in results]

    async def _results(self) -> AsyncIterator[tuple[str, Done]]:
        """Results as they come, through lost connections."""
        import aiohttp

        pause, since = 0.5, time.monotonic()
        while self.waiting:
            try:
                url = f"{self.server}/ws?clientId={self.client}"
                async with self.http.ws_connect(
                    url, heartbeat=20, max_msg_size=REPLY_LIMIT
                ) as socket:
                    async for found in self._settle():
                        yield found
                    if not self.watch:
                        return
                    pause, since = 0.5, time.monotonic()
                    while self.waiting:
                        ask = await self._listen(socket)
                        if ask:
                            async for found in self._settle():
                                yield found
                            since = time.monotonic()
            except (aiohttp.ClientError, OSError, asyncio.TimeoutError) as error:
                gone = time.monotonic() - since
                self.deaths[self.running] = self.deaths.get(self.running, 0) + bool(self.running)
                self.running = ""
                if gone > self.patience:
                    raise ConnectionError(
                        f"{self.server} has not answered for {gone:.0f} s ({error or type(error).__name__}). "
                        "Start it and run the same command again: finished jobs are kept"
                    ) from None
                self.watcher.note(f"no connection to {self.server}: trying again")
                await asyncio.sleep(pause)
                pause = min(2 * pause, 10.0)

    async def _listen(self, socket: aiohttp.ClientWebSocketResponse) -> bool:
        """Read messages until one says that a job may have ended, or none has come for a while."""
        import aiohttp

        while True:
            try:
                message = await asyncio.wait_for(socket.receive(), LOOK)
            except asyncio.TimeoutError:
                return True
            if message.type == aiohttp.WSMsgType.BINARY:
                self._picture(message.data)
            elif message.type == aiohttp.WSMsgType.TEXT:
                if self._heard(message.data):
                    return True
            else:
                raise aiohttp.ClientConnectionError("the server closed the connection")

    def _heard(self, text: str) -> bool:
        """Whether the message says that one of our jobs ended."""
        try:
            message = json.loads(text)
            data = message["data"]
            job = self.waiting.get(data.get("prompt_id", ""))
        except (ValueError, KeyError, TypeError, AttributeError):
            return False
        if job is None:
            return False
        if message["type"] == "progress":
            self.running = data["prompt_id"]
            self.watcher.progress(
                job.label, str(data.get("node")), int(data["value"]), int(data["max"])
            )
        # sent once the result stands in the history
        return message["type"] == "executing" and data.get("node") is None

    def _picture(self, data: bytes) -> None:
        """A preview: event (4 bytes), then its format, or the length of a JSON text and that text."""
        event, second = (int.from_bytes(data[i : i + 4], "big") for i in (0, 4))
        if event in PREVIEW:
            start = 8 if event == PREVIEW[0] else 8 + second
            if self.running in self.waiting:
                self.watcher.preview(self.waiting[self.running].label, data[start:])

    # ------------------------------------------------------------------ one look at the server

    async def _settle(self) -> AsyncIterator[tuple[str, Done]]:
        """Fetch what is finished, and keep ``ahead`` jobs in the server's queue."""
        queue = await self._json("GET", "/queue")
        groups = queue.get("queue_running") or (), queue.get("queue_pending") or ()
        there = {str(item[1]) for group in groups for item in group}
        self.running = next((str(item[1]) for item in groups[0] if item[1] in self.waiting), "")
        ahead = 0
        for id, job in list(self.waiting.items()):  # those that were submitted come first
            if id not in there:
                if self.watch and ahead >= self.ahead and id not in self.submitted:
                    break
                entry = (await self._json("GET", f"/history/{id}")).get(id)
                if entry is not None:
                    done = await self._collect(id, job, entry)
                    del self.waiting[id]
                    yield id, done
                    continue
                if self.deaths.get(id, 0) >= TRIES:
                    del self.waiting[id]
                    lost = f"the server was lost {TRIES} times while this job ran"
                    yield id, Done(job.label, error=lost)
                    continue
                await self._submit(id, job)
            ahead += 1

    async def _submit(self, id: str, job: Job) -> None:
        extra = {"extra_pnginfo": {"workflow": job.ui}} if job.ui else {}
        body = dict(prompt=job.prompt, prompt_id=id, client_id=self.client, extra_data=extra)
        async with self.http.post(f"{self.server}/prompt", json=body) as reply:
            answer = await reply.json(content_type=None)
            if reply.status == 400:
                raise WorkflowError(refused(answer, job.prompt))
            reply.raise_for_status()
        if answer.get("prompt_id") != id:
            raise WorkflowError(
                f"{self.server} does not keep the prompt id it is given: ComfyUI 0.33 or newer is needed"
            )
        self.submitted.add(id)

    async def cancel(self) -> None:
        """Take what this process has submitted and is not finished off the server."""
        left = [id for id in self.waiting if id in self.submitted]
        if left:
            await self._json("POST", "/api/jobs/cancel", {"job_ids": left})

    # ------------------------------------------------------------------ results

    async def _collect(self, id: str, job: Job, entry: Mapping[str, Any]) -> Done:
        """Download what the job made and write it down as finished; a failure is not written down."""
        error = failure(entry)
        if error is not None:
            return Done(job.label, error=error)
        outputs = [ui for ui in (entry.get("outputs") or {}).values() if isinstance(ui, dict)]
        found = [e for ui in outputs for e in _entries(ui)]
        kept = [e for e in found if e.get("type") == "output"] or found
        files = []
        for entry_, name in zip(kept, names(kept, job.label, id), strict=True):
            await self._download(entry_, self.folder / name)
            files.append(name)
        texts = [t for ui in outputs for t in ui.get("text") or () if isinstance(t, str)]
        done = Done(job.label, tuple(files), tuple(texts))
        self.ledger.finish(id, done)
        return done

    async def _download(self, entry: Mapping[str, Any], target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        query = {k: str(entry.get(k, "")) for k in ("filename", "subfolder", "type")}
        with whole(target) as part:
            async with self.http.get(f"{self.server}/view", params=query) as reply:
                reply.raise_for_status()
                with part.open("xb") as out:
                    async for piece in reply.content.iter_chunked(2**20):
                        out.write(piece)

    # ------------------------------------------------------------------ plumbing

    def _session(self) -> aiohttp.ClientSession:
        import aiohttp

        limits = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=60)
        return aiohttp.ClientSession(timeout=limits)

    async def _json(self, method: str, route: str, body: Any = None) -> dict[str, Any]:
        async with self.http.request(method, self.server + route, json=body) as reply:
            reply.raise_for_status()
            answer = await reply.json(content_type=None)
        return answer if isinstance(answer, dict) else {}


# ---------------------------------------------------------------------------- what a server says


def _entries(ui: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Files that a node says it wrote."""
    for group in ui.values():
        for entry in group if isinstance(group, list) else ():
            if isinstance(entry, dict) and isinstance(entry.get("filename"), str):
                yield entry


def names(entries: Sequence[Mapping[str, Any]], label: str, id: str) -> list[str]:
    """Paths below the output folder, the same for a job whenever it is fetched.

    The server's running number gives way to the job's label and a piece of its id; folders stay.
    Raises WorkflowError for a name that leaves the folder.
    """
    found: list[str] = []
    for entry in entries:
        name, folder = str(entry["filename"]), PurePosixPath(str(entry.get("subfolder") or ""))
        safe = not folder.is_absolute() and not {"..", ""} & set(folder.parts)
        if not safe or re.search(r"[\\/:\x00-\x1f]|^\.", name) or re.search(r"[\\:]", str(folder)):
            raise WorkflowError(f"the server names a file {str(folder / name)!r}, which is refused")
        stem, dot, kind = name.rpartition(".")
        stem = re.sub(r"_\d+_?$", "", stem if dot else kind)
        base = folder / f"{stem}_{label}_{id[:8]}"
        same = sum(
            re.fullmatch(re.escape(f"{base}") + r"(_\d+)?\.\w+", n) is not None for n in found
        )
        found.append(f"{base}{f'_{same + 1}' if same else ''}.{kind if dot else 'bin'}")
    return found


def failure(entry: Mapping[str, Any]) -> str | None:
    """Why a job of the history failed, or None."""
    status = entry.get("status") or {}
    if status.get("status_str") != "error":
        return None
    for kind, data in reversed(status.get("messages") or ()):
        if kind == "execution_error":
            place = f"node {data.get('node_id')} ({data.get('node_type')})"
            return f"{place} failed: {str(data.get('exception_message', '')).strip()}"
        if kind == "execution_interrupted":
            return "it was interrupted on the server"
    return "it failed on the server"


def refused(answer: Mapping[str, Any], prompt: Prompt) -> str:
    """One line per mistake that the server found in a graph."""
    lines = []
    for node, found in (answer.get("node_errors") or {}).items():
        meta = prompt.get(node, {}).get("_meta") or {}
        place = f'node {node} "{meta.get("title") or found.get("class_type")}"'
        for error in found.get("errors", ()):
            lines.append(f"{place}: {error.get('message')}: {error.get('details')}")
    error = answer.get("error") or {}
    head = error.get("message", "the server refused the workflow")
    details = error.get("details")
    return "\n       ".join([f"{head}{f': {details}' if details else ''}", *lines])


# ---------------------------------------------------------------------------- the editor's format


def to_api(ui: dict[str, Any], server: str) -> Prompt:
    """The API graph of an editor's graph, by comfy-cli's converter and the server's node list."""
    try:
        from comfy_cli.workflow_to_api import convert_ui_to_api
    except ImportError:
        raise WorkflowError(
            "this is the editor's format: `pip install comfy-cli` lets this command convert it; or export it "
            "with Workflow > Export (API) in ComfyUI"
        ) from None
    import aiohttp

    async def ask() -> Any:
        async with aiohttp.ClientSession() as http, http.get(f"{server}/object_info") as reply:
            reply.raise_for_status()
            return await reply.json()

    converted: Prompt = convert_ui_to_api(ui, asyncio.run(ask()))
    return converted
