"""The real web page: a chromium opens a ComfyUI that holds this pack, every example (examples.mjs), widget
(widgets.mjs, undo.mjs) and subgraph blueprint (blueprints.mjs). Pictures of the widgets are kept in
SAMPLING_KIT_SHOTS, if that is set. What a frontend's changes can break also runs in the frontends that
SAMPLING_KIT_FRONTENDS lists: folders, each of which holds an unpacked comfyui-frontend-package."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from host_server import PACK, PATIENCE, Comfy, free_port, linked, start
from needs import missing

TOOL = Path(__file__).with_name("examples.mjs")
PLAYWRIGHT = "import(process.argv[1]).then(m => m.playwright())"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
INSTALLED = "installed"
MORE_FRONTENDS = os.environ.get("SAMPLING_KIT_FRONTENDS", "").split(os.pathsep)
NO_FRONTEND = (
    "no newer frontend: pip install --no-deps --target FOLDER comfyui-frontend-package==1.58.1 (or pip"
    " download and unpack it there), then set SAMPLING_KIT_FRONTENDS=FOLDER"
)

pytestmark = pytest.mark.host
Node = Callable[..., str]
Renderers = tuple[tuple[str, ...], int]


@pytest.fixture(scope="module")
def node() -> str:
    """A node that finds playwright-core and a browser, or the reason why not."""
    if (node := shutil.which("node")) is None:
        missing("browser", "no node: install Node.js 20 or later")
    page = TOOL.with_name("page.mjs").as_uri()
    if subprocess.run([node, "-e", PLAYWRIGHT, page], capture_output=True).returncode:
        missing(
            "browser", "no playwright-core: npm install it and set PLAYWRIGHT_CORE to its folder"
        )
    if not os.environ.get("CHROMIUM") and not any(map(shutil.which, BROWSERS)):
        missing("browser", "no chromium: install it, or set CHROMIUM to a browser's path")
    return node


@pytest.fixture(scope="module")
def url(comfy: Comfy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A ComfyUI of its own on a free loopback port, with nothing but this pack."""
    running = start(comfy, linked(tmp_path_factory.mktemp("browser")), free_port())
    yield f"http://127.0.0.1:{running.port}"
    running.stop()


def static_files(folder: str) -> Path:
    """The web page of a frontend in ``folder``: what pip puts there, or the page itself."""
    places = [
        Path(folder, "comfyui_frontend_package", "static"),
        Path(folder, "static"),
        Path(folder),
    ]
    pages = [place.resolve() for place in places if (place / "index.html").is_file()]
    assert pages, f"SAMPLING_KIT_FRONTENDS: {folder} holds no frontend's index.html. {NO_FRONTEND}"
    return pages[0]


@pytest.fixture(scope="module", params=[INSTALLED, *MORE_FRONTENDS])
def frontend(request: pytest.FixtureRequest) -> list[str]:
    """ComfyUI's options for its own frontend, and for each that SAMPLING_KIT_FRONTENDS lists."""
    if request.param == INSTALLED:
        return []
    if not request.param:
        pytest.skip(NO_FRONTEND)
    return ["--front-end-root", str(static_files(request.param))]


@pytest.fixture(scope="module")
def url_of_frontend(
    request: pytest.FixtureRequest,
    comfy: Comfy,
    frontend: list[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[str]:
    """As ``url``, with ``frontend``."""
    if not frontend:
        yield request.getfixturevalue("url")
        return
    running = start(comfy, linked(tmp_path_factory.mktemp("frontend")), free_port(), *frontend)
    yield f"http://127.0.0.1:{running.port}"
    running.stop()


@pytest.fixture(scope="module")
def renderers(request: pytest.FixtureRequest) -> Renderers:
    """(options of a script, in how many renderers it then opens each file): one in turn, or with --full both."""
    return ((), 2) if request.config.getoption("full") else (("--turns",), 1)


@pytest.fixture(scope="module")
def examples(node: str, url: str) -> Node:
    """Runs examples.mjs, or the script named first, against the server and passes its report on."""
    return runner(node, url)


def runner(node: str, url: str) -> Node:
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


def test_every_example_opens_as_its_api_twin(examples: Node, renderers: Renderers) -> None:
    """Same prompt, same titles, no overlap, no complaint; classic canvas and Nodes 2.0; templates."""
    options, times = renderers
    report = examples(*options)
    twins = list((PACK / "example_workflows" / "api").glob("*.json"))
    assert twins and report.count("ok  ") == times * len(twins) + 1, report


def test_pictures_carry_their_graph_both_ways(examples: Node, tmp_path: Path) -> None:
    """Our runner's picture dropped on the page restores the graph; ComfyUI's own loads in our runner."""
    twin = PACK / "example_workflows" / "api" / "ddim-eta.json"
    sampling_kit("run", str(twin), "--output", str(tmp_path / "ours"))
    ours = next((tmp_path / "ours").rglob("*.png"))
    report = examples("ddim-eta", "--drop", f"ddim-eta={ours}", "--run", str(tmp_path))
    assert "dropped" in report
    theirs = tmp_path / "ddim-eta.png"
    assert "12 nodes" in sampling_kit("check", str(theirs))


@pytest.mark.parametrize("renderer", ["classic", pytest.param("nodes2", marks=pytest.mark.full)])
def test_the_widgets_work(examples: Node, tmp_path: Path, renderer: str) -> None:
    """Drawn before a run, follow their inputs, drag, keyboard, undo, copy, reload, a traced run."""
    shots = os.environ.get("SAMPLING_KIT_SHOTS") or str(tmp_path)
    report = examples("--shots", shots, "--only", renderer, script="widgets.mjs")
    assert "FAIL" not in report and report.count("\nok") + report.startswith("ok") >= 10, report


def test_results_are_shown_on_their_nodes(examples: Node, tmp_path: Path) -> None:
    """Room before a run, tables and pictures after it, copied, kept, checked; both renderers."""
    shots = os.environ.get("SAMPLING_KIT_SHOTS") or str(tmp_path)
    report = examples("--shots", shots, script="results.mjs")
    assert "FAIL" not in report and report.count("ok  ") == 6, report


@pytest.mark.parametrize("renderer", [pytest.param("classic", marks=pytest.mark.full), "nodes2"])
def test_the_panels_obey_after_undo(
    node: str, url_of_frontend: str, tmp_path: Path, renderer: str
) -> None:
    """A curve dragged after undo is queued; copies, tabs, a subgraph and a trace; no panel is left over."""
    shots = os.environ.get("SAMPLING_KIT_SHOTS") or str(tmp_path)
    report = runner(node, url_of_frontend)("--shots", shots, "--only", renderer, script="undo.mjs")
    assert "FAIL" not in report and report.count("ok  ") == 7, report


def test_ksampler_becomes_sample_and_sample_comes_apart(
    node: str, url_of_frontend: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """By the menu: links and values kept, the same picture, one step of undo, what has no counterpart said."""
    shots = os.environ.get("SAMPLING_KIT_SHOTS") or str(tmp_path)
    both = request.config.getoption("full")
    only = () if both else ("--only", "nodes2")
    report = runner(node, url_of_frontend)("--shots", shots, *only, script="convert.mjs")
    assert "FAIL" not in report and report.count("ok  ") == (10 if both else 5), report


def test_settings_of_a1111_go_into_sample(examples: Node, tmp_path: Path) -> None:
    """By the menu and by a dropped PNG, in both renderers; one step of undo."""
    shots = os.environ.get("SAMPLING_KIT_SHOTS") or str(tmp_path)
    report = examples("--shots", shots, script="infotext.mjs")
    assert "FAIL" not in report and report.count("ok  ") == 4, report


def test_the_blueprints_run_and_open_into_their_parts(
    node: str, url_of_frontend: str, renderers: Renderers
) -> None:
    """Found by the page's search, the values of their parts, a picture, the same prompt closed and unpacked."""
    options, times = renderers
    report = runner(node, url_of_frontend)(*options, script="blueprints.mjs")
    count = len(list((PACK / "subgraphs").glob("*.json")))
    assert count and report.count("ok  ") == times * count and "FAIL" not in report, report


@pytest.mark.full
def test_nothing_is_cut_on_a_new_node(examples: Node) -> None:
    """Titles, labels and first values of every node, at the width at which it is added; both renderers."""
    report = examples(script="widths.mjs")
    assert "FAIL" not in report and report.count("ok  ") == 2, report


@pytest.mark.full
def test_from_an_empty_canvas_to_a_picture(
    node: str, comfy: Comfy, frontend: list[str], tmp_path: Path
) -> None:
    """Search, wire to a random SD 1.5 checkpoint, run: at most 2 acts more than with KSampler; both renderers."""
    base = linked(tmp_path / "base")
    maker = PACK / "tests" / "host" / "random_checkpoints.py"
    command = [comfy.python, str(maker), str(base / "models"), "sd15-narrow"]
    made = subprocess.run(command, capture_output=True, timeout=3 * PATIENCE, **comfy.setting)
    assert made.returncode == 0, made.stderr.decode()[-4000:]
    running = start(comfy, base, free_port(), *frontend)
    try:
        shots = os.environ.get("SAMPLING_KIT_SHOTS") or str(tmp_path)
        url = f"http://127.0.0.1:{running.port}"
        report = runner(node, url)("--shots", shots, script="path.mjs")
    finally:
        running.stop()
        shutil.rmtree(base / "models")
    assert "FAIL" not in report and report.count("ok  ") == 2, report
    assert report.count("acts: KSampler") == 2, report
