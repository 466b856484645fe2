"""The head-less runner on small fake nodes: reading, checking, executing, images."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import struct
import weakref
import zlib
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from sampling_kit.headless import context, graph, png_text, workflow
from sampling_kit.headless.load_image import load_image
from sampling_kit.headless.save import run_metadata, save_images
from sampling_kit.nodes.host.alone import io

RAN: list[str] = []
CAUGHT: list[Any] = []


@pytest.fixture(autouse=True)
def forget() -> None:
    RAN.clear()
    CAUGHT.clear()


def make_node(name: str, inputs=(), outputs=(), run=None, validate=None, **schema) -> type:
    """A node class; `run(cls, **inputs)` returns a NodeOutput, by default without values."""

    def execute(cls, **given):
        RAN.append(cls.hidden.unique_id)
        return run(cls, **given) if run else io.NodeOutput(*[None for _ in outputs])

    def define_schema(cls):
        hidden = [io.Hidden.unique_id]
        return io.Schema(name, f"The {name}", "test", inputs, outputs, hidden, **schema)

    members = {"execute": classmethod(execute), "define_schema": classmethod(define_schema)}
    if validate:
        members["validate_inputs"] = classmethod(validate)
    return type(name, (io.ComfyNode,), members)


SPACING = io.DynamicCombo.Input(
    "spacing",
    options=[
        io.DynamicCombo.Option(
            "karras",
            [io.Float.Input("rho", default=7.0, min=1.0), io.Int.Input("n", optional=True)],
        ),
        io.DynamicCombo.Option("linear", []),
    ],
)


_MODELS = io.Autogrow.TemplatePrefix(io.Model.Input("model"), prefix="model", min=1, max=3)
_NAMES = io.Autogrow.TemplatePrefix(io.Model.Input("name", optional=True), prefix="name", min=0)
GROWING = io.Autogrow.Input("models", template=_MODELS, tooltip="Models.")
MORE = io.Autogrow.Input("names", template=_NAMES, optional=True)


def keep(cls, **given):
    CAUGHT.append(given)
    return io.NodeOutput(given)


def show(cls, value):
    CAUGHT.append(value)
    return io.NodeOutput(ui={"text": [str(value)]})


def fail(cls, **given):
    raise ValueError("sigma must not be NaN")


def interrupt(cls, **given):
    raise KeyboardInterrupt


def is_even(cls, n):
    return True if n is None or n % 2 == 0 else f"{n} is odd"


def wrong_signature(cls, n):
    return True


NODES = [
    make_node(
        "Steps",
        [
            io.Int.Input("steps", default=20, min=1, max=100),
            io.Float.Input("denoise", default=1.0, min=0.0, max=1.0, optional=True),
            io.Combo.Input("mode", options=["leading", "trailing"], optional=True),
            io.Boolean.Input("flip", optional=True),
            io.String.Input("note", optional=True),
        ],
        [io.Sigmas.Output()],
        lambda cls, **given: io.NodeOutput(given),
    ),
    make_node("Spaced", [SPACING], [io.Sigmas.Output()], keep),
    make_node("Grown", [GROWING, MORE], [io.Sigmas.Output()], keep),
    make_node("Model", [], [io.Model.Output()]),
    make_node(
        "Add",
        [io.AnyType.Input("a"), io.AnyType.Input("b", optional=True)],
        [io.Custom("SUM").Output()],
        lambda cls, a, b=None: io.NodeOutput((a, b)),
    ),
    make_node("Show", [io.AnyType.Input("value")], [], show, is_output_node=True),
    make_node(
        "Sample",
        [io.Sigmas.Input("sigmas"), io.Model.Input("model", optional=True)],
        [io.Latent.Output()],
    ),
    make_node("Save", [io.Latent.Input("latent")], [], is_output_node=True),
    make_node("Fail", [], [io.Sigmas.Output()], fail),
    make_node("Interrupt", [], [io.Sigmas.Output()], interrupt),
    make_node("Short", [], [io.Sigmas.Output()], lambda cls: io.NodeOutput()),
    make_node("Even", [io.Int.Input("n", min=0, max=4)], [io.Sigmas.Output()], None, is_even),
    make_node("Trap", [SPACING, io.Int.Input("n")], [io.Sigmas.Output()], None, wrong_signature),
]
REGISTRY = {node.define_schema().node_id: node for node in NODES}


def node(class_type: str, title: str | None = None, **inputs: Any) -> dict[str, Any]:
    meta = {"_meta": {"title": title}} if title else {}
    return {"class_type": class_type, "inputs": inputs, **meta}


def flow(**nodes: dict[str, Any]) -> graph.Workflow:
    return graph.Workflow(
        Path("test.json"), {key.lstrip("n"): value for key, value in nodes.items()}
    )


def around(tmp_path: Path, work: graph.Workflow, progress=None) -> graph.Context:
    return graph.Context(tmp_path, tmp_path, tmp_path, "cpu", progress, work.prompt, work.ui)


def run(tmp_path: Path, work: graph.Workflow, progress=None) -> dict[str, Any]:
    assert graph.check(work, REGISTRY) == []
    return graph.execute(work, REGISTRY, around(tmp_path, work, progress))


# Reading

GOOD = {"1": node("Steps", steps=3), "2": node("Show", value=["1", 0])}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1, column 1.*truncated"),
        ('{"1": {"class_type": "Steps"', "line 1, column 29.*truncated"),
        ('{"1": nope}', "Expecting value at line 1, column 7$"),
        ('{\n "1": 5,\n}', "line 3, column 1|line 2, column 8"),
        (b"\xff\xfe\x00", "not JSON"),
        ("[" * 100_000, "nested too deeply"),
        ("[1]", "not a list"),
        ("7", "not a int"),
        ('{"1": 7}', "node '1' must be an object"),
        ('{"1": {"inputs": {}}}', "node '1' has no class_type"),
        ('{"1": {"class_type": "A"}}', "node '1' has no inputs"),
        ('{"1": {"class_type": "A", "inputs": []}}', "node '1' has no inputs"),
        ('{"1": {"class_type": "A", "inputs": {"x": NaN}}}', "NaN is not a JSON number"),
        ('{"1": {"class_type": "A", "inputs": {"x": -Infinity}}}', "-Infinity is not"),
        ('{"nodes": [], "links": []}', r"editor's format.*Export \(API\)"),
        ('{"1": ' + "9" * 5000 + "}", "not JSON|must be an object"),
    ],
)
def test_unreadable_json_is_one_clear_error(tmp_path: Path, text: str | bytes, message: str):
    path = tmp_path / "w.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(graph.WorkflowError, match=message) as caught:
        graph.load(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_missing_file_and_folder(tmp_path: Path):
    for path in (tmp_path / "no.json", tmp_path):
        with pytest.raises(graph.WorkflowError, match="no such file"):
            graph.load(path)


def test_100_mb_are_refused_without_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "big.json"
    with path.open("wb") as file:
        file.truncate(100 * 2**20)
    monkeypatch.setattr(Path, "read_bytes", lambda _: pytest.fail("it was read"))
    with pytest.raises(graph.WorkflowError, match="100 MB is too large"):
        graph.load(path)


def test_json_with_byte_order_mark_and_extra_keys(tmp_path: Path):
    path = tmp_path / "w.json"
    data = {"1": node("Steps", "Mine", steps=3) | {"is_changed": 1}}
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(data).encode())
    assert graph.load(path).prompt == {"1": node("Steps", "Mine", steps=3)}


# PNG


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def write_png(path: Path, *chunks: bytes) -> Path:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(b"\0\0"))
    path.write_bytes(png_text.SIGNATURE + header + b"".join(chunks) + pixels + chunk(b"IEND", b""))
    return path


PROMPT_TEXT = json.dumps(GOOD).encode()
BOMB = zlib.compress(bytes(png_text.TEXT_LIMIT + 1))


@pytest.mark.parametrize(
    "body",
    [
        chunk(b"tEXt", b"prompt\0" + PROMPT_TEXT),
        chunk(b"zTXt", b"prompt\0\0" + zlib.compress(PROMPT_TEXT)),
        chunk(b"iTXt", b"prompt\0\0\0\0\0" + PROMPT_TEXT),
        chunk(b"iTXt", b"prompt\0\1\0en\0x\0" + zlib.compress(PROMPT_TEXT)),
    ],
)
def test_prompt_in_every_kind_of_text_chunk(tmp_path: Path, body: bytes):
    loaded = graph.load(write_png(tmp_path / "a.png", body))
    assert loaded.prompt == GOOD
    assert loaded.ui is None


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "holds no workflow"),
        (chunk(b"tEXt", b'workflow\0{"nodes": []}'), "only the editor's graph"),
        (chunk(b"tEXt", b"prompt\0{"), "not JSON"),
        (chunk(b"tEXt", b"prompt\0" + PROMPT_TEXT)[:-1] + b"?", "damaged"),
        (chunk(b"zTXt", b"prompt\0\0" + b"rubbish"), "damaged"),
        (chunk(b"zTXt", b"prompt\0\0" + zlib.compress(PROMPT_TEXT)[:20]), "cut short"),
        (chunk(b"zTXt", b"a\0\0" + BOMB), "more than 32 MB of text"),
        (chunk(b"iTXt", b"a\0\1\0\0\0" + BOMB), "more than 32 MB of text"),
        (chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(20 * 2**20))) * 2, "more than 32 MB"),
        (struct.pack(">I", 2**31 - 1) + b"tEXt", "truncated"),
    ],
)
def test_bad_png_is_one_clear_error(tmp_path: Path, body: bytes, message: str):
    with pytest.raises(graph.WorkflowError, match=message):
        graph.load(write_png(tmp_path / "a.png", body))


def test_truncated_png(tmp_path: Path):
    whole = write_png(tmp_path / "a.png", chunk(b"tEXt", b"prompt\0" + PROMPT_TEXT)).read_bytes()
    for length in (8, 12, 40, 80, len(whole) - 20, len(whole) - 1):
        (tmp_path / "b.png").write_bytes(whole[:length])
        with pytest.raises(graph.WorkflowError, match="truncated"):
            graph.load(tmp_path / "b.png")


def test_comfyui_png_with_nan_in_is_changed(tmp_path: Path):
    text = b'{"1": {"class_type": "Steps", "inputs": {"steps": 3}, "is_changed": [NaN]}}'
    loaded = graph.load(write_png(tmp_path / "a.png", chunk(b"tEXt", b"prompt\0" + text)))
    assert loaded.prompt == {"1": node("Steps", steps=3)}


def test_png_round_trip_restores_both_graphs(tmp_path: Path):
    ui = {"nodes": [{"id": 1, "title": "żółw ✓"}], "links": []}
    saved = save_images(torch.rand(2, 4, 5, 3), "a", tmp_path, {"prompt": GOOD, "workflow": ui})
    for entry in saved:
        loaded = graph.load(tmp_path / entry["filename"])
        assert (loaded.prompt, loaded.ui) == (GOOD, ui)
    with Image.open(tmp_path / saved[0]["filename"]) as file:
        assert json.loads(file.text["workflow"]) == ui


# Checking

STEPS = {"steps": 3}


def bad(class_type: str, **inputs: Any) -> graph.Workflow:
    return flow(
        n1=node("Steps", **STEPS),
        n5=node(class_type, "Mine", **inputs),
        n9=node("Show", value=["5", 0]),
    )


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
    assert '"a [31m b"' in str(graph.check(work, REGISTRY)[0])
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


# Images


def test_names_count_up_and_stay_in_subfolders(tmp_path: Path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a_00007_.png").touch()
    (tmp_path / "sub" / "a_b_00009_.png").touch()
    first, second = save_images(torch.zeros(2, 3, 5, 3), "sub/a", tmp_path, {})
    assert first == {"filename": "a_00008_.png", "subfolder": "sub", "type": "output"}
    assert second["filename"] == "a_00009_.png"
    (named,) = save_images(torch.zeros(1, 3, 5, 4), "%width%x%height%_%batch_num%", tmp_path, {})
    assert named["filename"] == "5x3_0_00001_.png"
    assert save_images(torch.zeros(1, 3, 5, 1), "x/../y", tmp_path, {}, "temp")[0] == {
        "filename": "y_00001_.png", "subfolder": "", "type": "temp"
    }  # fmt: skip


def test_pixels_round_trip_as_comfyui_stores_them(tmp_path: Path):
    values = torch.tensor([-1.0, 0.0, 0.4999, 1.0, 9.0]).reshape(1, 1, 5, 1).expand(-1, -1, -1, 3)
    (entry,) = save_images(values, "a", tmp_path, {})
    image, mask = load_image(entry["filename"], tmp_path)
    assert torch.equal((image[0, 0, :, 0] * 255).round(), torch.tensor([0.0, 0, 127, 255, 255]))
    assert mask.shape == (1, 64, 64)
    assert not mask.any()


@pytest.mark.parametrize(
    "prefix", ["../a", "sub/../../a", "/etc/a", "", ".", "..", "a/..", "link/a", "a\0b"]
)
def test_prefix_outside_of_the_folder_is_refused(tmp_path: Path, prefix: str):
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=r"filename_prefix .* output folder"):
        save_images(torch.zeros(1, 2, 2, 3), prefix, folder, {})
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_nothing_half_written_is_left(tmp_path: Path, monkeypatch, error: BaseException):
    def half(self, file, *args, **options):
        file.write(b"half")
        raise error

    monkeypatch.setattr(Image.Image, "save", half)
    with pytest.raises(type(error)):
        save_images(torch.zeros(1, 2, 2, 3), "a", tmp_path, {})
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.full((1, 2, 2, 3), float("nan")), "NaN"),
        (torch.zeros(2, 2, 3), "shape"),
        (torch.zeros(1, 2, 2, 2), "shape"),
        (torch.zeros(0, 2, 2, 3), "shape"),
    ],
)
def test_impossible_images_are_refused(tmp_path: Path, tensor: torch.Tensor, message: str):
    with pytest.raises(ValueError, match=message):
        save_images(tensor, "a", tmp_path, {})
    assert os.listdir(tmp_path) == []


def test_mask_is_one_minus_alpha(tmp_path: Path):
    Image.new("RGBA", (3, 2), (255, 0, 0, 51)).save(tmp_path / "a.png")
    image, mask = load_image("a.png [input]", tmp_path)
    assert image.shape == (1, 2, 3, 3)
    torch.testing.assert_close(mask, torch.full((1, 2, 3), 0.8))


def test_frames_and_16_bit(tmp_path: Path):
    frames = [Image.new("RGB", (3, 2), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert load_image("a.gif", tmp_path)[0].shape == (2, 2, 3, 3)
    Image.new("I;16", (3, 2), 32768).save(tmp_path / "b.png")
    assert load_image("b.png", tmp_path)[0].mean().item() == pytest.approx(0.5, abs=1e-4)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("../secret.png", "outside of the input folder"),
        ("link.png", "outside of the input folder"),
        ("none.png", "there is no image"),
        ("text.png", "cannot read the image"),
        ("cut.png", "cannot read the image"),
    ],
)
def test_load_image_is_confined_and_clear(tmp_path: Path, name: str, message: str):
    folder = tmp_path / "in"
    folder.mkdir()
    Image.new("RGB", (30, 30)).save(tmp_path / "secret.png")
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    (folder / "text.png").write_text("hello")
    (folder / "cut.png").write_bytes((tmp_path / "secret.png").read_bytes()[:60])
    with pytest.raises(ValueError, match=message):
        load_image(name, folder)


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


def test_limits_are_what_the_messages_say():
    assert (png_text.TEXT_LIMIT, workflow.JSON_LIMIT) == (32 * 2**20, 32 * 2**20)


# Autogrow


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
