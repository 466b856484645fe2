"""The pack in a real ComfyUI, through its HTTP queue and websocket."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from example_prompts import bounded

from sampling_kit.headless import cli, shipped
from sampling_kit.headless.context import Context, use
from sampling_kit.headless.core import CORE_NODES
from sampling_kit.nodes import NODES
from sampling_kit.nodes.host.alone.io import object_info

pytestmark = pytest.mark.host

#: Without those that load a checkpoint, which test_checkpoint_templates.py runs.
EXAMPLES = [shipped.example(name) for name in shipped.that_run_here()]
Graph = dict[str, Any]


def node(kind: str, /, **inputs: Any) -> Graph:
    return {"class_type": kind, "inputs": inputs}


def kit(kind: str, /, **inputs: Any) -> Graph:
    return node(f"SamplingKit{kind}", **inputs)


# ------------------------------------------------------------------------------------ object_info


@pytest.fixture(scope="module")
def infos(server: Any) -> dict[str, Any]:
    return server.get("/object_info")


@pytest.mark.parametrize("kind", NODES, ids=lambda n: n.define_schema().node_id)
def test_object_info_lists_every_node_as_the_stand_in_describes_it(infos, kind, base):
    info = dict(infos[kind.define_schema().node_id])
    assert all(info[key] for key in ("display_name", "description", "category", "search_aliases"))
    folders = {name: base / name for name in ("output", "input", "temp", "models")}
    here = Context(**folders, device="cpu", progress=None, prompt={}, workflow=None)
    with use(here):  # some list files
        ours = object_info(kind)
    assert info.pop("python_module") == "custom_nodes.comfyui-sampling-kit"
    ours.pop("python_module")
    assert info == json.loads(json.dumps(ours))


@pytest.mark.parametrize("kind", CORE_NODES, ids=lambda n: n.define_schema().node_id)
def test_core_stand_ins_have_the_core_s_inputs_and_outputs(infos, kind):
    ours, core = object_info(kind), infos[kind.define_schema().node_id]

    def types(info: dict[str, Any]) -> dict[str, str]:
        inputs = info["input"].get("required", {})
        return {name: "STRING" if isinstance(i[0], list) else i[0] for name, i in inputs.items()}

    assert types(ours) == types(core)
    assert ours["output"] == core["output"]
    assert ours["output_name"] == core["output_name"]
    assert ours["output_node"] == core["output_node"]


# --------------------------------------------------------------------------------------- examples

NEEDS_DIFFUSERS = ("cogvideox",)
LEVELS = {"cogvideox": 16}  # of 255; bfloat16 rounds otherwise in another torch


def has_diffusers(comfy: Any) -> bool:
    look = "import importlib.util as u; print(all(map(u.find_spec, ('diffusers', 'transformers'))))"
    both = (
        subprocess.run([p, "-c", look], capture_output=True) for p in (comfy.python, sys.executable)
    )
    return all(done.stdout.strip() == b"True" for done in both)


#: Most of what an example may ask for here: equality needs no more.
MOST = {"steps": 20, "batch_size": 2, "count": 6, "held_out": 2, "method.budget": 400}


def smaller(path: Path) -> Graph:
    """The example's prompt with less to do."""
    prompt = json.loads(path.read_text())
    for each in prompt.values():
        inputs = each["inputs"]
        inputs |= bounded(inputs, MOST)
        if each["class_type"] == "SamplingKitPickDrafts":
            inputs["numbers"] = "1, 2"
        if "reference" in inputs:  # an RMSE of rounding has other digits there
            inputs["reference"] = 0
    return prompt


#: By default every other example is drawn in both worlds: all are drawn without ComfyUI in test_nodes.py.
IN_BOTH = EXAMPLES[::2]


@pytest.fixture(scope="module")
def queued(server: Any, comfy: Any, request: pytest.FixtureRequest) -> dict[Path, str]:
    """The examples, queued at once: ComfyUI draws while we draw."""
    able, drawn = has_diffusers(comfy), EXAMPLES if request.config.getoption("full") else IN_BOTH
    runs = [path for path in drawn if able or path.stem not in NEEDS_DIFFUSERS]
    return {path: server.queue(smaller(path)) for path in runs}


def standalone(workflow: Path, output: Path) -> dict[str, list[Path]]:
    """{node id: its images} of a run without ComfyUI."""
    arguments = ["run", str(workflow), "--output", str(output), "--device", "cpu", "--json"]
    result = CliRunner().invoke(cli.main, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    shown = json.loads(result.stdout)["runs"][0]["outputs"].items()
    folders = {"output": output, "temp": output / "temp"}
    return {
        node: [folders[i["type"]] / i["subfolder"] / i["filename"] for i in ui["images"]]
        for node, ui in shown
        if "images" in ui
    }


TIMED = {"compare", "trace", "tutorial-2-ddpm"}  # seconds stand in their plots and captions


@pytest.mark.parametrize(
    "path",
    [pytest.param(p, marks=() if p in IN_BOTH else pytest.mark.full, id=p.stem) for p in EXAMPLES],
)
def test_examples_draw_the_same_pixels_in_both_worlds(server, queued, path, tmp_path):
    if path not in queued:
        pytest.skip("diffusers and transformers are not installed here and in ComfyUI")
    workflow = tmp_path / path.name
    workflow.write_text(json.dumps(smaller(path)))
    here, there = standalone(workflow, tmp_path / "output"), server.images(queued[path])
    assert here.keys() == there.keys() and here
    for node, files in here.items():
        for file, theirs in zip(files, there[node], strict=True):
            ours = server.pixels(file)
            assert np.ptp(ours) > 100, "a blank picture"
            if path.stem not in TIMED:
                assert np.abs(ours - theirs).max() <= LEVELS.get(path.stem, 2)


# ---------------------------------------------------------------------- graphs written out here

VP = {
    "kind": "vp_linear", "kind.beta_start": 0.0001, "kind.beta_end": 0.02, "kind.timesteps": 1000,
    "kind.zero_snr": False,
}  # fmt: skip
VE = {"kind": "ve_edm", "kind.sigma_min": 0.002, "kind.sigma_max": 80.0}
FLOW = {"kind": "rectified_flow", "kind.shift": 1.0}
GAUSSIAN = {"kind": "gaussian", "kind.size": 24, "kind.scenes": 40, "kind.rank": 12}
PATCHES = {"kind": "patches", "kind.size": 24, "kind.scenes": 10, "kind.locality": 1.0}


def graph_of(schedule: Graph, kind: Graph, batch: int = 1) -> Graph:
    """NOISE_SCHEDULE, MODEL, conditionings and LATENT, for the graphs below."""
    return {
        "schedule": kit("NoiseSchedule", **schedule),
        "model": kit("EmbeddedDenoiser", **kind, noise_schedule=["schedule", 0]),
        "positive": kit("ClassCondition", name="dawn mountains"),
        "negative": kit("ClassCondition", name="unconditional"),
        "latent": kit("EmptyPixelLatent", width=24, height=24, batch_size=batch),
    }


def show(graph: Graph, name: str, latent: Graph) -> None:
    """Add the node ``latent``, which makes a LATENT, and an output node ``name`` that shows it."""
    graph[f"{name} latent"] = latent
    graph[f"{name} image"] = kit("LatentToImage", latent=[f"{name} latent", 0])
    graph[name] = node("PreviewImage", images=[f"{name} image", 0])


def steps(count: int, spacing: str = "trailing", **options: Any) -> Graph:
    """The Steps node for the graph's schedule."""
    choice = {"spacing": spacing, **{f"spacing.{key}": value for key, value in options.items()}}
    return kit(
        "Steps", noise_schedule=["schedule", 0], steps=count, **choice, denoise=1.0, final="zero"
    )


# ------------------------------------------------------------------ our MODEL under core samplers

CONDITIONED = dict(
    model=["model", 0],
    positive=["positive", 0],
    negative=["negative", 0],
    latent_image=["latent", 0],
    cfg=1.0,
)


@pytest.mark.parametrize("schedule", [VP, VE, FLOW], ids=["VP", "VE", "flow"])
def test_core_samplers_on_our_model_agree_with_our_solvers(server, schedule):
    """Core euler is our Euler; 40 steps of dpmpp_2m and uni_pc and 100 of our Heun reach the same picture."""
    graph = graph_of(schedule, GAUSSIAN)
    graph["core"] = node(
        "BasicScheduler", model=["model", 0], scheduler="karras", steps=40, denoise=1.0
    )
    graph["fine"] = steps(100, "karras", rho=7.0)
    for name in ("euler", "dpmpp_2m", "uni_pc"):
        options = dict(seed=3, steps=40, sampler_name=name, scheduler="karras", denoise=1.0)
        show(graph, name, node("KSampler", **CONDITIONED, **options))
    for name, solver, sigmas in (("ours", "Euler", "core"), ("exact", "HeunEDM", "fine")):
        graph[solver] = kit(solver, churn=0.0, churn_from=0.0, churn_to=1e5, noise=1.0)
        wires = dict(sampler=[solver, 0], sigmas=[sigmas, 0])
        show(
            graph, name, node("SamplerCustom", **CONDITIONED, **wires, add_noise=True, noise_seed=3)
        )
    drawn = {name: images[0] for name, images in server.images(server.queue(graph)).items()}
    assert np.ptp(drawn["exact"]) > 50
    assert np.abs(drawn["euler"] - drawn["ours"]).max() <= 1
    for name in ("dpmpp_2m", "uni_pc"):
        assert np.abs(drawn[name] - drawn["exact"]).max() <= 3, name


# ---------------------------------------------------------------------------------- batch of three

SOLVERS = {
    "DDPM": dict(variance="small", mix=0.5, clip_x0=0.0),
    "EulerAncestral": dict(eta=1.0, noise=1.0),
    "Euler": dict(churn=20.0, churn_from=0.0, churn_to=1e5, noise=1.0),
    "DDIM": dict(eta=0.0),
}


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_batch_of_three_is_three_single_images(server, solver):
    graph = graph_of(VP, PATCHES, batch=3)
    graph["one"] = kit("EmptyPixelLatent", width=24, height=24, batch_size=1)
    graph["guider"] = kit("Guider", model=["model", 0], positive=["positive", 0])
    graph["sampler"], graph["sigmas"] = kit(solver, **SOLVERS[solver]), steps(6)
    for name, latent, seed in (
        ("batch", "latent", 5),
        ("a", "one", 5),
        ("b", "one", 6),
        ("c", "one", 7),
    ):
        graph[f"{name} noise"] = kit("PerImageNoise", seed=seed)
        wires = {key: [key, 0] for key in ("guider", "sampler", "sigmas")}
        noise = [f"{name} noise", 0]
        show(
            graph,
            name,
            node("SamplerCustomAdvanced", **wires, noise=noise, latent_image=[latent, 0]),
        )
    drawn = server.images(server.queue(graph))
    singles = [drawn[name][0] for name in "abc"]
    assert all(np.array_equal(x, y) for x, y in zip(drawn["batch"], singles, strict=True))
    assert not np.array_equal(singles[0], singles[1])


# ------------------------------------------------------------------------------------- interruption


def test_interrupt_stops_within_one_step(server):
    graph = json.loads((EXAMPLES[0].parent / "ddpm-1000-steps.json").read_text())
    latent = next(n for n in graph.values() if n["class_type"] == "SamplingKitEmptyPixelLatent")
    latent["inputs"]["batch_size"] = 64  # slow steps, so that the count below means something
    socket, client = server.listen()
    key = server.queue(graph, client)
    while (message := receive(socket, key))[0] != "progress" or message[1]["value"] < 3:
        assert message[0] != "execution_error", message
    server.request("/interrupt", {})
    after = []
    while not after or after[-1] not in (
        "execution_interrupted",
        "execution_success",
        "execution_error",
    ):
        after.append(receive(socket, key)[0])
    socket.close()
    assert after[-1] == "execution_interrupted"
    assert after.count("progress") <= 1
    assert [len(i) for i in server.images(server.queue(small())).values()] == [1]


def receive(socket: Any, key: str) -> tuple[str, dict[str, Any]]:
    """The next (type, data) about the prompt ``key``."""
    while True:
        frame = socket.recv()
        if (
            isinstance(frame, str)
            and (message := json.loads(frame))["data"].get("prompt_id") == key
        ):
            return message["type"], message["data"]


# --------------------------------------------------------------------------------------- bad graphs


def small() -> Graph:
    """A graph that works: DDPM in 4 steps."""
    graph = graph_of(VP, PATCHES)
    graph["sampler"], graph["sigmas"] = kit("DDPM", **SOLVERS["DDPM"]), steps(4)
    graph["guider"] = kit("Guider", model=["model", 0], positive=["positive", 0])
    graph["noise"] = kit("PerImageNoise", seed=1)
    wires = {key: [key, 0] for key in ("guider", "sampler", "sigmas", "noise")}
    show(graph, "out", node("SamplerCustomAdvanced", **wires, latent_image=["latent", 0]))
    return graph


def rising(graph: Graph) -> None:
    graph["flipped"] = node("FlipSigmas", sigmas=["sigmas", 0])
    graph["out latent"]["inputs"]["sigmas"] = ["flipped", 0]


def without_negative(graph: Graph) -> None:
    graph["cfg"] = kit("CFG", scale=4.0)
    graph["guider"]["inputs"]["guidance"] = ["cfg", 0]


def latent_model(graph: Graph) -> None:
    graph["empty"] = node("EmptyLatentImage", width=64, height=64, batch_size=1)
    graph["out image"]["inputs"]["latent"] = ["empty", 0]


def wrong_size(graph: Graph) -> None:
    graph["latent"]["inputs"]["width"] = 32


def unknown_choice(graph: Graph) -> None:
    graph["sigmas"]["inputs"]["spacing"] = "nonsense"


def too_many_steps(graph: Graph) -> None:
    graph["sigmas"]["inputs"]["steps"] = 1001


def empty_range(graph: Graph) -> None:
    graph["schedule"]["inputs"] = VE | {"kind.sigma_min": 100.0}


@pytest.mark.parametrize(
    ("spoil", "where", "words"),
    [
        (rising, "out latent", ["DDPM", "must fall", "deterministic solver"]),
        (without_negative, "guider", ["negative", "CFG", "not connected"]),
        (latent_model, "out image", ["(1, 4, 8, 8)", "VAE Decode"]),
        (wrong_size, "out latent", ["(3, 24, 24)", "empty latent that size"]),
        (unknown_choice, "sigmas", ["spacing", "choose one of trailing"]),
        (too_many_steps, "sigmas", ["1001", "1000", "fewer steps"]),
        (empty_range, "schedule", ["sigma_min", "100", "below sigma_max", "80"]),
    ],
    ids=lambda value: getattr(value, "__name__", "-"),
)
def test_a_bad_graph_says_what_to_do(server, spoil, where, words):
    graph = small()
    spoil(graph)
    error = server.error(graph)
    assert error["node_id"] == where
    assert all(word in error["exception_message"] for word in words), error["exception_message"]


def composed(**inputs: Any) -> Graph:
    """The small graph with Composition of two more conditions after CFG."""
    graph = small()
    graph["guider"]["inputs"] |= {"guidance": ["and", 0], "negative": ["negative", 0]}
    graph["cfg"] = kit("CFG", scale=2.0)
    graph["other"] = kit("ClassCondition", name="sunset sea")
    known = {"conditions.condition0": ["other", 0], "conditions.condition1": ["positive", 0]}
    graph["and"] = kit("Compose", guidance=["cfg", 0], **{**known, "weights": "1, -0.5", **inputs})
    return graph


def test_growing_inputs_arrive(server):
    drawn = server.images(server.queue(composed()))["out"][0]
    plain = server.images(server.queue(small()))["out"][0]
    assert np.ptp(drawn) > 50 and not np.array_equal(drawn, plain)
    error = server.error(composed(weights="1, 2, 3"))
    assert error["node_id"] == "and" and "3 for 2 conditions" in error["exception_message"]
    graph = composed()
    del graph["and"]["inputs"]["conditions.condition0"]
    errors = server.post(graph)["node_errors"]["and"]["errors"]
    assert [e["type"] for e in errors] == ["required_input_missing"]


def test_no_steps_are_refused_before_anything_runs(server):
    graph = small()
    graph["sigmas"]["inputs"]["steps"] = 0
    errors = server.post(graph)["node_errors"]["sigmas"]["errors"]
    assert [error["type"] for error in errors] == ["value_smaller_than_min"]
