"""The weightless latent space under ComfyUI's core nodes: what ``latent_space.py`` measured."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.host


@pytest.fixture(scope="module")
def measured(comfy: Any, base: Path) -> dict[str, Any]:
    script = Path(__file__).with_name("latent_space.py")
    command = [comfy.python, str(script), str(base / "custom_nodes" / "comfyui-sampling-kit")]
    ended = subprocess.run(command, capture_output=True, timeout=300, **comfy.setting)
    assert ended.returncode == 0, ended.stderr.decode()[-4000:]
    return json.loads(ended.stdout)


def test_the_core_s_vae_nodes_go_there_and_back(measured):
    assert measured["latent shape"] == [3, 12, 16, 16]
    assert measured["round trip"] < 1e-6
    assert max(measured["tiled"]) < 1e-6


@pytest.mark.parametrize("kind", ["ve_edm", "vp_linear", "rectified_flow"])
def test_a_latent_run_is_the_pixel_run(measured, kind):
    assert measured["runs"][kind]["spread"] > 0.1
    assert measured["runs"][kind]["gap"] < 1 / 255


def test_the_preview_shows_the_blocks_colours(measured):
    assert measured["preview"] < 1.01  # of 255: whole numbers, rounded down


def test_empty_latents_and_the_core_s_ksampler(measured):
    assert measured["empty"] == [[1, 12, 16, 16], 2]
    shape, spread, finite = measured["KSampler"]
    assert shape == [3, 32, 32, 3]
    assert finite and spread > 0.1
