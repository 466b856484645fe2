"""A name that ComfyUI drops costs the nodes that need it, each with one clear error, and never the pack."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

#: What ComfyUI lacks → the nodes that then fail, of the five that ``missing_names.py`` runs.
FAIL = {
    "": set(),
    "comfy.samplers.KSAMPLER": {"Euler"},
    "comfy.samplers.CFGGuider": {"Guider"},
    "comfy.conds": {"Guider"},
    "comfy.latent_formats.LatentFormat": {"EmbeddedDenoiser"},
    "comfy.model_management.unet_offload_device": {"EmbeddedDenoiser"},
    "comfy.model_sampling": {"Euler", "Guider", "EmbeddedDenoiser"},
    "comfy.model_sampling.StableCascadeSampling": set(),
    "comfy.model_sampling.ModelSamplingContinuousEDM": {"EmbeddedDenoiser"},
    "comfy.patcher_extension": set(),
    "comfy.samplers.Sampler": set(),  # traces only
    "folder_paths.get_folder_paths": {"LoadFittedSolver"},
    "folder_paths": {"LoadFittedSolver"},
    "server.PromptServer": set(),
}
TITLES = {
    "Euler": "Euler Solver",
    "Guider": "Guider",
    "EmbeddedDenoiser": "Embedded Denoiser",
    "LoadFittedSolver": "Load Fitted Solver",
}


@pytest.fixture(scope="module")
def measured(request, tmp_path_factory):
    """{what is missing: what ``missing_names.py`` saw}, for the cases that run."""
    asked = [
        i.callspec.params["missing"] for i in request.session.items if i.module is request.module
    ]
    folder = tmp_path_factory.mktemp("comfy")
    api = folder / "comfy_api" / "latest"
    api.mkdir(parents=True)
    (api.parent / "__init__.py").touch()
    (api / "__init__.py").write_text("from . import io\n\nclass ComfyExtension:\n    pass\n")
    shutil.copy(ROOT / "nodes" / "host" / "alone" / "io.py", api / "io.py")
    script = Path(__file__).with_name("missing_names.py")
    ended = subprocess.run(
        [sys.executable, str(script), str(folder)], input=json.dumps(asked), capture_output=True, text=True
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-3000:]
    return json.loads(ended.stdout)


@pytest.mark.some(4)
@pytest.mark.parametrize("missing", FAIL)
def test_only_the_nodes_that_need_the_name_fail_and_say_which(measured, missing):
    seen = measured[missing]
    assert seen["left out"] == 0
    errors = dict(seen["failed"])
    if "LoadFittedSolver" not in FAIL[missing]:  # there is no such file
        assert "none of this name" in errors.pop("LoadFittedSolver")
    assert set(errors) == FAIL[missing], errors
    for node, error in errors.items():
        expected = f"MissingName: {TITLES[node]}: this ComfyUI has no {missing}, which the node"
        assert error.startswith(expected), error
