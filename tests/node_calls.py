"""Nodes called by name, outside of a graph, and what the runner says to those that it runs."""

import pytest

from sampling_kit.headless.context import Context, use
from sampling_kit.headless.registry import registry

NODES = registry()


def returned(kind, /, **inputs):
    """What one node returns; ours go without their prefix."""
    kind = kind if kind in NODES else f"SamplingKit{kind}"
    return NODES[kind].execute(**inputs)


def node(kind, /, **inputs):
    """The outputs of one node."""
    return returned(kind, **inputs).result


def one(kind, /, **inputs):
    """The first output of one node."""
    return node(kind, **inputs)[0]


@pytest.fixture(autouse=True)
def folders(tmp_path):
    """A context with folders of its own on the CPU; the value is where they lie."""
    places = (tmp_path / kind for kind in ("output", "input", "temp"))
    with use(Context(*places, "cpu", None, {}, None)):
        yield tmp_path
