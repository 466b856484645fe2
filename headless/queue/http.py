"""A ComfyUI server's routes, as few calls. Needs aiohttp."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp

from ...schedulers.whole_file import whole
from ..workflow import WorkflowError
from .jobs import Job
from .protocol import address, refused

REPLY_LIMIT = 256 * 2**20  # bytes of one message
#: What a call raises where the server cannot be reached, or went away.
LOST = aiohttp.ClientError, OSError, asyncio.TimeoutError


class Server:
    """One server and our name there; its calls work inside ``async with``."""

    def __init__(self, server: str) -> None:
        self.address, self.client = address(server), uuid.uuid4().hex

    async def __aenter__(self) -> Server:
        limits = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=60)
        self._session = aiohttp.ClientSession(timeout=limits)
        return self

    async def __aexit__(self, *_: Any) -> None:
        await self._session.close()

    async def json(self, method: str, route: str, body: Any = None) -> dict[str, Any]:
        """The answer of a route, {} if it is no object."""
        async with self._session.request(method, self.address + route, json=body) as reply:
            reply.raise_for_status()
            answer = await reply.json(content_type=None)
        return answer if isinstance(answer, dict) else {}

    def socket(self) -> Any:
        """The websocket with progress and previews, to be entered."""
        url = f"{self.address}/ws?clientId={self.client}"
        return self._session.ws_connect(url, heartbeat=20, max_msg_size=REPLY_LIMIT)

    async def queued(self) -> tuple[list[str], list[str]]:
        """Prompt ids that (run, wait)."""
        queue = await self.json("GET", "/queue")
        groups = queue.get("queue_running") or (), queue.get("queue_pending") or ()
        running, pending = ([str(item[1]) for item in group] for group in groups)
        return running, pending

    async def history(self, id: str) -> dict[str, Any] | None:
        """How a prompt ended; None while the server has no such entry."""
        return (await self.json("GET", f"/history/{id}")).get(id)

    async def submit(self, id: str, job: Job, previews: bool) -> None:
        """Put a job into the queue. Raises WorkflowError where the server refuses its graph."""
        extra: dict[str, Any] = {"extra_pnginfo": {"workflow": job.ui}} if job.ui else {}
        if previews:  # a server sends none of its own accord
            extra["preview_method"] = "auto"
        body = dict(prompt=job.prompt, prompt_id=id, client_id=self.client, extra_data=extra)
        async with self._session.post(f"{self.address}/prompt", json=body) as reply:
            answer = await reply.json(content_type=None)
            if reply.status == 400:
                raise WorkflowError(refused(answer, job.prompt))
            reply.raise_for_status()
        if answer.get("prompt_id") != id:
            raise WorkflowError(
                f"{self.address} does not keep the prompt id it is given: ComfyUI 0.33 or newer is needed"
            )

    async def cancel(self, ids: list[str]) -> None:
        """Take prompts off the queue, running ones too."""
        if ids:
            await self.json("POST", "/api/jobs/cancel", {"job_ids": ids})

    async def download(self, entry: Mapping[str, Any], target: Path) -> None:
        """Fetch a file that a node says it wrote; ``target`` appears whole or not at all."""
        target.parent.mkdir(parents=True, exist_ok=True)
        query = {k: str(entry.get(k, "")) for k in ("filename", "subfolder", "type")}
        with whole(target) as part:
            async with self._session.get(f"{self.address}/view", params=query) as reply:
                reply.raise_for_status()
                with part.open("xb") as out:
                    async for piece in reply.content.iter_chunked(2**20):
                        out.write(piece)
