"""Small fake nodes and graphs of them, for the tests of the head-less runner."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sampling_kit.headless import graph
from sampling_kit.nodes.host.alone import io

RAN: list[str] = []
CAUGHT: list[Any] = []


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


GOOD = {"1": node("Steps", steps=3), "2": node("Show", value=["1", 0])}
