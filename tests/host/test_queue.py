"""The queue client against a real ComfyUI that is killed and started again in the middle."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from PIL import Image

pytest.importorskip("aiohttp", reason="needs aiohttp (extra 'queue')")

from sampling_kit.headless.queue import Access, Job, Queue, Watcher
from sampling_kit.headless.registry import registry
from sampling_kit.headless.settings_flags import with_seed, with_settings
from sampling_kit.headless.workflow import load

pytestmark = pytest.mark.host
PACK = Path(__file__).resolve().parents[2]
COUNT = 20


class Look(Watcher):
    def __init__(self) -> None:
        self.done: list[str] = []
        self.steps = 0

    def finished(self, done: Any) -> None:
        self.done.append(done.label)

    def progress(self, label: str, node: str, step: int, total: int) -> None:
        self.steps += 1


def small_jobs() -> list[Job]:
    """Postcards of 24×24 pixels, which take some tenths of a second each."""
    nodes = registry()
    small = [
        "model.kind.size=24",
        "model.kind.scenes=8",
        "latent.width=24",
        "latent.height=24",
        "latent.batch_size=1",
    ]
    workflow = load(PACK / "example_workflows" / "api" / "rectified-flow.json")
    titles = {
        node["class_type"]: key
        for key, node in workflow.prompt.items()
    }  # fmt: skip
    model, latent = titles["SamplingKitEmbeddedDenoiser"], titles["SamplingKitEmptyPixelLatent"]
    settings = [s.replace("model", model).replace("latent", latent) for s in small]
    workflow = with_settings(workflow, nodes, settings)
    return [Job(f"seed{s}", with_seed(workflow, nodes, s).prompt) for s in range(COUNT)]


def test_a_restart_in_the_middle_loses_nothing(launch: Any, tmp_path: Path):
    look, server = Look(), launch()
    port = server.port
    jobs, results = small_jobs(), []
    run = Queue(f"127.0.0.1:{port}", tmp_path, look).run(jobs)
    thread = Thread(target=lambda: results.extend(asyncio.run(run)))
    try:
        thread.start()
        end = time.monotonic() + 300
        while len(look.done) < 5 and thread.is_alive() and time.monotonic() < end:
            time.sleep(0.02)
        server.stop()
        assert len(look.done) < COUNT, "it was meant to be in the middle"
        server = launch(port)
        thread.join(600)
        assert not thread.is_alive(), server.tail()
    finally:
        server.stop()
    assert [d.error for d in results] == [None] * COUNT
    assert sorted(look.done) == sorted(j.label for j in jobs), "each once"
    files = [name for d in results for name in d.files]
    assert len(set(files)) == len(files) == len(list(tmp_path.rglob("*.png")))
    with Image.open(tmp_path / files[0]) as image:
        assert image.width >= 24
    assert look.steps > 0, "the websocket reported steps"


GREY = {
    "class_type": "EmptyImage",
    "inputs": {"width": 16, "height": 16, "batch_size": 2, "color": 0x808080},
}


def saved(seed: int) -> dict[str, Any]:
    save = {
        "class_type": "SaveImage",
        "inputs": {"images": ["1", 0], "filename_prefix": f"grey{seed}"},
    }
    return {"1": GREY, "2": save}


def test_cached_pictures_websocket_pictures_and_a_key(
    launch: Any, base: Path, comfy: Any, tmp_path: Path
):
    """A cached answer whose files are gone is made again; SaveImageWebsocket's frames are kept; the key stays out of the history."""
    sender = "websocket_image_save.py"
    (base / "custom_nodes" / sender).write_bytes(
        (comfy.root / "custom_nodes" / sender).read_bytes()
    )
    server = launch()

    def run(job: Job, folder: str) -> Any:
        client = Queue(
            f"127.0.0.1:{server.port}", tmp_path / folder, access=Access(api_key="a-key-of-ours")
        )
        (done,) = asyncio.run(client.run([job]))
        assert done.error is None
        return done

    try:
        job = Job("x", saved(7))
        assert len(run(job, "first").files) == 2
        for file in (base / "output").glob("grey7*"):
            file.unlink()
        again = run(job, "second")
        assert len(again.files) == 2 and all(
            (tmp_path / "second" / name).is_file() for name in again.files
        )
        frames = run(
            Job(
                "w",
                {
                    "1": GREY,
                    "2": {"class_type": "SaveImageWebsocket", "inputs": {"images": ["1", 0]}},
                },
            ),
            "third",
        )
        assert len(frames.files) == 2
        with Image.open(tmp_path / "third" / frames.files[0]) as image:
            assert image.size == (16, 16) and image.getpixel((0, 0)) == (128, 128, 128)
        history = server.request("/history").decode()
        assert "grey7" in history and "a-key-of-ours" not in history
    finally:
        server.stop()
        (base / "custom_nodes" / sender).unlink()
