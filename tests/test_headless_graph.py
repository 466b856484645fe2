"""The head-less runner on small fake nodes: checking and executing."""

from __future__ import annotations

import dataclasses
import json
import re
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_nodes import (
    CAUGHT,
    RAN,
    REGISTRY,
    around,
    flow,
    make_node,
    node,
    run,
)

from sampling_kit.headless import context, graph
from sampling_kit.headless.save import run_metadata
from sampling_kit.nodes.host.alone import io


@pytest.fixture(autouse=True)
def forget() -> None:
    RAN.clear()
    CAUGHT.clear()


STEPS = {"steps": 3}


def bad(class_type: str, **inputs: Any) -> graph.Workflow:
    return flow(
        n1=node("Steps", **STEPS),
        n5=node(class_type, "Mine", **inputs),
        n9=node("Show", value=["5", 0]),
    )


@pytest.mark.some(20)
@pytest.mark.parametrize(
    ("work", "kind", "message"),
    [
        (bad("Stesp"), "missing_node_type", "Node class not found.*Did you mean 'Steps'"),
        (bad("Steps"), "required_input_missing", "Required input is missing.*starts with 20"),
        (bad("Spaced"), "required_input_missing", "Choose one of karras, linear"),
        (bad("Sample"), "required_input_missing", "Set or link it, type SIGMAS"),
        (bad("Spaced", spacing="karras"), "required_input_missing", "spacing.rho.*7.0"),
        (bad("Spaced", spacing="karas"), "value_not_in_list", "Did you mean 'karras'"),
        (bad("Spaced", spacing=["1", 0]), "bad_linked_input", "cannot be linked"),
        (bad("Spaced", spacing="karras", **{"spacing.rho": 0.5}), "value_smaller_than_min", "0.5"),
        (bad("Sample", sigmas=["7", 0]), "bad_linked_input", "node '7' does not exist.*1, 5, 9"),
        (bad("Sample", sigmas=["1", 1]), "bad_linked_input", "no output 1.*SIGMAS"),
        (bad("Sample", sigmas=["1", -1]), "bad_linked_input", "no output -1"),
        (bad("Sample", sigmas=["1", True]), "bad_linked_input", "is not a link"),
        (bad("Sample", sigmas=[1, 0]), "bad_linked_input", "is not a link"),
        (bad("Sample", sigmas=["1"]), "bad_linked_input", "is not a link"),
        (bad("Sample", sigmas=[]), "bad_linked_input", "__value__"),
        (bad("Sample", sigmas=0.5), "return_type_mismatch", "Expected a link of type SIGMAS"),
        (
            bad("Sample", sigmas=["1", 0], model=["1", 0]),
            "return_type_mismatch",
            "Received type SIGMAS from node 1, expected MODEL",
        ),
        (
            bad("Steps", steps=0),
            "value_smaller_than_min",
            "Value 0 smaller than min of 1.*1 or more",
        ),
        (bad("Steps", steps=101), "value_bigger_than_max", "Value 101 bigger than max of 100"),
        (bad("Steps", steps="abc"), "invalid_input_type", "Failed to convert 'abc' to a INT"),
        (bad("Steps", steps=None), "invalid_input_type", "Failed to convert None"),
        (bad("Steps", steps={}), "invalid_input_type", "Failed to convert {}"),
        (bad("Steps", steps=float("inf")), "invalid_input_type", "Failed to convert inf"),
        (bad("Steps", **STEPS, denoise=float("nan")), "invalid_input_type", "not finite"),
        (bad("Steps", **STEPS, denoise="nan"), "invalid_input_type", "not finite"),
        (bad("Steps", **STEPS, denoise=1.5), "value_bigger_than_max", "Use 1.0 or less"),
        (bad("Steps", **STEPS, mode="x"), "value_not_in_list", "leading, trailing"),
        (bad("Steps", **STEPS, flip="false"), "invalid_input_type", "Use true or false"),
        (bad("Steps", **STEPS, stepps=["1", 0]), "unknown_input", "Did you mean 'steps'"),
        (bad("Even", n=3), "custom_validation_failed", "3 is odd"),
        (bad("Trap", n=5, spacing="linear"), "custom_validation_failed", "raised TypeError"),
    ],
)
def test_every_mistake_is_named_in_one_line(work: graph.Workflow, kind: str, message: str):
    (error,) = graph.check(work, REGISTRY)
    assert (error.kind, error.node, error.title) == (kind, "5", "Mine")
    assert error.class_type == work.prompt["5"]["class_type"]
    assert error.hint
    assert re.search(message, str(error)), str(error)
    assert str(error).startswith('node 5 "Mine" (')
    assert "\n" not in str(error)
    if error.input:
        assert f'input "{error.input}"' in str(error)
        assert error.value is work.prompt["5"]["inputs"].get(error.input)


@pytest.mark.parametrize(
    ("given", "seen"),
    [
        ({"steps": "5"}, {"steps": 5}),
        ({"steps": 5.9}, {"steps": 5}),
        ({"steps": 5, "denoise": "0.5"}, {"steps": 5, "denoise": 0.5}),
        ({"steps": 5, "note": 7}, {"steps": 5, "note": "7"}),
        ({"steps": 5, "flip": 1}, {"steps": 5, "flip": True}),
        ({"steps": {"__value__": 5}}, {"steps": 5}),
        ({"steps": 5, "note": {"__value__": [1, 2]}}, {"steps": 5, "note": "[1, 2]"}),
        ({"steps": 5, "unknown": 1}, {"steps": 5}),
    ],
)
def test_values_are_converted_as_in_comfyui(tmp_path: Path, given: dict, seen: dict):
    run(tmp_path, flow(n1=node("Steps", **given), n2=node("Show", value=["1", 0])))
    assert [seen] == CAUGHT


def test_bounds_are_left_to_validate_inputs_that_names_the_input():
    assert graph.check(bad("Even", n=6), REGISTRY) == []  # above max, as in ComfyUI


def test_validate_inputs_sees_none_for_a_link():
    work = flow(n1=node("Even", n=["2", 0]), n2=node("Add", a=1), n3=node("Show", value=["1", 0]))
    (error,) = graph.check(work, REGISTRY)
    assert error.kind == "return_type_mismatch"  # SUM is no INT; nothing about "odd"
    work.prompt["2"] = node("Any")
    registry = REGISTRY | {"Any": make_node("Any", [], [io.AnyType.Output()])}
    assert graph.check(work, registry) == []


def test_default_title_and_control_characters():
    work = bad("Steps", steps=0)
    work.prompt["5"]["_meta"] = {"title": "a\x1b[31m\nb"}
    assert '"a\ufffd[31m b"' in str(graph.check(work, REGISTRY)[0])
    for meta in ({}, {"title": 5}, None, "x"):
        work.prompt["5"]["_meta"] = meta
        assert graph.check(work, REGISTRY)[0].title == "The Steps"


def test_cycle_is_reported_with_its_path():
    work = flow(
        n1=node("Add", a=["2", 0]), n2=node("Add", a=["1", 0]), n3=node("Show", value=["2", 0])
    )
    (error,) = graph.check(work, REGISTRY)
    assert error.kind == "dependency_cycle"
    assert "1 (Add) -> 2 (Add) -> 1 (Add)" in str(error) or "2 (Add) -> 1 (Add) -> 2" in str(error)
    itself = flow(n1=node("Show", value=["1", 0]))
    assert {error.kind for error in graph.check(itself, REGISTRY)} >= {"bad_linked_input"}


@pytest.mark.parametrize("work", [flow(), flow(n1=node("Steps", steps=0))])
def test_no_output_node(work: graph.Workflow):
    (error,) = graph.check(work, REGISTRY)
    assert error.kind == "prompt_no_outputs"


def test_only_nodes_upstream_of_an_output_are_checked_but_every_class_must_exist():
    work = flow(
        n1=node("Steps", steps=3), n2=node("Show", value=["1", 0]), n3=node("Steps", steps=0)
    )
    assert graph.check(work, REGISTRY) == []
    work.prompt["4"] = node("Nope")
    assert [error.kind for error in graph.check(work, REGISTRY)] == ["missing_node_type"]


def test_all_mistakes_are_reported_at_once():
    work = flow(
        n1=node("Steps", steps=0, mode="x"),
        n2=node("Sample", sigmas=["1", 3]),
        n3=node("Save", latent=["2", 0]),
    )
    assert [(error.node, error.input) for error in graph.check(work, REGISTRY)] == [
        ("1", "steps"),
        ("1", "mode"),
        ("2", "sigmas"),
    ]


# Executing


def test_each_node_runs_once_after_its_sources_and_branch_by_branch(tmp_path: Path):
    work = flow(
        n9=node("Show", value=["8", 0]),
        n8=node("Add", a=["1", 0], b=["2", 0]),
        n7=node("Show", value=["6", 0]),
        n6=node("Add", a=["2", 0]),
        n1=node("Steps", steps=1),
        n2=node("Steps", steps=2),
        n3=node("Steps", steps=3),
    )
    shown = run(tmp_path, work)
    assert sorted(RAN) == ["1", "2", "6", "7", "8", "9"]  # 3 leads nowhere
    for key in RAN:
        for value in work.prompt[key]["inputs"].values():
            if isinstance(value, list):
                assert RAN.index(value[0]) < RAN.index(key)
    assert RAN.index("7") == RAN.index("6") + 1
    assert RAN.index("9") == RAN.index("8") + 1
    assert shown["9"] == {"text": ["({'steps': 1}, {'steps': 2})"]}
    assert set(shown) == {"7", "9"}


def test_a_chain_of_thousands_does_not_recurse(tmp_path: Path):
    prompt = {"0": node("Steps", steps=1)}
    prompt |= {str(i): node("Add", a=[str(i - 1), 0]) for i in range(1, 3000)}
    prompt["show"] = node("Show", value=["2999", 0])
    quiet = make_node("Show", [io.AnyType.Input("value")], is_output_node=True)
    work = graph.Workflow(Path("long"), prompt)
    assert graph.check(work, REGISTRY) == []
    graph.execute(work, REGISTRY | {"Show": quiet}, around(tmp_path, work))
    assert len(RAN) == 3001


def test_dynamic_combo_arrives_nested(tmp_path: Path):
    for inputs, seen in [
        ({"spacing": "karras", "spacing.rho": 5}, {"spacing": "karras", "rho": 5.0, "n": None}),
        (
            {"spacing": "karras", "spacing.rho": 5, "spacing.n": 2},
            {"spacing": "karras", "rho": 5.0, "n": 2},
        ),
        ({"spacing": "linear", "spacing.rho": 5}, {"spacing": "linear"}),
    ]:
        run(tmp_path, flow(n1=node("Spaced", **inputs), n2=node("Show", value=["1", 0])))
        assert CAUGHT[-2:] == [{"spacing": seen}] * 2


def test_link_into_a_dynamic_combo(tmp_path: Path):
    registry = REGISTRY | {
        "Five": make_node("Five", [], [io.Float.Output()], lambda cls: io.NodeOutput(5.0))
    }
    inputs = {"spacing": "karras", "spacing.rho": ["0", 0]}
    work = flow(n0=node("Five"), n1=node("Spaced", **inputs), n2=node("Show", value=["1", 0]))
    assert graph.check(work, registry) == []
    graph.execute(work, registry, around(tmp_path, work))
    assert CAUGHT[0]["spacing"]["rho"] == 5.0


def test_a_failing_node_is_named(tmp_path: Path):
    work = flow(n1=node("Fail", "My sigmas"), n2=node("Show", value=["1", 0]))
    with pytest.raises(
        graph.NodeFailure, match=r'node 1 "My sigmas" \(Fail\) failed: sigma must'
    ) as caught:
        run(tmp_path, work)
    assert isinstance(caught.value.__cause__, ValueError)


def test_too_few_outputs_are_a_failure(tmp_path: Path):
    with pytest.raises(graph.NodeFailure, match="must return a NodeOutput of 1 values"):
        run(tmp_path, flow(n1=node("Short"), n2=node("Show", value=["1", 0])))


def test_ctrl_c_passes_through(tmp_path: Path):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, flow(n1=node("Interrupt"), n2=node("Show", value=["1", 0])))


def test_outputs_are_released_when_nobody_waits_for_them(tmp_path: Path):
    class Big:
        pass

    alive: list[Any] = []
    seen = []

    def make(cls):
        big = Big()
        alive.append(weakref.ref(big))
        return io.NodeOutput(big)

    def look(cls, value):
        seen.append([ref() is not None for ref in alive])
        return io.NodeOutput(1)

    registry = {
        "Make": make_node("Make", [], [io.AnyType.Output()], make),
        "Look": make_node("Look", [io.AnyType.Input("value")], [io.AnyType.Output()], look),
        "Show": REGISTRY["Show"],
    }
    work = flow(
        n1=node("Make"),
        n2=node("Look", value=["1", 0]),
        n3=node("Look", value=["2", 0]),
        n4=node("Show", value=["3", 0]),
    )
    graph.execute(work, registry, around(tmp_path, work))
    assert seen == [[True], [False]]


def test_context_and_hidden_values(tmp_path: Path):
    seen = {}
    steps = []

    def look(cls):
        seen["context"], seen["hidden"] = graph.current(), cls.hidden
        seen["grad"] = torch.is_inference_mode_enabled()
        graph.current().report(1, 4)
        return io.NodeOutput()

    registry = {"Look": make_node("Look", [], [], look, is_output_node=True)}
    work = dataclasses.replace(flow(n1=node("Look")), ui={"nodes": []})
    here = around(tmp_path, work, lambda *step: steps.append(step))
    graph.execute(work, registry, here)
    assert seen["context"] == dataclasses.replace(here, node="1")
    metadata = run_metadata(seen["context"])
    assert metadata.pop("sampling_kit")["node"] == "1"
    assert metadata == {"prompt": work.prompt, "workflow": {"nodes": []}}
    assert seen["hidden"] == io.HiddenHolder("1", work.prompt, {"workflow": {"nodes": []}})
    assert seen["grad"]
    assert steps == [("1", 1, 4)]
    assert registry["Look"].hidden is None
    with pytest.raises(LookupError):
        graph.current()


# The stand-in for comfy_api.latest.io


def test_schema_is_described_as_in_comfyui():
    info = io.object_info(REGISTRY["Spaced"])
    assert info["input"] == {
        "required": {
            "spacing": [
                "COMFY_DYNAMICCOMBO_V3",
                {
                    "options": [
                        {
                            "key": "karras",
                            "inputs": {
                                "required": {"rho": ["FLOAT", {"default": 7.0, "min": 1.0}]},
                                "optional": {"n": ["INT", {}]},
                            },
                        },
                        {"key": "linear", "inputs": {"required": {}}},
                    ]
                },
            ]
        },
        "hidden": {"unique_id": ["UNIQUE_ID"]},
    }
    assert info["input_order"]["required"] == ["spacing"]
    assert (info["output"], info["output_name"]) == (["SIGMAS"], ["SIGMAS"])
    assert set(io.object_info(REGISTRY["Show"])["input"]["hidden"]) == {
        "unique_id",
        "prompt",
        "extra_pnginfo",
    }
    json.dumps(info)


def test_misspelt_options_and_repeated_ids_are_refused():
    with pytest.raises(TypeError, match="does not take maximum"):
        io.Int.Input("steps", maximum=5)
    with pytest.raises(ValueError, match="input ids must differ"):
        io.Schema("A", inputs=[io.Int.Input("a"), io.Float.Input("a")])


def test_context_is_restored_after_an_error(tmp_path: Path):
    here = around(tmp_path, flow())
    with pytest.raises(ZeroDivisionError), context.use(here):
        1 / 0  # noqa: B018
    with pytest.raises(LookupError):
        context.current()


def grown(**inputs: Any) -> graph.Workflow:
    return flow(m=node("Model"), g=node("Grown", **inputs), out=node("Show", value=["g", 0]))


def test_growing_inputs_arrive_as_one_dictionary(tmp_path):
    inputs = {"models.model0": ["m", 0], "models.model2": ["m", 0]}
    run(tmp_path, grown(**inputs))
    assert CAUGHT[0] == {"models": {"model0": None, "model2": None}, "names": {}}


@pytest.mark.parametrize(
    ("inputs", "kind", "name"),
    [
        ({}, "required_input_missing", "models.model0"),
        ({"models.model1": ["m", 0]}, "required_input_missing", "models.model0"),
        ({"models.model0": ["m", 0], "models.model3": ["m", 0]}, "unknown_input", "models.model3"),
        ({"models.model0": ["g", 0]}, "return_type_mismatch", "models.model0"),
        ({"models.model0": ["m", 0], "models": 3}, "return_type_mismatch", "models"),
    ],
)
def test_growing_inputs_are_checked_one_by_one(inputs, kind, name):
    found = graph.check(grown(**inputs), REGISTRY)
    assert (kind, name) in [(error.kind, error.input) for error in found]
