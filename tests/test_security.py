"""What SECURITY.md promises, as far as the source can show it."""

from __future__ import annotations

import ast
import json
import os
import struct
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sampling_kit.headless.graph import MOST_ERRORS, check
from sampling_kit.headless.load_image import load_image
from sampling_kit.headless.png_text import TEXT_LIMIT, PngError, read_text_chunks
from sampling_kit.headless.registry import registry
from sampling_kit.headless.workflow import WorkflowError, load
from sampling_kit.nodes.ui.file_names import find_file, split_prefix
from sampling_kit.schedulers.strict_json import parse_json

PACK = Path(__file__).resolve().parents[1]
PARTS = "nodes", "schedulers", "doors", "v2", "headless", "embedded", "dev"
SOURCES = sorted(
    [PACK / "__init__.py", PACK / "api.py", *(f for p in PARTS for f in (PACK / p).rglob("*.py"))]
)

#: Modules that run foreign bytes, start programs or speak to a network.
FORBIDDEN = {
    "pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal", "joblib", "runpy", "code", "codeop",
    "subprocess", "pty", "ctypes", "socket", "ssl", "http", "urllib.request", "ftplib", "smtplib", "telnetlib",
    "xmlrpc", "socketserver", "requests", "httpx", "aiohttp", "websocket", "websockets", "huggingface_hub",
}  # fmt: skip
#: The command whose purpose is another machine, the one that starts a ComfyUI, and the answers of the host's own server.
ALLOWED = {
    "headless/comfyui.py": {"subprocess", "socket"},
    "headless/queue/http.py": {"aiohttp"},
    "headless/queue/websocket.py": {"aiohttp"},
    "nodes/host/comfy/route.py": {"aiohttp"},
}
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


def test_the_one_program_that_is_started_has_fixed_arguments(monkeypatch, tmp_path):
    """A Python and main.py of the folder that a person names; what the command line says of a workflow is not among them."""
    from sampling_kit.headless import comfyui

    tree = ast.parse((PACK / "headless" / "comfyui.py").read_text(encoding="utf-8"))
    calls = [ast.unparse(n.func) for n in ast.walk(tree) if isinstance(n, ast.Call)]
    assert [name for name in calls if name.startswith(("subprocess.", "os.exec", "os.spawn"))] == [
        "subprocess.Popen"
    ]
    started: list[list[str]] = []
    monkeypatch.setattr(comfyui.subprocess, "Popen", lambda command, **_: started.append(command))
    place = comfyui.Installation(tmp_path, tmp_path / "python")
    comfyui._start(place, tmp_path, ["--cpu"])
    python, script, *options = started[0]
    assert (python, script) == (str(tmp_path / "python"), "main.py")
    assert {option.partition("=")[0] for option in options} == {
        "--listen", "--port", "--disable-auto-launch", "--output-directory", "--user-directory", "--temp-directory",
        "--database-url", "--extra-model-paths-config", "--cpu",
    } and "--listen=127.0.0.1" in options  # fmt: skip


# --------------------------------------------------------------------------------------- folders

LEADING_OUT = [
    "../secret.png", "a/../../secret.png", "/etc/passwd", "//host/share/x.png", "link/secret.png", "a\0.png",
    "C:\\secret.png", "c:/secret.png", "C:secret.png", "\\secret.png", "\\\\host\\share\\x.png", "\\\\?\\C:\\x.png",
    "\\\\.\\NUL", "..\\secret.png", "a\\..\\..\\secret.png", "a/..\\../secret.png",
]  # fmt: skip
#: Not outside, but no file either: devices of Windows, what it drops at the end of a name, letters that look like others.
NOWHERE = ["", ".", "..", "~/x.png", "NUL", "con.png", "secret.png.", "secret.png ", "．．/secret.png", "․․/secret.png", "‥/secret.png", "..／secret.png", "\ud800.png", "x" * 5000, "a/" * 3000]  # fmt: skip


WORDS = r"outside of|there is no|cannot read|surrogates not allowed"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    inside = tmp_path / "input"
    inside.mkdir()
    (tmp_path / "secret.png").write_bytes(b"secret")
    (inside / "link").symlink_to(tmp_path)
    return inside


@pytest.mark.parametrize("name", LEADING_OUT + NOWHERE)
def test_reading_stays_in_the_folder(folder, name):
    with pytest.raises(ValueError, match=WORDS):
        find_file(name, folder)
    with pytest.raises(ValueError, match=WORDS):
        load_image(name, folder)


@pytest.mark.parametrize("name", [*LEADING_OUT, "\ud800.png", "a\nb"])
def test_writing_stays_in_the_folder(folder, name):
    with pytest.raises(ValueError, match="does not name a file inside"):
        split_prefix(name, folder)


@pytest.mark.parametrize(
    "name", [n for n in NOWHERE if n not in ("", ".", "..", "\ud800.png", "x" * 5000, "a/" * 3000)]
)
def test_odd_names_to_write_lie_inside(folder, name):
    subfolder, stem = split_prefix(name, folder)
    assert (folder / subfolder / stem).resolve().is_relative_to(folder.resolve())


def test_a_link_to_elsewhere_is_followed_before_it_is_judged(folder, tmp_path):
    (folder / "picture.png").symlink_to(tmp_path / "secret.png")
    (folder / "loop").symlink_to(folder / "loop")
    (folder / "fine.png").write_bytes(b"x")
    (folder / "again.png").symlink_to(folder / "fine.png")
    for name in ("picture.png", "loop", "loop/x.png"):
        with pytest.raises(ValueError, match=WORDS):
            find_file(name, folder)
    assert find_file("again.png", folder).read_bytes() == b"x"


# ----------------------------------------------------------------------------------------- sizes


def png_with(kind: bytes, data: bytes) -> bytes:
    def part(name: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    return b"\x89PNG\r\n\x1a\n" + part(kind, data) + part(b"IEND", b"")


def test_a_bomb_in_a_png_text_is_refused_without_unpacking_it(tmp_path):
    bomb = zlib.compress(b"0" * (8 * TEXT_LIMIT), 9)
    file = tmp_path / "bomb.png"
    file.write_bytes(png_with(b"zTXt", b"prompt\0\0" + bomb))

    def read() -> None:
        with pytest.raises(PngError, match="more than"):
            read_text_chunks(file)

    assert peak_of(read) < 3 * TEXT_LIMIT


def peak_of(act: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        act()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def chunk(kind: bytes, data: bytes) -> bytes:
    return png_with(kind, data)[8:-12]


@pytest.mark.parametrize("kind", [b"tEXt", b"zTXt", b"iTXt"])
def test_many_texts_are_as_bounded_as_one(tmp_path, kind):
    """Sixty texts of a megabyte, under names of their own: refused after the 32nd."""
    body = b"0" * 2**20
    if kind != b"tEXt":
        body = (b"\0" if kind == b"zTXt" else b"\1\0\0\0") + zlib.compress(body)
    texts = b"".join(chunk(kind, b"name %d\0" % i + body) for i in range(60))
    file = tmp_path / "many.png"
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + texts + chunk(b"IEND", b""))

    def read() -> None:
        with pytest.raises(PngError, match="more than"):
            read_text_chunks(file)

    assert peak_of(read) < 3 * TEXT_LIMIT


@pytest.mark.parametrize(
    ("kind", "data", "words"),
    [
        (b"tEXt", b"k" * 2**16, "keyword"),
        (b"iTXt", b"prompt\0\0\0" + b"l" * (2 * 2**20) + b"\0\0x", None),
        (b"zTXt", b"prompt\0\0" + zlib.compress(b"0" * 99)[:-3], "cut short"),
        (b"zTXt", b"prompt\0\0nothing", "damaged"),
        (b"\0\0\0\0", b"", "damaged"),
    ],
)
def test_odd_texts(tmp_path, kind, data, words):
    file = tmp_path / "odd.png"
    file.write_bytes(png_with(kind, data))
    if words is None:
        assert read_text_chunks(file) == {"prompt": "x"}
        return
    with pytest.raises(PngError, match=words):
        read_text_chunks(file)


def test_texts_count_as_they_lie_in_the_file_too(tmp_path):
    """Forty megabytes of language names around empty texts."""
    text = chunk(b"iTXt", b"k\0\0\0" + b"l" * 2**22 + b"\0\0")
    file = tmp_path / "odd.png"
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + 10 * text + chunk(b"IEND", b""))
    with pytest.raises(PngError, match="more than"):
        read_text_chunks(file)


def test_a_hole_of_a_terabyte_is_no_png(tmp_path):
    file = tmp_path / "hole.png"
    with file.open("wb") as out:
        out.write(b"\x89PNG\r\n\x1a\n")
        out.truncate(2**40)
    start = time.process_time()
    with pytest.raises(PngError, match="damaged"):
        read_text_chunks(file)
    assert time.process_time() - start < 1


@pytest.mark.filterwarnings("ignore:Image size")
def test_frames_that_would_fill_the_memory_are_not_read():
    """278 bytes of PNG that ask for three frames of 12000×12000."""
    bombs = PACK / "tests" / "fuzz_seeds" / "png"
    with pytest.raises(ValueError, match="pixels in all frames"):
        load_image("frames.png", bombs)


def test_a_workflow_full_of_mistakes_is_soon_judged(tmp_path):
    file = tmp_path / "w.json"
    wrong = {"class_type": "SaveImage", "inputs": {"images": ["x", 0]}}
    for nodes in (
        {str(i): wrong for i in range(5000)},
        {str(i): {"class_type": f"N{i}", "inputs": {}} for i in range(5000)},
        {"1": {"class_type": "n" * 10**6, "inputs": {}}},
    ):
        file.write_text(json.dumps(nodes))
        loaded = load(file)
        start = time.process_time()
        found = check(loaded, registry())
        assert 1 <= len(found) <= MOST_ERRORS and time.process_time() - start < 2


@pytest.mark.parametrize(
    "text",
    ["NaN", "[1, -Infinity]", "1e999", "-1e999", "9" * 400, "9" * 5000, "[" * 101 + "]" * 101, "[" * 10**5, '{"a":' * 2000 + "1" + "}" * 2000, "", "\ud800"],
    ids=range(11),
)  # fmt: skip
def test_json_is_finite_and_flat(text):
    with pytest.raises(ValueError, match=r"not a JSON number|nested too deeply|Expecting value"):
        parse_json(text)


def test_json_that_is_fine():
    assert parse_json('{"a": [1, 2.5, 1e300, 18446744073709551615, null]}')["a"][3] == 2**64 - 1
    assert parse_json("[" * 100 + "]" * 100)
    assert parse_json("[NaN, 1e999, 1]", lambda text: None) == [None, None, 1]


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
