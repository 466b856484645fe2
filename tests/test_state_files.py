"""Files of a state: two processes draw what one draws, and damaged files are refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
from click.testing import CliRunner
from node_calls import NODES, node, one
from safetensors import safe_open
from safetensors.torch import save_file
from state_cases import folders, graphs, split

from sampling_kit.headless.cli import main
from sampling_kit.schedulers.split import load

__all__ = ["folders", "graphs"]  # fixtures


# ------------------------------------------------------------------------------------------ files


@pytest.fixture
def saved(graphs, folders):
    """(graph, SAMPLER, file) of a run that was saved at level 3."""
    graph, solver = graphs["rectified_flow"], one("DPMSolverMultistep", eta=1.0)
    latent, state = graph.first(solver, 3)
    latent = {**latent, "noise_mask": torch.ones(3, 1, 24, 24)}
    shown = NODES["SamplingKitSaveState"].execute(state, latent, "sub/state").ui
    (entry,) = shown["files"]
    assert entry == {"filename": "state_00001_.safetensors", "subfolder": "sub", "type": "output"}
    assert "level 3 of 6" in shown["text"][0] and "3 noise draws" in shown["text"][0]
    return graph, solver, folders / "output" / "sub" / entry["filename"]


def test_a_file_holds_the_whole_state_and_the_latent(saved):
    graph, solver, file = saved
    state, latent = node("LoadState", file="sub/state_00001_.safetensors")
    assert latent.pop("noise_mask").shape == (3, 1, 24, 24)
    out, _ = graph.rest(solver, latent, state, split(graph.sigmas, 3)[1])
    assert torch.equal(out["samples"], graph.run(solver, graph.sigmas)["samples"])
    assert not list(file.parent.glob("*.part"))


def test_two_processes_draw_what_one_draws(tmp_path):
    """The first half and the whole by the command line in this process, the second half in another."""
    schedule = {"kind": "vp_linear", "kind.beta_start": 0.0001, "kind.beta_end": 0.02}
    schedule |= {"kind.timesteps": 1000, "kind.zero_snr": False}
    small = {"kind": "gaussian", "kind.size": 24, "kind.scenes": 6, "kind.rank": 3}

    def kit(kind, /, **inputs):
        return {"class_type": f"SamplingKit{kind}", "inputs": inputs}

    def core(kind, /, **inputs):
        return {"class_type": kind, "inputs": inputs}

    base = {
        "schedule": kit("NoiseSchedule", **schedule),
        "sigmas": kit(
            "Steps",
            noise_schedule=["schedule", 0],
            steps=6,
            spacing="trailing",
            denoise=1.0,
            final="zero",
        ),
        "model": kit("EmbeddedDenoiser", **small, noise_schedule=["schedule", 0]),
        "class": kit("ClassCondition", name="one of each"),
        "guider": kit("Guider", model=["model", 0], positive=["class", 0]),
        "solver": kit("UniPC"),
        "split": core("SplitSigmas", sigmas=["sigmas", 0], step=4),
        "empty": kit("EmptyPixelLatent", width=24, height=24, batch_size=3),
        "noise": kit("PerImageNoise", seed=5),
        "none": core("DisableNoise"),
    }

    def sampled(noise, sampler, sigmas, latent):
        wires = dict(noise=[noise, 0], guider=["guider", 0], sampler=sampler)
        return core("SamplerCustomAdvanced", **wires, sigmas=sigmas, latent_image=latent)

    def shown(latent):
        return {
            "image": kit("LatentToImage", latent=latent),
            "out": core("SaveImage", images=["image", 0], filename_prefix="out"),
        }

    first = base | {
        "keep": kit("KeepState", sampler=["solver", 0], sigmas=["sigmas", 0]),
        "half": sampled("noise", ["keep", 0], ["split", 0], ["empty", 0]),
        "save": kit("SaveState", state=["keep", 1], latent=["half", 0], filename_prefix="half"),
    }
    second = base | {
        "load": kit("LoadState", file="half_00001_.safetensors"),
        "resume": kit("ResumeState", sampler=["solver", 0], state=["load", 0]),
        "end": sampled("none", ["resume", 0], ["split", 1], ["load", 1]),
        **shown(["end", 0]),
    }
    whole = base | {
        "end": sampled("noise", ["solver", 0], ["sigmas", 0], ["empty", 0]),
        **shown(["end", 0]),
    }
    # the states themselves, to compare bits rather than pixels
    for graph, sampler in ((second, "resume"), (whole, "kept")):
        graph["save"] = kit(
            "SaveState", state=[sampler, 1], latent=["end", 0], filename_prefix="end"
        )
    whole["kept"] = kit("KeepState", sampler=["solver", 0], sigmas=["sigmas", 0])
    whole["end"]["inputs"]["sampler"] = ["kept", 0]

    for name, graph in (("first", first), ("second", second), ("whole", whole)):
        file = tmp_path / f"{name}.json"
        file.write_text(json.dumps(graph))
        arguments = ["run", str(file), "--output", str(tmp_path / "output"), "--device", "cpu"]
        if name != "second":
            output = CliRunner().invoke(main, arguments, catch_exceptions=False).stdout
        else:
            command = [sys.executable, "-m", "sampling_kit.headless.cli", *arguments]
            threads = os.environ | {"OMP_NUM_THREADS": "1"}
            done = subprocess.run(command, capture_output=True, text=True, env=threads)
            assert done.returncode == 0, done.stderr
            output = done.stdout
        assert (name == "first") == ("half_00001_.safetensors" in output)
    ours, theirs = (load(tmp_path / "output" / f"end_0000{i}_.safetensors") for i in (1, 2))
    assert torch.equal(ours[1]["samples"], theirs[1]["samples"])
    assert torch.equal(ours[0].state.x, theirs[0].state.x)


# ----------------------------------------------------------------------------------------- errors


def rewritten(file, **changes):
    """The file with facts of its description, or tensors, replaced; None leaves one out."""
    with safe_open(file, "pt") as opened:
        facts = json.loads(opened.metadata()["sampling_kit_state"])
        tensors = {name: opened.get_tensor(name).clone() for name in opened.keys()}  # noqa: SIM118
    for name, value in changes.items():
        target = tensors if name in tensors else facts
        target[name] = value
        if value is None:
            del target[name]
    save_file(tensors, file, {"sampling_kit_state": json.dumps(facts)})


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda f: f.write_bytes(f.read_bytes()[:-100]), "damaged"),
        (lambda f: f.write_bytes(b"\0" * 5), "not a safetensors file"),
        (
            lambda f: save_file({"a": torch.zeros(1)}, f),
            "not a usable sampler state: it holds none; Save State",
        ),
        (lambda f: rewritten(f, version=99), "version 99.*update"),
        (lambda f: rewritten(f, version="x"), "not a usable sampler state"),
        (lambda f: rewritten(f, sigmas=None), "'sigmas' is missing"),
        (lambda f: rewritten(f, level=12), "level 12 of"),
        (lambda f: rewritten(f, **{"latent.samples": None}), "tensors are missing"),
        (lambda f: rewritten(f, **{"history.0": torch.zeros(2)}), "differ in shape"),
        (lambda f: rewritten(f, **{"history.0": torch.full((3, 3, 24, 24), torch.nan)}), "NaN"),
    ],
)
def test_a_damaged_file_gets_one_clear_error(saved, spoil, words):
    spoil(saved[2])
    with pytest.raises(ValueError, match=words) as error:
        node("LoadState", file="sub/state_00001_.safetensors")
    assert saved[2].name in str(error.value)


@pytest.mark.parametrize("spoil", [dict(stage=2), {"history.1": None}, dict(y=None)])
def test_a_state_that_the_solver_cannot_have_is_refused(saved, spoil):
    graph, solver, file = saved
    rewritten(file, **spoil)
    state, latent = node("LoadState", file="sub/state_00001_.safetensors")
    latent.pop("noise_mask")
    with pytest.raises(ValueError, match="another version"):
        graph.rest(solver, latent, state, split(graph.sigmas, 3)[1])


@pytest.mark.parametrize(
    "name", ["", "nothing.safetensors", "../output.txt", "/etc/passwd", "a\0b"]
)
def test_files_stay_in_their_folder(folders, name):
    (folders / "output.txt").write_text("not for you")
    answer = NODES["SamplingKitLoadState"].validate_inputs(file=name)
    assert "output folder" in answer
    with pytest.raises(ValueError, match="output folder"):
        node("LoadState", file=name)
    assert "input folder" in NODES["SamplingKitLoadState"].validate_inputs(file=name + " [input]")
    assert NODES["SamplingKitSaveState"].validate_inputs(filename_prefix="../up") is not True


def test_a_diverged_state_is_not_saved(graphs, folders):
    graph, solver = graphs["rectified_flow"], one("Euler")
    latent, state = graph.first(solver, 3)
    latent["samples"][0, 0, 0, 0] = torch.inf
    with pytest.raises(ValueError, match=r"NaN or infinity.*latent"):
        node("SaveState", state=state, latent=latent)
    assert not [f for f in (folders / "output").rglob("*") if f.is_file()]
