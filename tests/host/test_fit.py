"""Fits inside ComfyUI: any GUIDER as a function, recordings, the queue with its cache and its interrupt button."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.host
WEIGHTS = Path(__file__).parents[2] / "embedded" / "weights" / "network-small.safetensors"
Graph = dict[str, Any]


@pytest.fixture(scope="module")
def measured(comfy: Any, base: Path) -> dict[str, Any]:
    script = Path(__file__).with_name("fit_runs.py")
    command = [comfy.python, str(script), str(base / "custom_nodes" / "comfyui-sampling-kit")]
    ended = subprocess.run(command, capture_output=True, timeout=300, **comfy.setting)
    assert ended.returncode == 0, ended.stderr.decode()[-4000:]
    return json.loads(ended.stdout.splitlines()[-1])


def test_any_guider_is_a_function_of_state_level_and_row(measured: dict[str, Any]) -> None:
    """The core's CFGGuider and ours, two prompts of two and one rows, rows in any order, under inference mode."""
    assert len(measured["fields"]) == 14
    for case, found in measured["fields"].items():
        assert found["d"] < 1e-5, case
        assert found["gradient"] < 1e-6, case
        assert not found["refused"], case


def test_recordings_start_as_comfyui_starts_and_end_where_the_ode_ends(
    measured: dict[str, Any],
) -> None:
    for case, found in measured["recordings"].items():
        assert found["start"] < 1e-6, case
        assert found["end"] < 5e-3, case
        assert found["again"] == 0, case


def test_fingerprints_know_patches_and_prompts_but_not_what_is_loaded(
    measured: dict[str, Any],
) -> None:
    assert all(measured["fingerprints"].values()), measured["fingerprints"]


# ------------------------------------------------------------------------------------------- queue

MODEL = (
    {"kind": "network-small"}
    if WEIGHTS.is_file()
    else {
        "kind": "mixture",
        "kind.size": 32,
        "kind.scenes": 20,
        "kind.rank": 4,
        "kind.components": 2,
    }
)
FORWARD = {
    "method": "forward", "method.numbers": 1, "method.bands": 0, "method.images": 4, "method.budget": 100000,
}  # fmt: skip


def step(kind: str, /, **inputs: Any) -> Graph:
    core = ("CFGGuider", "SamplerCustomAdvanced", "PreviewImage", "PreviewAny")
    return {"class_type": kind if kind in core else f"SamplingKit{kind}", "inputs": inputs}


def graph(recording: Graph | None = None, **fit: Any) -> Graph:
    """From the embedded model to a recording and a fit."""
    record = dict(seed=0, count=8, levels=10, substeps=2, batch=4, folder="fits") | (
        recording or {}
    )
    return {
        "schedule": step("NoiseSchedule", kind="ve_edm"),
        "model": step("EmbeddedDenoiser", **MODEL, noise_schedule=["schedule", 0]),
        "positive": step("ClassCondition", name="one of each"),
        "negative": step("ClassCondition", name="unconditional"),
        "guider": step("CFGGuider", model=["model", 0], positive=["positive", 0], negative=["negative", 0], cfg=2.0),
        "latent": step("EmptyPixelLatent", width=32, height=32, batch_size=8),
        "record": step("RecordTrajectories", guider=["guider", 0], latent=["latent", 0], **record),
        "fit": step("FitSolver", trajectories=["record", 0], nfe=4, held_out=3, **(FORWARD | fit)),
    }  # fmt: skip


def shown(server: Any, key: str) -> dict[str, str]:
    """{node: its text} of a prompt that must succeed."""
    entry = server.wait(key)
    assert entry["status"]["status_str"] == "success", json.dumps(entry["status"], indent=1)
    return {node: ui["text"][0] for node, ui in entry["outputs"].items() if "text" in ui}


def test_record_fit_save_load_use_and_report_through_the_queue(server: Any, base: Path) -> None:
    nodes = graph()
    nodes["save"] = step("SaveFittedSolver", fit=["fit", 0], name="tests/mine")
    nodes["report"] = step(
        "SolverReport", trajectories=["record", 0], held_out=3, **{"fits.fit0": ["fit", 0]}
    )
    nodes["steps solver"] = step("DPMSolverMultistep")
    nodes["steps"] = step(
        "FitSteps", trajectories=["record", 0], sampler=["steps solver", 0], nfe=4, held_out=3, method="gits"
    )  # fmt: skip
    nodes["plot"] = step("PreviewImage", images=["report", 0])
    nodes["amed"] = step("TrainAMED", trajectories=["record", 0], steps=2, held_out=3, rounds=1)
    nodes["noise"] = step("PerImageNoise", seed=0)
    nodes["four"] = step("EmptyPixelLatent", width=32, height=32, batch_size=4)
    nodes["by amed"] = step(
        "SamplerCustomAdvanced", noise=["noise", 0], guider=["guider", 0], sampler=["amed", 0], sigmas=["amed", 1],
        latent_image=["four", 0],
    )  # fmt: skip
    nodes["amed image"] = step("LatentToImage", latent=["by amed", 0])
    nodes["amed plot"] = step("PreviewImage", images=["amed image", 0])
    key = server.queue(nodes)
    texts = shown(server, key)
    assert "8 trajectories of 3×32×32" in texts["record"] and "CFG 2" in texts["record"]
    assert texts["save"] == "tests/mine.safetensors: fits for 4 evaluations"
    assert (base / "models" / "solvers" / "tests" / "mine.safetensors").is_file()
    assert "training-free" in texts["report"] and "held-out" in texts["steps"]
    assert "looks at the bottleneck" in texts["amed"] or MODEL["kind"] == "mixture"
    assert len(server.images(key)["amed plot"]) == 4

    # from the file, in a graph of its own; the combo knows it by now
    info = server.get("/object_info/SamplingKitLoadFittedSolver")["SamplingKitLoadFittedSolver"]
    assert "tests/mine.safetensors" in info["input"]["required"]["file"][1]["options"]
    use = {k: v for k, v in graph().items() if k not in ("record", "fit")}
    use["load"] = step("LoadFittedSolver", file="tests/mine.safetensors", nfe=4)
    use["solver"] = step("FittedSolver", fit=["load", 0], guider=["guider", 0])
    use["noise"] = step("PerImageNoise", seed=0)
    use["draw"] = step(
        "SamplerCustomAdvanced", noise=["noise", 0], guider=["guider", 0], sampler=["solver", 0],
        sigmas=["solver", 1], latent_image=["latent", 0],
    )  # fmt: skip
    use["image"] = step("LatentToImage", latent=["draw", 0])
    use["show"] = step("PreviewImage", images=["image", 0])
    use["warnings"] = step("PreviewAny", source=["solver", 2])
    key = server.queue(use)
    pictures = server.images(key)["show"]
    assert len(pictures) == 8 and all(p.std() > 5 for p in pictures)
    assert shown(server, key)["warnings"].strip('"') == "fits this model and guidance"

    # another number of evaluations: refused, with those there are
    use["load"]["inputs"]["nfe"] = 7
    error = server.error(use)["exception_message"]
    assert "nfe = 7" in error and "holds 4" in error


def interrupted(server: Any, nodes: Graph, node: str, enough: int) -> tuple[float, list[str]]:
    """Interrupt a prompt when ``node`` has made some progress; (seconds until it stopped, texts shown meanwhile)."""
    socket, client = server.listen()
    key = server.queue(nodes, client)
    texts, pressed, begun = [], None, time.monotonic()
    try:
        while time.monotonic() - begun < 150:
            frame = socket.recv()
            if isinstance(frame, bytes):
                texts.append(frame[8:].decode(errors="replace"))
                continue
            message = json.loads(frame)
            kind, data = message["type"], message["data"]
            if data.get("prompt_id") != key:
                continue
            assert kind not in ("execution_error", "execution_success"), message
            if kind == "execution_interrupted":
                assert pressed is not None and data["node_id"] == node
                return time.monotonic() - pressed, texts
            if (
                pressed is None
                and kind == "progress"
                and data["node"] == node
                and data["value"] >= enough
            ):
                server.request("/interrupt", {})
                pressed = time.monotonic()
    finally:
        socket.close()
    raise AssertionError(f"it did not stop\n{server.tail()}")


def test_the_interrupt_button_stops_recording_and_fitting_and_both_go_on(
    server: Any, base: Path
) -> None:
    folder = base / "output" / "stopped"
    long = graph({"folder": "stopped", "count": 4000})
    waited, _ = interrupted(server, long, "record", 8)
    assert waited < 10
    files = {f: f.stat().st_mtime_ns for f in folder.rglob("rows-*")}
    assert files and not list(folder.rglob("*.part"))
    # the same recording, shorter: the rows that are there stay; then a fit of many moves
    fit = graph({"folder": "stopped", "count": 8}, **{"method.numbers": 60, "method.images": 5})
    waited, texts = interrupted(server, fit, "fit", 1)
    assert waited < 10
    assert any("held-out error" in text for text in texts)
    assert all(f.stat().st_mtime_ns == then for f, then in files.items())
    states = list(folder.rglob("fit-*-state-0.safetensors"))
    assert len(states) == 1
    before = states[0].stat().st_mtime_ns
    # it goes on: no new start is chosen, and the state moves on
    starts = [f.stat().st_mtime_ns for f in folder.rglob("fit-*-start-*")]
    interrupted(server, fit, "fit", 1)
    assert [f.stat().st_mtime_ns for f in folder.rglob("fit-*-start-*")] == starts
    assert states[0].stat().st_mtime_ns >= before
    assert shown(server, server.queue(graph()))["fit"]  # the server is well
