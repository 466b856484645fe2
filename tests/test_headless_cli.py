"""The `sampling-kit` command on fake nodes: options, output, exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

from sampling_kit.headless import cli, graph, registry
from sampling_kit.headless.bars import node_bars
from sampling_kit.headless.cli import options
from sampling_kit.headless.load_image import load_image
from sampling_kit.headless.save import run_metadata, save_images
from sampling_kit.nodes.host.alone import io

SET_DEVICE = options.set_device  # the fixture replaces it


class Paint(io.ComfyNode):
    """A grey image whose brightness is the seed."""

    @classmethod
    def define_schema(cls):
        kind = io.DynamicCombo.Option("rough", [io.Float.Input("grain")])
        return io.Schema(
            "Paint",
            "Paint",
            inputs=[
                io.Int.Input("noise_seed", default=0, min=0, max=255),
                io.Int.Input("extra", optional=True, control_after_generate=True),
                io.Int.Input("steps", default=2, min=1),
                io.String.Input("label", optional=True),
                io.DynamicCombo.Input("kind", options=[io.DynamicCombo.Option("flat", []), kind]),
            ],
            outputs=[io.Image.Output()],
        )

    @classmethod
    def execute(cls, noise_seed, steps, kind, extra=None, label=""):
        if label == "stop":
            raise KeyboardInterrupt
        if label == "break":
            raise ValueError("the paint is dry")
        for step in range(steps):
            graph.current().report(step + 1, steps)
        return io.NodeOutput(torch.full((1, 2, 2, 3), noise_seed / 255))


class Save(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        inputs = [io.Image.Input("images"), io.String.Input("filename_prefix", default="a")]
        return io.Schema("Save", "Save Image", inputs=inputs, is_output_node=True)

    @classmethod
    def execute(cls, images, filename_prefix):
        here = graph.current()
        saved = save_images(images, filename_prefix, here.output, run_metadata(here))
        return io.NodeOutput(ui={"images": saved, "value": [float("nan"), images.mean().item()]})


REGISTRY = {"Paint": Paint, "Save": Save}


def graph_of(**more: Any) -> dict[str, Any]:
    paint = {"noise_seed": 3, "steps": 2, "kind": "flat", **more}
    return {
        "1": {"class_type": "Paint", "inputs": paint, "_meta": {"title": "My paint v1.5"}},
        "2": {"class_type": "Save", "inputs": {"images": ["1", 0], "filename_prefix": "p"}},
    }


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workflow file in an empty folder, which becomes the working directory."""
    monkeypatch.setattr(registry, "registry", lambda: REGISTRY)
    monkeypatch.setattr(options, "set_device", lambda name: name)
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "w.json"
    path.write_text(json.dumps(graph_of()))
    return path


def call(*arguments: Any) -> Result:
    return CliRunner().invoke(cli.main, [str(argument) for argument in arguments])


def saved_inputs(path: str) -> dict[str, Any]:
    return graph.load(path).prompt["1"]["inputs"]


def test_run_prints_the_files_it_saved(work: Path):
    result = call("run", work)
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{work.parent / 'output' / 'p_00001_.png'}\n"
    assert result.stderr == ""
    assert graph.load(result.stdout.strip()).prompt == graph_of()


def test_a_saved_png_runs_again(work: Path):
    path = call("run", work, "--seed", 7).stdout.strip()
    again = call("run", path, "--output", "again").stdout.strip()
    assert saved_inputs(again)["noise_seed"] == 7
    first, second = (load_image(Path(p).name, Path(p).parent)[0] for p in (path, again))
    assert torch.equal(first, second)


def test_json_output(work: Path):
    result = call("run", work, "--seeds", "4-6", "--json", "--output", "out")
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    assert answer["workflow"] == str(work)
    assert [one["seed"] for one in answer["runs"]] == [4, 5, 6]
    for number, one in enumerate(answer["runs"], 1):
        assert set(one) == {"seed", "chosen", "outputs", "files", "seconds", "errors"}
        assert one["files"] == [str(work.parent / "out" / f"p_{number:05}_.png")]
        assert one["outputs"]["2"]["images"][0]["filename"] == f"p_{number:05}_.png"
        assert one["outputs"]["2"]["value"] == [None, pytest.approx((3 + number) / 255)]
        assert saved_inputs(one["files"][0])["noise_seed"] == 3 + number
        assert saved_inputs(one["files"][0])["extra"] == 3 + number
    assert json.loads(call("run", work, "--json").stdout)["runs"][0]["seed"] is None


@pytest.mark.parametrize(
    ("setting", "name", "value"),
    [
        ("1.steps=5", "steps", 5),
        ('1.label="5"', "label", "5"),
        ("1.label=a=b.c", "label", "a=b.c"),
        ("1.label=", "label", ""),
        ("My paint v1.5.steps=4", "steps", 4),
    ],
)
def test_set_by_id_or_title(work: Path, setting: str, name: str, value: Any):
    result = call("run", work, "--set", setting)
    assert result.exit_code == 0, result.output
    assert saved_inputs(result.stdout.strip())[name] == value


def test_set_inside_a_choice_in_any_order(work: Path):
    result = call("run", work, "--set", "1.kind.grain=0.5", "--set", "1.kind=rough")
    assert result.exit_code == 0, result.output
    assert saved_inputs(result.stdout.strip())["kind.grain"] == 0.5
    assert call("run", work, "--set", "1.kind.grain=0.5").exit_code == 2


def test_the_longest_title_wins_and_equal_titles_are_ambiguous(work: Path):
    data = graph_of()
    data["3"] = {**data["1"], "_meta": {"title": "My paint v1"}}
    work.write_text(json.dumps(data))
    result = call("run", work, "--set", "My paint v1.5.steps=9")
    assert saved_inputs(result.stdout.strip())["steps"] == 9
    data["3"]["_meta"]["title"] = "My paint v1.5"
    work.write_text(json.dumps(data))
    result = call("run", work, "--set", "My paint v1.5.steps=9")
    assert result.exit_code == 2
    assert "title of nodes 1, 3; use the id" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "1.nope=1"], "node 1 has no input 'nope'; it has: noise_seed"),
        (["--set", "9.steps=1"], "no node is called '9'; there are: 1 \"My paint"),
        (["--set", "steps=1"], "does not have the form"),
        (["--set", "1.steps"], "does not have the form"),
        (["--set", "1.steps=0"], "Value 0 smaller than min of 1"),
        (["--set", "1.steps=NaN"], "Failed to convert nan"),
        (["--set", "1.steps=many"], "Failed to convert 'many'"),
        (["--set", "1.kind=smooth"], "Choose one of flat, rough"),
        (["--seed", "256"], "Value 256 bigger than max of 255"),
        (["--seeds", "250-256"], "Value 256 bigger than max of 255"),
        (["--seeds", "7-3"], "is not a range"),
        (["--seeds", "a"], "is not a range"),
        (["--seed", "-1"], "Invalid value"),
        (["--seed", "1", "--seeds", "1-2"], "not both"),
        (["--device", "tpu"], "Invalid value"),
    ],
)
def test_bad_options_exit_2_before_anything_runs(work: Path, arguments: list[str], message: str):
    result = call("run", work, *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    assert not Path("output").exists()


def test_seed_without_a_seed_input(work: Path):
    data = graph_of()
    data["1"]["inputs"] |= {"noise_seed": ["3", 0], "extra": ["3", 0]}
    work.write_text(json.dumps(data))
    result = call("run", work, "--seed", 1)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "no node of this workflow has a seed" in result.stderr


@pytest.mark.parametrize("command", ["run", "check"])
def test_invalid_workflow_exits_2_with_every_mistake(work: Path, command: str):
    work.write_text(json.dumps(graph_of(steps=0, kind="no")))
    result = call(command, work)
    assert result.exit_code == 2
    assert 'node 1 "My paint v1.5" (Paint), input "steps": Value 0 smaller' in result.stderr
    assert 'input "kind": Value not in list' in result.stderr
    work.write_text('{"1": ')
    result = call(command, work)
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert "truncated" in result.stderr
    assert call(command, "none.json").exit_code == 2


def test_check_of_a_good_workflow_runs_nothing(work: Path):
    result = call("check", work)
    assert result.exit_code == 0
    assert "fine, 2 nodes" in result.stdout
    assert not Path("output").exists()


def test_a_failing_node_exits_1_with_one_line(work: Path):
    result = call("run", work, "--set", "1.label=break")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == 'Error: node 1 "My paint v1.5" (Paint) failed: the paint is dry\n'
    debug = call("run", work, "--set", "1.label=break", "--debug")
    assert isinstance(debug.exception, graph.NodeFailure)


def test_a_prefix_that_leaves_the_folder_exits_1_and_writes_nothing(work: Path):
    result = call("run", work, "--set", "2.filename_prefix=../../a")
    assert result.exit_code == 1
    assert "filename_prefix '../../a' does not name a file inside of the output" in result.stderr
    assert [path.name for path in work.parent.rglob("*.png")] == []


def test_ctrl_c_exits_130(work: Path):
    result = call("run", work, "--set", "1.label=stop")
    assert (result.exit_code, result.stdout, result.stderr) == (130, "", "Interrupted\n")


def test_an_absent_device_exits_2(work: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(name: str) -> None:
        raise ValueError("there is no such device")

    host = types.SimpleNamespace(places=types.SimpleNamespace(set_device=refuse))
    monkeypatch.setattr(options, "set_device", SET_DEVICE)
    monkeypatch.setitem(sys.modules, "sampling_kit.nodes.host", host)
    monkeypatch.setattr("sampling_kit.nodes.host", host, raising=False)
    result = call("run", work, "--device", "cuda")
    assert result.exit_code == 2
    assert "--device cuda: there is no such device" in result.stderr


def test_the_editors_graph_is_kept_unless_a_value_changed(work: Path):
    ui = {"nodes": [], "links": []}
    metadata = {"prompt": graph_of(), "workflow": ui}
    save_images(torch.zeros(1, 2, 2, 3), "in", work.parent, metadata)
    source = work.parent / "in_00001_.png"
    assert graph.load(call("run", source).stdout.strip()).ui == ui
    assert graph.load(call("run", source, "--seed", 3).stdout.strip()).ui is None  # sets extra
    assert graph.load(call("run", source, "--set", "1.steps=2").stdout.strip()).ui == ui


def test_progress_bar_only_on_a_terminal(work: Path, capsys: pytest.CaptureFixture[str]):
    with node_bars(lambda node: f"node {node}") as report:
        for step in range(1, 4):
            report("1", step, 3)
    assert "node 1: 100%" in capsys.readouterr().err
    assert call("run", work).stderr == ""


def test_nodes_lists_them(work: Path):
    text = call("nodes").stdout
    assert "steps INT, kind COMBO, extra INT, label STRING -> IMAGE" in text
    assert "Save (Save Image): images IMAGE, filename_prefix STRING -> nothing" in text
    infos = json.loads(call("nodes", "--json").stdout)
    assert infos == {name: io.object_info(node) for name, node in REGISTRY.items()}


def test_help_does_not_import_torch():
    code = (
        "import sys\nfrom sampling_kit.headless import cli\n"
        "try: cli.main(['run', '--help'])\nexcept SystemExit: pass\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
