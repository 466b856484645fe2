"""What SECURITY.md promises, as far as the source can show it."""

from __future__ import annotations

import ast
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from sampling_kit.headless.images import load_image
from sampling_kit.headless.png import TEXT_LIMIT, PngError, read_text_chunks
from sampling_kit.headless.workflow import WorkflowError, load
from sampling_kit.nodes.files import find_file, split_prefix

PACK = Path(__file__).resolve().parents[1]
PARTS = "nodes", "schedulers", "headless", "embedded"
SOURCES = sorted([PACK / "__init__.py", *(f for p in PARTS for f in (PACK / p).rglob("*.py"))])

#: Modules that run foreign bytes, start programs or speak to a network.
FORBIDDEN = {
    "pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal", "joblib", "runpy", "code", "codeop",
    "subprocess", "pty", "ctypes", "socket", "ssl", "http", "urllib.request", "ftplib", "smtplib", "telnetlib",
    "xmlrpc", "socketserver", "requests", "httpx", "aiohttp", "websocket", "websockets", "huggingface_hub",
}  # fmt: skip
#: The command whose purpose is another machine, and the answers of the host's own server.
ALLOWED = {"headless/client.py": {"aiohttp"}, "nodes/_comfy_route.py": {"aiohttp"}}
CALLS = {"eval", "exec", "compile", "__import__", "breakpoint", "input"}
METHODS = {
    ("os", "system"), ("os", "popen"), ("os", "execv"), ("os", "spawnv"), ("os", "fork"),
    ("torch", "load"), ("torch", "save"), ("np", "load"), ("numpy", "load"), ("torch.hub", "load"),
    ("hub", "load_state_dict_from_url"),
}  # fmt: skip


def offences(file: Path) -> Iterator[str]:
    name = file.relative_to(PACK).as_posix()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        modules: list[str] = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            modules = [node.module or "", *(f"{node.module}.{a.name}" for a in node.names)]
        for module in modules:
            roots = {module, module.split(".")[0]}
            if roots & FORBIDDEN and not roots & ALLOWED.get(name, set()):
                yield f"{name}:{node.lineno} imports {module}"  # type: ignore[attr-defined]
        if isinstance(node, ast.Call):
            called = node.func
            if isinstance(called, ast.Name) and called.id in CALLS:
                yield f"{name}:{node.lineno} calls {called.id}"
            if isinstance(called, ast.Attribute):
                owner = ast.unparse(called.value)
                if (owner, called.attr) in METHODS:
                    yield f"{name}:{node.lineno} calls {owner}.{called.attr}"
            for given in node.keywords:
                harmless = isinstance(given.value, ast.Constant) and given.value.value is False
                if given.arg in ("shell", "trust_remote_code") and not harmless:
                    yield f"{name}:{node.lineno} passes {given.arg}"


def test_no_pickle_eval_shell_or_network():
    assert len(SOURCES) > 100
    found = [line for file in SOURCES for line in offences(file)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "source",
    ["import pickle", "from urllib.request import urlopen", "from urllib import request", "eval('1')", "torch.load(f)", "os.system('x')", "f(shell=True)"],
)  # fmt: skip
def test_the_scan_finds_what_it_looks_for(source):
    file = PACK / "nodes" / "made_up.py"
    tree = ast.parse(source)

    class Fake(type(file)):  # type: ignore[misc]
        def read_text(self, **_):
            return source

    assert tree and list(offences(Fake(file)))


# --------------------------------------------------------------------------------------- folders

OUTSIDE = [
    "../secret.png", "a/../../secret.png", "/etc/passwd", "C:\\secret.png", "\\\\host\\share\\x.png", "..\\secret.png",
    "a\0.png", "", ".", "..", "link/secret.png", "~/x.png", "．．/secret.png",
]  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    inside = tmp_path / "input"
    inside.mkdir()
    (tmp_path / "secret.png").write_bytes(b"secret")
    (inside / "link").symlink_to(tmp_path)
    return inside


@pytest.mark.parametrize("name", OUTSIDE)
def test_reading_stays_in_the_folder(folder, name):
    with pytest.raises(ValueError):  # noqa: PT011
        find_file(name, folder)
    with pytest.raises(ValueError):  # noqa: PT011
        load_image(name, folder)


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/tmp/x", "C:\\x", "..\\x", "link/x", "a\0"])
def test_writing_stays_in_the_folder(folder, name):
    """Refused, or (where a backslash is a letter like any other) a place inside."""
    try:
        subfolder, stem = split_prefix(name, folder)
    except ValueError:
        return
    assert os.name != "nt" and "\\" in name
    assert (folder / subfolder / stem).resolve().is_relative_to(folder.resolve())


# ----------------------------------------------------------------------------------------- sizes


def png_with(kind: bytes, data: bytes) -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    return b"\x89PNG\r\n\x1a\n" + chunk(kind, data) + chunk(b"IEND", b"")


def test_a_bomb_in_a_png_text_is_refused_without_unpacking_it(tmp_path):
    import tracemalloc

    bomb = zlib.compress(b"0" * (8 * TEXT_LIMIT), 9)
    file = tmp_path / "bomb.png"
    file.write_bytes(png_with(b"zTXt", b"prompt\0\0" + bomb))
    tracemalloc.start()
    with pytest.raises(PngError, match="more than"):
        read_text_chunks(file)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * TEXT_LIMIT


def test_deep_and_large_workflows_are_refused(tmp_path):
    deep = tmp_path / "deep.json"
    deep.write_text("[" * 200_000)
    with pytest.raises(WorkflowError):
        load(deep)
    large = tmp_path / "large.json"
    with large.open("wb") as out:
        out.truncate(2**30)
    with pytest.raises(WorkflowError, match="too large"):
        load(large)


@pytest.mark.skipif(os.name == "nt", reason="POSIX devices")
def test_a_device_is_not_a_workflow():
    with pytest.raises(WorkflowError, match="no such file"):
        load("/dev/zero")


def test_the_promises_are_written_down():
    text = (PACK / "SECURITY.md").read_text(encoding="utf-8")
    for word in ("pickle", "network", "folder", "route", "Report"):
        assert word in text
