"""Sizes in a graph that no run could hold are refused before memory is taken."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from sampling_kit.headless.cli import main
from sampling_kit.nodes import NODES
from sampling_kit.nodes.image.sizes import MOST_PIXELS, zeros
from sampling_kit.schedulers.show.contact_sheet import tiles

BY_ID = {node.define_schema().node_id.removeprefix("SamplingKit"): node for node in NODES}
PACK = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    ("node", "sizes", "words"),
    [
        ("EmptyPixelLatent", dict(width=8192, height=8192, batch_size=3), "at most 134217728"),
        ("EmptyPixelLatent", dict(width=8192, height=8192, batch_size=4096), "smaller size"),
        ("EmptyPixelLatent", dict(width=7, height=8, batch_size=1), "width = 7"),
        ("EmptyPixelLatent", dict(width=8, height=9000, batch_size=1), "height = 9000"),
        ("EmptyPixelLatent", dict(width=8, height=8, batch_size=0), "batch_size = 0"),
        ("EmptyDiffusersLatent", dict(width=16384, height=16384, frames=9), "at most 1073741824"),
        ("EmptyDiffusersLatent", dict(width=512, height=512, frames=16384), "smaller size"),
        ("EmptyDiffusersLatent", dict(width=512, height=8, frames=0), "frames = 0"),
    ],
)
def test_refused_at_validation(node, sizes, words):
    verdict = BY_ID[node].validate_inputs(**sizes)
    assert isinstance(verdict, str) and words in verdict


@pytest.mark.parametrize("node", ["EmptyPixelLatent", "EmptyDiffusersLatent"])
def test_bounds_are_those_of_the_widgets(node):
    """ComfyUI leaves the bounds of inputs that validate_inputs takes to it."""
    items = {item.id: item for item in BY_ID[node].define_schema().inputs if item.io_type == "INT"}
    fine = {name: 64 if name in ("width", "height") else 1 for name in items}
    assert BY_ID[node].validate_inputs(**fine) is True
    assert BY_ID[node].validate_inputs(**dict.fromkeys(fine)) is True  # all of them linked
    for name, item in items.items():
        facts = item.as_dict()
        least = {n: items[n].as_dict()["min"] for n in items}
        for value, right in ((facts["min"], True), (facts["max"], True), (facts["min"] - 1, False), (facts["max"] + 1, False)):  # fmt: skip
            assert (BY_ID[node].validate_inputs(**least | {name: value}) is True) is right


def test_a_sheet_is_bounded_before_it_is_drawn():
    pictures = torch.zeros(1, 64, 64, 3).expand(50, -1, -1, -1)
    assert tiles([pictures], 5, 1, 2).shape == (1, 662, 332, 3)
    with pytest.raises(ValueError, match=rf"scale = 32.*at most {MOST_PIXELS}"):
        tiles([pictures], 5, 32, 256)


def test_zeros_are_zeros():
    made = zeros((2, 3, 4, 5))
    assert made.dtype == torch.float32 and made.is_contiguous() and not made.any()
    made += 1
    assert made.sum() == 120


GRAPH = {
    "1": {"class_type": "SamplingKitEmbeddedDenoiser", "inputs": {"kind": "mixture", "kind.scenes": 4}},
    "2": {"class_type": "SamplingKitClassCondition", "inputs": {"name": "unconditional"}},
    "3": {"class_type": "BasicGuider", "inputs": {"model": ["1", 0], "conditioning": ["2", 0]}},
    "4": {"class_type": "SamplingKitEuler", "inputs": {}},
    "5": {
        "class_type": "SamplingKitSteps",
        "inputs": {"noise_schedule": ["11", 0], "steps": 2, "spacing": "karras", "denoise": 1.0, "final": "zero"},
    },
    "11": {"class_type": "SamplingKitNoiseSchedule", "inputs": {"kind": "ve_edm"}},
    "6": {"class_type": "RandomNoise", "inputs": {"noise_seed": 0}},
    "7": {"class_type": "SamplingKitEmptyPixelLatent", "inputs": {"width": 8192, "height": 8192, "batch_size": 1}},
    "8": {
        "class_type": "SamplerCustomAdvanced",
        "inputs": {"noise": ["6", 0], "guider": ["3", 0], "sampler": ["4", 0], "sigmas": ["5", 0], "latent_image": ["7", 0]},
    },
    "9": {"class_type": "SamplingKitLatentToImage", "inputs": {"latent": ["8", 0]}},
    "10": {"class_type": "SaveImage", "inputs": {"images": ["9", 0], "filename_prefix": "a"}},
}  # fmt: skip


def test_a_latent_that_a_model_cannot_take_costs_no_memory(tmp_path):
    resource = pytest.importorskip("resource")
    del resource
    file = tmp_path / "w.json"
    file.write_text(json.dumps(GRAPH))
    code = (
        "import resource, sys\nfrom click.testing import CliRunner\nfrom sampling_kit.headless.cli import main\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10\n"
        "run = lambda *more: CliRunner().invoke(main, ['run', sys.argv[1], '--output', sys.argv[2], *more])\n"
        "fine = run('--set', '7.width=32', '--set', '7.height=32')\nassert fine.exit_code == 0, fine.output\n"
        "before = peak()\nended = run()\nassert ended.exit_code == 1, ended.output\n"
        "print(ended.output)\nprint(peak() - before)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, str(file), str(tmp_path / "out")],
        capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(PACK.parent)},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "make the empty latent that size" in ended.stdout
    assert int(ended.stdout.split()[-1]) < 128


def test_a_long_prefix_is_refused_before_anything_runs(tmp_path):
    graph = json.loads(json.dumps(GRAPH))
    graph["10"]["inputs"]["filename_prefix"] = "a" * 300
    file = tmp_path / "w.json"
    file.write_text(json.dumps(graph))
    refused = CliRunner().invoke(main, ["check", str(file)])
    assert refused.exit_code == 2 and "shorten it" in refused.stderr
