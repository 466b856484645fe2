"""The official templates of the ComfyUI at hand, in one that `run --comfyui` starts: they convert, are checked, and run."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

pytest.importorskip("aiohttp", reason="needs aiohttp (extra 'queue')")

from sampling_kit.headless.calls.run_in_comfyui import Wanted, run_in
from sampling_kit.headless.cli import main
from sampling_kit.headless.comfyui import Installation, Running, serving
from sampling_kit.headless.core_names import core_classes
from sampling_kit.headless.editor_graph import converter
from sampling_kit.headless.graph import NodeError, check
from sampling_kit.headless.object_info import registry_of
from sampling_kit.headless.prompt import Registry
from sampling_kit.headless.queue import object_info
from sampling_kit.headless.workflow import Workflow, is_editor_format, load

pytestmark = pytest.mark.host
SMALL = Path(__file__).with_name("small_weights.py")
CORE = "nodes", "comfy_extras", "comfy_api_nodes"
#: What a name that is not in a server's list must end in, to be a model or another file.
FILES = {"safetensors", "sft", "ckpt", "pt", "pth", "bin", "onnx", "gguf", "png", "jpg", "mp4", "mp3", "glb"}  # fmt: skip
#: Templates without a model, and those whose models small_weights.py plays.
PLAIN = [
    "basic_datatype_conversion", "basic_mask_operations_and_compositing",
    "utility_image_stitch", "utility_interpolation_image_upscale",
]  # fmt: skip
SAMPLED = [
    "sd3.5_simple_example", "image_z_image", "image_z_image_turbo", "image_ovis_text_to_image", "image_longcat_text_to_image",
    "image_qwen_image", "image_qwen_image_2512_with_2steps_lora", "template_qwen_image_illustration_lora",
    "template_sugar_coated_gummy_style_qwen", "basic_switch_node",
]  # fmt: skip
KINDS = {
    "CheckpointLoaderSimple": "checkpoints/{}=checkpoint", "UNETLoader": "diffusion_models/{}=unet", "VAELoader": "vae/{}=vae",
    "CLIPLoader": "text_encoders/{}=clip", "LoraLoaderModelOnly": "loras/{}=lora",
}  # fmt: skip
#: Sizes and steps that a busy CPU has time for, by the name of the input.
SMALLER = {"steps": 2, "width": 64, "height": 64, "resolution": 512}


class Host(NamedTuple):
    """A ComfyUI that was started, its nodes, and the folder of its templates."""

    place: Installation
    running: Running
    nodes: Registry
    info: dict[str, Any]
    templates: Path
    work: Path

    def read(self, name: str) -> Workflow:
        return load(self.templates / f"{name}.json", converter(self.nodes))


@pytest.fixture(scope="module")
def host(comfy: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    work = tmp_path_factory.mktemp("templates")
    where = "comfyui_workflow_templates_json"
    look = f"import {where} as m; print(m.__path__[0])"
    found = subprocess.run([comfy.python, "-c", look], capture_output=True, text=True)
    if found.returncode:
        pytest.skip(f"this ComfyUI has no {where}")
    place = Installation(comfy.root, Path(comfy.python))
    for kind in ("checkpoints", "diffusion_models", "vae", "text_encoders", "loras"):
        (work / "models" / kind).mkdir(parents=True)
    with serving(place, work / "models", "cpu") as running:
        info = object_info([running.address])
        folder = Path(found.stdout.strip()) / "templates"
        yield Host(place, running, registry_of(info), info, folder, work)


def test_the_core_s_classes_are_those_of_the_server(host):
    core = {name for name, one in host.info.items() if one["python_module"].split(".")[0] in CORE}
    lacking = core - core_classes()
    assert len(core) > 600 and not lacking, "add these to headless/core_classes.txt"
    assert "SamplingKitSteps" in host.info, "our pack is there"


def names_a_file(error: NodeError) -> bool:
    value = str(error.value)
    return error.kind == "value_not_in_list" and value.rpartition(".")[2].lower() in FILES


def test_every_template_converts_and_only_files_are_missing(host):
    counts: Counter[str] = Counter()
    unknown: dict[str, list[str]] = {}
    wrong: list[str] = []
    for file in sorted(host.templates.glob("*.json")):
        if not is_editor_format(json.loads(file.read_text(encoding="utf-8"))):
            counts["other JSON"] += 1
            continue
        graph = host.read(file.stem)
        lacking = {node["class_type"] for node in graph.prompt.values()} - host.nodes.keys()
        if lacking:
            unknown[file.stem] = sorted(lacking)
            continue
        counts["converted"] += 1
        errors = check(graph, host.nodes, "there")
        counts["fine but for files"] += all(map(names_a_file, errors))
        wrong += [f"{file.stem}: {error}" for error in errors if not names_a_file(error)]
    print(dict(counts), "unknown classes:", unknown)
    assert not wrong, "\n".join(wrong)
    assert counts["converted"] > 400 and len(unknown) < 10


def command(*arguments: Any) -> Any:
    return CliRunner().invoke(main, [str(one) for one in arguments])


def test_check_says_what_the_server_would(host, tmp_path):
    """A template that is fine; one whose models are missing; one with a wrong value, which the server refuses, too."""
    there = "--server", host.running.address
    fine = command("check", host.templates / "utility_image_stitch.json", *there)
    assert fine.exit_code == 0 and "fine for" in fine.output, fine.output
    missing = command(
        "check", host.templates / "image_qwen_image_2512_with_2steps_lora.json", *there
    )
    lines = [line for line in missing.stderr.splitlines() if "node" in line]
    assert missing.exit_code == 2 and len(lines) == 4, missing.output
    assert all("Value not in list" in line for line in lines)
    image = {
        "class_type": "EmptyImage",
        "inputs": {"width": 0, "height": 8, "batch_size": 1, "color": 0},
    }
    save = {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x"}}
    file = tmp_path / "w.json"
    file.write_text(json.dumps({"1": image, "2": save}))
    ours = command("check", file, *there)
    theirs = command("queue", file, *there, "--output", tmp_path / "out")
    assert ours.exit_code == theirs.exit_code == 2
    assert "smaller than min of 1" in ours.stderr and "smaller than min" in theirs.stderr


def test_pictures_are_sent_and_kept_apart(host, tmp_path):
    """One that LoadImage names goes to the server, and comes back inverted; nothing stays in ComfyUI's input folder."""
    before = sorted((host.place.root / "input").rglob("*"))
    (tmp_path / "input").mkdir()
    pixels = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)
    Image.fromarray(pixels).save(tmp_path / "input" / "mine.png")
    graph = {
        "1": {"class_type": "LoadImage", "inputs": {"image": "mine.png"}},
        "2": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}},
        "3": {
            "class_type": "SaveImage",
            "inputs": {"images": ["2", 0], "filename_prefix": "inverted"},
        },
    }
    files = ran(host, Workflow(tmp_path / "w.json", graph), tmp_path)
    with Image.open(tmp_path / "output" / files[0]) as image:
        difference = np.asarray(image.convert("RGB")).astype(int) - (255 - pixels.astype(int))
    assert np.abs(difference).max() <= 1
    assert sorted((host.place.root / "input").rglob("*")) == before


def ran(host: Host, workflow: Workflow, folder: Path, *settings: str) -> list[str]:
    """Files of a workflow that runs as `run --comfyui` runs it, in the ComfyUI that is there."""
    folders = folder / "output", folder / "input", host.work / "models"
    wanted = Wanted(settings, (), [None], True, *folders, "cpu", False)
    (result,) = run_in(host.running, host.place, workflow, wanted)
    return [*map(str, result.files), *(text for _, text in result.texts)]


def small(workflow: Workflow) -> list[str]:
    """--set for every size and every number of steps that is larger than it need be."""
    return [
        f"{key}.{name}={SMALLER[name]}"
        for key, node in workflow.prompt.items()
        for name, value in node["inputs"].items()
        if name in SMALLER and not (isinstance(value, int) and value <= SMALLER[name])
    ]


def inputs(workflow: Workflow) -> Iterator[tuple[str, str]]:
    """(class, text) of every input that is a text."""
    for node in workflow.prompt.values():
        yield from ((node["class_type"], v) for v in node["inputs"].values() if isinstance(v, str))


@pytest.fixture(scope="module")
def weights(host: Host) -> None:
    """Random weights under the names of every model that the sampled templates load."""
    named = {
        KINDS[kind].format(value)
        for name in SAMPLED
        for kind, value in inputs(host.read(name))
        if kind in KINDS and value.endswith(".safetensors")
    }
    kinds = dict(one.split("=") for one in sorted(named))
    make = [host.place.python, SMALL, host.work / "models"]
    subprocess.run(make, input=json.dumps(kinds), text=True, check=True, cwd=host.place.root)


def runs(host: Host, name: str, folder: Path) -> None:
    """The template makes files or texts, and its pictures are whole."""
    workflow = host.read(name)
    (folder / "input").mkdir()
    for kind, value in inputs(workflow):
        if kind == "LoadImage" and "." in value:
            Image.new("RGB", (96, 64), (200, 90, 30)).save(folder / "input" / value)
    files = ran(host, workflow, folder, *small(workflow))
    assert files
    for file in (f for f in files if f.endswith(".png")):
        with Image.open(folder / "output" / file) as image:
            assert image.width >= 16 and np.asarray(image).size


@pytest.mark.parametrize(
    "name", [PLAIN[0], *(pytest.param(n, marks=pytest.mark.full) for n in PLAIN[1:])]
)
def test_a_template_without_a_model_runs(host, name, tmp_path):
    runs(host, name, tmp_path)


@pytest.mark.full
@pytest.mark.parametrize("name", SAMPLED)
def test_a_template_runs_with_small_random_weights(host, weights, name, tmp_path):
    runs(host, name, tmp_path)
