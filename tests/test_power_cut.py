"""A power cut at any moment: what was said to be done is there, and the same command does the rest, each thing once."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from power_cut import WAYS, Disk
from test_sweep import GRID, SEEDS, Inline, items, run, workflow

from sampling_kit.headless.queue import Done
from sampling_kit.headless.queue.ledger import LEDGER, Ledger
from sampling_kit.headless.save import save_images
from sampling_kit.headless.sweep import folder as folders
from sampling_kit.headless.sweep import sweep
from sampling_kit.nodes.ui.file_names import new_file
from sampling_kit.schedulers import whole_file
from sampling_kit.schedulers.whole_file import append_line, passing, write_new, write_whole

pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="watches Linux's calls")


def require_sweep(folder: Path) -> None:
    """Six items, each with its picture, one line each."""
    for i in range(6):
        with Image.open(folder / "items" / f"{i:06}" / "a.png") as image:
            assert image.getpixel((0, 0)) == i
    lines = [json.loads(x) for x in (folder / "manifest.jsonl").read_text().splitlines()]
    assert [line["index"] for line in lines] == list(range(6))


@pytest.mark.some(1)
@pytest.mark.parametrize("way", WAYS)
def test_a_sweep(tmp_path, way, monkeypatch):
    """At every call: nothing that the bar has counted is lost, and the rest is done by the same command."""
    monkeypatch.setattr(folders, "sheet", lambda pictures: b"drawn elsewhere")  # it takes its time
    counted, cuts = 0, 0
    out, copy = tmp_path / "out", tmp_path / "copy"
    out.mkdir()

    def bar(done: int, total: int) -> None:
        nonlocal counted
        counted = done

    def cut(disk: Disk, call: str) -> None:
        nonlocal cuts
        cuts += 1
        folder = disk.survivors(way, copy)
        told: list[str] = []
        there, done = sweep(workflow(), items(), GRID, SEEDS, folder, Inline(), note=told.append)
        assert there >= counted, (
            f"{way}, {call}: {counted} were said to be done, {there} are there; {told}"
        )
        assert there + done == 6
        require_sweep(folder)

    with Disk(out, cut).watched() as disk:
        sweep(workflow(), items()[:2], GRID, SEEDS, out, Inline(), bar)
    assert counted == 2 and cuts > 40
    assert {call.split()[0] for call in disk.calls} >= {"fsync", "rename", "replace"}
    assert json.loads((disk.survivors(way, copy) / "sweep.json").read_text())
    assert len((copy / "manifest.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize("way", WAYS)
def test_a_run(tmp_path, way):
    """A picture that the command has named is there, whole."""
    out, copy, saved = tmp_path / "out", tmp_path / "copy", []
    out.mkdir()

    def cut(disk: Disk, call: str) -> None:
        folder = disk.survivors(way, copy)
        for name in saved:
            with Image.open(folder / "deep" / "er" / name) as image:
                image.load()
        pictures = [f for f in folder.rglob("*.png") if not f.name.startswith(".")]
        assert all(f.stat().st_size for f in pictures), f"{way}, {call}: an empty picture"

    with Disk(out, cut).watched():
        for _ in range(2):
            more = save_images(torch.rand(2, 4, 4, 3), "deep/er/a", out, {})
            saved += [entry["filename"] for entry in more]
    assert saved == [f"a_{i:05}_.png" for i in (1, 2, 3, 4)]


@pytest.mark.parametrize("way", WAYS)
def test_a_queue(tmp_path, way):
    """A job that the ledger says is done has its files; one whose line was cut is not there."""
    out, copy, told = tmp_path / "out", tmp_path / "copy", []
    out.mkdir()
    data = b"picture" * 100

    def cut(disk: Disk, call: str) -> None:
        ledger = Ledger(disk.survivors(way, copy))
        assert ledger.name in ("", *names) or not names, f"{way}, {call}: another folder's name"
        there = ledger.finished()
        assert set(told) <= set(there), f"{way}, {call}: a job that was done is lost"
        for done in there.values():
            assert [(copy / name).read_bytes() for name in done.files] == [data]
        ledger.finish("later", Done("later"))
        assert {*told, "later"} <= set(Ledger(copy).finished())

    names: list[str] = []
    with Disk(out, cut).watched():
        ledger = Ledger(out)
        names.append(ledger.name)
        for label in ("a", "b", "c"):
            (out / "sub").mkdir(exist_ok=True)
            (out / "sub" / f"{label}.png").write_bytes(data)  # as a careless writer does
            ledger.finish(label, Done(label, (f"sub/{label}.png",)))
            told.append(label)
    assert set(ledger.finished()) == {"a", "b", "c"}


@pytest.mark.parametrize("way", WAYS)
def test_a_file_that_is_replaced_is_the_old_or_the_new_one(tmp_path, way):
    out = tmp_path / "out"
    out.mkdir()
    write_whole(out / "a", b"old")
    seen, returned = set(), []

    def cut(disk: Disk, call: str) -> None:
        now = (disk.survivors(way, tmp_path / "copy") / "a").read_bytes()
        seen.add(now)
        assert now in ({b"new"} if returned else {b"old", b"new"}), f"{way}, {call}"

    disk = Disk(out, cut)
    with disk.watched():
        write_whole(out / "a", b"new")
    returned.append(True)
    cut(disk, "the end")
    assert seen == {b"old", b"new"}


def test_the_layer_sees_what_is_not_synced(tmp_path):
    """Written as before: by rename alone, or in place. Each way to lose it is seen."""
    out = tmp_path / "out"
    out.mkdir()

    def left(write, way) -> bytes | None:
        shutil.rmtree(out)
        out.mkdir()
        disk = Disk(out, lambda disk, call: None)
        with disk.watched():
            write()
        file = disk.survivors(way, tmp_path / "copy") / "a"
        return file.read_bytes() if file.exists() else None

    def renamed() -> None:
        (out / "b").write_bytes(b"1234")
        os.replace(out / "b", out / "a")

    assert [left(renamed, way) for way in WAYS] == [None, b"", b"12", bytes(4)]
    assert [left(lambda: write_whole(out / "a", b"1234"), way) for way in WAYS] == [b"1234"] * 4
    assert [left(lambda: append_line(out / "a", "123"), way) for way in WAYS] == [b"123\n"] * 4
    with passing():
        assert [left(lambda: write_whole(out / "a", b"1234"), way) for way in WAYS][1] == b""


# ------------------------------------------------------------------------------------------ one name, once


def test_a_number_that_another_process_takes_in_between(tmp_path, monkeypatch):
    """After the count, before the name: the other's file stays."""
    real = whole_file.put_new

    def late(part: Path, file: Path) -> None:
        if not (tmp_path / "a_00001_.txt").exists():
            (tmp_path / "a_00001_.txt").write_bytes(b"theirs")
        real(part, file)

    monkeypatch.setattr(whole_file, "put_new", late)
    file = new_file("a", tmp_path, ".txt", lambda part: part.write_bytes(b"ours"))
    assert file.name == "a_00002_.txt" and file.read_bytes() == b"ours"
    assert (tmp_path / "a_00001_.txt").read_bytes() == b"theirs"
    assert sorted(os.listdir(tmp_path)) == ["a_00001_.txt", "a_00002_.txt"]


@pytest.mark.parametrize("number", [1, 95])  # EPERM, ENOTSUP
def test_a_file_system_without_hard_links(tmp_path, monkeypatch, number):
    def link(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", link)
    for expected in (1, 2):
        n = write_new(tmp_path, lambda n: f"{n}.txt", 1, lambda part: part.write_bytes(b"x"))
        assert n == expected
    assert sorted(os.listdir(tmp_path)) == ["1.txt", "2.txt"]


# ----------------------------------------------------------------------------------------------- a real disk


@pytest.fixture
def device(tmp_path):
    """(image file, mounted folder) of a small ext4, where this process may mount one."""
    if os.geteuid() or not shutil.which("losetup") or not shutil.which("mkfs.ext4"):
        pytest.skip("a block device needs root, losetup and mkfs.ext4")
    image, place = tmp_path / "disk.img", tmp_path / "disk"
    place.mkdir()
    with image.open("wb") as out:
        out.truncate(32 * 2**20)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    if subprocess.run(["mount", "-o", "loop", image, place], capture_output=True).returncode:
        pytest.skip("this root may not mount")
    try:
        yield image, place
    finally:
        subprocess.run(["umount", place], check=True)


@pytest.mark.release
def test_the_copy_of_a_device(device, tmp_path):
    """What a loop device has got when the command says done is what a cut leaves: ext4 mounts it and all is there."""
    image, place = device
    (place / "out").mkdir()
    os.sync()
    run(place / "out", Inline())
    save_images(torch.rand(3, 8, 8, 3), "run/a", place / "out", {})
    ledger = Ledger(place / "out")
    (place / "out" / "x.png").write_bytes(b"x" * 5000)
    ledger.finish("a", Done("a", ("x.png",)))
    copy, after = tmp_path / "copy.img", tmp_path / "after"
    shutil.copyfile(image, copy)  # no sync, no unmount
    after.mkdir()
    subprocess.run(["mount", "-o", "loop", copy, after], check=True)
    try:
        assert run(after / "out", Inline()) == (6, 0)
        pictures = sorted((after / "out" / "run").iterdir())
        assert len(pictures) == 3
        for picture in pictures:
            with Image.open(picture) as opened:
                opened.load()
        assert set(Ledger(after / "out").finished()) == {"a"}
        assert (after / "out" / LEDGER).stat().st_size
    finally:
        time.sleep(0.1)
        subprocess.run(["umount", after], check=True)
