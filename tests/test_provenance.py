"""A saved picture says how it was made, and `verify` says whether it can be made again."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image, PngImagePlugin
from test_sweep import workflow

from sampling_kit.headless import provenance
from sampling_kit.headless.cli import main
from sampling_kit.headless.png_text import read_text_chunks
from sampling_kit.headless.save import save_images
from sampling_kit.schedulers.noise_schedule import LinearVP, RectifiedFlowSchedule
from sampling_kit.schedulers.solver import DDIM
from sampling_kit.schedulers.spacing import Trailing, space


def sampling_kit(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    return result.exit_code, result.output


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("verify")
    (folder / "w.json").write_text(json.dumps(workflow().prompt))
    code, output = sampling_kit("run", folder / "w.json", "--seed", 5, "--output", folder)
    assert code == 0, output
    return folder / "sweep" / "a_00001_.png"


def rewritten(png: Path, target: Path, pixels=None, **facts: object) -> Path:
    """The same file with other pixels or other facts."""
    texts = read_text_chunks(png)
    chunk = json.loads(texts["sampling_kit"]) | facts
    info = PngImagePlugin.PngInfo()
    for key, text in (texts | {"sampling_kit": json.dumps(chunk)}).items():
        info.add_text(key, text)
    with Image.open(png) as image:
        found = Image.fromarray(np.asarray(image) if pixels is None else pixels)
    found.save(target, pnginfo=info)
    return target


def test_what_stands_in_the_file(saved):
    facts = json.loads(read_text_chunks(saved)["sampling_kit"])
    assert facts["seeds"] == {"7.seed": 5}
    assert set(facts["versions"]) == {"sampling_kit", "torch", "numpy", "python", "machine"}
    assert facts["device"] == "cpu" and facts["node"] == "11" and facts["image"] == 0
    (plan,) = facts["plans"]
    assert plan["solver"].startswith("Euler(") and len(plan["plan"]) == 64
    with Image.open(saved) as image:
        assert facts["pixels"] == provenance.pixel_digest(np.asarray(image))


def test_it_reproduces(saved):
    assert sampling_kit("verify", saved) == (0, f"{saved}: reproduces bit for bit\n")


def test_one_changed_pixel_is_found(saved, tmp_path):
    with Image.open(saved) as image:
        pixels = np.asarray(image).copy()
    pixels[3, 4, 1] ^= 2
    code, output = sampling_kit("verify", rewritten(saved, tmp_path / "x.png", pixels))
    assert code == 1
    assert "does NOT reproduce" in output
    assert "differ by up to 2 of 255" in output and "edited since" in output


def test_what_differs_is_named(saved, tmp_path):
    facts = json.loads(read_text_chunks(saved)["sampling_kit"])
    versions = facts["versions"] | {"torch": "1.0"}
    plans = [facts["plans"][0] | {"plan": "0" * 64}]
    other = rewritten(saved, tmp_path / "x.png", versions=versions, plans=plans)
    code, output = sampling_kit("verify", other)
    assert code == 0, "the pixels are the same all the same"
    assert "torch: 1.0 then" in output and "plan 1, plan: 000" in output


@pytest.mark.parametrize("chunk", ["", "[1]", "{", '{"threads": 10e9, "plans": 3, "node": [1]}'])
def test_facts_of_a_hostile_file_are_not_trusted(saved, tmp_path, chunk):
    texts = read_text_chunks(saved)
    info = PngImagePlugin.PngInfo()
    info.add_text("prompt", texts["prompt"])
    info.add_text("sampling_kit", chunk)
    with Image.open(saved) as image:
        image.save(tmp_path / "x.png", pnginfo=info)
    code, output = sampling_kit("verify", tmp_path / "x.png")
    assert code == 0 and "reproduces" in output, output


def test_what_cannot_be_verified(saved, tmp_path):
    code, output = sampling_kit("verify", saved.parent.parent / "w.json")
    assert code == 2 and "not a PNG" in output
    Image.new("RGB", (4, 4)).save(tmp_path / "plain.png")
    code, output = sampling_kit("verify", tmp_path / "plain.png")
    assert code == 2 and "holds no workflow" in output


def test_deterministic_runs_are_said_to_be(tmp_path):
    import torch

    (tmp_path / "w.json").write_text(json.dumps(workflow().prompt))
    threads = torch.get_num_threads()
    try:
        code, output = sampling_kit(
            "run", tmp_path / "w.json", "--deterministic", "--output", tmp_path
        )
        assert code == 0, output
    finally:
        torch.use_deterministic_algorithms(False)
        torch.set_num_threads(threads)
    facts = json.loads(read_text_chunks(tmp_path / "sweep" / "a_00001_.png")["sampling_kit"])
    assert facts["deterministic"] is True and facts["threads"] == 1


STRANGE = {
    "1": {"class_type": "SamplingKitLoadFittedSolver", "inputs": {"file": "network-cond-forward.safetensors", "nfe": 6}},
    "2": {"class_type": "SamplingKitSaveFittedSolver", "inputs": {"fit": ["1", 0], "name": "mine"}},
    "3": {"class_type": "SamplingKitEmptyPixelLatent", "inputs": {"width": 8, "height": 8, "batch_size": 1}},
    "4": {"class_type": "SamplingKitLatentToImage", "inputs": {"latent": ["3", 0]}},
    "5": {"class_type": "SaveImage", "inputs": {"images": ["4", 0], "filename_prefix": "a"}},
}  # fmt: skip


def test_verify_writes_to_a_folder_of_its_own_and_takes_over_no_wild_setting(tmp_path, monkeypatch):
    """A stranger's picture whose graph saves a fit under a name that is there, and claims 1000 threads."""
    monkeypatch.chdir(tmp_path)
    fit = tmp_path / "models" / "solvers" / "mine.safetensors"
    fit.parent.mkdir(parents=True)
    fit.write_bytes(b"mine")
    facts = {"threads": 1000, "node": "5", "image": 0}
    (saved,) = save_images(torch.full((1, 8, 8, 3), 0.5), "a", tmp_path, {"prompt": STRANGE, "sampling_kit": facts})  # fmt: skip
    asked = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    ended = CliRunner().invoke(main, ["verify", saved["filename"]])
    assert ended.exit_code == 0, ended.output
    assert fit.read_bytes() == b"mine" and max(asked) <= os.cpu_count()
    there = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*")}
    assert there == {"models", "models/solvers", "models/solvers/mine.safetensors", "a_00001_.png"}
    other = CliRunner().invoke(main, ["verify", saved["filename"], "--set", "3.width=16"])
    assert other.exit_code == 2 and "--set may only repeat" in other.stderr


def test_a_plan_s_digest_is_that_of_pictures_saved_before_its_columns_were_renamed():
    plan = DDIM().plan(space(LinearVP(), 3, Trailing()))
    old = [
        {"stage": row["stage"], "step": row["step"], "alpha": row["path α"], "sigma": row["path σ"]}
        | {
            name: row[name]
            for name in row
            if name not in ("stage", "step", "σ", "path α", "path σ")
        }
        for row in plan.rows()
    ]
    assert (
        provenance.plan_digest(list(plan.rows()))
        == hashlib.sha256(json.dumps(old).encode()).hexdigest()
    )


def test_sigma_in_a_plan_is_the_value_of_sigmas():
    for points in (
        space(LinearVP(zero_snr=True), 4, Trailing()),
        space(RectifiedFlowSchedule(), 4, Trailing()),
    ):
        shown = [row["σ"] for row in DDIM().plan(points).rows()]
        assert shown == points.sigmas()
