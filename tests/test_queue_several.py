"""Several servers that share one list of jobs, and the command that names them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from click.testing import CliRunner

pytest.importorskip("aiohttp.web", reason="needs aiohttp (extra 'queue')")

from fake_comfy import Fake, graph, status
from test_queue_servers import SECRETS, Look, play, queue, quick, require_pictures  # noqa: F401

from sampling_kit.headless.cli import main
from sampling_kit.headless.queue import Job, Queue
from sampling_kit.headless.queue.faults import Refuses

MANY = [Job(f"seed{s}", graph(s)) for s in range(12)]


def both(fakes: tuple[Fake, Fake], folder: Path, **more: Any) -> Queue:
    return Queue([f"127.0.0.1:{fake.port}" for fake in fakes], folder, **more)


def test_two_servers_share_the_jobs_one_at_a_time_each(tmp_path):
    longest = 0

    async def scene(*fakes):
        def count(fake: Fake) -> Callable[[Any], None]:
            def fault(request: Any) -> None:
                nonlocal longest
                longest = max(longest, len(fake.queue) * (request.path == "/prompt"))

            return fault

        for fake in fakes:
            fake.fault = count(fake)
        return await both(fakes, tmp_path).run(MANY), [fake.ran for fake in fakes]

    done, ran = play(scene, servers=2)
    require_pictures(tmp_path, done, MANY)
    assert sorted(ran[0] + ran[1]) == list(range(12)) and min(map(len, ran)) >= 2
    assert longest == 0, "nothing waits behind another job"


def test_the_jobs_of_a_server_that_is_lost_go_to_the_other(tmp_path):
    async def scene(one, two):
        task = asyncio.ensure_future(both((one, two), tmp_path).run(MANY))
        while len(one.ran) < 2:
            await asyncio.sleep(0.01)
        await one.crash()
        done = await task
        await one.start()
        return done, one.ran + two.ran

    done, ran = play(scene, servers=2, pace=0.03)
    require_pictures(tmp_path, done, MANY)
    assert len(ran) <= 13, "at most the one that ran when it was lost ran twice"


def test_a_server_that_refuses_leaves_its_jobs_to_the_other(tmp_path):
    look = Look()

    async def scene(one, two):
        one.fault = lambda r: status(401)
        return await both((one, two), tmp_path, watcher=look).run(MANY)

    require_pictures(tmp_path, play(scene, servers=2), MANY)
    assert any("401" in note and "the other servers go on" in note for note in look.notes)


def test_what_an_earlier_process_left_is_found_on_its_server(tmp_path):
    async def scene(one, two):
        await queue(two, tmp_path, watch=False).run(MANY)
        await asyncio.sleep(0.2)
        return await both((one, two), tmp_path).run(MANY), one.ran, two.ran

    done, one, two = play(scene, servers=2, pace=0.03)
    require_pictures(tmp_path, done, MANY)
    assert one == [] and sorted(two) == list(range(12)), "nothing ran twice"


def test_no_server_left_says_why(tmp_path):
    async def scene(one, two):
        one.fault = two.fault = lambda r: status(401)
        with pytest.raises(
            Refuses, match=rf"^http://127.0.0.1:({one.port}|{two.port}): it answers 401"
        ):
            await both((one, two), tmp_path).run(MANY)

    play(scene, servers=2)


def test_ctrl_c_takes_the_prompts_off_both_servers(tmp_path):
    async def scene(*fakes):
        task = asyncio.ensure_future(both(fakes, tmp_path).run(MANY))
        while not all(fake.queue for fake in fakes):
            await asyncio.sleep(0.01)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        assert all(fake.cancelled for fake in fakes)

    play(scene, servers=2, pace=0.2)


# ---------------------------------------------------------------------------------- the command itself


@contextmanager
def in_a_thread(fake: Fake) -> Iterator[None]:
    """A server in a thread of its own, since the command has a loop of its own."""
    loop = asyncio.new_event_loop()
    thread = Thread(target=loop.run_forever)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(fake.start(), loop).result(10)
        yield
    finally:
        asyncio.run_coroutine_threadsafe(fake.crash(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


def test_the_command_takes_servers_headers_and_keys(tmp_path, monkeypatch):
    monkeypatch.setenv("SAMPLING_KIT_BEARER_TOKEN", SECRETS[1])
    workflow, fake = tmp_path / "w.json", Fake()
    workflow.write_text(json.dumps(graph(0)))
    with in_a_thread(fake):
        url = f"http://127.0.0.1:{fake.port}"
        line = [
            "queue",
            str(workflow),
            "--server",
            f"{url}?token={SECRETS[2]}",
            "--server",
            url,
            "--seeds",
            "1-3",
        ]
        line += [
            "--header",
            f"X-Key={SECRETS[0]}",
            "--api-key",
            SECRETS[3],
            "--output",
            str(tmp_path / "out"),
        ]
        good = CliRunner().invoke(main, line)
        fake.fault = lambda r: status(401, SECRETS[1])
        bad = CliRunner().invoke(main, [*line[:-1], str(tmp_path / "other"), "--patience", "1"])
    assert good.exit_code == 0, good.output
    assert sorted(fake.ran) == [1, 2, 3] and len(list((tmp_path / "out").rglob("*.png"))) == 3
    assert {headers["Authorization"] for _, headers in fake.seen} == {f"Bearer {SECRETS[1]}"}
    assert bad.exit_code == 1 and "401" in bad.output and "Traceback" not in bad.output
    assert [s for s in SECRETS if s in good.output + bad.output] == []
