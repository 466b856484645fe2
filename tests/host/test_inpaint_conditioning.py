"""Our nodes behind the core's InpaintModelConditioning: what ``inpaint_conditioning_runs.py`` measured."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.host
ON, OFF = "True", "False"


@pytest.fixture(scope="module")
def measured(comfy: Any, base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    script = Path(__file__).with_name("inpaint_conditioning_runs.py")
    pack = base / "custom_nodes" / "comfyui-sampling-kit"
    command = [comfy.python, str(script), str(pack), str(tmp_path_factory.mktemp("network"))]
    ended = subprocess.run(command, capture_output=True, timeout=600, **comfy.setting)
    assert ended.returncode == 0, ended.stderr.decode()[-4000:]
    return json.loads(ended.stdout)


@pytest.mark.full
@pytest.mark.parametrize("noise_mask", [ON, OFF])
def test_sample_is_core_s_ksampler(measured: dict[str, Any], noise_mask: str) -> None:
    """The same bits with the core's euler as its sampler, the same numbers with ours, in as many evaluations."""
    run = measured[noise_mask]
    assert run["finite"] and len(set(run["rows"])) == 1
    gaps = dict(run["gaps"])
    assert gaps.pop("core's euler") == 0
    assert gaps and max(gaps.values()) < 1e-5


@pytest.mark.full
@pytest.mark.parametrize("noise_mask", [ON, OFF])
def test_the_network_sees_the_mask_and_the_picture_in_every_call(
    measured: dict[str, Any], noise_mask: str
) -> None:
    """Nine channels: x, the mask, and the picture with its hole, the same in every run as in KSampler's."""
    run = measured[noise_mask]
    assert run["channels"] == [9, 5] and run["mask beside"] == [0, 1]
    assert run["beside"] and not any(run["beside"].values())


@pytest.mark.full
def test_langevin_inpainting_keeps_the_picture_and_makes_the_rest(measured: dict[str, Any]) -> None:
    run = measured[ON]["moves"]
    assert run["finite"] and run["new"] and run["kept"] < 1e-5
    assert run["rows"] == 2 * (
        3 + 2 * 2
    )  # both branches, in 3 steps and 2 moves at the levels between


@pytest.mark.full
def test_without_a_noise_mask_langevin_inpainting_says_where_to_set_it(
    measured: dict[str, Any],
) -> None:
    assert "behind InpaintModelConditioning: set its noise_mask" in measured[OFF]["refused"]
