"""A real ComfyUI: found, started on a free loopback port with nothing but this pack, and spoken to."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import ProxyHandler, Request, build_opener

import numpy as np
from PIL import Image

PACK = Path(__file__).resolve().parents[1]
NEEDED = ("torch", "aiohttp", "safetensors", "comfyui_frontend_package", "matplotlib")
PATIENCE = 180  # seconds for a start or an answer, on a slow and busy machine


@dataclass(frozen=True)
class Comfy:
    """An installation: its folder and a Python that can run it."""

    root: Path
    python: str

    @property
    def setting(self) -> dict[str, Any]:
        """For subprocess: its folder, and one thread, since the tensors are tiny."""
        return dict(cwd=self.root, env=os.environ | {"OMP_NUM_THREADS": "1"})


def find_root() -> Path | None:
    """COMFYUI_PATH, the ComfyUI whose custom_nodes we lie in, or comfy-cli's default workspace."""
    named = os.environ.get("COMFYUI_PATH")
    inside = [PACK.parent.parent] if PACK.parent.name == "custom_nodes" else []
    places = [Path(named).expanduser()] if named else [*inside, Path.home() / "comfy" / "ComfyUI"]
    return next((place.resolve() for place in places if (place / "main.py").is_file()), None)


def find_python(root: Path) -> str | None:
    """The installation's own Python, or this one, if it has what ComfyUI imports."""
    look = f"import importlib.util as u, sys; sys.exit(not all(map(u.find_spec, {NEEDED!r})))"
    own = [str(root / name / "bin" / "python") for name in (".venv", "venv")]
    candidates = [python for python in own if Path(python).exists()] + [sys.executable]
    return next((p for p in candidates if subprocess.run([p, "-c", look]).returncode == 0), None)


@dataclass(frozen=True)
class Server:
    """A running ComfyUI and its few routes that the tests need."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path

    def request(self, path: str, data: Any = None) -> bytes:
        """GET, or POST with JSON ``data``; the answer, an error's too. AssertionError if there is none."""
        body = None if data is None else json.dumps(data).encode()
        request = Request(
            f"http://127.0.0.1:{self.port}{path}", body, {"Content-Type": "application/json"}
        )
        try:
            with build_opener(ProxyHandler({})).open(request, timeout=PATIENCE) as answer:
                return answer.read()
        except HTTPError as error:
            return error.read()
        except OSError as error:
            raise AssertionError(f"{path}: {error}\n{self.tail()}") from None

    def get(self, path: str) -> Any:
        return json.loads(self.request(path))

    def post(self, prompt: dict[str, Any], client: str = "") -> dict[str, Any]:
        """What POST /prompt says about an API-format prompt: its id, or why it does not validate."""
        return json.loads(self.request("/prompt", {"prompt": prompt, "client_id": client}))

    def queue(self, prompt: dict[str, Any], client: str = "") -> str:
        """Queue a prompt that must validate; returns its id."""
        answer = self.post(prompt, client)
        assert "error" not in answer and not answer["node_errors"], json.dumps(answer, indent=1)
        return answer["prompt_id"]

    def wait(self, key: str, patience: float = PATIENCE) -> dict[str, Any]:
        """The history entry of a queued prompt, once it has ended. Patience begins anew with each prompt before it."""
        end, before = time.monotonic() + patience, -1
        while time.monotonic() < end:
            if key in (history := self.get(f"/history/{key}")):
                return history[key]
            left = self.get("/prompt")["exec_info"]["queue_remaining"]
            if left != before:
                end, before = time.monotonic() + patience, left
            time.sleep(0.05)
        raise AssertionError(f"nothing ended in {patience} s, nor did {key}\n{self.tail()}")

    def images(self, key: str) -> dict[str, list[np.ndarray]]:
        """{node id: its images as int arrays [H, W, 3]} of a prompt that must succeed."""
        entry = self.wait(key)
        assert entry["status"]["status_str"] == "success", json.dumps(entry["status"], indent=1)
        outputs = entry["outputs"].items()
        return {
            node: [self.image(i) for i in ui["images"]] for node, ui in outputs if "images" in ui
        }

    def image(self, entry: dict[str, str]) -> np.ndarray:
        return self.pixels(io.BytesIO(self.request("/view?" + urlencode(entry))))

    @staticmethod
    def pixels(file: Any) -> np.ndarray:
        """An image file as an int array [H, W, 3]."""
        with Image.open(file) as image:
            return np.asarray(image.convert("RGB")).astype(int)

    def error(self, prompt: dict[str, Any]) -> dict[str, Any]:
        """What ``execution_error`` says about a prompt that must fail while it runs."""
        messages = dict(self.wait(self.queue(prompt))["status"]["messages"])
        assert "execution_error" in messages, messages
        return messages["execution_error"]

    def listen(self) -> tuple[Any, str]:
        """An open websocket and its client id."""
        import pytest

        websocket = pytest.importorskip("websocket", reason="needs websocket-client (extra 'test')")
        client = uuid.uuid4().hex
        address = f"ws://127.0.0.1:{self.port}/ws?clientId={client}"
        return websocket.create_connection(
            address, timeout=PATIENCE, http_no_proxy=["127.0.0.1"]
        ), client

    def stop(self) -> None:
        """Kill it, as a crash would."""
        self.process.kill()
        self.process.wait()

    def tail(self, lines: int = 40) -> str:
        text = self.log.read_text(errors="replace").splitlines()[-lines:]
        return "\n".join(["ComfyUI's log ends:", *text])


def linked(folder: Path) -> Path:
    """A private --base-directory in ``folder`` whose custom_nodes holds a link to this pack."""
    (folder / "custom_nodes").mkdir(parents=True)
    (folder / "custom_nodes" / "comfyui-sampling-kit").symlink_to(PACK)
    return folder


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


def start(comfy: Comfy, base: Path, port: int, *more: str) -> Server:
    """A ComfyUI on ``port``, ready to answer; ``more`` are further options of its command line."""
    options = (
        f"main.py --cpu --listen 127.0.0.1 --port {port} --disable-auto-launch --disable-api-nodes"
    )
    places = ["--base-directory", str(base), "--database-url", "sqlite:///:memory:"]
    log = base / "server.log"
    command = [comfy.python, *options.split(), *places, *more]
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, **comfy.setting)
    running = Server(process, port, log)
    try:
        wait_for_start(running)
    except BaseException:
        running.stop()
        raise
    return running


def wait_for_start(server: Server) -> None:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and server.process.poll() is None:
        try:
            server.get("/system_stats")
            return
        except AssertionError:
            time.sleep(0.2)
    raise AssertionError(f"ComfyUI did not start\n{server.tail()}")
