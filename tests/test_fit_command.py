"""The command line of a fit."""

from __future__ import annotations

import json
import math

import pytest
from click.testing import CliRunner
from fit_cases import SMALL, folders
from node_calls import NODES
from PIL import Image

from sampling_kit.headless.cli import main
from sampling_kit.schedulers.fit import fit_files

__all__ = ["folders"]  # a fixture


# ------------------------------------------------------------------------------------- command line

ARGUMENTS = [
    "--nfe", "4,5", "--seeds", "0-9", "--held-out", "4", "--levels", "12", "--set", "numbers=1", "--set", "bands=0",
    "--set", "images=4", "--device", "cpu",
]  # fmt: skip


def invoke(*arguments):
    return CliRunner().invoke(main, ["fit", *map(str, arguments)])


def test_the_command_does_the_whole_of_it(tmp_path):
    file = tmp_path / "out" / "gaussian"
    result = invoke("--embedded", "gaussian", "--cfg", 2, "--output", file, *ARGUMENTS)
    assert result.exit_code == 0, result.output
    assert "NFE 4: held-out RMSE" in result.output and "training-free pair" in result.output
    family = fit_files.load(file.with_suffix(".safetensors"))
    assert family.nfes == (4, 5)
    assert Image.open(file.with_suffix(".png")).size == (960, 540)
    again = invoke("--embedded", "gaussian", "--cfg", 2, "--output", file, "--json", *ARGUMENTS)
    facts = json.loads(again.stdout)
    assert set(facts["ratio"]) == {"4", "5"} and all(
        math.isfinite(v) for v in facts["ratio"].values()
    )


def test_the_command_takes_the_guider_of_a_workflow(tmp_path):
    def step(kind, /, **inputs):
        return {"class_type": kind if kind in NODES else f"SamplingKit{kind}", "inputs": inputs}

    graph = {
        "m": step("EmbeddedDenoiser", **{f"kind.{k}" if k != "kind" else k: v for k, v in SMALL.items()}),
        "p": step("ClassCondition", name="desert"),
        "n": step("ClassCondition", name="unconditional"),
        "l": step("EmptyPixelLatent", width=24, height=24, batch_size=2),
        "g": step("CFGGuider", model=["m", 0], positive=["p", 0], negative=["n", 0], cfg=1.5),
        "z": step("RandomNoise", noise_seed=1),
        "s": step("NoiseSchedule", kind="ve_edm"),
        "t": step("Steps", noise_schedule=["s", 0], steps=4, spacing="karras"),
        "k": step("DDIM"),
        "r": step("SamplerCustomAdvanced", noise=["z", 0], guider=["g", 0], sampler=["k", 0], sigmas=["t", 0], latent_image=["l", 0]),
    }  # fmt: skip
    file = tmp_path / "w.json"
    file.write_text(json.dumps(graph))
    result = invoke(file, "--output", tmp_path / "fit", *ARGUMENTS[2:], "--nfe", 4)
    assert result.exit_code == 0, result.output
    assert fit_files.load(tmp_path / "fit.safetensors").at(4).card["guidance"] == "CFG 1.5"
    del graph["r"]
    file.write_text(json.dumps(graph))
    result = invoke(file, "--output", tmp_path / "fit", *ARGUMENTS)
    assert result.exit_code == 2 and "one node that samples is needed, found none" in result.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--output", "x"], "either a WORKFLOW or --embedded"),
        (["--output", "x", "--embedded", "moon"], "--embedded moon: choose one of patches"),
        (["--output", "x", "--embedded", "gaussian", "--nfe", "1-3"], "numbers from 2 on"),
        (["--output", "x", "--embedded", "gaussian", "--method", "m"], "--method m: choose one of forward"),
        (["--output", "x", "--embedded", "gaussian", "--set", "size=3"], "--set size=3: give NAME=VALUE with one of numbers"),
        (["--output", "x", "--embedded", "gaussian", "--set", "numbers=x"], "--set: "),
        (["--embedded", "gaussian"], "Missing option '--output'"),
    ],
)  # fmt: skip
def test_wrong_arguments_say_what_is_right(arguments, words):
    result = invoke(*arguments)
    assert result.exit_code == 2 and words in " ".join(result.output.split())
