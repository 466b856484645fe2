"""What it costs to be sure of a file, and a long sweep under kills and power cuts: parts of ``benchmarks.reliability``."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

PAUSE = 0.05  # seconds between two looks
KINDS = "worker", "parent", "cut"


def price(pictures: int, work: Path) -> dict[str, Any]:
    """Milliseconds per picture, item and record, with and without waiting for the disk."""
    import torch

    from sampling_kit.headless.queue.jobs import Done
    from sampling_kit.headless.queue.ledger import Ledger
    from sampling_kit.headless.save import save_images
    from sampling_kit.headless.sweep import Folder, Item
    from sampling_kit.schedulers.whole_file import passing, write_whole

    image = torch.rand(1, 512, 512, 3)
    data = os.urandom(400_000)
    record = dict(nfe=1, network_calls=1, seconds=1.0, texts=[], files={"a.bin": ""})

    def timed(act: Callable[[int], object], sure: bool) -> float:
        with nullcontext() if sure else passing():
            started = time.perf_counter()
            for i in range(pictures):
                act(i)
        return round(1e3 * (time.perf_counter() - started) / pictures, 2)

    results: dict[str, Any] = {}
    for sure in (True, False):
        here = work / ("sure" if sure else "quick")
        with Folder.opened(here / "sweep", {}) as folder:
            ledger = Ledger(here / "queue")
            write_whole(here / "queue" / "a.bin", data)
            acts: dict[str, Callable[[int], object]] = dict(
                picture=lambda i: save_images(image, "a", here / "run", {}),  # noqa: B023
                item=lambda i: folder.add(Item(i, {}, {}), record, {"a.bin": data}),
                record=lambda i: ledger.finish(str(i), Done(str(i), ("a.bin",))),  # noqa: B023
            )
            for name, act in acts.items():
                results.setdefault(name, {})["sure" if sure else "quick"] = timed(act, sure)
    return dict(pictures=pictures, bytes=len(data), milliseconds=results)


class Place:
    """A folder on a small ext4 of its own where this process may mount one, else an ordinary one."""

    def __init__(self, work: Path, items: int) -> None:
        self.image, self.mount = work / "disk.img", work / "disk"
        self.mount.mkdir()
        self.real = False
        if os.geteuid() == 0 and shutil.which("mkfs.ext4") and shutil.which("losetup"):
            with self.image.open("wb") as out:
                out.truncate((64 << 20) + items * (40 << 10))
            subprocess.run(
                ["mkfs.ext4", "-q", "-N", str(2000 + 6 * items), str(self.image)], check=True
            )
            self.real = self._mount()

    def _mount(self) -> bool:
        line = ["mount", "-o", "loop", str(self.image), str(self.mount)]
        return subprocess.run(line, capture_output=True).returncode == 0

    def cut(self) -> None:
        """What the device has now is what there is: copied without a sync, mounted again."""
        copy = self.image.with_suffix(".copy")
        subprocess.run(["cp", "--sparse=always", self.image, copy], check=True)
        self.close()
        os.replace(copy, self.image)
        assert self._mount(), "the file system did not survive the cut"

    def close(self) -> None:
        if self.real:
            subprocess.run(["umount", self.mount], check=True)


@contextmanager
def place_for(work: Path, items: int) -> Iterator[Place]:
    place = Place(work, items)
    try:
        yield place
    finally:
        place.close()


def workers_of(process: int) -> list[int]:
    """Process ids of the Ray workers below a process."""
    parents, names = {}, {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            stat = (entry / "stat").read_text()
            names[int(entry.name)] = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        parents[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])

    def below(one: int) -> bool:
        while one in parents and one != process:
            one = parents[one]
        return one == process

    return [one for one, name in names.items() if name.startswith(b"ray::Worker") and below(one)]


def load(items: int, kills: int, workers: int, graph: dict[str, Any], work: Path) -> dict[str, Any]:
    """A sweep that is killed: a worker, the whole command, or the machine (a copy of its device is what is left)."""
    chance = random.Random(0)
    workflow = work / "w.json"
    workflow.write_text(json.dumps(graph))
    with place_for(work, items) as place:
        output = place.mount / "out"
        line = [
            sys.executable, "-m", "sampling_kit.headless.cli", "sweep", str(workflow), "--seeds", f"0-{items - 1}",
            "--output", str(output), "--workers", str(workers), "--device", "cpu",
        ]  # fmt: skip
        errors = (work / "errors.txt").open("ab")

        def start() -> subprocess.Popen[bytes]:
            return subprocess.Popen(
                line, stdout=subprocess.DEVNULL, stderr=errors, start_new_session=True
            )

        def there() -> int:
            folder = output / "items"
            return sum(name[0] != "." for name in os.listdir(folder)) if folder.exists() else 0

        goals = sorted(chance.randint(0, 7 * items // 10) for _ in range(kills))
        done, seen, lost = Counter[str](), [], 0
        started, process = time.perf_counter(), start()
        for goal in goals:
            kind = chance.choice(KINDS if place.real else KINDS[:2])
            while process.poll() is None and there() < goal:
                time.sleep(PAUSE)
            assert process.poll() is None, (work / "errors.txt").read_text()[-2000:]
            before = there()
            if kind == "worker":
                if alive := workers_of(process.pid):
                    os.kill(chance.choice(alive), signal.SIGKILL)
                    done[kind] += 1
                continue
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if kind == "cut":
                place.cut()
            done[kind] += 1
            seen.append(there())
            lost += seen[-1] < before
            process = start()
        memory = watched(process, there, items)
        assert process.wait() == 0, (work / "errors.txt").read_text()[-2000:]
        seconds = time.perf_counter() - started
        records = [json.loads(x) for x in (output / "manifest.jsonl").read_text().splitlines()]
        last = subprocess.run(line, capture_output=True, text=True)
        names = [name for name in os.listdir(output / "items") if name[0] != "."]
        aside = output / "aside"
    errors.close()
    return dict(
        items=items, workers=workers, kills=dict(done), real_device=place.real, seconds=round(seconds),
        once=len(set(names)) == len(names) == items and [r["index"] for r in records] == list(range(items)),
        pictures=len({tuple(r["files"].values()) for r in records}),
        all_there=last.returncode == 0 and f"{items} items, {items} of them were there" in last.stdout,
        damaged=(work / "errors.txt").read_text().count("is damaged") + aside.exists(),
        fewer_after_a_kill=lost, there_at_each_kill=seen, mb=memory,
    )  # fmt: skip


def watched(process: subprocess.Popen[bytes], there: Callable[[], int], items: int) -> list[float]:
    """Memory of the command, at its first new item and then at each fifth of the rest."""
    first, marks = there(), list[float]()
    while process.poll() is None:
        count = there()
        if count > first + len(marks) * max(1, items - first) / 5:
            pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
            marks.append(round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20, 1))
        time.sleep(PAUSE)
    return marks
