"""The examples that load a checkpoint, in a real ComfyUI from its loaders to the picture.

The weights are random (``random_checkpoints.py``): what is proven is that each template loads, links and runs what its file
names say. Networks and VAEs go through ComfyUI's loaders always, and so do the text encoders of Stable Diffusion. In the
place of the others stands a stored random CONDITIONING of their shape:

| template | text encoder | its size, and why it is not built | stands in |
|---|---|---|---|
| Flux.1 | clip_l and t5xxl_fp16, one loader for both | 9.8 GB | [1, 256, 4096], pooled [1, 768] |
| Flux.2 | mistral_3_small_flux2_bf16 | 36 GB, with its tokenizer in the file | [1, 32, 15360] |
| Qwen-Image | qwen_2.5_vl_7b_fp8_scaled | 9.4 GB | [1, 32, 3584] |
| Z-Image | qwen_3_4b | 8.0 GB | [1, 32, 2560] |
| Wan 2.2 | umt5_xxl_fp8_e4m3fn_scaled | 6.7 GB, with its tokenizer in the file | [1, 512, 4096] |
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from example_prompts import bounded, unframed
from host_server import Comfy, Server, free_port, linked, start
from PIL import Image

from sampling_kit.headless import shipped
from sampling_kit.headless.editor_graph import to_prompt
from sampling_kit.headless.object_info import registry_of

pytestmark = pytest.mark.host
HERE = Path(__file__).parent
Graph = dict[str, Any]
SLOW = 900  # seconds for one template: most of it reads and casts the weights


@dataclass(frozen=True)
class Proof:
    """The family of random checkpoints that a template runs with, and the network that ComfyUI must find in it."""

    family: str
    network: str
    stands_in: bool = True  # a stored CONDITIONING, for its text encoder


SD15 = Proof("sd15", "BaseModel", stands_in=False)
NARROW = Proof("sd15-narrow", "BaseModel", stands_in=False)
SDXL = Proof("sdxl", "SDXL", stands_in=False)
PROOFS = {
    "sd15-text-to-image": SD15,
    "flux1-text-to-image": Proof("flux", "Flux"),
    "flux2-text-to-image": Proof("flux2", "Flux2"),
    "wan22-text-to-video": Proof("wan", "WAN21"),
    "qwen-image-text-to-image": Proof("qwen-image", "QwenImage"),
    "z-image-turbo-text-to-image": Proof("z-image", "Lumina2"),
    "negative-prompt-turbo": Proof("z-image", "Lumina2"),
    "sd15-controlnet": SD15,
    "fit-a-solver-to-your-checkpoint": NARROW,  # a fit asks the network hundreds of times
    "sdxl-text-to-image": SDXL,
    "sdxl-image-to-image": SDXL,
    "sdxl-inpainting": SDXL,
    "sdxl-lightning-4-steps": SDXL,
}
#: What runs by default, SD 1.5 with a narrow network; the others and its real size: pytest --full.
BY_DEFAULT = ("sd15-text-to-image", "flux1-text-to-image")
NAMES = {"ckpt_name", "control_net_name"}
#: The most of each number that a template may ask for here.
MOST = dict(width=64, height=64, length=5, steps=2, count=2, levels=6, nfe=3, held_out=1, batch=2)
MOST |= {"megapixels": 0.01, "method.budget": 40}


def proof(stem: str, full: bool) -> Proof:
    """How a template is proven: SD 1.5 at its real size with --full, else with a narrow network."""
    return NARROW if PROOFS[stem] is SD15 and not full else PROOFS[stem]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A private ComfyUI folder. Its models are removed at the end: with --full they take 9 GB."""
    base = linked(tmp_path_factory.mktemp("templates"))
    (base / "custom_nodes" / "stored_conditioning.py").symlink_to(HERE / "stored_conditioning.py")
    (base / "input").mkdir()
    picture = np.full((64, 64, 4), 255, np.uint8)
    picture[:32, :, :3], picture[16:48, 16:48, 3] = 60, 0  # an edge for Canny, and a mask
    Image.fromarray(picture).save(base / "input" / "example.png")
    yield base
    shutil.rmtree(base / "models", ignore_errors=True)  # none, where no template was asked for


@pytest.fixture(scope="module")
def models(comfy: Comfy, base: Path, request: pytest.FixtureRequest) -> Path:
    """The folder of models, with random checkpoints for every template that is asked for; SD 1.5 at full size in full."""
    full = request.config.getoption("full")
    params = [getattr(item, "callspec", None) for item in request.session.items]
    asked = {p.params["stem"] for p in params if p and p.params.get("stem") in PROOFS}
    families = sorted({proof(s, full).family for s in asked if full or s in BY_DEFAULT})
    command = [comfy.python, str(HERE / "random_checkpoints.py"), str(base / "models"), *families]
    done = subprocess.run(command, capture_output=True, timeout=SLOW, **comfy.setting)
    assert done.returncode == 0, done.stderr.decode()[-4000:]
    if "sdxl" in families:
        distilled = base / "models" / "checkpoints" / "sdxl_lightning_4step.safetensors"
        distilled.symlink_to("sd_xl_base_1.0.safetensors")
    return base / "models"


@pytest.fixture(scope="module")
def running(comfy: Comfy, models: Path) -> Iterator[Server]:
    server = start(comfy, models.parent, free_port())
    yield server
    server.stop()


def small(stem: str, proof: Proof) -> Graph:
    """The template's prompt at a tiny size, with what stands in for its text encoder, and a preview of its frames."""
    prompt: Graph = json.loads(shipped.example(stem).read_text(encoding="utf-8"))
    for key, node in list(prompt.items()):
        inputs = node["inputs"]
        if proof is NARROW:
            inputs |= {k: f"narrow/{inputs[k]}" for k in inputs.keys() & NAMES}
        inputs |= bounded(inputs, MOST)
        if proof.stands_in and node["class_type"] in ("CLIPLoader", "DualCLIPLoader"):
            del prompt[key]
        if proof.stands_in and node["class_type"] == "CLIPTextEncode":
            prompt[key] = {"class_type": "TestStoredConditioning", "inputs": {"name": proof.family}}
        if node["class_type"] == "VAEDecode":
            prompt["frames"] = {"class_type": "PreviewImage", "inputs": {"images": [key, 0]}}
    return prompt


def test_every_template_that_needs_comfyui_is_proven():
    assert set(PROOFS) == {name for name in shipped.names() if shipped.needs_comfyui(name)}


@pytest.mark.parametrize(
    "stem", [pytest.param(s, marks=() if s in BY_DEFAULT else pytest.mark.full) for s in PROOFS]
)
def test_a_template_runs_from_loader_to_picture(running, stem, request):
    """ComfyUI finds the network that the template is for; the picture is of its size and not blank."""
    chosen = proof(stem, request.config.getoption("full"))
    seen = running.log.read_text(errors="replace").count("\n")
    entry = running.wait(running.queue(small(stem, chosen)), SLOW)
    assert entry["status"]["status_str"] == "success", json.dumps(entry["status"], indent=1)
    log = running.log.read_text(errors="replace").splitlines()[seen:]
    assert any(line.endswith(f"Requested to load {chosen.network}") for line in log), log
    outputs = entry["outputs"]
    pictures = [running.image(i) for i in outputs["frames"]["images"]]
    for picture in pictures:
        assert picture.shape == (64, 64, 3) or stem == "sdxl-image-to-image"
        assert picture.std() > 20, "a blank picture"
    assert len(pictures) == (5 if chosen.family == "wan" else 1)
    assert any(i["type"] == "output" for ui in outputs.values() for i in ui.get("images", ()))
    running.request("/free", {"unload_models": True, "free_memory": True})


def test_the_editor_s_graph_is_the_template_s_prompt(running):
    """Read by the widgets of this ComfyUI's own loaders."""
    nodes = registry_of(running.get("/object_info"))
    for stem in PROOFS:
        graph = json.loads((shipped.FOLDER / f"{stem}.json").read_text(encoding="utf-8"))
        twin = json.loads(shipped.example(stem).read_text(encoding="utf-8"))
        assert unframed(to_prompt(graph, nodes)) == twin, stem
