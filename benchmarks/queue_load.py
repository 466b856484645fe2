"""Queue jobs under fire: are all of them there in the end, each once?

``python -m benchmarks.reliability proxy --queued 500``: a proxy injects faults at random. ``… several --queued 500``: two servers,
of which one is killed twice and forgets all, and a client that is killed three times. The server is the small one of the tests
(tests/fake_comfy.py), which answers as ComfyUI does; between it and the client one request in ``RATE`` meets a fault. The
command is given again as long as jobs are missing, as a person would.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

PACK = Path(__file__).resolve().parents[1]
RATE = 8
MOST_COMMANDS = 400
#: Shorter than for a person, so that slow faults take seconds and not minutes.
HASTE = dict(
    LOOK=0.3, FIRST_PAUSE=0.02, LONGEST_PAUSE=0.1, ANSWER_SECONDS=1.0, GRACE_SECONDS=0.5,
    SOCKET_PAUSE=0.2, ANSWER_BYTES=2**22, FILE_BYTES=2**22,
)  # fmt: skip


def faults() -> dict[str, dict[str, Any]]:
    """{path: {name: answer}}; "" is every path."""
    import fake_comfy as fake  # type: ignore[import-not-found]

    body, status = fake.body, fake.status
    anywhere = {str(n): status(n) for n in (401, 403, 418, 429, 502, 503, 504)} | {
        "hang up": fake.hang_up, "web page": body(fake.LOGIN, "text/html"), "trickle": fake.trickle,
        "another host": fake.moved("http://elsewhere.invalid/"), "in circles": fake.moved("/queue"),
        "endless": fake.endless, "bomb": fake.bomb(2**26), "bad gzip": body(b"x", **{"Content-Encoding": "gzip"}),
    }  # fmt: skip
    answers = {
        "half": body('{"queue_running": [[0,'), "deep": body("[" * 5000 + "]" * 5000), "list": body("[]"),
        "null": body("null"), "wrong types": body('{"queue_running": {}, "queue_pending": 1, "prompt_id": []}'),
        "lost on the way": fake.garbled("{"), "hung up after": fake.garbled(b""),
    }  # fmt: skip
    files = {
        "login page as PNG": body(fake.LOGIN, "image/png"), "text as PNG": body("x", "image/png"),
        "empty": body(b"", "image/png"), "404": status(404),
    }  # fmt: skip
    return {
        "": anywhere, "/view": files, "/queue": answers, "/history": answers,
        "/prompt": answers | {"413": status(413), "500": status(500), "404": status(404)},
        "/ws": {"403": status(403), "404": status(404)},
    }  # fmt: skip


NOISE = [
    "", "null", "[]", '{"type": "progress"}', '{"type": [], "data": {"prompt_id": "x"}}', '{"type": "x.monitor", "data": {}}',
    b"", b"\0\0\0\1", b"\xff" * 100, b"\0\0\0\4" + b"\xff" * 20,
]  # fmt: skip


def chooser(chance: random.Random, injected: Counter[str]) -> Callable[[Any], Any]:
    """What a request meets: a fault now and then, else nothing."""
    table = faults()

    def fault(request: Any) -> Any:
        if chance.randrange(RATE):
            return None
        first = "/" + request.path.split("/")[1]
        every = {**table[""], **table.get(first, {})}
        name = chance.choice(sorted(every))
        injected[f"{first} {name}"] += 1
        return every[name]

    return fault


async def load(count: int, folder: Path) -> dict[str, Any]:
    sys.path.insert(0, str(PACK / "tests"))
    from fake_comfy import Fake, graph, png

    from sampling_kit.headless.queue import Job, Queue
    from sampling_kit.headless.queue.ledger import LEDGER
    from sampling_kit.headless.workflow import NodeFailure, WorkflowError

    server, chance, injected = Fake(0.0), random.Random(0), Counter[str]()
    jobs = [Job(f"seed{seed}", graph(seed)) for seed in range(1000, 1000 + count)]
    await server.start()
    server.fault, server.noise = chooser(chance, injected), list(NOISE)
    ends, results, started = Counter[str](), list[Any](), time.perf_counter()
    commands = 0
    try:
        while commands < MOST_COMMANDS:
            commands += 1
            try:
                results = await Queue(f"127.0.0.1:{server.port}", folder).run(jobs)
            except (NodeFailure, WorkflowError) as error:
                ends[type(error).__name__] += 1
                continue
            ends["failed jobs"] += sum(d.error is not None for d in results)
            if all(d.error is None for d in results):
                break
    finally:
        with suppress(Exception):
            await server.crash()
    seeds = {job.label: job.prompt["1"]["inputs"]["seed"] for job in jobs}
    right = [
        (folder / name).read_bytes() == png(seeds[d.label]) for d in results for name in d.files
    ]
    records = [json.loads(line)["id"] for line in (folder / LEDGER).read_text().splitlines()[1:]]
    return report(count, commands, server, injected, ends, right, records) | dict(
        pictures=len(list(folder.rglob("*.png"))), seconds=round(time.perf_counter() - started)
    )


def report(
    count: int, commands: int, server: Any, injected: Mapping[str, int], ends: Mapping[str, int],
    right: list[bool], records: list[str],
) -> dict[str, Any]:  # fmt: skip
    runs = Counter(server.ran)
    return dict(
        jobs=count, commands=commands, faults=sum(injected.values()), kinds_of_fault=len(injected),
        results=len(right), all_right=all(right) and len(right) == count,
        once=len(records) == len(set(records)) == count, requests=len(server.seen),
        ran_again_after_404=sum(n - 1 for n in runs.values()), files_404=injected.get("/view 404", 0),
        ends=dict(ends), open_files=len(os.listdir("/proc/self/fd")),
    )  # fmt: skip


def proxy(count: int, work: Path) -> dict[str, Any]:
    """``count`` jobs, see the module."""
    from sampling_kit.headless.queue import limits

    before = {name: getattr(limits, name) for name in HASTE}
    for name, value in HASTE.items():
        setattr(limits, name, value)
    try:
        return asyncio.run(load(count, work / "results"))
    finally:
        for name, value in before.items():
            setattr(limits, name, value)


def lines(folder: Path) -> list[str]:
    """Records of finished jobs."""
    file = folder / "queue.jsonl"
    return file.read_text().splitlines()[1:] if file.exists() else []


async def kill_and_restart(server: Any) -> None:
    port = server.port
    await server.crash()
    server.forget()
    await asyncio.sleep(1.0)
    await server.start(port)


async def under_kills(count: int, work: Path) -> dict[str, Any]:
    """``count`` jobs on two servers; one dies at 2/10 and 5/10 of the results, the client at 1/10, 4/10 and 7/10."""
    sys.path.insert(0, str(PACK / "tests"))
    from fake_comfy import Fake, graph, png

    servers, folder, workflow = (Fake(0.02), Fake(0.02)), work / "results", work / "w.json"
    workflow.write_text(json.dumps(graph(0)))
    command = [
        sys.executable,
        "-m",
        "sampling_kit.headless.cli",
        "queue",
        str(workflow),
        "--output",
        str(folder),
    ]
    for server in servers:
        await server.start()
        command += ["--server", f"127.0.0.1:{server.port}"]
    command += ["--seeds", f"1000-{999 + count}"]
    server_deaths = [count * 2 // 10, count * 5 // 10]
    client_deaths = [count // 10, count * 4 // 10, count * 7 // 10]
    killed, started, code = Counter[str](), time.perf_counter(), None
    quiet = dict(stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL)
    while code != 0 and sum(killed.values()) < 20:
        client = await asyncio.create_subprocess_exec(*command, **quiet)  # type: ignore[arg-type]
        while client.returncode is None:
            await asyncio.sleep(0.02)
            done = len(lines(folder))
            if client_deaths and done >= client_deaths[0]:
                client_deaths.pop(0)
                killed["client"] += 1
                client.kill()
                await client.wait()
            elif server_deaths and done >= server_deaths[0]:
                server_deaths.pop(0)
                killed["server"] += 1
                await kill_and_restart(servers[0])
        code = client.returncode
        killed["ended otherwise"] += code not in (0, -9)
    records = [json.loads(line) for line in lines(folder)]
    right = [
        (folder / name).read_bytes() == png(int(r["label"].removeprefix("seed"))) for r in records for name in r["files"]
    ]  # fmt: skip
    for server in servers:
        await server.crash()
    return dict(
        jobs=count, results=len(records), once=len({r["id"] for r in records}) == len(records) == count,
        all_right=all(right) and len(right) == count, pictures=len(list(folder.rglob("*.png"))), killed=dict(killed),
        runs=[len(server.ran) for server in servers], seconds=round(time.perf_counter() - started),
    )  # fmt: skip


def several(count: int, work: Path) -> dict[str, Any]:
    """See the module."""
    return asyncio.run(under_kills(count, work))
