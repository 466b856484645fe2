"""Perturbed branches on tiny networks of ComfyUI: what ``perturbations.py`` measured."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.host

NETWORKS = ("UNet", "SD3", "Flux", "Wan", "LTX", "Z-Image", "Cosmos", "Anima", "HiDream", "Krea 2")
#: What is usual where the network is too small for the usual blocks: the middle one.
MIDDLE = {
    "UNet": "middle", "SD3": "double.2", "Krea 2": "single.1",
    **dict.fromkeys(("Flux", "Wan", "LTX", "Z-Image", "Cosmos", "Anima", "HiDream"), "double.1"),
}  # fmt: skip


@pytest.fixture(scope="module")
def measured(comfy: Any, base: Path) -> dict[str, Any]:
    script = Path(__file__).with_name("perturbations.py")
    command = [comfy.python, str(script), str(base / "custom_nodes" / "comfyui-sampling-kit")]
    ended = subprocess.run(command, capture_output=True, timeout=300, **comfy.setting)
    assert ended.returncode == 0, ended.stderr.decode()[-4000:]
    return json.loads(ended.stdout)


@pytest.fixture(params=NETWORKS)
def network(request: pytest.FixtureRequest, measured: dict[str, Any]) -> dict[str, Any]:
    found = measured["networks"][request.param]
    assert found["hand"] < 1e-5 * found["size"], "the checker's attention is not the network's"
    return found | {"name": request.param}


def test_identity_gives_every_token_of_the_picture_its_value(network: dict[str, Any]) -> None:
    assert network["identity effect"] > 0.01 * network["size"]
    assert network["identity"] < 1e-4 * network["identity effect"]


def test_blur_is_nothing_at_zero_and_the_mean_at_infinity(network: dict[str, Any]) -> None:
    assert network["blur 0"]
    assert network["blur small"] < 1e-5 * network["size"]
    assert network["blur effect"] > 1e-3 * network["size"]
    assert network["blur wide"] < 1e-3 * network["blur effect"]


def test_skip_is_the_network_without_the_block(network: dict[str, Any]) -> None:
    for layer, distance in network["skip"].items():
        assert network["skip effect"][layer] > 0.01 * network["size"], layer
        assert distance < 1e-5 * network["size"], layer


def test_nothing_stays_installed(network: dict[str, Any]) -> None:
    assert network["afterwards"]


def test_default_layers(network: dict[str, Any]) -> None:
    assert set(map(tuple, network["default"].values())) == {(MIDDLE[network["name"]],)}


def test_default_layers_of_full_size(measured: dict[str, Any]) -> None:
    assert measured["full size"] == {
        "SD3": ["double.7", "double.8", "double.9"],
        "Wan": ["double.9"],
    }


def test_the_table_of_families_is_the_code_s(measured: dict[str, Any]) -> None:
    """docs/choosing.md, whose AuraFlow has the class name of SD3."""
    text = (Path(__file__).parents[2] / "docs" / "choosing.md").read_text(encoding="utf-8")
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.count(" | ") == 4]
    table = {
        row[0].split(" ")[0] + row[0].count("Aura") * "+": [
            cell.replace(", ", "-") for cell in row[2:4]
        ]
        for row in rows
    }
    for path, (attention, blocks) in measured["families"].items():
        name = path.rsplit(".", 1)[1] + path.startswith("aura") * "+"
        kinds = [attention.replace("_block", "") or "–", blocks.replace("_block", "")]
        assert table[name] == kinds, name


def test_patches_of_others_stay(measured: dict[str, Any]) -> None:
    assert all(measured["others"].values()), measured["others"]


@pytest.mark.parametrize(
    ("case", "words"),
    {
        "class": ("PAG", "Identity", "UNetModel", "MMDiT", "Flux", "WanModel"),
        "layer": ("PAG", "layers", "'7'", "input.3", "middle", "output.1.0"),
        "block": ("Skip-Layer", "layers", "'9'", "double.0", "double.3"),
        "deaf": ("Skip-Layer", "Deaf", "middle"),
        "grid": ("SEG", "25 tokens"),
    }.items(),
)
def test_refusals_name_what_there_is(
    measured: dict[str, Any], case: str, words: tuple[str, ...]
) -> None:
    text = measured["refusals"][case]
    assert all(word in text for word in words), text
