"""--seed and --seeds find every seed of a graph, those of other packs' nodes and of primitives too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pytest

from sampling_kit.headless.cli.options import LARGEST_SEED, parse_seeds
from sampling_kit.headless.settings_flags import with_seed
from sampling_kit.headless.workflow import Workflow, WorkflowError


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def seeds(seed: int = 7, **nodes: Any) -> dict[str, Any]:
    """{node: inputs} after --seed."""
    changed = with_seed(Workflow(Path("w.json"), nodes), {}, seed)
    return {key: entry["inputs"] for key, entry in changed.prompt.items()}


def test_a_seed_from_a_primitive_is_set_where_it_stands():
    sampler = node("KSampler", seed=["p", 0], steps=20)
    assert seeds(k=sampler, p=node("PrimitiveInt", value=1)) == {
        "k": {"seed": ["p", 0], "steps": 20},
        "p": {"value": 7},
    }


def test_a_seed_node_a_reroute_and_two_samplers():
    changed = seeds(
        a=node("KSampler", seed=["r", 0]),
        b=node("RandomNoise", noise_seed=["s", 0]),
        r=node("PassInt", value=["s", 0]),
        s=node("Seed Everywhere", seed=3, label="x"),
    )
    assert changed["s"] == {"seed": 7, "label": "x"} and changed["r"] == {"value": ["s", 0]}


def test_a_number_that_other_inputs_take_too_is_left():
    with pytest.raises(WorkflowError, match="has a seed"):
        seeds(k=node("KSampler", seed=["p", 0], steps=["p", 0]), p=node("PrimitiveInt", value=20))


@pytest.mark.parametrize(
    "source", [node("Add", a=1, b=2), node("Pick", value="x"), node("Pass", value=["p", 0]), node("Two", value=1, int=2)]
)  # fmt: skip
def test_a_number_that_is_computed_is_left(source):
    with pytest.raises(WorkflowError, match="has a seed"):
        seeds(k=node("KSampler", seed=["p", 0]), p=source)


def test_a_link_to_nowhere_and_other_values_are_left():
    for value in (["q", 0], [], "text", True, None):
        assert seeds(k=node("KSampler", seed=value), x=node("RandomNoise", noise_seed=1))["x"] == {
            "noise_seed": 7
        }


def test_seeds_have_64_bits():
    assert seeds(LARGEST_SEED, k=node("KSampler", seed=0))["k"]["seed"] == 2**64 - 1
    assert parse_seeds(None, None, f"{LARGEST_SEED - 1}-{LARGEST_SEED}")[-1] == 2**64 - 1  # type: ignore[arg-type,index]
    with pytest.raises(click.BadParameter, match="2 to the 64"):
        parse_seeds(None, None, f"0-{LARGEST_SEED + 1}")  # type: ignore[arg-type]
