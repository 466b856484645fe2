"""The real web page: a chromium opens a ComfyUI that holds this pack, every example (examples.mjs), widget
(widgets.mjs) and subgraph blueprint (blueprints.mjs). Pictures of the widgets are kept in SAMPLING_KIT_SHOTS,
if that is set."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.error import URLError
from urllib.request import ProxyHandler, build_opener

import pytest

PACK = Path(__file__).resolve().parents[2]
TOOL = Path(__file__).with_name("examples.mjs")
PLAYWRIGHT = "import(process.argv[1]).then(m => m.playwright())"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
PATIENCE = 180  # seconds

pytestmark = pytest.mark.host
Node = Callable[..., str]


@pytest.fixture(scope="module")
def node() -> str:
    """A node that finds playwright-core and a browser, or the reason why not."""
    if (node := shutil.which("node")) is None:
        pytest.skip("no node: install Node.js 20 or later")
    page = TOOL.with_name("page.mjs").as_uri()
    if subprocess.run([node, "-e", PLAYWRIGHT, page], capture_output=True).returncode:
        pytest.skip("no playwright-core: npm install it and set PLAYWRIGHT_CORE to its folder")
    if not os.environ.get("CHROMIUM") and not any(map(shutil.which, BROWSERS)):
        pytest.skip("no chromium: install it, or set CHROMIUM to a browser's path")
    return node


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A ComfyUI of its own on a free loopback port, with nothing but this pack."""
    named = os.environ.get("COMFYUI_PATH")
    inside = [PACK.parent.parent] if PACK.parent.name == "custom_nodes" else []
    places = [Path(named).expanduser()] if named else [*inside, Path.home() / "comfy" / "ComfyUI"]
    root = next((place.resolve() for place in places if (place / "main.py").is_file()), None)
    if root is None:
        pytest.skip("no ComfyUI: set COMFYUI_PATH, or install one in ~/comfy/ComfyUI (comfy-cli)")
    own = (root / name / "bin" / "python" for name in (".venv", "venv"))
    python = next((str(path) for path in own if path.exists()), sys.executable)
    look = "import torch, aiohttp, comfyui_frontend_package"
    if subprocess.run([python, "-c", look], capture_output=True).returncode:
        pytest.skip(f"{python} does not have what ComfyUI needs")

    base = tmp_path_factory.mktemp("browser")
    (base / "custom_nodes").mkdir()
    (base / "custom_nodes" / "comfyui-sampling-kit").symlink_to(PACK)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = f"--cpu --listen 127.0.0.1 --port {port} --disable-auto-launch --disable-api-nodes"
    places_of = ["--base-directory", str(base), "--database-url", "sqlite:///:memory:"]
    log = base / "server.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [python, "main.py", *options.split(), *places_of],
            cwd=root, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=out, stderr=out,
        )  # fmt: skip
    address = f"http://127.0.0.1:{port}"
    try:
        opener, end = build_opener(ProxyHandler({})), time.monotonic() + PATIENCE
        while True:
            try:
                opener.open(f"{address}/system_stats", timeout=5).close()
                break
            except (URLError, OSError):
                if process.poll() is not None or time.monotonic() > end:
                    pytest.fail(f"ComfyUI did not start\n{log.read_text(errors='replace')[-3000:]}")
                time.sleep(0.2)
        yield address
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def examples(node: str, url: str) -> Node:
    """Runs examples.mjs, or the script named first, against the server and passes its report on."""

    def run(*arguments: str, script: str = TOOL.name) -> str:
        command = [node, str(TOOL.with_name(script)), "--url", url, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=3 * PATIENCE)
        report = done.stdout + done.stderr
        assert done.returncode == 0, report
        return report

    return run


def sampling_kit(*arguments: str) -> str:
    command = [sys.executable, "-m", "sampling_kit.headless.cli", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_example_opens_as_its_api_twin(examples: Node) -> None:
    """Same prompt, same titles, no overlap, no complaint; classic canvas and Nodes 2.0; templates."""
    report = examples()
    twins = list((PACK / "example_workflows" / "api").glob("*.json"))
    assert twins and report.count("\nok") + report.startswith("ok") == 2 * len(twins) + 1, report


def test_pictures_carry_their_graph_both_ways(examples: Node, tmp_path: Path) -> None:
    """Our runner's picture dropped on the page restores the graph; ComfyUI's own loads in our runner."""
    twin = PACK / "example_workflows" / "api" / "ddim-eta.json"
    sampling_kit("run", str(twin), "--output", str(tmp_path / "ours"))
    ours = next((tmp_path / "ours").rglob("*.png"))
    report = examples("ddim-eta", "--drop", f"ddim-eta={ours}", "--run", str(tmp_path))
    assert "dropped" in report
    theirs = tmp_path / "ddim-eta.png"
    assert "12 nodes" in sampling_kit("check", str(theirs))


@pytest.mark.parametrize("renderer", ["classic", "nodes2"])
def test_the_widgets_work(examples: Node, tmp_path: Path, renderer: str) -> None:
    """Drawn before a run, follow their inputs, drag, keyboard, undo, copy, reload, a traced run."""
    shots = os.environ.get("SAMPLING_KIT_SHOTS") or str(tmp_path)
    report = examples("--shots", shots, "--only", renderer, script="widgets.mjs")
    assert "FAIL" not in report and report.count("\nok") + report.startswith("ok") >= 10, report


def test_the_blueprints_are_one_node_and_open_into_their_parts(examples: Node) -> None:
    """Listed by the server, same prompt closed and unpacked, widgets of the closed node, no complaint."""
    report = examples(script="blueprints.mjs")
    count = len(list((PACK / "subgraphs").glob("*.json")))
    assert count and report.count("ok  ") == count and "FAIL" not in report, report
