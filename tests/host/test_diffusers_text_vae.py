"""Diffusers Text Encode and Diffusers VAE in ComfyUI: what ``diffusers_text_vae.py`` measured."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.host


@pytest.fixture(scope="module")
def measured(comfy: Any, base: Path, tmp_path_factory: Any) -> dict[str, Any]:
    look = "import diffusers, transformers"
    if subprocess.run([comfy.python, "-c", look], capture_output=True).returncode:
        pytest.skip(f"{comfy.python} has no diffusers and transformers")
    script, pack = Path(__file__).with_name("diffusers_text_vae.py"), base / "custom_nodes"
    folder = tmp_path_factory.mktemp("diffusers")
    command = [comfy.python, str(script), str(pack / "comfyui-sampling-kit"), str(folder)]
    ended = subprocess.run(command, capture_output=True, timeout=300, **comfy.setting)
    assert ended.returncode == 0, ended.stderr.decode()[-4000:]
    return json.loads(ended.stdout.splitlines()[-1])


def test_prompts_are_the_pipeline_s(measured):
    text = measured["text"]
    assert text["gap"] < 1e-5
    assert text["extra"] == []
    assert text["sdxl"] == [[1, 16, 32], {"pooled_output": [1, 12]}]
    assert text["zeroed"] == [0, 0]  # ConditioningZeroOut


def test_encoders_are_comfyui_s_to_unload(measured):
    """One folder's are kept, loaded by ComfyUI; /free takes the weights; the next prompt reads them again."""
    text = measured["text"]
    assert text["kept"] == [1, True]
    assert text["after free"] == [True, 0]
    assert text["again"] == 0


@pytest.mark.parametrize(
    ("kind", "shape"),
    [("AutoencoderKL", [1, 32, 48, 3]), ("AutoencoderKLCogVideoX", [5, 32, 48, 3])],
)
def test_core_vae_nodes_take_the_vae(measured, kind, shape):
    """VAE Decode, VAE Encode, both tiled, for inpainting, after /free, and after Select VAE Device."""
    found = measured["vae"][kind]
    assert found["shape"] == shape
    for name in ("decode", "tiled", "encode", "encode_tiled"):
        assert found[name] < 1e-5, name
    size, difference = found["small"]
    assert size == shape and 0 < difference < 1
    assert found["loaded"]
    assert found["after free"] == found["selected"] == 0
    assert found.get("inpaint", 0) < 1e-5


def test_what_is_missing_or_overflows_is_named(measured):
    said = measured["errors"]
    assert "has no folder 'vae': use a complete" in said["vae"]
    assert "has 0 of 1 text encoders: use a complete" in said["text_encoder"]
    assert "has no folder 'tokenizer': use a complete" in said["tokenizer"]
    assert all(
        f"folder = 'no-{part}'" in said[part] for part in ("vae", "text_encoder", "tokenizer")
    )
    assert said["overflow"].startswith("FloatingPointError: AutoencoderKLCogVideoX returned NaN")
    assert "float16 ends at 65504" in said["overflow"]
    assert "outside" in said["outside"]
