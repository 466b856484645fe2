"""The pack's route on ComfyUI's web server."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

log = logging.getLogger("sampling_kit")

THREADS, WAITING = 2, 64


def add_route(path: str, answer: Callable[[bytes], tuple[int, dict[str, Any]]], most: int) -> None:
    """POST ``path``: ``answer(body)`` → (status, JSON), off the server's loop.

    A body of more than ``most`` bytes is read no further. Answers are made on threads of the route's own, so that
    the server's are free; when WAITING wait already, the answer is 503.
    """
    try:
        from aiohttp import web
        from server import PromptServer
    except ImportError as error:
        log.warning("the nodes' live pictures are off: %s", error)
        return
    server = getattr(PromptServer, "instance", None)
    if server is None:  # imported by a tool, not by the server
        return

    pool = ThreadPoolExecutor(THREADS, "sampling_kit")
    waiting = 0

    async def handle(request: Any) -> Any:
        nonlocal waiting
        body = b""
        async for part in request.content.iter_any():
            body += part
            if len(body) > most:
                break
        if waiting >= WAITING:
            return web.json_response({"error": "too many requests wait: try again"}, status=503)
        waiting += 1
        try:
            status, told = await asyncio.get_running_loop().run_in_executor(pool, answer, body)
        finally:
            waiting -= 1
        return web.json_response(told, status=status)

    server.routes.post(path)(handle)
