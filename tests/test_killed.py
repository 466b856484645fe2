"""Runs that end before their time: killed, no room, no place, nobody who reads. Nothing half-written stays.

The command runs in a forked process, so that what it imports is there already; two runs are real ones.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from PIL import Image
from test_sweep import GRID, SEEDS, Inline, items, workflow

from sampling_kit.headless import save as images
from sampling_kit.headless import sweep as sweeps
from sampling_kit.headless.cli import main
from sampling_kit.headless.cli.errors import errors_reported

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="signals and limits of POSIX")
PATIENCE = 60  # seconds


class End(NamedTuple):
    code: int  # negative: killed by that signal
    out: str
    err: str


def forked(folder: Path, act: Callable[[], object], *signals: int, out: int | None = None) -> End:
    """``act`` in a process that gets the signals once it has made ``folder/ready``. ``out``: its standard output."""
    texts = [folder / "out.txt", folder / "err.txt"]
    child = os.fork()
    if not child:
        code = 70
        try:
            for number, file in enumerate(texts, 1):
                os.dup2(os.open(file, os.O_CREAT | os.O_WRONLY), number)
            if out is not None:
                os.dup2(out, 1)
            sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a background job
            torch.set_num_threads(1)
            try:
                act()
                code = 0
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else 71
            sys.stderr.flush()
        finally:
            os._exit(code)
    end = time.monotonic() + PATIENCE
    while signals and not (folder / "ready").exists() and time.monotonic() < end:
        time.sleep(0.005)
    for number in signals:
        os.kill(child, number)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return End(code, *(t.read_text() if t.exists() else "" for t in texts))


def kit(*arguments: object) -> Callable[[], object]:
    return lambda: main([str(a) for a in arguments], "sampling-kit")


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    (tmp_path / "w.json").write_text(json.dumps(workflow().prompt))
    return tmp_path / "w.json"


def left(folder: Path) -> list[str]:
    return sorted(f.relative_to(folder).as_posix() for f in folder.rglob("*") if f.is_file())


def said(end: End) -> str:
    """The one message, which is no traceback."""
    assert "Traceback" not in end.out + end.err and "Exception ignored" not in end.err, end
    (line,) = [x for x in end.err.splitlines() if x and not x.startswith(("Usage:", "Try "))]
    return line


def slow_to_save(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Half of a picture is written, then the disk takes its time."""

    def save(self: Image.Image, file: Path, *args: object, **options: object) -> None:
        file.write_bytes(b"\x89PNG half of it")
        (folder / "ready").touch()
        time.sleep(PATIENCE)

    monkeypatch.setattr(images.Image.Image, "save", save)


def test_terminated_while_saving(graph, tmp_path, monkeypatch):
    slow_to_save(monkeypatch, tmp_path)
    end = forked(tmp_path, kit("run", graph, "--output", tmp_path / "o"), signal.SIGTERM)
    assert (end.code, said(end)) == (143, "Terminated")
    assert left(tmp_path / "o") == []


def test_interrupted_while_saving(graph, tmp_path, monkeypatch):
    slow_to_save(monkeypatch, tmp_path)
    end = forked(tmp_path, kit("run", graph, "--output", tmp_path / "o"), signal.SIGINT)
    assert (end.code, said(end)) == (130, "Interrupted")
    assert left(tmp_path / "o") == []


def test_killed_while_saving(graph, tmp_path, monkeypatch):
    """What stays is hidden and has no name of a picture; the next run numbers on as if it were not there."""
    slow_to_save(monkeypatch, tmp_path)
    run = kit("run", graph, "--output", tmp_path / "o")
    assert forked(tmp_path, run, signal.SIGKILL).code == -signal.SIGKILL
    (half,) = left(tmp_path / "o")
    assert Path(half).name.startswith(".") and half.endswith(".part")
    monkeypatch.undo()
    assert forked(tmp_path, run).code == 0
    assert left(tmp_path / "o") == [half, "sweep/a_00001_.png"]


def limited(act: Callable[[], object], size: int) -> Callable[[], object]:
    """No file may grow beyond ``size`` bytes: what a full disk is for who writes."""

    def run() -> None:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        act()

    return run


def test_a_full_disk(graph, tmp_path):
    end = forked(tmp_path, limited(kit("run", graph, "--output", tmp_path / "o"), 1000))
    assert end.code == 1 and end.out == ""
    assert '"Save Image" (SaveImage) failed' in said(end) and "File too large" in end.err
    assert left(tmp_path / "o") == []


@pytest.mark.parametrize("place", ["file", "file/below", "/proc/nowhere"])
def test_a_place_that_takes_no_files(graph, tmp_path, place):
    (tmp_path / "file").write_text("not a folder")
    end = forked(tmp_path, kit("run", graph, "--output", tmp_path / place))
    assert end.code in (1, 2) and place.split("/")[-1] in said(end)
    assert (tmp_path / "file").read_text() == "not a folder"


@pytest.mark.parametrize("command", ["check", "run", "nodes", "--help"])
def test_nobody_reads(graph, tmp_path, command):
    """As before ``| head -c 1`` and ``| true``: the end is silent, and what was written is whole."""
    reading, writing = os.pipe()
    os.close(reading)
    given = {"check": [graph], "run": [graph, "--output", tmp_path / "o"]}.get(command, [])
    end = forked(tmp_path, kit(command, *given), out=writing)
    os.close(writing)
    said = [line for line in end.err.splitlines() if not line.startswith("estimated error")]
    assert not said and end.code == 1
    if command == "run":
        with Image.open(tmp_path / "o" / "sweep" / "a_00001_.png") as image:
            assert image.size == (24, 24)


def sweep_of(folder: Path, slow: bool = False) -> Callable[[], object]:
    """The sweep of test_sweep without Ray; ``slow``: stops in the middle of item 2."""

    class Crew(Inline):
        def work(self, todo, finished):
            def one(item, record, files):
                if slow and item.index == 2:
                    real = Path.write_text

                    def stop(self, *args, **options):
                        real(self, "half")
                        (folder / "ready").touch()
                        time.sleep(PATIENCE)

                    Path.write_text = stop
                finished(item, record, files)

            return super().work(todo, one)

    return lambda: sweeps.sweep(workflow(), items(), GRID, SEEDS, folder / "o", Crew())


def as_command(act: Callable[[], object]) -> Callable[[], object]:
    def command() -> None:
        with errors_reported(False):
            act()

    return command


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_a_sweep_stopped_while_it_puts_an_item_away(tmp_path, number):
    end = forked(tmp_path, as_command(sweep_of(tmp_path, slow=True)), number)
    assert end.code == {signal.SIGTERM: 143, signal.SIGINT: 130}.get(number, -number)
    there = sorted(os.listdir(tmp_path / "o" / "items"))
    hidden = [name for name in there if name.startswith(".") and name.endswith(".part")]
    assert len(hidden) == (number == signal.SIGKILL)
    assert there == [*hidden, "000000", "000001"]
    assert sweep_of(tmp_path)() == (2, 4)
    assert sorted(os.listdir(tmp_path / "o" / "items")) == [f"{i:06}" for i in range(6)]
    assert len((tmp_path / "o" / "manifest.jsonl").read_text().splitlines()) == 6


def test_a_sweep_on_a_full_disk(tmp_path):
    """Items are small enough, the list of them is not; with room the same command ends the work."""
    end = forked(tmp_path, limited(as_command(sweep_of(tmp_path)), 2000))
    assert end.code == 1 and "File too large" in said(end)
    assert not [name for name in left(tmp_path / "o") if name.endswith(".part")]
    there, done = sweep_of(tmp_path)()
    assert there + done == 6
    for item in (tmp_path / "o" / "items").iterdir():
        json.loads((item / "record.json").read_text())


def test_the_installed_command_terminates_too(graph, tmp_path):
    """A process of its own, without what this one has set up."""
    wait = "import sys; from sampling_kit.headless.cli import main; "
    wait += "from sampling_kit.headless import graph; import time; real = graph.execute\n"
    wait += "def slow(*a): open(sys.argv[-1], 'w'); time.sleep(60)\n"
    wait += "graph.execute = slow\nmain(['run', sys.argv[1], '--output', sys.argv[2]])"
    given = [str(graph), str(tmp_path / "o"), str(tmp_path / "ready")]
    run = subprocess.Popen([sys.executable, "-c", wait, *given], stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + PATIENCE
    while not (tmp_path / "ready").exists() and time.monotonic() < end:
        time.sleep(0.02)
    run.terminate()
    assert run.communicate(timeout=PATIENCE)[1] == "Terminated\n" and run.returncode == 143
