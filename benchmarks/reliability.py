"""Sweeps and queues under fire: killed at random and started again, results counted and compared.

    python -m benchmarks.reliability [sweep] [speed] [queue] [soak] [server] [nodes] [proxy] [several] [price] [load]
        [--items 200] [--kills 10] [--workers 4] [--json]

sweep   a sweep of ``--items`` on two workers, killed with SIGKILL ``--kills`` times at random moments and
        resumed each time, against an uninterrupted one on one worker: items, each once, equal hashes
speed   throughput of two workers over one, and what a sweep adds per item beyond its own work
queue   20 prompts on a real ComfyUI that is killed and started again in the middle (COMFYUI_PATH, or
        ~/comfy/ComfyUI); skipped where there is none
soak    ``--prompts`` small prompts in one process: the slope of its memory and open files after the warm-up
server  ``--queued`` prompts through the queue of a real ComfyUI: results, and the slopes of the server
proxy   ``--queued`` jobs through the queue client while a proxy injects faults at random (benchmarks/queue_load.py)
several ``--queued`` jobs on two servers of which one is killed twice, by a client that is killed three times
price   milliseconds that it takes to be sure of a picture, an item of a sweep, a record of the queue
load    a sweep of ``--items`` on ``--workers``, hit ``--kills`` times: a worker, the command, or a power cut (the copy of
        an ext4 device, where this is root); items, each once. The full size: load --items 10000 --kills 50
nodes   a sweep of 8 items on a cluster of two Ray nodes, against one worker: equal hashes, both nodes at work
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from . import cuts
from .queue_load import proxy, several

PACK = Path(__file__).resolve().parents[1]


def graph(steps: int, size: int, model: str = "mixture") -> dict[str, Any]:
    """A small sampling graph: postcards of ``size`` pixels by an exact mixture."""
    ve = {"kind": "ve_edm", "kind.sigma_min": 0.02, "kind.sigma_max": 80.0}
    spacing = {"spacing": "karras", "spacing.rho": 7.0, "denoise": 1.0, "final": "zero"}
    known = {"kind": model, "kind.size": size, "kind.scenes": 40, "kind.rank": 8}
    known |= {"kind.components": 4} if model == "mixture" else {}
    wires = {"noise": ["7", 0], "guider": ["6", 0], "sampler": ["8", 0], "sigmas": ["2", 0]}
    nodes = {
        "1": ("SamplingKitNoiseSchedule", ve),
        "2": ("SamplingKitSteps", spacing | {"steps": steps, "noise_schedule": ["1", 0]}),
        "3": ("SamplingKitEmbeddedDenoiser", known | {"noise_schedule": ["1", 0]}),
        "4": ("SamplingKitClassCondition", {"name": "one of each"}),
        "5": ("SamplingKitEmptyPixelLatent", {"width": size, "height": size, "batch_size": 2}),
        "6": ("SamplingKitGuider", {"model": ["3", 0], "positive": ["4", 0]}),
        "7": ("SamplingKitPerImageNoise", {"seed": 0}),
        "8": ("SamplingKitEuler", {"noise": 1.0}),
        "9": ("SamplerCustomAdvanced", wires | {"latent_image": ["5", 0]}),
        "10": ("SamplingKitLatentToImage", {"latent": ["9", 0]}),
        "11": ("SaveImage", {"images": ["10", 0], "filename_prefix": "a"}),
    }
    return {k: {"class_type": c, "inputs": i} for k, (c, i) in nodes.items()}


def command(workflow: Path, output: Path, items: int, workers: int) -> list[str]:
    seeds = ["--seeds", f"0-{items // 2 - 1}", "--grid", "4.name=desert,snow"]
    where = ["--output", str(output), "--workers", str(workers), "--device", "cpu"]
    return [
        sys.executable, "-m", "sampling_kit.headless.cli", "sweep", str(workflow), *seeds, *where,
    ]  # fmt: skip


def hashes(folder: Path) -> dict[str, dict[str, str]]:
    """{item: {file: pixel hash}}, read from the items themselves; AssertionError for half an item."""
    found = {}
    for item in sorted((folder / "items").iterdir()):
        if item.name.startswith("."):
            continue
        record = json.loads((item / "record.json").read_text())
        missing = [name for name in record["files"] if not (item / name).is_file()]
        assert not missing, f"{item} lacks {missing}"
        found[item.name] = record["files"]
    return found


def sweep(items: int, kills: int, work: Path) -> dict[str, Any]:
    """Killed and resumed on two workers, against one worker left alone."""
    workflow, chance = work / "w.json", random.Random(0)
    workflow.write_text(json.dumps(graph(40, 32)))
    quiet: dict[str, Any] = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    seen: list[int] = []
    there = work / "two" / "items"

    def done() -> int:
        return len(list(there.glob("[0-9]*"))) if there.exists() else 0

    while len(seen) < kills:
        process = subprocess.Popen(
            command(workflow, work / "two", items, 2), start_new_session=True, **quiet
        )
        goal = done() + chance.randint(0, max(1, items // kills - 1))  # 0: while it starts
        while process.poll() is None and done() < goal:
            time.sleep(0.01)
        if process.poll() is not None:
            break
        time.sleep(chance.uniform(0, 0.5))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        seen.append(done())
    subprocess.run(command(workflow, work / "two", items, 2), check=True, **quiet)
    subprocess.run(command(workflow, work / "one", items, 1), check=True, **quiet)
    two, one = hashes(work / "two"), hashes(work / "one")
    lines = (work / "two" / "manifest.jsonl").read_text().splitlines()
    return dict(
        items=len(two), manifest=len(lines), kills=len(seen), there_at_each_kill=seen,
        equal=two == one, once=len(two) == len(set(two)) == items,
    )  # fmt: skip


def speed(items: int, work: Path) -> dict[str, Any]:
    """Items per second of the working part of a sweep, with one worker and with two."""
    from sampling_kit.headless.registry import registry
    from sampling_kit.headless.sweep import Crew, Folder, Item, Worker, work_list
    from sampling_kit.headless.workflow import Workflow

    def timed(workers: int, prompt: dict[str, Any], count: int, name: str) -> tuple[float, float]:
        """(seconds from the first result to the last, mean seconds of the graph itself)."""
        workflow = Workflow(Path(name), prompt)
        listed = work_list(workflow, registry(), [], range(count))
        stamps, own = list[float](), list[float]()
        with Folder.opened(work / name, {}) as folder:

            def finished(item: Item, record: Mapping[str, Any], files: Mapping[str, bytes]) -> None:
                folder.add(item, dict(record), dict(files))
                stamps.append(time.perf_counter())
                own.append(record["seconds"])

            failed = Crew(workers, device="cpu").work(listed, finished)
        assert not failed, failed
        warm = 2 * workers  # until every worker has its model
        return (stamps[-1] - stamps[warm - 1]) / (count - warm), sum(own[warm:]) / (count - warm)

    alone = Worker("cpu", 1, "input", "models")
    heavy, light = graph(120, 64), graph(1, 24, "gaussian")
    for prompt in (heavy, light):
        alone.run("warm-up", prompt)
    one, _ = timed(1, heavy, items, "heavy-one")
    two, _ = timed(2, heavy, items, "heavy-two")
    each, own = timed(1, light, 200, "light")
    return dict(
        seconds_per_item=dict(one=one, two=two), speed_up=one / two, overhead_ms=1e3 * (each - own)
    )


def queue(work: Path) -> dict[str, Any]:
    """The host test of the same name, whose assertions are the measurement."""
    test = PACK / "tests" / "host" / "test_queue.py"
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n", "0", str(test)],
        cwd=PACK, capture_output=True, text=True,
    )  # fmt: skip
    return dict(passed=run.returncode == 0, said=run.stdout.strip().splitlines()[-1])


class Watch:
    """Memory and open files of a process after every hundredth of its prompts."""

    def __init__(self, prompts: int, process: int | str = "self") -> None:
        self.place, self.every = Path(f"/proc/{process}"), max(1, prompts // 100)
        self.prompts = prompts
        self.seen: list[tuple[int, float, int]] = []

    def done(self, count: int) -> None:
        if count % self.every == 0:
            pages = int((self.place / "statm").read_text().split()[1])
            kilobytes = pages * os.sysconf("SC_PAGE_SIZE") / 2**10
            self.seen.append((count, kilobytes, len(os.listdir(self.place / "fd"))))

    def report(self) -> dict[str, Any]:
        """After the first tenth: the slope of the memory by least squares, the most open files in either half."""
        import numpy as np

        warm = np.array([row for row in self.seen if row[0] >= self.prompts / 10])
        slope = float(np.polyfit(warm[:, 0], warm[:, 1], 1)[0])
        return dict(
            prompts=self.seen[-1][0],
            mb=[
                round(row[1] / 1024, 1) for row in (self.seen[0], *self.seen[9::30], self.seen[-1])
            ],
            kb_per_prompt=round(slope, 4),
            most_files=[int(half[:, 2].max()) for half in np.array_split(warm, 2)],
        )


def soak(prompts: int, work: Path) -> dict[str, Any]:
    from sampling_kit.headless.sweep import Worker

    worker, prompt = Worker("cpu", 1, "input", "models"), graph(1, 24, "gaussian")
    watch, started = Watch(prompts), time.perf_counter()
    for i in range(1, prompts + 1):
        prompt["7"]["inputs"]["seed"] = i
        worker.run(str(i), prompt)
        watch.done(i)
    return watch.report() | dict(seconds=round(time.perf_counter() - started))


def server(prompts: int, work: Path) -> dict[str, Any]:
    """Through the queue client, as the host tests do it. The server keeps a history of all prompts, which is cleared
    after the first half: what grows in the second half then is not the history."""
    import asyncio

    sys.path.insert(0, str(PACK / "tests"))
    from host_server import (  # type: ignore[import-not-found]
        Comfy,
        find_python,
        find_root,
        free_port,
        linked,
        start,
    )

    from sampling_kit.headless.queue import Done, Job, Queue, Watcher

    root = find_root()
    python = find_python(root) if root else None
    if root is None or python is None:
        return dict(skipped="no ComfyUI")
    running = start(Comfy(root, python), linked(work / "base"), free_port())
    watch, labels = Watch(prompts, running.process.pid), list[str]()

    class Count(Watcher):
        def finished(self, done: Done) -> None:
            labels.append(done.label)
            watch.done(len(labels))

    def job(seed: int) -> Job:
        prompt = graph(1, 24, "gaussian")
        prompt["7"]["inputs"]["seed"] = seed
        return Job(f"seed{seed}", prompt)

    try:
        started, jobs = time.perf_counter(), [job(seed) for seed in range(prompts)]
        results: list[Done] = []
        for half in (jobs[: prompts // 2], jobs[prompts // 2 :]):
            client = Queue(f"127.0.0.1:{running.port}", work / "results", Count())
            results += asyncio.run(client.run(half))
            running.request("/history", {"clear": True})
    finally:
        running.stop()
    files = {name for result in results for name in result.files}
    at = [kilobytes / 1024 for _, kilobytes, _ in watch.seen]
    return watch.report() | dict(
        mb_second_half=round(at[-1] - at[len(at) // 2 - 1], 1),
        seconds=round(time.perf_counter() - started),
        once=len(set(labels)) == len(labels) == prompts,
        failed=sum(bool(result.error) for result in results),
        files_fetched=len(files),
    )


@contextmanager
def two_nodes(cpus: int = 1) -> Iterator[str]:
    """The address of a Ray cluster of two nodes on this machine, each with its own raylet and store."""
    from sampling_kit.headless.sweep.cluster import prepare

    os.environ |= prepare(None)  # a token, and loopback alone
    from ray.cluster_utils import Cluster

    small = dict(num_cpus=cpus, object_store_memory=100 * 2**20, include_dashboard=False)
    cluster = Cluster(initialize_head=True, head_node_args=small)
    try:
        cluster.add_node(**{k: v for k, v in small.items() if k != "include_dashboard"})
        yield str(cluster.address)
    finally:
        cluster.shutdown()


def on_two_nodes(work: Path, items: int = 8) -> dict[str, Any]:
    """The sweep command with ``--ray``, and with one worker. A node has one core and a worker needs one, so that
    two workers are on two nodes."""
    import ray

    workflow = work / "w.json"
    workflow.write_text(json.dumps(graph(10, 32)))
    with two_nodes() as address:
        line = command(workflow, work / "two", items, 2)
        run = subprocess.run([*line, "--ray", address], capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        ray.init(address, log_to_driver=False, logging_level="error")
        alive = [node for node in ray.nodes() if node["Alive"]]
        ray.shutdown()
    subprocess.run(command(workflow, work / "one", items, 1), check=True, capture_output=True)
    two, one = hashes(work / "two"), hashes(work / "one")
    return dict(items=len(two), nodes=len(alive), equal=two == one)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parts = (
        "sweep",
        "speed",
        "queue",
        "soak",
        "server",
        "nodes",
        "proxy",
        "several",
        "price",
        "load",
    )
    parser.add_argument("parts", nargs="*", choices=[*parts, []], default=list(parts))
    parser.add_argument("--items", type=int, default=200)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--prompts", type=int, default=10_000)
    parser.add_argument("--queued", type=int, default=500)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        tasks: dict[str, Callable[[Path], dict[str, Any]]] = dict(
            sweep=lambda work: sweep(options.items, options.kills, work),
            speed=lambda work: speed(24, work),
            queue=queue,
            soak=lambda work: soak(options.prompts, work),
            server=lambda work: server(options.queued, work),
            nodes=on_two_nodes,
            proxy=lambda work: proxy(options.queued, work),
            several=lambda work: several(options.queued, work),
            price=lambda work: cuts.price(200, work),
            load=lambda work: cuts.load(
                options.items, options.kills, options.workers, graph(1, 24, "gaussian"), work
            ),
        )
        for part in options.parts:
            work = Path(folder) / part
            work.mkdir()
            found[part] = tasks[part](work)
            if not options.json:
                print(part, json.dumps(found[part], indent=1), flush=True)
    if options.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
