"""The real web page: a chromium opens a ComfyUI that holds this pack, every example (examples.mjs), widget
(widgets.mjs) and subgraph blueprint (blueprints.mjs). Pictures of the widgets are kept in SAMPLING_KIT_SHOTS,
if that is set."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from host_server import PACK, PATIENCE, Comfy, free_port, linked, start

TOOL = Path(__file__).with_name("examples.mjs")
PLAYWRIGHT = "import(process.argv[1]).then(m => m.playwright())"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")

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
def url(comfy: Comfy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A ComfyUI of its own on a free loopback port, with nothing but this pack."""
    running = start(comfy, linked(tmp_path_factory.mktemp("browser")), free_port())
    yield f"http://127.0.0.1:{running.port}"
    running.stop()


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


@pytest.mark.parametrize("renderer", ["classic", "nodes2"])
def test_the_blueprints_run_and_open_into_their_parts(examples: Node, renderer: str) -> None:
    """Found by the page's search, the values of their parts, a picture, the same prompt closed and unpacked."""
    report = examples("--only", renderer, script="blueprints.mjs")
    count = len(list((PACK / "subgraphs").glob("*.json")))
    assert count and report.count("ok  ") == count and "FAIL" not in report, report
