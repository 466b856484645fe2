"""What people type into the search finds a node: the names of other programs, in any case, and Chinese ones."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from node_calls import NODES

from sampling_kit.nodes.ui.search_words import SCHEDULERS, once, solver_words
from sampling_kit.schedulers.solver import ALL
from sampling_kit.schedulers.solver.published import NEAR, ROWS


def finds(text: str) -> set[str]:
    """The nodes of ours of which a name is this text."""
    schemas = {id: node.define_schema() for id, node in NODES.items()}
    return {
        id for id, schema in schemas.items()
        if text.casefold() in {word.casefold() for word in (*schema.search_aliases, schema.display_name)}
    }  # fmt: skip


def names() -> Iterator[str]:
    for row in ROWS:
        yield from (row.name, *row.comfy, *row.labels, *row.diffusers)
    yield from (near.name for near in NEAR)


def test_every_sampler_of_comfyui_a1111_and_diffusers_is_found():
    """At the one node for all, and at the solver's own."""
    lost = {name for name in names() if not {"SamplingKitSample"} < finds(name)}
    assert not lost


def test_every_schedule_of_theirs_is_found_at_steps():
    assert not {name for name in SCHEDULERS if "SamplingKitSteps" not in finds(name)}


@pytest.mark.parametrize(
    ("text", "node"),
    [
        ("DPM++ 2M Karras", "DPMSolverMultistep"), ("dpm 2m karras", "DPMSolverMultistep"), ("dpm++ 2m karras", "Sample"),
        ("DPM++ SDE Karras", "DPMSolver"), ("Euler a", "EulerAncestral"), ("fewer steps", "FitSolver"),
        ("fewer steps", "Sample"), ("img2img", "ImageToLatent"), ("img2img", "Sample"), ("KSampler", "Sample"),
        ("采样器", "Sample"), ("采样器", "UniPC"), ("欧拉", "Euler"), ("调度器", "Steps"), ("图生图", "Sample"),
    ],
)  # fmt: skip
def test_a_search_finds_its_node(text, node):
    assert f"SamplingKit{node}" in finds(text)


def test_words_are_said_once():
    assert once(["DDIM", "ddim", "x", "DDIM"]) == ["DDIM", "x"]
    for solver in (None, *ALL):
        words = [word.casefold() for word in solver_words(solver)]
        assert len(words) == len(set(words))
