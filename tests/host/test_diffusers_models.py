"""Folders of diffusers networks as native MODELs in ComfyUI: what ``diffusers_models.py`` measured."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from diffusers_folders import TINY, save

pytestmark = pytest.mark.host


@pytest.fixture(scope="module")
def measured(comfy: Any, base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    if subprocess.run([comfy.python, "-c", "import diffusers"], capture_output=True).returncode:
        pytest.skip(f"{comfy.python} has no diffusers: pip install diffusers==0.42.1")
    script = Path(__file__).with_name("diffusers_models.py")
    folder = tmp_path_factory.mktemp("models") / "diffusers"
    pack = base / "custom_nodes" / "comfyui-sampling-kit"
    command = [comfy.python, str(script), str(pack), str(folder)]
    ended = subprocess.run(command, capture_output=True, timeout=900, **comfy.setting)
    assert ended.returncode == 0, ended.stderr.decode()[-4000:]
    return json.loads(ended.stdout)


def test_nothing_is_imported_before_it_is_used(measured):
    assert measured["imported"] is False


@pytest.mark.parametrize("name", TINY)
def test_samplers_do_what_the_engine_does(measured, name):
    """KSampler with the core's Euler, and SamplerCustomAdvanced with our guider and DPM-Solver++.

    The core's Euler keeps x0 + σ·ε in float32: at σ = 4518 one rounding of it is 2e-4.
    """
    core, ours, sigma_max = measured["sampled"][name]
    assert ours < 1e-5
    assert core < (1e-5 if sigma_max < 50 else 2e-4)


@pytest.mark.parametrize("name", ["sd", "flux", "cogvideox-5b"])
def test_weight_patches_come_and_go(measured, name):
    found = measured["patched"][name]
    assert found["all taken"] and found["changed"] > 0.01
    assert found["output again"] and found["weights again"]
    assert found["names"]  # the network's own
    peft, kohya = found["lora"]
    assert peft == kohya > 1e-5


@pytest.mark.parametrize("name", ["wan", "pixart-alpha"])
def test_weights_of_blocks_are_patched_too(measured, name):
    """Which ComfyUI itself leaves out."""
    found = measured["patched"][name]
    assert found == {"without effect": [], "output again": True, "weights again": True}


@pytest.mark.parametrize("name", ["sd", "sd3", "wan", "cogvideox-5b"])
def test_a_model_that_does_not_fit_is_loaded_in_part(measured, name):
    found = measured["partly_loaded"][name]
    assert found["layers"] > 10 and found["functions"] == 1
    assert found["error"] < 1e-6 < found["effect"]
    assert found["after"] == 0


def test_previews_where_the_latents_are_known(measured):
    found = measured["previewed"]
    assert found["sd"] == found["ddpm"] == [[12, 8], [12, 8]]
    assert found["cogvideox-5b"] is None  # ComfyUI has no factors for it


@pytest.mark.parametrize("name", ["sd", "sd3", "cogvideox-5b"])
def test_what_is_not_masked_stays(measured, name):
    outside, inside = measured["masked"][name]
    assert outside < 1e-6 and inside > 0.1


def test_a_batch_is_its_pictures(measured):
    for name, error in measured["batched"].items():
        assert error < (2e-4 if name == "cogvideox-5b" else 1e-5), name  # σ_max as above


def test_models_come_back_after_free(measured):
    assert measured["freed"] == {"again": True, "second copy": True, "shared": False}


def test_bfloat16_weights_with_float32_state_and_time(measured):
    found = measured["dtypes"]
    assert "bf16: the weights are stored in bfloat16" in found["about"]
    assert found["network"] == "bfloat16"
    assert found["seen"] == ["float32", "bfloat16"]  # time, x
    assert found["state"] == ["float32", "float32"]
    assert 0 < found["bf16 against fp32"] < 0.1
    assert found["settings"] == 0 and found["undone"]
    assert "choose bf16, fp32 or auto" in found["fp16 refused"]
    assert "no misfit found" in found["inspected"] and "V_PREDICTION" in found["inspected"]


def test_float16_overflow_is_named(measured):
    assert measured["overflow"].startswith("FloatingPointError: UNet2DConditionModel returned NaN")
    assert "fp16" in measured["overflow"] and "bf16" in measured["overflow"]


def test_the_core_s_conditioning_nodes_work(measured):
    found = measured["conditioned"]
    for same in ("average", "default guidance", "one hot", "zeroed"):
        assert found[same] < 1e-6, same
    for different in ("area", "guidance", "other class"):
        assert found[different] > 1e-3, different


def test_core_nodes_that_change_the_schedule_keep_the_network_s_time(measured):
    assert len(measured["rescheduled"]) == 4
    for name, (change, engine) in measured["rescheduled"].items():
        assert change < 1e-5 and engine < 1e-5, name


def test_prompts_of_different_lengths_are_not_repeated(measured):
    assert max(measured["lengths"].values()) < 1e-5


def test_a_picture_beside_x_comes_as_from_the_core_s_nodes(measured):
    """concat_latent_image and concat_mask: inpainting, and CogVideoX 1.5 from a picture."""
    found = measured["inpainted"]
    assert found["sd-inpaint"] < 1e-5 and found["cogvideox-1.5"] < 1e-5
    assert "concat_latent_image" in found["missing"]


def test_the_nodes_that_look_at_a_model_work_on_it(measured):
    found = measured["looked_at"]
    assert found["claimed"] == "eps" and "fp16" in found["audit"] and "bf16" in found["audit"]


def test_empty_latents_get_the_right_shape(measured):
    assert measured["latents"] == {
        "sd": [[2, 4, 16, 32], [2, 4, 8, 12]],
        "cogvideox-5b": [[2, 4, 1, 16, 32], [2, 4, 3, 8, 12]],
    }


@pytest.mark.parametrize(
    ("case", "said"),
    {
        "no text": ["positive:", "UNet2DConditionModel needs text", "Diffusers Text Encode"],
        "wide text": ["negative:", "[B, L, 16]", "(1, 5, 7)"],
        "no pooled": ["pooled_output"],
        "text for a class": ["takes a class", "Class Condition"],
        "large class": ["0 to 9", "got class 11"],
        "not square": ["square", "(2, 4, 8, 12)"],
        "missing": ["folder = 'nothing-here'", "no such folder", "Found: "],
        "up": ["folder = '../outside'", "leads outside"],
        "absolute": ["leads outside"],
        "link": ["folder = 'link'", "leads outside", "copy the folder there"],
        "linked weights": ["safetensors leads to", "outside"],
        "pickle": ["is a pickle", "safe_serialization"],
        "variant": ["no variant 'fp16'"],
        "file": ["weights = 'no.safetensors'", "copy it there"],
        "no diffusers": ["ImportError", "pip install", "diffusers"],
    }.items(),
)
def test_one_clear_error_each(measured, case, said):
    text = measured["refused"][case]
    assert all(part in text for part in said), text


def test_the_folders_are_the_choices(measured):
    assert set(TINY) <= set(measured["choices"])


def test_a_server_draws_the_same_after_free(comfy, server, base):
    """Core KSampler on a folder, by the API, before and after everything was unloaded and forgotten."""
    pytest.importorskip("diffusers")
    if subprocess.run([comfy.python, "-c", "import diffusers"], capture_output=True).returncode:
        pytest.skip(f"{comfy.python} has no diffusers: pip install diffusers==0.42.1")
    save("ddpm-classes", base / "models" / "diffusers" / "classes")
    prompt = {
        "1": ("SamplingKitLoadDiffusersDenoiser", dict(folder="classes")),
        "2": ("SamplingKitDiffusersClass", dict(classes="0, 1, 2")),
        "3": ("SamplingKitDiffusersClass", dict(classes="3")),
        "4": ("SamplingKitEmptyDiffusersLatent", dict(model=["1", 0], width=16, height=8, batch_size=3)),
        "5": ("KSampler", dict(
            model=["1", 0], positive=["2", 0], negative=["3", 0], latent_image=["4", 0], seed=1, steps=3, cfg=2.0,
            sampler_name="dpmpp_2m", scheduler="karras", denoise=1.0,
        )),
        "6": ("SamplingKitLatentToImage", dict(latent=["5", 0])),
        "7": ("SaveImage", dict(images=["6", 0], filename_prefix="classes")),
    }  # fmt: skip
    named = {key: {"class_type": kind, "inputs": inputs} for key, (kind, inputs) in prompt.items()}
    first = server.images(server.queue(named))["7"]
    server.request("/free", {"unload_models": True, "free_memory": True})
    named["5"]["inputs"]["seed"] = 2  # so that it runs
    other = server.images(server.queue(named))["7"]
    named["5"]["inputs"]["seed"] = 1
    server.request("/free", {"unload_models": True, "free_memory": True})
    again = server.images(server.queue(named))["7"]
    assert len(first) == 3 and first[0].shape == (8, 16, 3)
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    assert (first[0] != other[0]).any()
    named["1"]["inputs"]["folder"] = "gone"
    answer = server.post(named)
    assert "there is no such folder" in json.dumps(answer), answer
