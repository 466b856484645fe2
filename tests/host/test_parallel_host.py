"""Picard sweeps inside ComfyUI on tiny networks: what ``parallel_runs.py`` measured."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.host


@pytest.fixture(scope="module")
def measured(comfy: Any, base: Path) -> dict[str, Any]:
    script = Path(__file__).with_name("parallel_runs.py")
    command = [comfy.python, str(script), str(base / "custom_nodes" / "comfyui-sampling-kit")]
    ended = subprocess.run(command, capture_output=True, timeout=300, **comfy.setting)
    assert ended.returncode == 0, ended.stderr.decode()[-4000:]
    return json.loads(ended.stdout)


@pytest.mark.parametrize("network", ["UNet", "Flux"])
def test_four_levels_of_both_images_go_in_one_call(measured: dict[str, Any], network: str) -> None:
    """And end where the run in sequence does; CFG's branches share the call."""
    for case, images in {"alone": 2, "CFG": 4}.items():
        run = measured[network][case]
        assert run["rows"] == [images, 4 * images]
        assert run["calls"][1] <= run["calls"][0] == 12
        assert run["distance"] < 1e-4


@pytest.mark.parametrize("network", ["UNet", "Flux"])
def test_a_patch_that_goes_by_the_level_gets_one_at_a_time(
    measured: dict[str, Any], network: str
) -> None:
    run = measured[network]["patched"]
    assert run["rows"] == [4, 4] and run["calls"][1] > 12
    assert run["distance"] < 1e-4


@pytest.mark.parametrize("network", ["UNet", "Flux"])
def test_an_image_of_a_speculative_batch_is_what_it_is_alone(
    measured: dict[str, Any], network: str
) -> None:
    """Whatever level its batch-mates stand at: in one call of four states of both images and branches, or one level at a time."""
    for case, rows in {"CFG": 16, "patched": 4}.items():
        run = measured[network][f"{case} speculative"]
        assert run["distance"] < 1e-3 and run["rows"] == rows
    assert measured[network]["CFG speculative"]["calls"] <= 12


def test_a_rule_that_remembers_is_refused(measured: dict[str, Any]) -> None:
    for network in measured.values():
        assert all(word in network["memory"] for word in ("APG", "Parallel Steps", "momentum"))
