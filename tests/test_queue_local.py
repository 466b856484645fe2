"""The queue client and this machine: a full disk, names it cannot have, links that lead out."""

from __future__ import annotations

import errno
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("aiohttp.web", reason="needs aiohttp (extra 'queue')")

from test_queue_faults import JOBS, play, queue, quick, run  # noqa: F401

from sampling_kit.headless.queue import Watcher, collect
from sampling_kit.headless.queue.faults import LocalFailure


@contextmanager
def full(target: Path) -> Any:
    yield target.with_name(".x.part")
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_is_told_as_such(tmp_path, monkeypatch):
    notes: list[str] = []

    class Look(Watcher):
        def note(self, text: str) -> None:
            notes.append(text)

    monkeypatch.setattr(collect, "whole", full)

    async def scene(fake):
        with pytest.raises(LocalFailure, match="cannot be written: No space left"):
            await queue(fake, tmp_path, watcher=Look()).run(JOBS)
        assert not fake.queue[1:], "its prompts are off the server"
        monkeypatch.undo()
        return await queue(fake, tmp_path).run(JOBS), fake

    done, _ = play(scene)
    assert [d.error for d in done] == [None] * 3 and notes == []


def test_no_room_is_told_before_the_download(tmp_path, monkeypatch):
    monkeypatch.setattr(collect.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10}))
    with pytest.raises(LocalFailure, match="Make room"):
        run(tmp_path, lambda r: None)


def test_a_name_too_long_for_this_machine_fails_its_job_alone(tmp_path):
    async def scene(fake):
        fake.suffix = "x" * 250
        done = await queue(fake, tmp_path).run(JOBS[:1])
        assert done[0].error is None and len(Path(done[0].files[0]).name) < 256, "names are cut"
        fake.subfolder = "y" * 300
        return await queue(fake, tmp_path).run(JOBS)

    done = play(scene)
    assert "cannot be written here" in done[1].error and "cannot be written here" in done[2].error


def test_a_link_in_the_output_folder_is_not_followed_out(tmp_path):
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    outside.mkdir(), inside.mkdir()
    (inside / "a").symlink_to(outside)
    done, _ = run(inside, lambda r: None)
    assert all("leads out" in d.error for d in done)
    assert list(outside.iterdir()) == []


def test_an_output_folder_that_cannot_be_is_told_as_such(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file" / "out", tmp_path / ("x" * 300)):
        with pytest.raises(LocalFailure, match="cannot be written"):
            run(folder, lambda r: None)
