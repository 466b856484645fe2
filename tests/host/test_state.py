"""Runs in parts inside ComfyUI: native models, and its queue with its cache."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.host

EXAMPLE = Path(__file__).parents[2] / "example_workflows" / "api" / "split-run.json"


def test_split_runs_are_whole_runs_on_native_models(comfy: Any, base: Path) -> None:
    """Bit for bit: EPS, zero SNR and flow; batches, masks, videos, nested latents, a rounding VAE scale. And a way up and
    back with an invertible solver ends in the picture."""
    script = Path(__file__).with_name("state_runs.py")
    command = [comfy.python, str(script), str(base / "custom_nodes" / "comfyui-sampling-kit")]
    ended = subprocess.run(command, capture_output=True, timeout=300, **comfy.setting)
    assert ended.returncode == 0, ended.stderr.decode()[-4000:]
    told = json.loads(ended.stdout)
    assert all(gap < 1e-5 for gap in told["ways"].values()), told["ways"]
    measured = told["parts"]
    assert len(measured) == 20
    for case, rows in measured.items():
        for solver, (*split, bare) in rows.items():
            assert not any(split), (case, solver, split)
            remembers = solver not in ("euler", "heun") or "masked" in case
            assert (bare > 1e-4) == remembers, (case, solver, bare)


def graph(**changes: Any) -> dict[str, Any]:
    """The example in small, its pictures shown one by one; ``changes`` by node and input."""
    nodes = json.loads(EXAMPLE.read_text())
    titles = {node["_meta"]["title"]: node for node in nodes.values()}
    titles["Embedded Denoiser"]["inputs"].update(
        {"kind": "gaussian", "kind.size": 24, "kind.scenes": 8, "kind.rank": 3}
    )
    titles["Empty Pixel Latent"]["inputs"].update(width=24, height=24, batch_size=2)
    for key in [
        k for k, node in nodes.items() if node["class_type"] in ("SaveImage", "PreviewAny")
    ]:
        del nodes[key]
    wanted = ("Whole", "With the state", "Without it")
    sources = {n["_meta"]["title"]: k for k, n in nodes.items() if n["_meta"]["title"] in wanted}
    for name, source in sources.items():
        nodes[name] = {"class_type": "PreviewImage", "inputs": {"images": [source, 0]}}
    for key, value in changes.items():
        titles[key.replace("_", " ")]["inputs"].update(value)
    return nodes


def executed(server: Any, key: str) -> set[str]:
    """The nodes of a prompt that ComfyUI did not take from its cache."""
    messages = dict(server.wait(key)["status"]["messages"])
    return set(server.wait(key)["prompt"][2]) - set(messages["execution_cached"]["nodes"])


def test_the_queue_its_cache_and_a_file(server: Any) -> None:
    def drawn(nodes: dict[str, Any]) -> tuple[dict[str, Any], set[str]]:
        key = server.queue(nodes)
        images = {name: np.stack(found) for name, found in server.images(key).items()}
        return images, executed(server, key)

    first, _ = drawn(graph())
    assert np.array_equal(first["Whole"], first["With the state"])
    assert not np.array_equal(first["Whole"], first["Without it"])

    # the first part from the cache, the second anew: its state must still be there
    condition = {"class_type": "SamplingKitClassCondition", "inputs": {"name": "snow"}}
    guider = {
        "class_type": "SamplingKitGuider",
        "inputs": {"model": ["4", 0], "positive": ["c", 0]},
    }
    other = graph() | {"c": condition, "g": guider}
    other["15"]["inputs"]["guider"] = ["g", 0]
    second, ran = drawn(other)
    assert "14" not in ran and "9" not in ran and "15" in ran
    assert not np.array_equal(second["With the state"], first["With the state"])

    # another seed: the same holder is filled anew
    third, ran = drawn(graph(**{"Per-Image_Noise": {"seed": 99}}))
    assert "14" in ran and "9" not in ran
    assert np.array_equal(third["Whole"], third["With the state"])

    # through a file, into a prompt that knows nothing of the first part
    saving = graph()
    inputs = {"state": ["9", 1], "latent": ["14", 0], "filename_prefix": "kept/half"}
    saving["save"] = {"class_type": "SamplingKitSaveState", "inputs": inputs}
    key = server.queue(saving)
    server.images(key)
    (entry,) = server.wait(key)["outputs"]["save"]["files"]
    loading = graph()
    file = {"file": f"{entry['subfolder']}/{entry['filename']}"}
    loading["load"] = {"class_type": "SamplingKitLoadState", "inputs": file}
    loading["10"]["inputs"]["state"] = ["load", 0]
    loading["15"]["inputs"]["latent_image"] = ["load", 1]
    fourth, ran = drawn(loading)
    assert "load" in ran and np.array_equal(fourth["With the state"], first["Whole"])


def test_mistakes_get_one_clear_error(server: Any) -> None:
    swapped = graph()
    swapped["15"]["inputs"]["sigmas"] = ["2", 0]
    error = server.error(swapped)
    assert error["node_id"] == "15"
    assert "stopped at level 5" in error["exception_message"]

    missing = graph()
    inputs = {"file": "../../secret.safetensors"}
    missing["load"] = {"class_type": "SamplingKitLoadState", "inputs": inputs}
    missing["10"]["inputs"]["state"] = ["load", 0]
    errors = server.post(missing)["node_errors"]["load"]["errors"]
    assert "outside of the output folder" in errors[0]["details"]
