"""A ComfyUI server's messages while jobs run. They only speed things up: without them the server is asked. Needs aiohttp."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress

import aiohttp

from . import limits
from .http import Server

#: Asks for previews that say which prompt and node they belong to.
FEATURES = json.dumps({"type": "feature_flags", "data": {"supports_preview_metadata": True}})


async def listen(
    server: Server,
    text: Callable[[str], None],
    binary: Callable[[bytes], None],
    tried: Callable[[], None],
) -> None:
    """Hand messages over until cancelled; a websocket that breaks, or cannot be had, is tried again later.

    ``tried`` is called whenever it has opened or failed to.
    """
    while True:
        with suppress(aiohttp.ClientError, OSError, asyncio.TimeoutError, ValueError):
            async with server.socket() as socket:
                await socket.send_str(FEATURES)
                tried()
                async for message in socket:
                    if message.type == aiohttp.WSMsgType.BINARY:
                        binary(message.data)
                    elif message.type == aiohttp.WSMsgType.TEXT:
                        text(message.data)
        tried()
        await asyncio.sleep(limits.SOCKET_PAUSE)
