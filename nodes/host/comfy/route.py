"""The pack's route on ComfyUI's web server."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

log = logging.getLogger("sampling_kit")


def add_route(path: str, answer: Callable[[bytes], tuple[int, dict[str, Any]]], most: int) -> None:
    """POST ``path``: ``answer(body)`` → (status, JSON), off the server's loop.

    A body of more than ``most`` bytes is read no further.
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

    async def handle(request: Any) -> Any:
        body = b""
        async for part in request.content.iter_any():
            body += part
            if len(body) > most:
                break
        status, told = await asyncio.to_thread(answer, body)
        return web.json_response(told, status=status)

    server.routes.post(path)(handle)
