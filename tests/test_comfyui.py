"""`run --comfyui`: a ComfyUI that is started for a run and stopped with it, played by fake_installation.py."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("aiohttp.web", reason="needs aiohttp (extra 'queue')")

import test_headless_cli
from fake_comfy import OBJECT_INFO, graph
from fake_installation import installation, seen
from product import each
from test_headless_cli import call, graph_of
from test_killed import forked, kit

from sampling_kit.headless.comfyui import PACK, has_pack

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the fake's Python is a shell script")
work = test_headless_cli.work  # a fixture
NODES: dict[str, Any] = {"KSampler": OBJECT_INFO["Paint"]}
KSAMPLER = {"1": {"class_type": "KSampler", "inputs": {"seed": 3}, "_meta": {"title": "Sampler"}}}


@pytest.fixture
def comfyui(work: Path) -> Path:
    """Its folder; the workflow has a node that does not run here."""
    work.write_text(json.dumps(KSAMPLER))
    return installation(work.parent / "ComfyUI", NODES)


def is_alive(pid: int) -> bool:
    """Whether a process runs; a child of nobody that nobody has waited for does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def gone(folder: Path) -> bool:
    """Whether the ComfyUI ends within some seconds."""
    end = time.monotonic() + 10
    while is_alive(seen(folder)["pid"]) and time.monotonic() < end:
        time.sleep(0.02)
    return not is_alive(seen(folder)["pid"])


def test_a_workflow_runs_in_it_and_it_is_stopped(work, comfyui):
    (work.parent / "models" / "checkpoints").mkdir(parents=True)
    result = call("run", work, "--comfyui", comfyui, "--seeds", "4,5", "--device", "cpu", "--json")
    assert result.exit_code == 0, result.output
    runs = json.loads(result.stdout)["runs"]
    assert [one["seed"] for one in runs] == [4, 5]
    assert all(Path(file).is_file() for one in runs for file in one["files"])
    facts = seen(comfyui)
    assert facts["cwd"] == str(comfyui) and gone(comfyui)
    assert facts["options"]["listen"] == "127.0.0.1" and "cpu" in facts["options"]
    for name in ("output", "user", "temp"):
        private = Path(facts["options"][f"{name}-directory"])
        assert private.name == name or name == "temp"
        assert not private.exists() and comfyui not in private.parents
    assert facts["nodes"] == ["comfyui-sampling-kit", "stop_with_parent.py"]
    assert facts["extra"]["models"] == {"checkpoints": str(work.parent / "models" / "checkpoints")}


def test_the_editor_s_format_is_read_with_its_nodes(work, comfyui):
    node = {"id": 1, "type": "KSampler", "mode": 0, "inputs": [], "widgets_values": [8]}
    work.write_text(json.dumps({"nodes": [node], "links": []}))
    result = call("run", work, "--comfyui", comfyui, "--set", "1.seed=9")
    assert result.exit_code == 0 and "seed 9" in result.output, result.output
    result = call("run", work, "--comfyui", comfyui, "--set", "1.seeed=9")
    assert result.exit_code == 2 and "has no input 'seeed'" in result.stderr and gone(comfyui)


def test_a_pack_that_is_there_is_not_named_again(tmp_path):
    nodes = tmp_path / "custom_nodes"
    (nodes / "kit").mkdir(parents=True)
    (nodes / "kit" / "pyproject.toml").write_text('[project]\nname = "another-kit"\n')
    assert not has_pack(nodes) and not has_pack(tmp_path / "none")
    (nodes / "kit" / "pyproject.toml").write_text('[project]\nname = "comfyui-sampling-kit"\n')
    assert has_pack(nodes)
    (nodes / "kit").rename(nodes / "kit.disabled")
    assert not has_pack(nodes)
    (nodes / "link").symlink_to(PACK)
    assert has_pack(nodes)


def test_what_it_says_when_it_does_not_start_is_shown(work):
    broken = installation(work.parent / "broken", NODES, "sys.exit('no module named torch')")
    result = call("run", work, "--comfyui", broken)
    assert result.exit_code == 1 and "does not start" in result.stderr
    assert "no module named torch" in result.stderr


def test_without_an_accelerator_it_runs_on_the_cpu(work):
    words = "if 'cpu' not in options: sys.exit('Found no NVIDIA driver on your system')"
    work.write_text(json.dumps(KSAMPLER))
    folder = installation(work.parent / "without", NODES, words)
    result = call("run", work, "--comfyui", folder)
    assert result.exit_code == 0 and "starting it on the CPU" in result.stderr, result.output
    assert "cpu" in seen(folder)["options"]
    result = call("run", work, "--comfyui", folder, "--device", "cuda", "--output", "b")
    assert result.exit_code == 1 and "Found no NVIDIA driver" in result.stderr


DIES = """
import threading, time
async def die(self, request): os._exit(9)
Fake.prompt = die
"""


def test_one_that_ends_in_the_middle_ends_the_command(work):
    work.write_text(json.dumps(KSAMPLER))
    folder = installation(work.parent / "dies", NODES, DIES)
    result = call("run", work, "--comfyui", folder)
    assert result.exit_code == 1 and "has ended while it was needed" in result.stderr


READY = """
async def ready(self, request): (here.parent / "ready").write_text(""); await asyncio.sleep(99)
Fake.prompt = ready
"""


@each(
    number=[signal.SIGINT, signal.SIGTERM, signal.SIGKILL],
    when=["while it starts", "while it runs"],
)
def test_it_ends_with_the_command(work, number, when):
    work.write_text(json.dumps(KSAMPLER))
    early = "(here.parent / 'ready').write_text('')\nimport time; time.sleep(99)"
    folder = installation(work.parent / "c", NODES, READY if when == "while it runs" else early)
    end = forked(work.parent, kit("run", work, "--comfyui", folder), number)
    assert end.code == {signal.SIGINT: 130, signal.SIGTERM: 143}.get(number, -signal.SIGKILL), end
    assert gone(folder)
    private = Path(seen(folder)["options"]["user-directory"]).parent
    assert number == signal.SIGKILL or not private.exists()


def test_the_environment_names_one_for_graphs_that_need_it(work, comfyui, monkeypatch):
    monkeypatch.setenv("COMFYUI_PATH", str(comfyui))
    assert call("run", work).exit_code == 0 and gone(comfyui)
    (comfyui / "seen.json").unlink()
    work.write_text(json.dumps(graph_of()))
    assert call("run", work).exit_code == 0
    assert not (comfyui / "seen.json").exists(), "all of it runs here"
    work.write_text(json.dumps(graph(3) | KSAMPLER))
    monkeypatch.setenv("COMFYUI_PATH", str(work.parent))
    result = call("run", work)
    assert result.exit_code == 2 and "COMFYUI_PATH" in result.stderr


def test_what_does_not_fit_is_said(work, comfyui):
    result = call("run", work, "--comfyui", work.parent)
    assert result.exit_code == 2 and "no ComfyUI lies there" in result.stderr
    result = call("run", work, "--comfyui", comfyui, "--at-once", "2")
    assert result.exit_code == 2 and "--at-once" in result.stderr
    (comfyui / ".venv" / "bin" / "python").rename(work.parent / "python")
    result = call("run", work, "--comfyui", comfyui)
    assert result.exit_code == 2 and "--comfyui-python FILE" in result.stderr
    result = call("run", work, "--comfyui", comfyui, "--comfyui-python", work.parent / "python")
    assert result.exit_code == 0, result.output


def test_core_nodes_are_named_in_one_line_with_both_ways(work):
    others = {"2": "VAEDecode", "3": "CLIPTextEncode", "4": "Mine"}
    more = {k: {"class_type": name, "inputs": {}} for k, name in others.items()}
    work.write_text(json.dumps(KSAMPLER | more))
    result = call("run", work)
    assert result.exit_code == 2
    (line,) = [one for one in result.stderr.splitlines() if "KSampler" in one]
    for words in ("VAEDecode, CLIPTextEncode", "--comfyui FOLDER", "queue WORKFLOW --server URL"):
        assert words in line
    assert "custom node" not in line and "Did you mean" not in result.stderr
    assert "node 4" in result.stderr
