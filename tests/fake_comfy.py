"""A small server that behaves, and misbehaves, as ComfyUI does."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from aiohttp import web
from PIL import Image

Answer = Callable[
    [Any, Callable[[Any], Awaitable[Any]]], Awaitable[Any]
]  # (request, what the server would do)


OBJECT_INFO: dict[str, Any] = {
    "Paint": {
        "input": {"required": {"seed": ["INT", {"min": 0, "max": 2**64 - 1}]}},
        "output": ["IMAGE"],
        "output_node": True,
    }
}


#: The history's entry of a prompt that was cancelled while it ran.
INTERRUPTED: dict[str, Any] = {
    "outputs": {},
    "status": {"status_str": "error", "messages": [["execution_interrupted", {}]]},
}


def graph(seed: int) -> dict[str, Any]:
    return {"1": {"class_type": "Paint", "inputs": {"seed": seed}, "_meta": {"title": "the paint"}}}


class Fake:
    """Runs a prompt in ``pace`` seconds; counts what it was asked to do."""

    def __init__(self, pace: float = 0.01) -> None:
        self.pace, self.served = pace, 0
        self.ran: list[int] = []
        self.cancelled: list[str] = []
        self.break_downloads = 0
        self.mute = False  # no websocket messages
        self.fault: Callable[[Any], Answer | None] = lambda request: (
            None
        )  # what answers in our place
        self.noise: list[str | bytes] = []  # sent over the websocket before every result
        self.seen: list[Any] = []  # (path with query, headers) of every request
        self.bodies: list[dict[str, Any]] = []  # of /prompt
        self.node_errors: dict[str, Any] = {}  # in a 200
        self.missing: set[str] = set()  # result files that were deleted
        self.subfolder, self.suffix = "a", ""
        self.inputs: dict[str, bytes] = {}  # uploaded, by subfolder/name
        self.uploads: list[str] = []
        self.nodes: dict[str, Any] = OBJECT_INFO
        self.argv: list[str] = []
        self.forget()

    def forget(self) -> None:
        """What a restart does."""
        self.history: dict[str, Any] = {}
        self.queue: list[tuple[str, dict[str, Any]]] = []
        self.sockets: list[Any] = []
        self.cache: dict[str, Any] = {}  # graph: outputs

    async def start(self, port: int = 0) -> None:
        app = web.Application(middlewares=[self.misbehave], client_max_size=2**26)
        app.router.add_get("/ws", self.ws)
        app.router.add_get("/queue", self.get_queue)
        app.router.add_get("/history/{id}", self.get_history)
        app.router.add_get("/view", self.view)
        app.router.add_get("/object_info", self.object_info)
        app.router.add_get("/system_stats", self.system_stats)
        app.router.add_post("/prompt", self.prompt)
        app.router.add_post("/upload/image", self.upload)
        app.router.add_post("/api/jobs/cancel", self.cancel)
        app.router.add_post("/history", self.delete)
        self.runner = web.AppRunner(app, shutdown_timeout=0.01)
        await self.runner.setup()
        site = web.TCPSite(self.runner, "127.0.0.1", port)
        await site.start()
        self.port = self.runner.addresses[0][1]
        self.worker = asyncio.ensure_future(self.work())

    @web.middleware
    async def misbehave(self, request: Any, handler: Any) -> Any:
        self.seen.append((request.path_qs, dict(request.headers)))
        answer = self.fault(request)
        return await (handler(request) if answer is None else answer(request, handler))

    async def crash(self) -> None:
        self.worker.cancel()
        with suppress(asyncio.CancelledError):
            await self.worker
        for socket in self.sockets:
            await socket.close()
        await self.runner.cleanup()

    async def work(self) -> None:
        while True:
            await asyncio.sleep(self.pace)
            if not self.queue:
                continue
            id, prompt = self.queue[0]
            seed = prompt["1"]["inputs"]["seed"]
            await self.say("executing", prompt_id=id, node="1")
            await self.say("progress", prompt_id=id, node="1", value=1, max=2)
            if self.wants_previews or prompt["1"]["class_type"] == "SaveImageWebsocket":
                await self.send_all(bytes([0, 0, 0, 1, 0, 0, 0, 2]) + png(seed))
            for message in self.noise:
                await self.send_all(message)
            await asyncio.sleep(self.pace)
            self.history[id] = INTERRUPTED if id in self.cancelled else self.outcome(prompt, seed)
            self.queue.pop(0)
            await self.say("executing", prompt_id=id, node=None)

    def outcome(self, prompt: dict[str, Any], seed: int) -> dict[str, Any]:
        """The history's entry; a graph that ran before is answered from the cache."""
        graph = json.dumps(prompt, sort_keys=True)
        status: dict[str, Any] = {"status_str": "success", "messages": []}
        if graph in self.cache:
            status["messages"] = [["execution_cached", {"nodes": ["1"]}]]
            return {
                "status": status,
                "outputs": self.cache[graph],
                "prompt": [0, "", {}, {}, ["1"]],
            }
        self.ran.append(seed)
        self.served += 1
        if seed == 666:
            error = {"node_id": "1", "node_type": "Paint", "exception_message": "it is dry"}
            status = {"status_str": "error", "messages": [["execution_error", error]]}
        name = f"paint_{self.served:05}_{self.suffix}.png"
        picture = {"filename": name, "subfolder": self.subfolder, "type": "output"}
        outputs: dict[str, Any] = {"1": {"images": [picture], "text": [f"seed {seed}"]}}
        if prompt["1"]["class_type"] == "SaveImageWebsocket":
            outputs = {}
        elif seed != 666:
            self.cache[graph] = outputs
        return {"status": status, "outputs": outputs, "prompt": [0, "", {}, {}, ["1"]]}

    async def send_all(self, message: str | bytes) -> None:
        for socket in self.sockets:
            with suppress(ConnectionError, RuntimeError):
                await (socket.send_str if isinstance(message, str) else socket.send_bytes)(message)

    async def say(self, kind: str, **data: Any) -> None:
        for socket in [] if self.mute else self.sockets:
            with suppress(ConnectionError, RuntimeError):
                await socket.send_str(json.dumps({"type": kind, "data": data}))

    async def ws(self, request: Any) -> Any:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        self.sockets.append(socket)
        await socket.send_str('{"type": "status", "data": {}}')
        await socket.send_str("not JSON")
        async for _ in socket:
            pass
        return socket

    async def get_queue(self, _: Any) -> Any:
        entries = [[0, id, prompt, {}, []] for id, prompt in self.queue]
        return web.json_response({"queue_running": entries[:1], "queue_pending": entries[1:]})

    async def get_history(self, request: Any) -> Any:
        id = request.match_info["id"]
        return web.json_response({id: self.history[id]} if id in self.history else {})

    async def prompt(self, request: Any) -> Any:
        body = await request.json()
        self.bodies.append(body)
        if body["prompt"]["1"]["inputs"]["seed"] < 0:
            mistake = {"message": "Value too small", "details": "seed"}
            found = {"1": {"class_type": "Paint", "errors": [mistake]}}
            return web.json_response(
                {"error": {"message": "Prompt outputs failed validation"}, "node_errors": found},
                status=400,
            )
        self.queue.append((body["prompt_id"], body["prompt"]))
        self.wants_previews = body["extra_data"].get("preview_method") == "auto"
        return web.json_response(
            {"prompt_id": body["prompt_id"], "number": 1, "node_errors": self.node_errors}
        )

    async def object_info(self, _: Any) -> Any:
        return web.json_response(self.nodes)

    async def system_stats(self, _: Any) -> Any:
        return web.json_response({"system": {"argv": self.argv}})

    async def view(self, request: Any) -> Any:
        if self.break_downloads:
            self.break_downloads -= 1
            response = web.StreamResponse(headers={"Content-Length": "1000"})
            await response.prepare(request)
            await response.write(b"half")
            request.transport.abort()
            return response
        if request.query["filename"] in self.missing:
            raise web.HTTPNotFound
        if request.query.get("type") == "input":
            name = f"{request.query['subfolder']}/{request.query['filename']}"
            if name not in self.inputs:
                raise web.HTTPNotFound
            return web.Response(body=self.inputs[name])
        assert request.query["subfolder"] == self.subfolder
        number = int(request.query["filename"].split("_")[1])
        return web.Response(body=png(self.ran[number - 1]))

    async def upload(self, request: Any) -> Any:
        form = await request.post()
        picture, folder = form["image"], form["subfolder"]
        name = f"{folder}/{picture.filename}"
        self.inputs[name] = picture.file.read()
        self.uploads.append(name)
        return web.json_response(
            {"name": picture.filename, "subfolder": folder, "type": form["type"]}
        )

    async def cancel(self, request: Any) -> Any:
        ids = (await request.json())["job_ids"]
        self.cancelled += ids
        self.queue = self.queue[:1] + [item for item in self.queue[1:] if item[0] not in ids]
        return web.json_response({"cancelled": True})

    async def delete(self, request: Any) -> Any:
        for id in (await request.json())["delete"]:
            self.history.pop(id, None)
        return web.Response()


def png(seed: int) -> bytes:
    out = io.BytesIO()
    Image.new("L", (1, 1), seed % 256).save(out, "PNG")
    return out.getvalue()


# ------------------------------------------------------------------------- answers of a server that misbehaves


def status(number: int, text: str = "the reason\nand more") -> Answer:
    async def answer(request: Any, _: Any) -> Any:
        return web.Response(status=number, text=text)

    return answer


def body(data: str | bytes, kind: str = "application/json", **headers: str) -> Answer:
    """These bytes in place of the answer; the server never hears of the request."""

    async def answer(request: Any, _: Any) -> Any:
        raw = data.encode() if isinstance(data, str) else data
        return web.Response(body=raw, content_type=kind, headers=headers)

    return answer


def garbled(data: str | bytes) -> Answer:
    """The server does as it is told, and its answer is lost on the way."""

    async def answer(request: Any, handler: Any) -> Any:
        await handler(request)
        return await body(data)(request, handler)

    return answer


async def hang_up(request: Any, _: Any) -> Any:
    request.transport.abort()
    return web.Response()


async def endless(request: Any, _: Any) -> Any:
    """Zeros for ever; how many were sent stands in ``endless.sent``."""
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    await response.prepare(request)
    with suppress(ConnectionError):
        while True:
            await response.write(bytes(2**16))
            endless.sent += 2**16  # type: ignore[attr-defined]
    return response


endless.sent = 0  # type: ignore[attr-defined]


async def trickle(request: Any, _: Any) -> Any:
    """A byte now and then for ever."""
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    await response.prepare(request)
    with suppress(ConnectionError):
        while True:
            await response.write(b" ")
            await asyncio.sleep(0.02)
    return response


def bomb(size: int = 2**28) -> Answer:
    """``size`` spaces in a thousandth of the bytes."""
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb") as out:
        for _ in range(size >> 20):
            out.write(b" " * 2**20)
    return body(packed.getvalue(), **{"Content-Encoding": "gzip"})


def moved(url: str, number: int = 307) -> Answer:
    async def answer(request: Any, _: Any) -> Any:
        return web.Response(status=number, headers={"Location": url})

    return answer


def once(path: str, answer: Answer, times: int = 1) -> Callable[[Any], Answer | None]:
    """``answer`` for the first ``times`` requests whose path begins so."""
    left = [times]

    def fault(request: Any) -> Answer | None:
        if not request.path.startswith(path) or left[0] <= 0:
            return None
        left[0] -= 1
        return answer

    return fault


LOGIN = "<!DOCTYPE html><html><head><title>Sign in</title></head><body>...</body></html>"
