"""The queue client against a small server that behaves, and misbehaves, as ComfyUI does."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

pytest.importorskip("aiohttp.web", reason="needs aiohttp (extra 'queue')")

from fake_comfy import Fake, graph, png

from sampling_kit.headless.queue import Done, Job, Queue, Watcher, limits, to_api
from sampling_kit.headless.queue.answers import RemoteFile
from sampling_kit.headless.queue.faults import JobFails
from sampling_kit.headless.queue.ledger import LEDGER, Ledger
from sampling_kit.headless.queue.names import file_names
from sampling_kit.headless.workflow import WorkflowError

JOBS = [Job(f"seed{s}", graph(s)) for s in range(6)]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LOOK", 0.2)


def with_server(play: Callable[[Fake], Any], **options: Any) -> Any:
    async def go() -> Any:
        fake = Fake(**options)
        await fake.start()
        try:
            return await play(fake)
        finally:
            await fake.crash()

    return asyncio.run(asyncio.wait_for(go(), 30))


def queue(fake: Fake, folder: Path, **more: Any) -> Queue:
    return Queue(f"127.0.0.1:{fake.port}", folder, **more)


def require_each_once(folder: Path, done: list[Any], jobs: list[Job] = JOBS) -> None:
    """Every job's own picture is there, and nothing else."""
    assert [d.label for d in done] == [j.label for j in jobs]
    files = [name for d in done for name in d.files]
    pictures = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*.png"))
    assert sorted(files) == pictures
    for job, d in zip(jobs, done, strict=True):
        with Image.open(folder / d.files[0]) as image:
            assert image.getpixel((0, 0)) == job.prompt["1"]["inputs"]["seed"]
    lines = (folder / LEDGER).read_text().splitlines()
    assert len(lines) == 1 + len(jobs)


def test_results_texts_and_names(tmp_path):
    async def play(fake):
        seen = []

        class Look(Watcher):
            def progress(self, label, node, step, total):
                seen.append((label, node, step, total))

        done = await queue(fake, tmp_path, watcher=Look()).run(JOBS)
        assert ("seed3", "1", 1, 2) in seen
        return done

    done = with_server(play)
    require_each_once(tmp_path, done)
    assert done[2].texts == ("seed 2",)
    assert done[2].files[0].startswith("a/paint_seed2_")


def test_no_message_need_arrive(tmp_path):
    async def play(fake):
        fake.mute = True
        return await queue(fake, tmp_path).run(JOBS)

    require_each_once(tmp_path, with_server(play))


def test_what_is_done_is_not_run_again(tmp_path):
    async def play(fake):
        await queue(fake, tmp_path).run(JOBS[:4])
        done = await queue(fake, tmp_path).run(JOBS)
        return done, fake.ran

    done, ran = with_server(play)
    require_each_once(tmp_path, done)
    assert sorted(ran) == list(range(6))


def test_a_server_that_restarts_loses_nothing(tmp_path):
    async def play(fake):
        task = asyncio.ensure_future(queue(fake, tmp_path, ahead=4).run(JOBS))
        while len(fake.ran) < 3:
            await asyncio.sleep(0.01)
        port = fake.port
        await fake.crash()
        fake.forget()
        await asyncio.sleep(0.1)
        await fake.start(port)
        return await task

    require_each_once(tmp_path, with_server(play, pace=0.05))


def test_a_client_that_dies_goes_on(tmp_path):
    """What it had submitted is found by its id, in the queue or in the history."""

    async def play(fake):
        task = asyncio.ensure_future(queue(fake, tmp_path).run(JOBS))
        while len(fake.ran) < 2:
            await asyncio.sleep(0.01)
        fake.cancelled_before = list(fake.cancelled)
        Queue.cancel, kept = (lambda self: asyncio.sleep(0)), Queue.cancel  # a kill says nothing
        try:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        finally:
            Queue.cancel = kept
        await asyncio.sleep(0.2)
        done = await queue(fake, tmp_path).run(JOBS)
        return done, fake.ran

    done, ran = with_server(play, pace=0.03)
    require_each_once(tmp_path, done)
    assert sorted(ran) == list(range(6)), "nothing ran twice"


def test_a_broken_download_is_fetched_again(tmp_path):
    async def play(fake):
        fake.break_downloads = 2
        return await queue(fake, tmp_path).run(JOBS[:2])

    require_each_once(tmp_path, with_server(play), JOBS[:2])
    assert not list(tmp_path.rglob("*.part"))


def test_ctrl_c_takes_its_own_prompts_off_the_server(tmp_path):
    async def play(fake):
        task = asyncio.ensure_future(queue(fake, tmp_path).run(JOBS))
        while not fake.ran:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        waiting = {id for id, _ in fake.queue}
        assert waiting and waiting <= set(fake.cancelled)

    with_server(play, pace=0.1)


def test_a_node_that_fails_is_named_and_the_others_finish(tmp_path):
    jobs = [Job("a", graph(1)), Job("bad", graph(666)), Job("b", graph(2))]

    async def play(fake):
        return await queue(fake, tmp_path).run(jobs)

    done = with_server(play)
    assert [d.error for d in done] == [None, "node 1 (Paint) failed: it is dry", None]
    lines = (tmp_path / LEDGER).read_text().splitlines()[1:]  # the first is about the folder
    assert [json.loads(line)["label"] for line in lines] == ["a", "b"], (
        "the next run tries it again"
    )


def test_a_refused_graph_is_explained(tmp_path):
    async def play(fake):
        with pytest.raises(WorkflowError, match='node 1 "the paint": Value too small: seed'):
            await queue(fake, tmp_path).run([Job("x", graph(-1))])

    with_server(play)


def test_a_server_that_never_answers(tmp_path):
    with pytest.raises(ConnectionError, match="has not answered"):
        asyncio.run(Queue("127.0.0.1:9", tmp_path, patience=0.5).run(JOBS[:1]))


@pytest.mark.parametrize("server", ["", "ftp://x", "http://", "http://x:y"])
def test_an_address_that_is_none(server, tmp_path):
    with pytest.raises(WorkflowError, match="--server"):
        Queue(server, tmp_path)


@pytest.mark.parametrize("previews", [True, False])
def test_previews_come_where_they_are_asked_for(tmp_path, previews):
    class Look(Watcher):
        def preview(self, label, picture):
            seen[label] = picture

    seen: dict[str, bytes] = {}

    async def play(fake):
        return await queue(fake, tmp_path, watcher=Look(), previews=previews).run(JOBS[:2])

    with_server(play)
    assert seen == ({f"seed{s}": png(s) for s in range(2)} if previews else {})


def test_the_editor_s_format_is_converted_with_the_server_s_list():
    """The server is named as --server names it."""
    node = {"id": 7, "type": "Paint", "widgets_values": [5, "fixed"], "inputs": [], "outputs": []}
    ui = {"nodes": [node], "links": []}

    async def play(fake):
        return await asyncio.to_thread(to_api, ui, f"127.0.0.1:{fake.port}")

    title = {"title": "Paint"}
    assert with_server(play) == {
        "7": {"class_type": "Paint", "inputs": {"seed": 5}, "_meta": title}
    }
    with pytest.raises(WorkflowError, match=r"http://127\.0\.0\.1:9/object_info cannot be read"):
        to_api({}, "127.0.0.1:9")


def test_without_watching_it_only_submits(tmp_path):
    async def play(fake):
        done = await queue(fake, tmp_path, watch=False, ahead=2).run(JOBS)
        return done, len(fake.queue) + len(fake.ran)

    assert with_server(play, pace=0.2) == ([], len(JOBS))


def test_a_ledger_that_was_cut_short(tmp_path):
    ledger = Ledger(tmp_path)
    (tmp_path / "x.png").write_bytes(png(1))
    ledger.finish("a", Done("one", ("x.png",)))
    with ledger.file.open("ab") as out:
        out.write(b'{"id": "b", "lab')
    again = Ledger(tmp_path)
    assert again.name == ledger.name
    assert list(again.finished()) == ["a"]
    again.finish("c", Done("three"))
    assert list(Ledger(tmp_path).finished()) == ["a", "c"]


@pytest.mark.parametrize(
    ("filename", "subfolder"),
    [("../x.png", ""), ("x.png", "../.."), ("x.png", "/etc"), ("a\\b.png", ""), (".hidden", ""), ("x.png", "C:\\a")],
)  # fmt: skip
def test_names_that_leave_the_folder_are_refused(filename, subfolder):
    with pytest.raises(JobFails, match="refused"):
        file_names([RemoteFile("1", filename, subfolder, "output")], "a", "0" * 36)


def test_several_files_of_one_job_have_their_own_names():
    files = [RemoteFile("1", f"a_{i:05}_.png", "s", "output") for i in (7, 8, 9)]
    assert file_names(files, "seed1", "abcdef0123") == [
        "s/a_seed1_abcdef01.png",
        "s/a_seed1_abcdef01_2.png",
        "s/a_seed1_abcdef01_3.png",
    ]
