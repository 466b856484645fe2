"""Traces inside ComfyUI: native models and samplers, and its queue."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.host

EXAMPLES = Path(__file__).parents[2] / "example_workflows" / "api"
OWN_STEPS = ("adaptive", "dpm_adaptive", "dpm_fast")
SIZES = {"sound": [4, 32]}


def test_traced_runs_are_plain_runs_on_native_models(comfy: Any, base: Path) -> None:
    """Bit for bit, for ours and all of ComfyUI's samplers: EPS and flow; batches, masks, videos, sound, nested latents."""
    script = Path(__file__).with_name("trace_runs.py")
    command = [comfy.python, str(script), str(base / "custom_nodes" / "comfyui-sampling-kit")]
    ended = subprocess.run(command, capture_output=True, timeout=900, **comfy.setting)
    assert ended.returncode == 0, ended.stderr.decode()[-4000:]
    measured = json.loads(ended.stdout)
    assert len(measured) == 16 and len(measured["EPS core"]) >= 40
    for case, rows in measured.items():
        for name, found in rows.items():
            where = (case, name, found)
            assert found["gap"] == 0 and found["callbacks"], where
            assert found["nfe"] == found["calls"] and found["kept"] == found["steps"], where
            assert (found["steps"] == 5) or name in OWN_STEPS, where
            assert all(abs(w - 2) < 0.01 for w in found["weight"]), where
            assert all(d > 0 for d in found["delta"]), where
            if "replay" not in found:
                continue
            assert found["finite"], where
            if name not in (*OWN_STEPS, "churn"):
                assert np.allclose(found["sigma"], found["sigmas"][:-1], rtol=1e-5), where
            check_replay(case, name, found["replay"])
            if "pictures" in found:
                size = SIZES.get(case.split()[-1], [8, 8])
                assert found["pictures"] == [3, *size, 3], where


def check_replay(case: str, name: str, replay: list[Any]) -> None:
    """Largest distance from the whole run, or the error, of runs that go on from steps 0 and 3."""
    planned = "core" not in case and name not in ("adaptive", "langevin")
    if planned:
        assert replay == [0, 0], (case, name)
    elif "masked" in case:
        assert all("noise mask" in r for r in replay), (case, name)
    elif name == "adaptive":
        assert all("together" in r for r in replay), (case, name)
    else:
        assert ("pure noise" in str(replay[0])) == ("FLOW" in case), (case, name)
        if name == "euler":  # has no history
            assert replay[1] < 1e-4, (case, name)


def small(name: str) -> dict[str, Any]:
    """An example with a model that is quick."""
    nodes = json.loads((EXAMPLES / f"{name}.json").read_text())
    for node in nodes.values():
        if node["class_type"] == "SamplingKitEmbeddedDenoiser":
            tiny = {"kind": "gaussian", "kind.size": 24, "kind.scenes": 8, "kind.rank": 3}
            node["inputs"] = {"noise_schedule": node["inputs"]["noise_schedule"], **tiny}
        if node["class_type"] == "SamplingKitEmptyPixelLatent":
            node["inputs"].update(width=24, height=24)
    return nodes


def keyed(nodes: dict[str, Any], kind: str) -> str:
    return next(key for key, node in nodes.items() if node["class_type"] == kind)


def test_the_trace_through_the_queue(server: Any) -> None:
    nodes = small("trace")
    show, replay = keyed(nodes, "SamplingKitShowTrace"), keyed(nodes, "SamplingKitReplay")
    key = server.queue(nodes)
    images = server.images(key)
    told = server.wait(key)["outputs"][show]
    (payload,) = told["sampling_kit_trace"]
    assert payload["steps"] == 16 == payload["nfe"] and len(json.dumps(payload)) <= 256 * 1024
    assert payload["strips"]["x0"]["count"] == 12 and told["text"] == [payload["summary"]]
    assert len(images) == 3

    # replayed as it was: the guider of the run itself, the rest from the cache
    second = next(
        n for n in nodes.values()
        if n["class_type"] == "SamplerCustomAdvanced" and n["inputs"]["sampler"] == [replay, 0]
    )  # fmt: skip
    first = next(
        n for n in nodes.values() if n["class_type"] == "SamplerCustomAdvanced" and n is not second
    )
    second["inputs"]["guider"] = first["inputs"]["guider"]
    sheet = keyed(nodes, "SamplingKitImageSheet")
    nodes[sheet]["inputs"].update(row_labels="", reference=0)  # rows are compared
    shown = next(k for k, n in nodes.items() if n["inputs"].get("images") == [sheet, 0])
    (picture,) = server.images(server.queue(nodes))[shown]
    half = (picture.shape[0] - 6) // 2
    assert np.array_equal(picture[6:half], picture[half + 6 : 2 * half])

    nodes[replay]["inputs"]["step"] = 16
    assert "the trace kept steps 0, 1" in server.error(nodes)["exception_message"]


def test_compare_through_the_queue(server: Any) -> None:
    nodes = small("compare")
    compare = keyed(nodes, "SamplingKitCompareSolvers")
    choose = {"class_type": "KSamplerSelect", "inputs": {"sampler_name": "euler"}}
    nodes["native"] = choose
    nodes[compare]["inputs"]["samplers.sampler3"] = ["native", 0]
    key = server.queue(nodes)
    assert len(server.images(key)) == 2
    (text,) = server.wait(key)["outputs"][compare]["text"]
    rows = [line.split() for line in text.splitlines()[1:13]]
    ours, native = rows[0], rows[9]
    assert (ours[0], native[0]) == ("Euler", "euler")
    assert ours[1:4] == native[1:4]  # steps, evaluations, and the distance to three digits
