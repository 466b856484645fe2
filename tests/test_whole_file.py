"""Files appear whole or not at all, and are on the disk before anybody is told so."""

import os
import stat
from pathlib import Path

import pytest

from sampling_kit.schedulers.whole_file import whole, write_whole


def entries(folder: Path) -> dict[str, bytes]:
    return {f.name: f.read_bytes() for f in folder.iterdir()}


def test_text_and_bytes_take_the_place_of_what_was_there(tmp_path):
    write_whole(tmp_path / "a", b"old")
    write_whole(tmp_path / "a", b"\0new")
    write_whole(tmp_path / "b", "σ")
    assert entries(tmp_path) == {"a": b"\0new", "b": "σ".encode()}


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path, error):
    write_whole(tmp_path / "a", b"old")

    def half() -> None:
        with whole(tmp_path / "a") as part:
            part.write_bytes(b"half")
            raise error

    with pytest.raises(type(error)):
        half()
    assert entries(tmp_path) == {"a": b"old"}


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_an_error_of_the_disk_leaves_the_old_file(tmp_path, monkeypatch, call):
    write_whole(tmp_path / "a", b"old")

    def fails(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, call, fails)
    with pytest.raises(OSError, match="disk full"):
        write_whole(tmp_path / "a", b"new")
    assert entries(tmp_path) == {"a": b"old"}


def test_the_bytes_are_on_the_disk_before_the_name_and_the_name_before_the_return(
    tmp_path, monkeypatch
):
    """What a power cut after any of these calls leaves is the old file or the new one, never an empty one."""
    calls: list[tuple[str, bytes]] = []
    fsync, replace = os.fsync, os.replace

    def synced(handle: int) -> None:
        folder = stat.S_ISDIR(os.fstat(handle).st_mode)
        calls.append(("names" if folder else "bytes", b"" if folder else os.pread(handle, 100, 0)))
        fsync(handle)

    def named(a: Path, b: Path) -> None:
        calls.append(("rename", b.name.encode()))
        replace(a, b)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", named)
    write_whole(tmp_path / "a", b"new")
    assert calls == [("bytes", b"new"), ("rename", b"a"), ("names", b"")]
