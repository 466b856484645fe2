"""The Grid node: the graph that it makes, its files, and runs of it without ComfyUI."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from click.testing import CliRunner
from node_calls import folders  # noqa: F401
from PIL import Image

from sampling_kit.headless.cli import main
from sampling_kit.nodes.sample.grid import GridCell, GridSheet, graph_before, wrapped
from sampling_kit.nodes.sample.grid_graph import Wanted, expanded, split_values, upstream

GRAPH = {
    "1": {"class_type": "Loader", "inputs": {"file": "a"}},
    "2": {"class_type": "Prompt", "inputs": {"text": "x", "clip": ["1", 1]}, "_meta": {"title": "Positive"}},
    "3": {"class_type": "Sampler", "inputs": {"model": ["1", 0], "positive": ["2", 0], "steps": 4, "cfg": 5, "tiled": False}},
    "4": {"class_type": "Decode", "inputs": {"latent": ["3", 0], "vae": ["1", 2]}},
    "5": {"class_type": "SamplingKitGrid", "inputs": {"images": ["4", 0]}},
}  # fmt: skip


def wanted(columns="Sampler.steps", column_values="4; 8", rows="", row_values="", anew=False):
    return Wanted(("4", 0), columns, column_values, rows, row_values, "grid", 64, anew)


def cells(nodes):
    return [node["inputs"] for node in nodes.values() if node["class_type"] == "SamplingKitGridCell"]  # fmt: skip


def test_only_what_a_knob_changes_is_copied():
    nodes, link = expanded(GRAPH, "5", wanted(), lambda file: False)
    assert link == ["5.sheet", 0]
    assert set(nodes) == {"5.0.0.3", "5.0.0.4", "5.0.0.cell", "5.0.1.3", "5.0.1.4", "5.0.1.cell", "5.sheet"}  # fmt: skip
    assert nodes["5.0.1.3"]["inputs"] == {**GRAPH["3"]["inputs"], "steps": 8}
    assert nodes["5.0.1.4"]["inputs"] == {"latent": ["5.0.1.3", 0], "vae": ["1", 2]}
    assert nodes["5.0.1.4"]["override_display_id"] == "4"
    assert GRAPH["3"]["inputs"]["steps"] == 4
    assert [cell.get("before") for cell in cells(nodes)] == [None, ["5.0.0.cell", 0]]
    layout = json.loads(nodes["5.sheet"]["inputs"]["layout"])
    assert layout["columns"] == ["steps 4", "steps 8"] and layout["rows"] == []


def test_two_knobs_of_two_nodes():
    want = wanted(rows="Positive.text", row_values="a red fox; at dusk\na blue bird")
    nodes, _ = expanded(GRAPH, "5", want, lambda file: False)
    assert nodes["5.0.1.2"]["inputs"]["text"] == "a red fox; at dusk"
    assert nodes["5.1.0.3"]["inputs"]["positive"] == ["5.1.0.2", 0]
    assert len({cell["file"] for cell in cells(nodes)}) == 4


def test_what_is_there_is_not_made_again_whatever_the_grid():
    first, _ = expanded(GRAPH, "5", wanted(), lambda file: False)
    there = {cell["file"] for cell in cells(first)}
    more = wanted(column_values="8; 12; 4; 8")
    nodes, _ = expanded(GRAPH, "99", more, there.__contains__)
    assert [node["inputs"]["steps"] for node in nodes.values() if node["class_type"] == "Sampler"] == [12]  # fmt: skip
    again, _ = expanded(GRAPH, "5", wanted(anew=True), there.__contains__)
    assert len(cells(again)) == 2
    other = {**GRAPH, "1": {"class_type": "Loader", "inputs": {"file": "b"}}}
    nodes, _ = expanded(other, "5", wanted(), there.__contains__)
    assert len(cells(nodes)) == 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (dict(columns="Sampler"), "no node before this one is called so"),
        (dict(columns="Other.steps"), "no node before this one is called so"),
        (dict(columns="Sampler.stepz"), "has no input 'stepz'; it has model"),
        (dict(columns="3.positive"), "is linked to node 2"),
        (dict(columns=" "), "columns is empty"),
        (dict(column_values=" ; "), "write its values into column_values"),
        (dict(column_values="4; many"), "'many' must be a number, as 4 is"),
        (dict(column_values="4; true"), "'true' must be a number"),
        (dict(columns="3.tiled", column_values="1"), "must be true or false"),
        (dict(column_values="NaN"), "must be a number"),
        (dict(rows="3.steps", row_values="5"), "columns names the same knob"),
        (dict(row_values="5"), "rows names no knob"),
        (dict(column_values=";".join("1" * 401)), "401 cells, at most 400"),
    ],
)
def test_what_is_no_grid(change, words):
    with pytest.raises(ValueError, match=r"\w") as error:
        expanded(GRAPH, "5", wanted(**change), lambda file: False)
    assert words in str(error.value)


def test_a_title_that_two_nodes_have():
    graph = {**GRAPH, "3": {**GRAPH["3"], "_meta": {"title": "Positive"}}}
    with pytest.raises(ValueError, match=r"nodes 2, 3 are called 'Positive'; write the id"):
        expanded(graph, "5", wanted("Positive.text", "a"), lambda file: False)


def test_links_in_a_circle():
    graph = {"1": {"class_type": "A", "inputs": {"x": ["2", 0]}}, "2": {"class_type": "B", "inputs": {"x": ["1", 0]}}}  # fmt: skip
    with pytest.raises(ValueError, match="circle"):
        upstream(graph, "1")


def test_the_part_of_a_host_s_prompt():
    host = SimpleNamespace(has_node=GRAPH.__contains__, get_node=GRAPH.__getitem__)
    assert graph_before(host, "3") == {key: GRAPH[key] for key in "123"}


def test_values_and_labels():
    assert split_values("a; b;;c ") == ("a", "b", "c")
    assert split_values("a; b\nc\n") == ("a; b", "c")
    assert wrapped("short") == "short"
    assert len(wrapped("word " * 100).splitlines()) == 4


@pytest.mark.parametrize("file", ["../x.png", "/x.png", "x.jpg"])
def test_a_cell_s_file_stays_in_the_output_folder(file):
    with pytest.raises(ValueError, match=r"filename_prefix|file ="):
        GridCell.check_lazy_status(file=file)


def grid_workflow(tmp_path, **inputs):
    latent = {"width": 16, "height": 16, "batch_size": 2}
    graph = {
        "1": {"class_type": "SamplingKitEmptyPixelLatent", "inputs": latent},
        "2": {"class_type": "SamplingKitLatentToImage", "inputs": {"latent": ["1", 0]}},
        "3": {"class_type": "SamplingKitGrid", "inputs": {"images": ["2", 0], "columns": "1.width", "column_values": "8; 16", "rows": "1.height", "row_values": "8; 24", "name": "g", "height": 32, **inputs}},
        "4": {"class_type": "SaveImage", "inputs": {"images": ["3", 0], "filename_prefix": "sheet"}},
    }  # fmt: skip
    file = tmp_path / "grid.json"
    file.write_text(json.dumps(graph))
    return str(file)


def test_a_run_makes_the_files_once_and_the_sheet(tmp_path):
    def run(**inputs):
        return CliRunner().invoke(main, ["run", grid_workflow(tmp_path, **inputs), "--output", str(tmp_path)])  # fmt: skip

    assert run().exit_code == 0
    files = {file: file.stat().st_mtime_ns for file in (tmp_path / "g").glob("*.png")}
    assert sorted(Image.open(file).size for file in files) == [(16, 8), (16, 24), (32, 8), (32, 24)]
    assert run(column_values="8; 16; 32").exit_code == 0
    later = {file: file.stat().st_mtime_ns for file in (tmp_path / "g").glob("*.png")}
    assert len(later) == 6 and later.items() >= files.items()
    first, second = (Image.open(tmp_path / f"sheet_0000{k}_.png") for k in (1, 2))
    assert second.width > first.width and second.height == first.height
    meta = json.loads(second.text["prompt"])
    assert meta["3"]["class_type"] == "SamplingKitGrid" and len(meta) == 4


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        (dict(columns="1.depth"), "input \"images\"|has no input 'depth'"),
        (dict(column_values="8; 9000"), "width = 9000"),
        (dict(name="../out"), "does not name a file inside"),
        (dict(column_values=""), "write its values into column_values"),
    ],
)
def test_a_run_says_what_is_wrong_before_it_begins(tmp_path, inputs, words):
    result = CliRunner().invoke(main, ["check", grid_workflow(tmp_path, **inputs)])
    assert result.exit_code == 2 and not (tmp_path / "g").exists()
    assert any(word in result.output for word in words.split("|")), result.output


@pytest.mark.parametrize(
    "layout",
    [
        "{}",
        "[]",
        "x",
        '{"files": [], "rows": [], "columns": [], "height": 64}',
        '{"files": [["../a.png"]], "rows": [], "columns": ["a"], "height": 64}',
        '{"files": [[1]], "rows": [], "columns": [], "height": 64}',
    ],
)
def test_a_layout_that_no_grid_wrote(layout):
    with pytest.raises(ValueError, match=r"not what Grid writes|cannot be read"):
        GridSheet.execute(layout)
