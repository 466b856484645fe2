"""What ComfyUI changed after 0.33 and touches us: stand-ins of it, by the table of docs/hosts.md."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest
from toy_nodes import REGISTRY, flow, node

from sampling_kit.headless import graph
from sampling_kit.headless.core_names import CONTROL
from sampling_kit.headless.object_info import registry_of
from sampling_kit.headless.workflow import Workflow

ROOT = Path(graph.__file__).resolve().parents[1]


def loop() -> Workflow:
    """A loop as the page of 0.37 and newer sends it: EndLoop names no StartLoop, its body does."""
    return flow(
        n1=node("StartLoop", mode="simple", **{"mode.num_iterations": 3}),
        n2=node("Steps", steps=["1", 0]),
        n3=node("EndLoop", output_value=["2", 0], accumulate=False),
        n4=node("Show", value=["3", 0]),
    )


def test_loops_are_refused_by_name_with_a_way_out():
    (error,) = graph.check(loop(), REGISTRY)
    assert (error.kind, error.node) == ("missing_node_type", "1")
    assert "(StartLoop): It steers the run of other nodes, like EndLoop" in str(error)
    assert "sampling-kit sweep" in error.hint and "--comfyui" in error.hint


@pytest.mark.parametrize("name", sorted(CONTROL))
def test_every_control_node_is_known_for_one(name: str):
    work = flow(n1=node(name), n2=node("KSamplerAdvanced"), n4=node("Show", value=["1", 0]))
    first, second = graph.check(work, REGISTRY)
    assert name in str(first) and "steers" in str(first)
    assert "ComfyUI's own" in str(second), "a node that is no control node is told apart"


def listing(**template: Any) -> Any:
    """A server whose node takes rows of a name and a number (DynamicGroup)."""
    group = ["COMFY_DYNAMICGROUP_V3", {"template": template, "min": 0, "max": 20}]
    return registry_of(
        {"Rows": {"input": {"required": {"rows": group}}, "output": [], "output_node": True}}
    )


ROW = {
    "required": {"name": ["COMBO", {"options": ["a", "b"]}]},
    "optional": {"strength": ["FLOAT", {"min": -2.0, "max": 2.0}]},
}


@pytest.mark.parametrize(
    ("inputs", "kinds"),
    [
        ({}, []),
        ({"rows": []}, []),
        ({"rows.0.name": "a", "rows.0.strength": 1, "rows.2.name": "b"}, []),
        ({"rows.0.name": "c"}, ["value_not_in_list"]),
        ({"rows.1.strength": 5.0}, ["required_input_missing", "value_bigger_than_max"]),
    ],
)
def test_rows_of_a_group_are_checked_against_a_server_s_list(inputs: dict, kinds: list[str]):
    work = flow(n1=node("Rows", **inputs))
    assert [e.kind for e in graph.check(work, listing(**ROW), "the server")] == kinds


def test_a_combo_whose_list_is_fetched_takes_any_value():
    """RemoteComboOptions: /object_info has no list, and the page fetches it."""
    combo = [
        "COMBO",
        {"multiselect": False, "remote_combo": {"route": "/voices", "item_schema": {}}},
    ]
    server = registry_of(
        {"Voice": {"input": {"required": {"voice": combo}}, "output": [], "output_node": True}}
    )
    assert not graph.check(flow(n1=node("Voice", voice="anyone")), server, "the server")
    (error,) = graph.check(flow(n1=node("Voice")), server, "the server")
    assert error.kind == "required_input_missing"


def test_inputs_are_made_by_name():
    """Combo.Input grew an argument in the middle: what stands by place after the first would move."""
    seen = 0
    for path in sorted((ROOT / "nodes").rglob("*.py")):
        if "host" in path.parts:
            continue
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not (isinstance(call, ast.Call) and ast.unparse(call.func).endswith(".Input")):
                continue
            seen += 1
            assert len(call.args) <= 1, f"{path.relative_to(ROOT)}:{call.lineno}"
    assert seen > 100


def test_a_network_that_comfyui_moves_costs_no_node():
    """comfy.ldm is imported where it is needed, never with the nodes."""
    files = sorted((ROOT / "nodes" / "host" / "comfy").glob("*.py"))
    assert len(files) > 10
    for path in files:
        for line in ast.parse(path.read_text(encoding="utf-8")).body:
            names = [getattr(line, "module", None) or ""] + [
                alias.name for alias in getattr(line, "names", [])
            ]
            assert not any(name.startswith("comfy.ldm") for name in names), path.name


def test_the_page_names_what_it_was_read_from():
    page = (ROOT / "docs" / "hosts.md").read_text(encoding="utf-8")
    assert len(set(re.findall(r"`[0-9a-f]{12}`", page))) >= 6
    for test in re.findall(r"`((?:host/)?test_\w+\.py)`", page):
        assert (ROOT / "tests" / test).is_file(), test
