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

from sampling_kit.headless.queue import Job, Queue, Watcher
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
