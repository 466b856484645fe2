"""Whose result, whose failure: what the queue client says of a job is of that job, whatever happens in between."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("aiohttp.web", reason="needs aiohttp (extra 'queue')")

from fake_comfy import INTERRUPTED, Fake, graph, hang_up, png
from test_queue_faults import quick  # noqa: F401
from test_queue_servers import JOBS, SENDER, Look, play, queue, require_pictures

from sampling_kit.headless.queue import Done, Job, Queue, limits
from sampling_kit.headless.queue.answers import Queued
from sampling_kit.headless.queue.http import Server
from sampling_kit.headless.queue.jobs import Task
from sampling_kit.headless.queue.lane import Lane
from sampling_kit.headless.queue.ledger import Ledger
from sampling_kit.headless.queue.share import Share

KILLER = 13


def id_of(folder: Path, job: Job, attempt: int = 0) -> str:
    return job.id(Ledger(folder).name, attempt)


async def until(condition: Callable[[], Any]) -> None:
    while not condition():
        await asyncio.sleep(0.005)


def submitted(fake: Fake) -> list[str]:
    return [body["prompt_id"] for body in fake.bodies]


# ---------------------------------------------------------------------------------- a server that dies of a job


class Mortal(Fake):
    """Dies of KILLER as soon as that is its turn, before it has said so; a keeper starts it anew, with nothing kept."""

    deaths = 0

    async def say(self, kind: str, **data: Any) -> None:
        if data["node"] is None:  # the end of the one before
            await super().say(kind, **data)
        if self.queue and self.queue[0][1]["1"]["inputs"]["seed"] == KILLER:
            self.fault = lambda request: hang_up
            self.dead.set()
            await asyncio.Event().wait()
        if data["node"] is not None:
            await super().say(kind, **data)

    async def keep_alive(self) -> None:
        while True:
            await self.dead.wait()
            self.dead.clear()
            self.deaths += 1
            await self.crash()
            self.forget()
            await asyncio.sleep(0.1)
            await self.start(self.port)
            self.fault = lambda request: None


def test_a_server_s_deaths_are_those_of_the_job_that_it_died_of(tmp_path, monkeypatch):
    """Not of the one before it, whose end was heard and whose result was not fetched yet: not once."""
    monkeypatch.setattr(limits, "TRIES", 1)
    jobs = [Job(f"seed{s}", graph(s)) for s in (0, KILLER, 2)]

    async def scene() -> Any:
        fake = Mortal()
        fake.dead = asyncio.Event()
        await fake.start()
        keeper = asyncio.ensure_future(fake.keep_alive())
        try:
            return await asyncio.wait_for(queue(fake, tmp_path).run(jobs), 10), fake.deaths
        finally:
            keeper.cancel()
            await fake.crash()

    done, deaths = asyncio.run(scene())
    lost = "the server was lost 1 times while this job ran"
    assert [d.error for d in done] == [None, lost, None] and deaths == 2


# ---------------------------------------------------------------------------------- what was cancelled on the way


def holder(fakes: tuple[Fake, ...], id: str) -> Fake | None:
    return next((fake for fake in fakes if any(i == id for i, _ in fake.queue)), None)


def lose(fake: Fake) -> None:
    fake.fault = lambda request: hang_up


def find(fake: Fake) -> None:
    fake.fault = lambda request: None


async def outage(fakes: tuple[Fake, ...], folder: Path) -> asyncio.Task[list[Done]]:
    """Two jobs on two servers, the first of which is lost for a while: the queue's run from then on."""
    task = both(fakes, folder, JOBS[:2])
    await until(lambda: all(fake.queue for fake in fakes))
    lose(fakes[0])
    await asyncio.sleep(0.4)
    find(fakes[0])
    return task


def both(fakes: tuple[Fake, ...], folder: Path, jobs: list[Job]) -> asyncio.Task[list[Done]]:
    servers = [f"127.0.0.1:{fake.port}" for fake in fakes]
    return asyncio.ensure_future(Queue(servers, folder).run(jobs))


def test_a_server_that_comes_back_goes_on_with_what_nobody_took(tmp_path):
    """Its prompt was given back and still runs there; it was interrupted, and that was said to be the job's failure."""

    async def scene(*fakes: Fake) -> Any:
        task = await outage(fakes, tmp_path)
        done = await task
        return done, [fake.cancelled for fake in fakes], [n for fake in fakes for n in fake.ran]

    done, cancelled, ran = play(scene, servers=2, pace=0.5)
    require_pictures(tmp_path, done, JOBS[:2])
    assert cancelled == [[], []] and sorted(ran) == [0, 1]


def test_a_prompt_that_we_interrupt_is_no_failure_of_its_job(tmp_path):
    """It goes from one server to the other, is interrupted on the first, and comes back when the other is lost too."""
    id = id_of(tmp_path, JOBS[0])

    async def scene(*fakes: Fake) -> Any:
        task = both(fakes, tmp_path, JOBS[:1])
        await until(lambda: holder(fakes, id))
        first = holder(fakes, id)
        (second,) = (fake for fake in fakes if fake is not first)
        lose(first)
        await until(lambda: second.queue)
        find(first)
        await until(lambda: id in first.cancelled)
        lose(second)
        await until(lambda: first.history.get(id) == INTERRUPTED)
        return await task

    require_pictures(tmp_path, play(scene, servers=2, pace=0.5), JOBS[:1])


def test_ctrl_c_takes_off_what_was_given_back(tmp_path):
    async def scene(*fakes: Fake) -> None:
        task = await outage(fakes, tmp_path)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        for fake in fakes:
            assert fake.cancelled == submitted(fake)

    play(scene, servers=2, pace=2.0)


# ---------------------------------------------------------------------------------- a client that dies in between


def test_what_another_process_submitted_while_we_fetched_is_waited_for(tmp_path):
    """It is killed before we claim its job: the queue as it was before is not where that stands."""

    async def scene(fake: Fake) -> Any:
        id = id_of(tmp_path, JOBS[1])

        def fault(request: Any) -> None:
            if request.path == "/view" and not fake.queue and len(fake.ran) == 1:
                fake.queue.append((id, JOBS[1].prompt))

        fake.fault = fault
        return await queue(fake, tmp_path, ahead=1).run(JOBS[:2]), submitted(fake), fake.ran

    done, bodies, ran = play(scene, pace=0.1)
    require_pictures(tmp_path, done, JOBS[:2])
    assert bodies == [id_of(tmp_path, JOBS[0])] and ran == [0, 1]


def test_an_attempt_that_a_process_before_submitted_is_waited_for(tmp_path):
    """It found the first attempt's file gone, submitted the second, and was killed."""
    job = JOBS[0]

    async def scene(fake: Fake) -> Any:
        picture = {"filename": "paint_99999_.png", "subfolder": "a", "type": "output"}
        fake.history[id_of(tmp_path, job)] = {"outputs": {"1": {"images": [picture]}}}
        fake.missing, fake.wants_previews = {"paint_99999_.png"}, False
        fake.queue.append((id_of(tmp_path, job, 1), job.again(1, {"1"}).prompt))
        return await queue(fake, tmp_path).run([job]), submitted(fake)

    done, bodies = play(scene, pace=0.1)
    require_pictures(tmp_path, done, [job])
    assert bodies == []


# ---------------------------------------------------------------------------------- names and pictures


def test_a_result_has_its_job_s_name_in_this_call(tmp_path):
    """An earlier call named the same graph otherwise."""
    look = Look()
    look.finished = lambda done: look.notes.append(done.label)

    async def scene(fake: Fake) -> Any:
        await queue(fake, tmp_path).run([replace(JOBS[0], label="")])
        return await queue(fake, tmp_path, watcher=look).run([*JOBS, replace(JOBS[1], label="b")])

    assert [d.label for d in play(scene)] == [*(j.label for j in JOBS), "b"]
    assert sorted(look.notes) == ["b", "seed0", "seed2"]


def test_a_part_of_the_pictures_is_no_result(tmp_path):
    """The websocket breaks between the first picture and the second, and is there again before the job's end."""

    async def scene(fake: Fake) -> Any:
        async def send_all(message: Any, real: Any = fake.send_all) -> None:
            await real(message)
            if len(fake.bodies) == 1:
                await fake.sockets.pop().close()
                await until(lambda: fake.sockets)

        fake.send_all, fake.noise = send_all, [bytes([0, 0, 0, 1, 0, 0, 0, 2]) + png(6)]
        return await queue(fake, tmp_path).run([Job("x", SENDER)]), submitted(fake)

    (done,), bodies = play(scene, pace=0.1)
    assert done.error is None and len(bodies) == 2
    assert [(tmp_path / name).read_bytes() for name in done.files] == [png(5), png(6)]


def test_a_picture_is_of_the_job_that_the_websocket_named_last(tmp_path):
    """The answer that says what runs is older than the message that came while it was waited for."""
    ledger = Ledger(tmp_path)
    tasks = {x: Task(x, Job(x, SENDER), ledger.name) for x in ("one", "two")}
    lane = Lane(Server("x"), Share(tmp_path, ledger, tasks, print), Look(), 1.0, True, 2, False)
    lane.mine = dict(tasks)

    async def queued() -> Queued:
        lane._text('{"type": "executing", "data": {"prompt_id": "two", "node": "1"}}')
        return Queued(("one",), ("two",))

    lane.server.queued = queued
    asyncio.run(lane._look())
    lane._binary(bytes([0, 0, 0, 1, 0, 0, 0, 2]) + png(5))
    assert [len(task.frames) for task in tasks.values()] == [0, 1]
