"""A ComfyUI server's messages while jobs run. Needs aiohttp."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import aiohttp

LOOK = 5.0  # seconds without a message after which the server is asked


async def listen(
    socket: aiohttp.ClientWebSocketResponse,
    text: Callable[[str], bool],
    binary: Callable[[bytes], None],
) -> None:
    """Hand messages over until ``text`` says that a job may have ended, or none has come for LOOK seconds."""
    while True:
        try:
            message = await asyncio.wait_for(socket.receive(), LOOK)
        except asyncio.TimeoutError:
            return
        if message.type == aiohttp.WSMsgType.BINARY:
            binary(message.data)
        elif message.type == aiohttp.WSMsgType.TEXT:
            if text(message.data):
                return
        else:
            raise aiohttp.ClientConnectionError("the server closed the connection")
