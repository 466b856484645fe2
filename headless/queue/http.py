"""A ComfyUI server's routes, as few calls: bounded in size and time, their failures sorted. Needs aiohttp."""

from __future__ import annotations

import asyncio
import time
import uuid
import zlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import aiohttp

from . import limits
from .access import Access, address, redirected
from .answers import Entry, Queued, accept, entry, first_line, parsed, queued, refused
from .content import is_page
from .faults import GraphRefused, JobFails, Lost, Refuses, Strange
from .jobs import Job
from .uploads import FOLDER, Upload

REDIRECTS = {301, 302, 303, 307, 308}
#: What a status says, whatever was asked; what is not here says Strange.
STATUS: Mapping[int, type[Exception]] = (
    dict.fromkeys((408, 425, 429, 502, 503, 504), Lost)
    | dict.fromkeys((401, 402, 403, 404, 405, 407, 410, 451), Refuses)
)  # fmt: skip
OF_THE_JOB: Mapping[int, type[Exception]] = dict.fromkeys((413, 422, 500), JobFails)  # /prompt only
WAYS_OUT = {
    401: "give a token by --header NAME=VALUE or the environment",
    403: "give a token by --header NAME=VALUE or the environment",
    404: "is this a ComfyUI?",
}


@asynccontextmanager
async def _failures_sorted(answered: bool) -> AsyncIterator[None]:
    """Tell aiohttp's errors apart: Lost, Strange or Refuses. ``answered``: whether the server ever has."""
    try:
        yield
    except asyncio.TimeoutError as error:
        raise Lost(str(error) or "it does not answer in time") from None
    except (aiohttp.InvalidURL, aiohttp.ClientSSLError) as error:
        raise Refuses(f"no connection: {error}") from None
    except aiohttp.ClientConnectorError as error:
        reason = error.os_error.strerror or str(error)
        if type(error.os_error).__name__ == "gaierror" and not answered:  # nobody has this name
            raise Refuses(f"no connection: {reason}") from None
        raise Lost(reason) from None
    except aiohttp.ClientResponseError as error:
        raise Strange(f"what it sends is not HTTP: {error.message}") from None
    except (aiohttp.ClientError, ConnectionError) as error:
        raise Lost(str(error) or type(error).__name__) from None


def _times(total: float | None) -> aiohttp.ClientTimeout:
    """Not by asyncio.wait_for, which swallows a Ctrl-C that comes together with the answer (before Python 3.12)."""
    return aiohttp.ClientTimeout(
        total=total, sock_connect=limits.CONNECT_SECONDS, sock_read=limits.SILENCE_SECONDS
    )


async def _no_redirect(*_: Any) -> None:
    raise aiohttp.ClientConnectionError("redirects of a websocket are not followed")


class Server:
    """One server and our name there; its calls work inside ``async with``."""

    def __init__(self, server: str, access: Access | None = None) -> None:
        self.place, self.access = address(server), access or Access()
        self.base, self.client = self.place.base, uuid.uuid4().hex
        self.answered = False
        self.uploaded: set[str] = set()  # names of pictures that it is known to have

    @property
    def address(self) -> str:
        """For people: without secrets."""
        return self.place.base

    def hide(self, text: str) -> str:
        return self.access.hide(text, *self.place.secrets)

    async def __aenter__(self) -> Server:
        login = {"Authorization": self.place.authorization} if self.place.authorization else {}
        trace = aiohttp.TraceConfig()
        trace.on_request_redirect.append(_no_redirect)  # ours are followed by hand
        self._session = aiohttp.ClientSession(
            timeout=_times(None),
            headers={"Accept-Encoding": "identity", **login, **self.access.headers},
            auto_decompress=False,
            trust_env=self.access.environment_proxies,
            trace_configs=[trace],
        )
        return self

    async def __aexit__(self, *_: Any) -> None:
        await self._session.close()

    # -------------------------------------------------------------------------- one request

    @asynccontextmanager
    async def reply(
        self,
        method: str,
        route: str,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        seconds: float | None = None,
        form: Callable[[], aiohttp.FormData] | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The reply of a route, after at most one redirect. ``seconds``: for all of it, body included.

        Raises Lost, Strange, Refuses.
        """
        url, asked = self.base + route, [*self.place.query, *(query or {}).items()]
        for hop in range(2):
            async with (
                _failures_sorted(self.answered),
                self._session.request(
                    method,
                    url,
                    params=None if hop else asked,
                    json=body,
                    data=form() if form else None,
                    allow_redirects=False,
                    timeout=_times(seconds),
                ) as reply,
            ):
                if reply.status in REDIRECTS:
                    if hop:
                        raise Refuses("it redirects twice, which is not followed")
                    url = redirected(str(reply.url), reply.headers.get("Location"))
                    continue
                if hop and url.partition("?")[0].endswith(route) and reply.status < 400:
                    self.base = url.partition("?")[0].removesuffix(route)
                yield reply
                return

    async def json(
        self, method: str, route: str, body: Any = None, owed: str = ""
    ) -> Mapping[str, Any]:
        """The checked answer of a route. ``owed``: its name in answers.OWED, where that differs."""
        status, answer = await self._ask(method, route, body)
        if status >= 400:
            self._raise(status, answer)
        return parsed(owed or route, answer)

    async def _ask(
        self,
        method: str,
        route: str,
        body: Any = None,
        form: Callable[[], aiohttp.FormData] | None = None,
    ) -> tuple[int, bytes]:
        """(status, body) of an answer of bounded size and time."""
        seconds = limits.UPLOAD_SECONDS if form else limits.ANSWER_SECONDS
        async with self.reply(method, route, body=body, seconds=seconds, form=form) as reply:
            answer = await _whole_body(reply)
            page = is_page(answer[: limits.FILE_HEAD], reply.headers.get("Content-Type", ""))
            if page and reply.status < 400:
                title = self.hide(first_line(answer))
                raise Lost(f"it answers with a web page ({title}), not as ComfyUI does")
        self.answered = True
        return reply.status, answer

    def _raise(
        self, status: int, answer: bytes, kinds: Mapping[int, type[Exception]] | None = None
    ) -> None:
        line = self.hide(first_line(answer))
        hint = WAYS_OUT.get(status, "")
        text = f"it answers {status}{f' ({line})' if line else ''}{f': {hint}' if hint else ''}"
        raise ({**STATUS, **(kinds or {})}).get(status, Strange)(text)

    # ------------------------------------------------------------------------------- routes

    def socket(self) -> Any:
        """The websocket with progress and previews, to be entered."""
        query = [*self.place.query, ("clientId", self.client)]
        return self._session.ws_connect(
            f"{self.base}/ws", params=query, heartbeat=20, max_msg_size=limits.MESSAGE_BYTES
        )

    async def queued(self) -> Queued:
        """Prompt ids that run and wait."""
        return queued(await self.json("GET", "/queue"))

    async def history(self, id: str) -> Entry | None:
        """How a prompt ended; None while the server has no such entry."""
        return entry(await self.json("GET", f"/history/{id}", owed="/history"), id)

    async def submit(self, id: str, job: Job, previews: bool) -> None:
        """Put a job into the queue, its pictures first. Raises GraphRefused where the server refuses any of its graph."""
        for picture in job.uploads:
            await self.upload(picture)
        extra: dict[str, Any] = {"extra_pnginfo": {"workflow": job.ui}} if job.ui else {}
        if previews:  # a server sends none of its own accord
            extra["preview_method"] = "auto"
        if self.access.api_key:  # ComfyUI keeps it out of its history
            extra["api_key_comfy_org"] = self.access.api_key
        body = dict(prompt=job.prompt, prompt_id=id, client_id=self.client, extra_data=extra)
        status, answer = await self._ask("POST", "/prompt", body)
        if status == 400:
            raise GraphRefused(self.hide(_mistakes(answer, job)))
        if status >= 400:
            self._raise(status, answer, OF_THE_JOB)
        accept(parsed("/prompt", answer), id, job.prompt)

    async def upload(self, picture: Upload) -> None:
        """Let the server have a picture, unless it does; the name is of the bytes, so what is there is the same."""
        if picture.name in self.uploaded:
            return
        place = dict(subfolder=FOLDER, type=picture.place)
        query = dict(filename=picture.filename, **place)
        async with self.reply("GET", "/view", query, seconds=limits.ANSWER_SECONDS) as reply:
            there = reply.content_length if reply.status == 200 else None
        content = picture.content()
        if there != len(content):  # a server that was killed may hold a part

            def form() -> aiohttp.FormData:
                fields = aiohttp.FormData(dict(**place, overwrite="true"))
                fields.add_field("image", content, filename=picture.filename)
                return fields

            status, answer = await self._ask("POST", "/upload/image", form=form)
            if status >= 400:
                self._raise(status, answer, OF_THE_JOB)
            stored = parsed("/upload/image", answer)
            if (stored["name"], stored.get("subfolder")) != (picture.filename, FOLDER):
                raise JobFails(f"the server keeps {picture.path.name!r} under another name")
        self.uploaded.add(picture.name)

    async def cancel(self, ids: Sequence[str], forget: bool = False) -> None:
        """Take prompts off the queue, running ones too. ``forget``: out of the history as well."""
        if ids:
            await self._ask("POST", "/api/jobs/cancel", {"job_ids": list(ids)})
            if forget:
                await self._ask("POST", "/history", {"delete": list(ids)})


def _mistakes(answer: bytes, job: Job) -> str:
    with suppress(Strange):
        return refused(parsed("/history", answer), job.prompt)  # any object
    return f"the server refused the workflow: {first_line(answer)}"


async def _whole_body(reply: aiohttp.ClientResponse) -> bytes:
    pieces = bytearray()
    async for piece in unpacked(reply, limits.ANSWER_BYTES):
        pieces += piece
    return bytes(pieces)


async def unpacked(reply: aiohttp.ClientResponse, most: int) -> AsyncIterator[bytes]:
    """The body in pieces, gzip and deflate undone. Raises Strange before more than ``most`` bytes are held,
    and for a body that comes too slowly."""
    coding = reply.headers.get("Content-Encoding", "identity").strip().lower()
    if coding not in ("identity", "", "gzip", "x-gzip", "deflate"):
        raise Strange(f"its answer is packed as {coding[:20]!r}, which was not asked for")
    opener = None if coding in ("identity", "") else zlib.decompressobj(47)
    total, raw, started = 0, 0, time.monotonic()
    pieces = reply.content.iter_any().__aiter__()
    while True:
        async with _failures_sorted(answered=True):
            piece = await anext(pieces, b"")
        if not piece:
            break
        raw += len(piece)
        seconds = time.monotonic() - started
        if seconds > limits.GRACE_SECONDS and raw < limits.SLOWEST * seconds:
            raise Strange(f"its answer trickles: {raw} bytes in {seconds:.0f} s")
        if opener is not None:
            try:
                piece = opener.decompress(piece, most + 1 - total)
            except zlib.error as error:
                raise Strange(f"its packed answer is damaged ({error})") from None
        total += len(piece)
        if total > most:
            raise Strange(f"its answer is larger than {most / 2**20:g} MB")
        yield piece
    if opener is not None and not opener.eof:
        raise Strange("its packed answer is cut short")
