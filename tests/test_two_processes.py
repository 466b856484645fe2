"""Two processes and one folder: nothing is written over, nothing done twice, nothing lost."""

from __future__ import annotations

import asyncio
import json
import math
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("aiohttp", reason="needs aiohttp (extra 'queue')")

from fake_comfy import Fake, graph
from test_queue import JOBS, queue, require_each_once, with_server
from test_sweep import GRID, SEEDS, Inline, items, workflow

from sampling_kit.headless.queue import Done, Job, limits
from sampling_kit.headless.queue.ledger import LEASES, LEDGER, Ledger
from sampling_kit.headless.save import save_images
from sampling_kit.headless.sweep import sweep
from sampling_kit.headless.workflow import WorkflowError
from sampling_kit.nodes.fit.fitted_solver import saved
from sampling_kit.schedulers.fit import fit_files
from sampling_kit.schedulers.path import VP
from sampling_kit.schedulers.points import Points
from sampling_kit.schedulers.solver import DDIM
from sampling_kit.schedulers.solver.fitted import FittedSolver, table_of

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")


def together(*acts: Callable[[], object]) -> list[int]:
    """The exit codes of processes that begin at the same moment."""
    reading, writing = os.pipe()
    children = []
    for act in acts:
        child = os.fork()
        if not child:
            code = 70
            try:
                os.close(writing)
                os.read(reading, 1)  # until all are there
                torch.set_num_threads(1)
                act()
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    os.close(writing)
    os.close(reading)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def test_pictures_of_three_runs(tmp_path):
    """40 pictures each, in pairs, under one prefix: 120 files, and every picture is there once."""

    def run(mine: int) -> Callable[[], object]:
        def act() -> None:
            for i in range(20):
                values = torch.full((2, 2, 2, 3), (mine * 40 + 2 * i) / 255 + 1e-4)
                values[1] += 1 / 255
                save_images(values, "sub/a", tmp_path, {})

        return act

    assert together(*(run(i) for i in range(3))) == [0, 0, 0]
    files = sorted((tmp_path / "sub").iterdir())
    assert [f.name for f in files] == [f"a_{i:05}_.png" for i in range(1, 121)]
    values = []
    for file in files:
        with Image.open(file) as image:
            values.append(int(np.asarray(image)[0, 0, 0]))
    assert sorted(values) == list(range(120))


def test_fits_that_go_into_one_file(tmp_path):
    """Each process reads the file, adds its fit and writes it: none is lost."""

    def save(nfe: int) -> Callable[[], object]:
        levels = Points(VP(), (math.inf, *(8.0 / 2**i for i in range(nfe - 1)), 0.0))
        return lambda: saved(
            FittedSolver(table_of(DDIM().plan(levels))), tmp_path / "a.safetensors"
        )

    assert together(*(save(nfe) for nfe in range(3, 9))) == [0] * 6
    fits = fit_files.load(tmp_path / "a.safetensors").fits
    assert sorted(fit.table.nfe for fit in fits) == list(range(3, 9))


def test_a_sweep_beside_a_sweep(tmp_path):
    """Many begin at once: one does the work, the others are refused, and each item is there once."""

    def run() -> None:
        try:
            sweep(workflow(), items(), GRID, SEEDS, tmp_path, Slow())
            (tmp_path / f"worked-{os.getpid()}").touch()
        except WorkflowError as error:
            if "another sweep is working" not in str(error):
                raise

    class Slow(Inline):
        def work(self, todo, finished):
            time.sleep(0.5)
            return super().work(todo, finished)

    assert together(*[run] * 4) == [0] * 4
    assert len(list(tmp_path.glob("worked-*"))) == 1
    assert sorted(os.listdir(tmp_path / "items")) == [f"{i:06}" for i in range(6)]


@pytest.mark.some(2)
@pytest.mark.parametrize("folder", range(5))
def test_a_ledger_of_three_processes(tmp_path, folder):
    """They agree on the folder's name, and no record is lost or cut."""

    def work(mine: int) -> Callable[[], object]:
        def act() -> None:
            ledger = Ledger(tmp_path)
            (tmp_path / f"name-{mine}").write_text(ledger.name)
            for i in range(20):
                name = f"{mine}-{i}.png"
                (tmp_path / name).write_bytes(name.encode())
                ledger.finish(name, Done(name, (name,), ("text " * 50,)))

        return act

    assert together(*(work(i) for i in range(3))) == [0, 0, 0]
    lines = (tmp_path / LEDGER).read_text().splitlines()
    assert len([json.loads(line) for line in lines]) == 61
    notes: list[str] = []
    ledger = Ledger(tmp_path, notes.append)
    assert len(ledger.finished()) == 60 and not notes
    assert {f.read_text() for f in tmp_path.glob("name-*")} == {ledger.name}


def test_jobs_are_leased_to_one_process_at_a_time(tmp_path):
    """Three processes walk the same list: each job is done by one. A process that dies leaves its jobs to the others."""

    def work(mine: int) -> Callable[[], object]:
        def act() -> None:
            ledger = Ledger(tmp_path)
            open_ = [f"job{i}" for i in range(30)]
            end = time.monotonic() + 30
            while open_ and time.monotonic() < end:
                for id in list(open_):
                    if id in ledger.news():
                        open_.remove(id)
                    elif ledger.lease(id):
                        if mine == 0 and id == "job3":
                            os.kill(os.getpid(), signal.SIGKILL)
                        with (tmp_path / f"ran-{id}").open("a") as out:
                            out.write(str(mine))
                        time.sleep(0.003)
                        ledger.finish(id, Done(id))
                        open_.remove(id)
                open_ = [id for id in open_ if id not in ledger.finished()]
                time.sleep(0.002)
            assert not open_

        return act

    codes = together(*(work(i) for i in range(3)))
    assert codes[1:] == [0, 0] and codes[0] in (0, -signal.SIGKILL)
    assert len(Ledger(tmp_path).finished()) == 30
    ran = [f.read_text() for f in tmp_path.glob("ran-*")]
    assert len(ran) == 30 and all(len(text) == 1 for text in ran)
    assert [f.name for f in (tmp_path / LEASES).iterdir()] == ["ledger.lock"]


def test_two_queues_share_their_jobs(tmp_path, monkeypatch):
    """Each job runs once; both clients end with every result."""
    monkeypatch.setattr(limits, "LOOK", 0.05)

    async def play(fake: Fake):
        clients = [queue(fake, tmp_path, ahead=2) for _ in range(2)]
        done = await asyncio.gather(*(client.run(JOBS) for client in clients))
        return done, fake.ran, [len(client.lanes[0].submitted) for client in clients]

    done, ran, submitted = with_server(play, pace=0.02)
    assert sorted(ran) == list(range(6))
    assert sum(submitted) == 6 and min(submitted) > 0
    for each in done:
        require_each_once(tmp_path, each)


def test_a_failed_job_is_left_to_the_next_process(tmp_path):
    async def play(fake: Fake):
        bad = [Job("bad", graph(666))]
        first = await queue(fake, tmp_path).run(bad)
        second = await queue(fake, tmp_path).run(bad)
        return first + second

    assert [d.error for d in with_server(play)] == ["node 1 (Paint) failed: it is dry"] * 2


# ---------------------------------------------------------------------------------------- damage


def finished(folder: Path) -> Ledger:
    ledger = Ledger(folder)
    for name in ("a", "b"):
        (folder / f"{name}.png").write_bytes(name.encode() * 100)
        ledger.finish(name, Done(name, (f"{name}.png",)))
    return ledger


@pytest.mark.parametrize("damage", ["emptied", "gone", "changed", "folder"])
def test_a_job_whose_file_is_lost_is_not_done(tmp_path, damage):
    finished(tmp_path)
    file = tmp_path / "b.png"
    file.unlink()
    if damage == "folder":
        file.mkdir()
    elif damage != "gone":
        file.write_bytes(b"" if damage == "emptied" else b"c" * 100)
    notes: list[str] = []
    ledger = Ledger(tmp_path, notes.append)
    assert set(ledger.finished()) == {"a"}
    assert len(notes) == 1 and "b.png is missing or not as it was written" in notes[0]
    assert ledger.lease("b") and not ledger.lease("a")


def test_a_lost_file_is_fetched_again(tmp_path):
    async def play(fake: Fake):
        first = await queue(fake, tmp_path).run(JOBS[:2])
        (tmp_path / first[1].files[0]).write_bytes(b"")
        return await queue(fake, tmp_path).run(JOBS[:2]), fake.ran

    done, ran = with_server(play)
    assert ran == [0, 1], "the server still had it"
    for job, one in zip(JOBS, done, strict=False):
        with Image.open(tmp_path / one.files[0]) as image:
            assert image.getpixel((0, 0)) == job.prompt["1"]["inputs"]["seed"]


@pytest.mark.some(11)
@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"id": 3}', '{"id": "c", "label": "c", "files": [1], "texts": []}', "\0" * 40,
             "[" * 3000, '{"folder": 5}', '{"folder": "x"}', "\ufffe"],
)  # fmt: skip
@pytest.mark.parametrize("place", ["first", "middle", "last"])
def test_a_damaged_line_is_named_and_passed_over(tmp_path, text, place):
    name = finished(tmp_path).name
    lines = (tmp_path / LEDGER).read_text().splitlines()
    lines.insert({"first": 0, "middle": 2, "last": 3}[place], text)
    (tmp_path / LEDGER).write_bytes("\n".join(lines).encode("utf-8", "surrogatepass"))
    notes: list[str] = []
    ledger = Ledger(tmp_path, notes.append)
    assert ledger.name == name and set(ledger.finished()) == {"a", "b"}
    assert len(notes) == bool(text) and all("is damaged" in note for note in notes)
    ledger.finish("c", Done("c"))
    assert set(Ledger(tmp_path).finished()) == {"a", "b", "c"}


@pytest.mark.parametrize("data", [b"", b"\0" * 200, b'{"fold'])
def test_a_list_that_a_power_cut_emptied(tmp_path, data):
    """As a version before left it: a new folder name, and all jobs again."""
    (tmp_path / LEDGER).write_bytes(data)
    ledger = Ledger(tmp_path)
    assert ledger.name and not ledger.finished()
    ledger.finish("a", Done("a"))
    assert Ledger(tmp_path).name == ledger.name and set(Ledger(tmp_path).finished()) == {"a"}
