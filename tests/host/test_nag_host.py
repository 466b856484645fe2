"""Two prompts in one call of tiny networks of ComfyUI: what ``nag.py`` measured."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.host


@pytest.fixture(scope="module")
def measured(comfy: Any, base: Path) -> dict[str, Any]:
    script = Path(__file__).with_name("nag.py")
    command = [comfy.python, str(script), str(base / "custom_nodes" / "comfyui-sampling-kit")]
    ended = subprocess.run(command, capture_output=True, timeout=300, **comfy.setting)
    assert ended.returncode == 0, ended.stderr.decode()[-4000:]
    return json.loads(ended.stdout)


def test_each_prompt_is_seen_as_if_it_stood_alone(measured: dict[str, Any]) -> None:
    """Guided all the way to one of the two prompts, the picture is that of a call with this prompt alone."""
    for name, found in measured["networks"].items():
        assert found["apart"] > 0.1 * found["size"], name
        assert max(found["plus"], found["minus"]) < 1e-5 * found["size"], name
        assert found["effect"] > 0.1 * found["size"], name


def test_only_the_positive_condition_s_images_are_guided(measured: dict[str, Any]) -> None:
    for name, found in measured["networks"].items():
        assert max(found["first row"], found["second row"]) < 1e-5 * found["size"], name
        assert found["uncond"], name


def test_nothing_stays_in_the_model(measured: dict[str, Any]) -> None:
    assert all(found["afterwards"] for found in measured["networks"].values())
    assert all(run["again"] and run["left"] == [] for run in measured["runs"].values())


@pytest.mark.parametrize("network", ["UNet", "Flux"])
def test_a_run_costs_no_second_call(measured: dict[str, Any], network: str) -> None:
    run = measured["runs"][network]
    assert run["off"], "with scale 1 the run is another"
    assert (run["calls"], run["rows"]) == (2, [2, 2])
    assert min(run["effect"], run["other prompt"], run["with CFG"]) > 0.05, run


@pytest.mark.parametrize(
    ("case", "words"),
    {
        **{name: ("not possible", kind, "Flux", "NextDiT", "CFG") for name, kind in {
            "Krea 2": "SingleStreamDiT", "LTX": "LTXVModel", "HiDream": "HiDreamImage", "Cosmos": "MiniTrainDIT",
            "LongCat": "LongCatImage",
        }.items()},
        "mask": ("masks", "attention_mask", "take out"),
        "width": ("negative_prompt", "12", "16", "text encoder"),
        "two": ("negative_prompt", "2 conditions"),
        "area": ("negative_prompt", "area", "curve"),
    }.items(),
)  # fmt: skip
def test_refusals_say_why_and_what_to_do(
    measured: dict[str, Any], case: str, words: tuple[str, ...]
) -> None:
    text = measured["refusals"][case]
    assert all(word in text for word in ("NAG", *words)), text
