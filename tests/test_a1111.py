"""Settings as A1111, Forge and picture sites write them."""

from __future__ import annotations

import json

import pytest

from sampling_kit.headless.settings_flags import with_infotext
from sampling_kit.headless.workflow import WorkflowError, load
from sampling_kit.nodes.sample.a1111 import A1111Settings, report_of
from sampling_kit.nodes.sample.infotext import AUTO, Settings, settings_of
from sampling_kit.nodes.ui.live_route import answer

LINE = "Steps: 30, Sampler: DPM++ 2M Karras, CFG scale: 5, Seed: 7, Size: 512x768"
TEXT = f"a castle,\nsunset\nNegative prompt: blurry,\ndark\n{LINE}, Model hash: abc, Model: dream, Clip skip: 2, Version: v1.6"


def test_a_picture_s_text():
    read = settings_of(TEXT)
    assert (read.positive, read.negative) == ("a castle,\nsunset", "blurry,\ndark")
    assert (read.seed, read.steps, read.cfg, read.denoise) == (7, 30, 5.0, 1.0)
    assert (read.solver, read.spacing) == ("DPM++ 2M", "karras")
    assert (read.width, read.height) == (512, 768)
    assert read.said == (
        "Clip skip 2: CLIP Set Last Layer at minus this number",
        "made with Model dream, Model hash abc, Version v1.6",
    )


def test_line_breaks_lost_on_the_way_change_nothing():
    squeezed = settings_of("a castleNegative prompt: blurry" + LINE)
    assert (squeezed.positive, squeezed.negative, squeezed.steps) == ("a castle", "blurry", 30)
    later = settings_of(f"a Steps: 3, castle\n{LINE}, ADetailer: on, ADetailer Steps: 9")
    assert (later.positive, later.steps) == ("a Steps: 3, castle", 30)
    assert settings_of(LINE) == Settings(
        seed=7, steps=30, solver="DPM++ 2M", spacing="karras", height=768
    )


@pytest.mark.parametrize(
    ("sampler", "schedule", "solver", "spacing", "word"),
    [
        ("DPM++ 2M", "Automatic", "DPM++ 2M", "karras", ""),
        ("DPM++ 2M SDE", "Automatic", "DPM++ 2M SDE", "exponential", ""),
        ("Euler a", "Automatic", "Euler a", "linspace", "rounds"),
        ("Euler", "", "Euler", "linspace", "rounds"),
        ("DPM++ SDE Karras", "", "SEEDS-2", "karras", "draws its noise"),
        ("UniPC", "SGM Uniform", "UniPC", "trailing", "rounds"),
        ("Euler", "Align Your Steps", "Euler", "karras", "SIGMAS"),
        ("Euler", "Karras Exponential", "Euler", AUTO, "nobody here has it"),
        ("[Forge] Flux Realistic", "Simple", AUTO, AUTO, "nobody here has it"),
        ("LMS Karras", "", "LMS", "karras", ""),
    ],
)
def test_sampler_and_schedule(sampler, schedule, solver, spacing, word):
    line = LINE.replace("DPM++ 2M Karras", sampler) + (
        f", Schedule type: {schedule}" if schedule else ""
    )
    read = settings_of(line)
    assert (read.solver, read.spacing) == (solver, spacing)
    assert word in " ".join(read.said) and bool(word) == bool(read.said)


def test_img2img_takes_the_steps_that_a1111_takes():
    """int(0.6 · 30) + 1: the loop over sigmas[30 − 18 − 1:], modules/sd_samplers_kdiffusion.py."""
    read = settings_of(LINE + ", Denoising strength: 0.6")
    assert (read.steps, read.denoise) == (19, 0.6)
    assert settings_of(LINE + ", Denoising strength: 1").steps == 30


def test_the_strength_of_a_hires_fix_is_not_the_run_s():
    read = settings_of(LINE + ", Denoising strength: 0.4, Hires upscale: 2, Hires upscaler: Latent")
    assert (read.steps, read.denoise) == (30, 1.0)
    assert read.said == ("Hires fix: a second Sample with denoise 0.4 on the enlarged latent",)


def test_values_with_commas_and_what_a_prompt_holds_for_a1111_alone():
    more = 'Lora hashes: "a: 1f, b: 2e", Civitai resources: [{"type":"lora","weight":0.8}], ControlNet 0: "Module: canny, Weight: 1"'
    read = settings_of(
        f"a <lora:add detail:0.8> castle [day:night:0.5]\nSteps: 4, Sampler: LCM, {more}"
    )
    assert read.positive == "a castle [day:night:0.5]"
    text = "\n".join(read.said)
    for part in ("<add detail:0.8>: Load LoRA", "prompt editing", "Lora hashes a: 1f, b: 2e", "ControlNet 0 Module: canny"):  # fmt: skip
        assert part in text
    assert "Civitai resources [{" in text and read.steps == 4


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a castle", "no settings are in it"),
        (LINE.replace("7,", "seven,"), "Seed = 'seven' must be a whole number"),
        (LINE.replace("512x768", "big"), "Size = 'big' must be such as 512x768"),
        (LINE.replace("scale: 5", "scale: nan"), "CFG scale = 'nan' must be a number from 0 to 100"),
        (LINE + ", Denoising strength: 2", "Denoising strength = '2' must be a number from 0 to 1"),
        ("x" * 20000, "at most 16384"),
    ],
)  # fmt: skip
def test_what_cannot_be_read(text, words):
    with pytest.raises(ValueError, match="text") as error:
        settings_of(text)
    assert words in str(error.value)
    assert words in A1111Settings.validate_inputs(text=text)


def test_the_node_and_the_page_get_the_same():
    out = A1111Settings.execute(TEXT)
    read = settings_of(TEXT)
    assert out.result[2:10] == (7, 30, 5.0, "DPM++ 2M", "karras", 1.0, 512, 768)
    assert out.result[-1] == report_of(read) == out.ui["text"][0]
    graph = {"1": {"class_type": "SamplingKitA1111Settings", "inputs": {"text": TEXT}}}
    status, told = answer(json.dumps({"requests": [{"node": "1", "graph": graph}]}).encode())
    told = told["answers"][0]["settings"]
    assert status == 200 and told["solver"] == "DPM++ 2M" and tuple(told["said"]) == read.said


def test_a_file_s_text_goes_into_the_node(tmp_path):
    from PIL import Image, PngImagePlugin

    node = {"class_type": "SamplingKitA1111Settings", "inputs": {"text": ""}}
    (tmp_path / "graph.json").write_text(json.dumps({"1": node}))
    graph = load(tmp_path / "graph.json")
    (tmp_path / "shared.txt").write_text(TEXT, "utf8")
    info = PngImagePlugin.PngInfo()
    info.add_text("parameters", TEXT)
    Image.new("RGB", (4, 4)).save(tmp_path / "shared.png", pnginfo=info)
    Image.new("RGB", (4, 4)).save(tmp_path / "bare.png")
    for name in ("shared.txt", "shared.png"):
        changed = with_infotext(graph, tmp_path / name)
        assert changed.prompt["1"]["inputs"]["text"] == TEXT
    assert graph.prompt["1"]["inputs"]["text"] == ""
    with pytest.raises(WorkflowError, match=r"bare.png.*carries no settings"):
        with_infotext(graph, tmp_path / "bare.png")
    with pytest.raises(WorkflowError, match=r"one node .* Settings from A1111 Text, but none is"):
        with_infotext(graph.with_prompt({}), tmp_path / "shared.txt")
