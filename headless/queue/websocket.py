"""A ComfyUI server's messages while jobs run. They only speed things up: without them the server is asked. Needs aiohttp."""

from __future__ import annotations

import asyncio
import json
import time
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
    state: Callable[[bool], None],
) -> None:
    """Hand messages over until cancelled; a websocket that breaks is tried again at once, one that cannot be had later.

    ``state`` is called with True when it has opened, and with False when it has ended or failed to open.
    """
    pause = limits.FIRST_PAUSE
    while True:
        since = time.monotonic()
        with suppress(aiohttp.ClientError, OSError, asyncio.TimeoutError, ValueError):
            async with server.socket() as socket:
                await socket.send_str(FEATURES)
                state(True)
                async for message in socket:
                    if message.type == aiohttp.WSMsgType.BINARY:
                        binary(message.data)
                    elif message.type == aiohttp.WSMsgType.TEXT:
                        text(message.data)
        state(False)
        lasted = time.monotonic() - since > limits.SOCKET_PAUSE
        pause = limits.FIRST_PAUSE if lasted else min(2 * pause, limits.SOCKET_PAUSE)
        await asyncio.sleep(pause)
