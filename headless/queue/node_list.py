"""Which nodes a server has: its /object_info. Needs aiohttp."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

from . import limits
from .access import Access
from .faults import Lost, Refuses, Strange, Unreachable
from .http import Server


def object_info(
    servers: Sequence[str],
    access: Access | None = None,
    patience: float = 0.0,
    note: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """The list of the first server that answers, waited for as long as ``patience`` (seconds).

    Raises Unreachable where none answers, Refuses where all refuse.
    """
    return asyncio.run(_first(servers, access, patience, note))


async def _first(
    servers: Sequence[str], access: Access | None, patience: float, note: Callable[[str], None]
) -> dict[str, Any]:
    left = [Server(one, access) for one in servers]
    until, pause = time.monotonic() + patience, limits.FIRST_PAUSE
    while True:
        reasons: list[str] = []
        for server in list(left):
            try:
                async with server:
                    return dict(await server.json("GET", "/object_info"))
            except Lost as error:
                reasons.append(f"{server.address} does not answer ({server.hide(str(error))})")
            except (Refuses, Strange) as error:
                left.remove(server)
                reasons.append(f"{server.address}: {server.hide(str(error))}")
        if not left:
            raise Refuses("; ".join(reasons))
        if time.monotonic() + pause > until:
            raise Unreachable("; ".join(reasons))
        note(f"{'; '.join(reasons)}: trying again")
        await asyncio.sleep(pause)
        pause = min(2 * pause, limits.LONGEST_PAUSE)
