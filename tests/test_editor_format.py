"""The one reader of workflows: the editor's format, pictures, bodies of /prompt, stdin, UTF-16."""

from __future__ import annotations

import copy
import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import test_headless_cli
from click.testing import CliRunner
from example_prompts import unframed
from PIL import Image, PngImagePlugin
from test_headless_cli import REGISTRY, call, graph_of

from sampling_kit.headless import cli
from sampling_kit.headless import shipped as examples
from sampling_kit.headless import workflow as workflow_file
from sampling_kit.headless.editor_graph import converter, to_prompt
from sampling_kit.headless.graph import check
from sampling_kit.headless.object_info import registry_of
from sampling_kit.headless.registry import registry
from sampling_kit.headless.workflow import MOST_NODES, Workflow, WorkflowError, load

work = test_headless_cli.work  # a fixture


def place(name: str, link: int | None, kind: str = "IMAGE", widget: bool = False) -> dict[str, Any]:
    return {"name": name, "type": kind, "link": link} | (
        {"widget": {"name": name}} if widget else {}
    )


def node(id: int, type: str, inputs: Any = (), values: Any = (), **more: Any) -> dict[str, Any]:
    outputs = [{"name": "IMAGE", "type": "IMAGE"}]
    listed = dict(inputs=[*inputs], outputs=outputs, widgets_values=list(values))
    return {"id": id, "type": type, "mode": 0} | listed | more


PAINT = node(1, "Paint", values=[3, "fixed", 0, "fixed", 2, "", "flat"], title="My paint v1.5")
SAVE = node(2, "Save", [place("images", 1)], ["p"])


def ui(*nodes: Any, links: Any = ([1, 1, 0, 2, 0, "IMAGE"],), **more: Any) -> dict[str, Any]:
    return {"nodes": copy.deepcopy([*nodes]), "links": [*links]} | more


def inputs(graph: dict[str, Any]) -> dict[str, Any]:
    return {key: one["inputs"] for key, one in to_prompt(graph, REGISTRY).items()}


PAINTED = {"noise_seed": 3, "extra": 0, "steps": 2, "label": "", "kind": "flat"}


def plain(prompt: dict[str, Any]) -> dict[str, Any]:
    """Inputs by node, without the frames of subgraphs in ids, and with the values that optional inputs begin with."""
    shown: dict[str, Any] = {}
    for key, one in unframed(prompt).items():
        listed = registry()[one["class_type"]].define_schema().inputs
        facts = {i.id: i.as_dict() for i in listed if i.optional}
        values = {k: v["default"] for k, v in facts.items() if "default" in v} | one["inputs"]
        shown[key] = one["class_type"], values
    return shown


@pytest.mark.some(20)
@pytest.mark.parametrize("name", examples.that_run_here())
def test_examples_become_their_api_twins(name):
    graph = json.loads((examples.FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    twin = load(examples.FOLDER / "api" / f"{name}.json").prompt
    assert plain(to_prompt(graph, registry())) == plain(twin)


def test_widgets_are_found_by_their_place():
    assert inputs(ui(PAINT, SAVE)) == {
        "1": PAINTED,
        "2": {"filename_prefix": "p", "images": ["1", 0]},
    }
    rough = node(1, "Paint", values=[3, "fixed", 0, "fixed", 2, "", "rough", 0.5])
    assert inputs(ui(rough))["1"] == PAINTED | {"kind": "rough", "kind.grain": 0.5}
    short = node(1, "Paint", values=[3])
    assert inputs(ui(short))["1"] == {"noise_seed": 3, "steps": 2, "kind": "flat"}, (
        "defaults follow"
    )


def test_reroutes_bypass_and_mute():
    through = [[1, 1, 0, 5, 0, "*"], [2, 5, 0, 2, 0, "*"]]
    save = SAVE | {"inputs": [place("images", 2)]}
    reroute = node(5, "Reroute", [place("", 1, "*")])
    assert inputs(ui(PAINT, reroute, save, links=through))["2"]["images"] == ["1", 0]
    bypassed = node(5, "Other", [place("m", None, "MASK"), place("x", 1)], mode=4)
    through[0][4] = 1
    graph = inputs(ui(PAINT, bypassed, save, links=through))
    assert graph["2"]["images"] == ["1", 0] and set(graph) == {"1", "2"}
    muted = inputs(ui(PAINT | {"mode": 2}, SAVE))
    assert muted == {"2": {"filename_prefix": "p"}}


def test_primitives_give_their_value():
    primitive = node(9, "PrimitiveNode", values=[77, "randomize"])
    paint = PAINT | {"inputs": [place("noise_seed", 5, "INT", True)]}
    graph = inputs(
        ui(paint, primitive, node(8, "Note", values=["x"]), links=[[5, 9, 0, 1, 0, "INT"]])
    )
    assert graph == {"1": PAINTED | {"noise_seed": 77}}


#: Nodes as a server lists them: widgets of several types, drawn by the page, or below a 3D view.
LISTED = registry_of(
    {
        "Rate": {"input": {"required": {"rate": ["FLOAT,INT", {"widgetType": "FLOAT", "min": 1}], "n": ["INT", {}]}}},
        "View": {"input": {"required": {"file": ["COMBO", {}], "view": ["LOAD_3D", {}], "width": ["INT", {}]}}},
        "Boxes": {"input": {"required": {"boxes": ["BOXES", {"default": [], "socketless": False}], "n": ["INT", {}]}}},
        "Sum": {"input": {"required": {"a": ["FLOAT,INT", {}]}}, "output_node": True},
        "Show": {"input": {"required": {"source": ["*", {}]}}, "output_node": True},
    }
)  # fmt: skip
DRAWN = {
    "Rate": ([24.5, 3], {"rate": 24.5, "n": 3}),
    "View": (["a.glb", "upload3dmodel", "uploadExtraResources", "clear", "", 64], {"file": "a.glb", "view": "", "width": 64}),
    "Boxes": ([[{"x": 1}], 2], {"boxes": {"__value__": [{"x": 1}]}, "n": 2}),
}  # fmt: skip


@pytest.mark.parametrize("name", DRAWN)
def test_widgets_that_are_no_plain_value(name):
    values, expected = DRAWN[name]
    prompt = to_prompt(ui(node(1, name, values=values), links=[]), LISTED)
    assert prompt["1"]["inputs"] == expected
    shown = prompt | {"2": {"class_type": "Show", "inputs": {"source": ["1", 0]}}}
    assert [e.input for e in check(Workflow(Path("w"), shown), LISTED, "there")] == ["source"], (
        "1 has no output"
    )
    low = {"1": {"class_type": "Rate", "inputs": {"rate": "x", "n": 1}}, "2": shown["2"]}
    assert {e.input for e in check(Workflow(Path("w"), low), LISTED, "there")} == {"rate", "source"}


def subgraph(id: str, *nodes: Any, links: Any) -> dict[str, Any]:
    names = "id", "origin_id", "origin_slot", "target_id", "target_slot", "type"
    rows = [dict(zip(names, [*row, "*"], strict=True)) for row in links]
    return {"id": id, "nodes": [*nodes], "links": rows}


def test_subgraphs_in_each_other():
    """outer(paint) and save: the seed comes from outside through two frames."""
    paint = PAINT | {"inputs": [place("noise_seed", 1, "INT", True)]}
    deep = subgraph("deep", paint, links=[[1, -10, 0, 1, 0], [2, 1, 0, -20, 0]])
    holder = node(4, "deep", [place("seed", 1, "INT")])
    flat = subgraph("flat", holder, links=[[1, -10, 0, 4, 0], [2, 4, 0, -20, 0]])
    graph = ui(
        node(6, "flat", [place("seed", 3, "INT")]), SAVE, node(9, "PrimitiveNode", values=[8]),
        links=[[1, 6, 0, 2, 0, "IMAGE"], [3, 9, 0, 6, 0, "INT"]], definitions={"subgraphs": [deep, flat]},
    )  # fmt: skip
    assert inputs(graph) == {
        "6:4:1": PAINTED | {"noise_seed": 8},
        "2": {"filename_prefix": "p", "images": ["6:4:1", 0]},
    }
    graph["nodes"][0]["inputs"][0]["link"] = None
    assert inputs(graph)["6:4:1"] == PAINTED, "what nothing is linked to keeps its own value"
    graph["nodes"][0]["mode"] = 2
    assert inputs(graph) == {"2": {"filename_prefix": "p"}}


def test_hostile_graphs_end():
    own = subgraph("s", node(1, "s"), node(2, "s"), links=[])
    with pytest.raises(WorkflowError, match=f"more than {MOST_NODES} nodes"):
        to_prompt(ui(node(1, "s"), definitions={"subgraphs": [own]}, links=[]), REGISTRY)
    circle = node(5, "Reroute", [place("", 1)])
    with pytest.raises(WorkflowError, match="circle"):
        to_prompt(ui(circle, SAVE, links=[[1, 5, 0, 2, 0, "*"]]), REGISTRY)
    for damaged in ({"nodes": [3], "links": []}, {"nodes": 1, "links": []}, {"nodes": [], "links": [[1]]},
                    {"nodes": [{"id": 1}], "links": []}, {"nodes": [{"id": [], "type": "x"}], "links": []}):  # fmt: skip
        with pytest.raises(WorkflowError, match="damaged"):
            to_prompt(damaged, REGISTRY)


# ------------------------------------------------------------------------------------- containers

GRAPH = ui(PAINT, SAVE)
BODY = {
    "prompt": graph_of(),
    "client_id": "x",
    "extra_data": {"extra_pnginfo": {"workflow": GRAPH}},
}


def picture(path: Path, **texts: Any) -> Path:
    if path.suffix == ".webp":
        exif = Image.Exif()
        for i, (name, data) in enumerate(texts.items()):
            exif[0x010F - i] = f"{name}:{json.dumps(data)}"
        Image.new("RGB", (4, 4)).save(path, exif=exif)
        return path
    info = PngImagePlugin.PngInfo()
    for name, data in texts.items():
        info.add_text(name, json.dumps(data))
    Image.new("RGB", (4, 4)).save(path, pnginfo=info)
    return path


@pytest.mark.parametrize("suffix", [".png", ".webp"])
@pytest.mark.parametrize("command", ["check", "run"])
def test_pictures_with_either_graph(work, suffix, command):
    for texts in (
        {"prompt": graph_of()},
        {"workflow": GRAPH},
        {"prompt": graph_of(), "workflow": GRAPH},
    ):
        result = call(command, picture(work.parent / f"x{suffix}", **texts))
        assert result.exit_code == 0, result.output


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("data", [graph_of(), GRAPH, BODY], ids=["api", "editor", "body"])
def test_json_of_every_kind_and_encoding(work, encoding, data):
    work.write_bytes(json.dumps(data).encode(encoding))
    read = load(work, converter(REGISTRY))
    values = {k: v for k, v in read.prompt["1"]["inputs"].items() if k in ("noise_seed", "kind")}
    assert values == {"noise_seed": 3, "kind": "flat"} and set(read.prompt) == {"1", "2"}
    assert (read.ui is None) == (data == graph_of())
    assert call("sweep", work, "--help").exit_code == 0
    assert call("check", work).exit_code == 0


def test_stdin(work, monkeypatch):
    for data in (graph_of(), GRAPH):
        raw = io.BytesIO(json.dumps(data).encode("utf-16"))
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(raw))
        assert set(load("-", converter(REGISTRY)).prompt) == {"1", "2"}
    monkeypatch.undo()


def test_a_node_called_prompt_is_a_node(work):
    work.write_text(json.dumps(graph_of() | {"prompt": graph_of()["1"]}))
    assert set(load(work).prompt) == {"1", "2", "prompt"}


def test_a_subgraph_s_own_node_shows_widgets_of_its_inside():
    """Its values follow the inputs of the definition, of which the node may list a part; older ones stay inside."""
    paint = PAINT | {
        "inputs": [place("noise_seed", 1, "INT", True), place("steps", 2, "INT", True)]
    }
    links = [[1, -10, 0, 1, 0], [2, -10, 1, 1, 1], [3, 1, 0, -20, 0]]
    inside = subgraph("s", paint, links=links) | {"inputs": [{"name": "seed"}, {"name": "steps"}]}
    host = node(6, "s", [place("steps", None, "INT", True)], [8, 9])
    graph = ui(host, links=[], definitions={"subgraphs": [inside]})
    assert inputs(graph) == {"6:1": PAINTED | {"noise_seed": 8, "steps": 9}}
    host["properties"] = {"proxyWidgets": [["1", "noise_seed"]]}
    graph = ui(host, links=[], definitions={"subgraphs": [inside]})
    assert inputs(graph) == {"6:1": PAINTED}
    shown = {
        **inside,
        "nodes": [paint, node(8, "Show", [place("source", 4)]), node(9, "Sum", [place("a", 4)])],
        "links": inside["links"] + subgraph("", links=[[4, -10, 1, 8, 0]])["links"],
    }
    both = {**REGISTRY, **LISTED}
    prompt = to_prompt(ui(host, links=[], definitions={"subgraphs": [shown]}), both)
    assert prompt["6:8"]["inputs"] == {"source": 2}, "a node without the widget gets its value"
    assert prompt["6:9"]["inputs"] == {"a": 2}
    assert not check(Workflow(Path("w"), prompt), both, "there")
    outer_show = subgraph("t", node(6, "s", [place("steps", 1, "INT", True)]), node(8, "Show", [place("source", 2)]), links=[[1, -10, 0, 6, 0], [2, -10, 0, 8, 0]])  # fmt: skip
    outer_show["inputs"] = [{"name": "x"}]
    deep = node(
        5, "t", [place("x", None, "INT", True)], properties={"proxyWidgets": [["6", "steps"]]}
    )
    prompt = to_prompt(ui(deep, links=[], definitions={"subgraphs": [shown, outer_show]}), both)
    assert prompt["5:8"]["inputs"] == {"source": 2}, "through two frames"
    outer = node(7, "PrimitiveNode", values=[5])
    host["inputs"] = [place("steps", 4, "INT", True)]
    graph = ui(host, outer, links=[[4, 7, 0, 6, 0, "INT"]], definitions={"subgraphs": [inside]})
    assert inputs(graph) == {"6:1": PAINTED | {"steps": 5}}


def piped(data: bytes, *command: Any) -> Any:
    """The command with ``data`` on its stdin."""
    return CliRunner().invoke(cli.main, [str(one) for one in command], input=data)


@pytest.mark.parametrize("suffix", [".png", ".webp"])
def test_pictures_on_stdin(work, monkeypatch, suffix):
    (saved,) = call("run", work).stdout.split()
    for texts in ({"prompt": graph_of()}, {"workflow": GRAPH}):
        data = picture(work.parent / f"x{suffix}", **texts).read_bytes()
        for command in ("check", "run"):
            result = piped(data, command, "-")
            assert result.exit_code == 0, result.output
        result = piped(data[:-9] if suffix == ".webp" else data[:60], "check", "-")
        assert result.exit_code == 2 and result.stderr.startswith("Error: -: ")
    result = piped(Path(saved).read_bytes(), "verify", "-")
    assert result.exit_code == 0 and "bit for bit" in result.stdout, result.output
    monkeypatch.setattr(workflow_file, "PICTURE_LIMIT", 40)
    result = piped(Path(saved).read_bytes(), "run", "-")
    assert result.exit_code == 2 and "stdin has more than 0 MB" in result.stderr
