"""A ComfyUI that a person names, started for one command and stopped with it. No other file of the pack starts a program.

It listens on loopback, at a free port; what it writes, and pictures that are sent to it, go to a folder of its own that is
deleted; its models, its custom nodes and its input folder are read as they are. The arguments are fixed, no shell is involved, and nothing that a
workflow says is among them. Needs aiohttp (the extra ``queue``).
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from .json_values import sequence
from .queue.faults import Lost, Refuses, Strange
from .queue.http import Server
from .workflow import NodeFailure, WorkflowError

PACK = Path(__file__).resolve().parent.parent
PACK_NAME = "comfyui-sampling-kit"
#: Where an installation has its Python, from its folder.
PYTHONS = (
    ".venv/bin/python", "venv/bin/python", ".venv/Scripts/python.exe", "venv/Scripts/python.exe",
    "../python_embeded/python.exe",
)  # fmt: skip
START_SECONDS = 900.0  # custom nodes may take minutes
STOP_SECONDS = 10.0
LOOK = 0.25  # seconds between two looks at a ComfyUI that starts, or runs
LOG_LINES = 12  # of its log, in an error
#: What torch says on a machine without an accelerator, where ComfyUI wants --cpu.
NO_DEVICE = "Found no NVIDIA driver", "not compiled with CUDA", "No CUDA GPUs are available"
WATCH, NODES, EXTRA, LOG = "stop_with_parent.py", "custom_nodes", "extra.yaml", "log"
PREFIX = "sampling-kit-comfyui-"  # of its private folder
NOT_COPIED = "tests", "benchmarks", "node_modules", "__pycache__", ".*"
WINDOWS = os.name == "nt"
NEW_GROUP = 0x200  # of Windows' processes: Ctrl-C is ours alone
Result = TypeVar("Result")


class ComfyFails(NodeFailure):
    """ComfyUI did not start, or ended while it was needed."""


@dataclass(frozen=True)
class Installation:
    """A ComfyUI's folder and the Python that runs it."""

    root: Path
    python: Path


def installation(
    folder: Path, python: Path | None = None, named: str = "--comfyui"
) -> Installation:
    """The ComfyUI in ``folder``. Raises WorkflowError where there is none, or no Python for it; ``named``: how it was named."""
    root = Path(os.path.abspath(folder.expanduser()))
    if not (root / "main.py").is_file() or not (root / "nodes.py").is_file():
        raise WorkflowError(f"{named} {folder}: no ComfyUI lies there (main.py and nodes.py)")
    every = [python] if python else [root / name for name in PYTHONS]
    there = next((one for one in every if one.is_file()), None)
    if there is None:
        place = python or f"{root}/.venv or venv"
        raise WorkflowError(f"no Python for ComfyUI: {place}. Name it with --comfyui-python FILE")
    return Installation(root, Path(os.path.abspath(there)))  # a link to Python is what makes a venv


@dataclass(frozen=True)
class Running:
    """A ComfyUI that answers at ``address``; ``private`` holds what it writes."""

    address: str
    process: subprocess.Popen[bytes]
    private: Path

    def ended(self) -> bool:
        return self.process.poll() is not None

    def failure(self, what: str) -> ComfyFails:
        """An error with the end of its log."""
        lines = [line for line in self.log().splitlines() if line.strip()][-LOG_LINES:]
        return ComfyFails("\n".join([f"{what}. Its log ends:", *lines] if lines else [what]))

    def log(self) -> str:
        return (self.private / LOG).read_text(encoding="utf-8", errors="replace")


@contextmanager
def serving(
    place: Installation,
    models: Path | None = None,
    device: str = "auto",
    deterministic: bool = False,
    note: Callable[[str], None] = lambda text: None,
) -> Iterator[Running]:
    """A ComfyUI inside the with block. ``models``: a folder whose subfolders are added to its own.

    Raises ComfyFails where it does not start, within START_SECONDS. ``device`` "auto" falls back to the CPU.
    """
    switches = ["--deterministic"] if deterministic else []
    with tempfile.TemporaryDirectory(prefix=PREFIX, ignore_cleanup_errors=True) as scratch:
        _lay_out(Path(scratch), place, models)
        note(f"starting ComfyUI in {place.root}")
        devices = [["--cpu"]] if device == "cpu" else [[], ["--cpu"]] if device == "auto" else [[]]
        for last, cpu in zip([*[False] * (len(devices) - 1), True], devices, strict=True):
            running = _start(place, Path(scratch), [*cpu, *switches])
            try:
                if asyncio.run(_answers(running)):
                    yield running
                    return
                if last or not any(words in running.log() for words in NO_DEVICE):
                    raise running.failure(f"ComfyUI in {place.root} does not start")
                note("no accelerator: starting it on the CPU")
            finally:
                _stop(running.process)


async def unless_it_ends(running: Running, work: asyncio.Future[Result]) -> Result:
    """The result of ``work``. Raises ComfyFails as soon as the process has ended before."""
    while not work.done():
        await asyncio.wait({work}, timeout=LOOK)
        if not work.done() and running.ended():
            work.cancel()
            await asyncio.wait({work})
            raise running.failure("ComfyUI has ended while it was needed")
    return work.result()


# ------------------------------------------------------------------------------------ what it finds


def _lay_out(scratch: Path, place: Installation, models: Path | None) -> None:
    """The folders that it writes to, and the file that names our pack and ``models`` to it."""
    for name in ("output", "user", NODES):
        (scratch / name).mkdir()
    shutil.copyfile(PACK / "headless" / WATCH, scratch / NODES / WATCH)
    if not has_pack(place.root / NODES):
        _link_pack(scratch / NODES / PACK_NAME)
    extra = {"sampling_kit": {NODES: str(scratch / NODES)}}
    if models is not None and models.is_dir():
        kinds = [one for one in sorted(models.iterdir()) if one.is_dir() and one.name != NODES]
        extra["models"] = {one.name: str(one.resolve()) for one in kinds}
    (scratch / EXTRA).write_text(json.dumps(extra), encoding="utf-8")  # JSON is YAML


def has_pack(custom_nodes: Path) -> bool:
    """Whether an installation has this pack among its custom nodes, perhaps in another version."""
    places = custom_nodes.iterdir() if custom_nodes.is_dir() else iter(())
    return any(_is_pack(one) for one in places if one.suffix != ".disabled")


def _is_pack(place: Path) -> bool:
    with suppress(OSError, UnicodeDecodeError):
        if place.resolve() == PACK:
            return True
        text = (place / "pyproject.toml").read_text(encoding="utf-8")
        return f'name = "{PACK_NAME}"' in text.splitlines()
    return False


def _link_pack(scratch: Path) -> None:
    try:
        scratch.symlink_to(PACK, target_is_directory=True)
    except OSError:  # Windows without the right to make links
        shutil.copytree(PACK, scratch, ignore=shutil.ignore_patterns(*NOT_COPIED))


# ----------------------------------------------------------------------------------- start and stop


def _start(place: Installation, scratch: Path, switches: list[str]) -> Running:
    port = _free_port()
    folders = [f"--{name}-directory={scratch / name}" for name in ("output", "user")]
    command = [
        str(place.python), "main.py", "--listen=127.0.0.1", f"--port={port}", "--disable-auto-launch",
        *folders, f"--temp-directory={scratch}", "--database-url=sqlite:///:memory:",
        f"--extra-model-paths-config={scratch / EXTRA}", *switches,
    ]  # fmt: skip
    with (scratch / LOG).open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=place.root,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            creationflags=NEW_GROUP if WINDOWS else 0,
            start_new_session=not WINDOWS,
        )
    return Running(f"http://127.0.0.1:{port}", process, scratch)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


async def _answers(running: Running) -> bool:
    """Wait until it answers; False if it ends before, or takes START_SECONDS."""
    until = time.monotonic() + START_SECONDS
    async with Server(running.address) as server:
        while time.monotonic() < until and not running.ended():
            with suppress(Lost, Strange, Refuses):  # another program may have taken the port
                facts = await server.json("GET", "/system_stats")
                if f"--temp-directory={running.private}" in sequence(facts["system"].get("argv")):
                    return True
            await asyncio.sleep(LOOK)
    return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End it and what it started: asked first, then killed."""
    try:
        _signal(process, hard=False)
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        pass
    finally:
        _signal(process, hard=True)
        if process.stdin is not None:
            process.stdin.close()
        process.wait()


def _signal(process: subprocess.Popen[bytes], hard: bool) -> None:
    with suppress(OSError):  # nobody is left
        if not WINDOWS:
            os.killpg(process.pid, signal.SIGKILL if hard else signal.SIGTERM)
        elif process.poll() is None:
            process.kill()
