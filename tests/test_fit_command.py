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
from sampling_kit.schedulers.path import VE
from sampling_kit.schedulers.points import Points
from sampling_kit.schedulers.solver import DDIM, solver_text
from sampling_kit.schedulers.solver.fitted import FittedSolver, table_of

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
    again = invoke(
        "--embedded", "gaussian", "--cfg", 2, "--output", file, "--json", *ARGUMENTS, "--nfe", 4
    )
    facts = json.loads(again.stdout)
    assert set(facts["ratio"]) == {"4"} and all(math.isfinite(v) for v in facts["ratio"].values())


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


# ------------------------------------------------------------------------------- fits that are there


def test_fits_are_listed_shown_and_compared(tmp_path):
    """Of another guidance than they were made for, with a warning."""
    file = tmp_path / "models" / "solvers" / "mine.safetensors"
    file.parent.mkdir(parents=True)
    steps = DDIM().plan(Points(VE(), (80.0, 3.0, 0.5, 0.0)))
    card = dict(model="abc", guidance="CFG 7", before=dict(rmse=0.2), seeds=[[0, 9], [10, 15]])
    fit_files.save(file, [FittedSolver(table_of(steps), card)])
    (file.parent / "fit-broken.safetensors").write_bytes(b"no")
    listed = invoke("list", "--models", tmp_path / "models")
    assert "mine.safetensors: 3 evaluations; model abc, CFG 7" in listed.output
    assert "fit-broken.safetensors: " in listed.output and "network-cond" in listed.output
    facts = json.loads(invoke("show", file, "--json").stdout)["fits"][0]
    assert facts["nfe"] == 3 and facts["card"]["guidance"] == "CFG 7" and len(facts["x"]) == 4
    assert "guidance: CFG 7" in invoke("show", file, "--nfe", 3).output
    wrong = invoke("show", file, "--nfe", 4)
    assert wrong.exit_code == 2 and "no fit for 4 evaluations" in wrong.output
    result = invoke(
        "compare", file, "--embedded", "gaussian", "--cfg", 2, "--seeds", "50-53", "--device", "cpu"
    )
    assert result.exit_code == 0, result.output
    assert "made for guidance CFG 7, but this run has guidance CFG 2" in result.output
    assert "seeds: [50, 53]" in result.output and "RMSE and median over 4" in result.output


def test_a_command_of_fits_needs_no_name_to_make_one():
    result = invoke("--help")
    assert (
        result.exit_code == 0 and "--held-out" in result.output and "fit show FILE" in result.output
    )


def test_a_fit_is_exported_as_text_that_is_the_same_solver(tmp_path):
    file = tmp_path / "mine.safetensors"
    fits = [
        FittedSolver(table_of(DDIM().plan(Points(VE(), levels))), dict(guidance="CFG 7"))
        for levels in ((80.0, 0.5, 0.0), (80.0, 3.0, 0.5, 0.0))
    ]
    fit_files.save(file, fits)
    result = invoke("export", file)
    assert result.exit_code == 0 and len(result.output.split()) == 2
    for fit in fits:
        read = solver_text.read((tmp_path / f"mine-{fit.table.nfe}.json").read_text())
        assert read.table == fit.table and read.card["guidance"] == "CFG 7"
    assert invoke("export", file, "--nfe", 3, "--output", "-").output.startswith('{"fit"')
    wrong = invoke("export", file, "--output", tmp_path / "x.json")
    assert wrong.exit_code == 2 and "choose one with --nfe" in " ".join(wrong.output.split())
