"""Many variants of one workflow, on as many workers as there are: the cartesian product as a work list.

    folder/sweep.json          the workflow, the grid and the seeds: a folder holds one sweep
    folder/items/000012/       one per item, there whole or not at all: its files and record.json
    folder/manifest.jsonl      all records, in order          folder/sheet.png    one picture of each
    folder/table.md            the same for reading

An item is done when its folder is there, and its folder comes by one rename: whatever is killed, and
whenever, the next sweep over the folder does what is missing and nothing twice. Workers are Ray actors
that keep what they loaded; they return their files, and only this process writes to the folder, so the
other machines of a cluster need not share a disk. Noise is made per image and seed, and a worker has a
fixed number of threads, so that pictures do not depend on how many workers there are.

Needs ray and tqdm (the extra ``scale``).
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
import signal
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..schedulers.files import whole
from .provenance import pixel_digest
from .workflow import NodeFailure, Prompt, Workflow, WorkflowError

if TYPE_CHECKING:
    from .graph import Registry

LIMIT = 1_000_000  # items of one sweep
TRIES = 3  # workers that may die over one item
AHEAD = 2  # items handed to a worker at a time
SHEET = 100  # pictures on the contact sheet

Record = dict[str, Any]
Files = dict[str, bytes]


@dataclass(frozen=True)
class Item:
    """One graph of a sweep and what was set in it."""

    index: int
    values: dict[str, Any]
    prompt: Prompt

    @property
    def name(self) -> str:
        return f"{self.index:06}"


# ------------------------------------------------------------------------------------- work list


def axes(grid: Sequence[str]) -> list[tuple[str, list[str]]]:
    """[(node.input, values)] of ``node.input=a,b,c``; a value may be quoted as in CSV."""
    import csv

    found = []
    for text in grid:
        target, equals, values = text.partition("=")
        if not equals or "." not in target or not values.strip():
            raise WorkflowError(f"--grid {text!r} does not have the form NODE.INPUT=A,B,C")
        found.append((target, next(csv.reader([values], skipinitialspace=True))))
    return found


def work_list(
    workflow: Workflow, nodes: Registry, grid: Sequence[str], seeds: range | None
) -> list[Item]:
    """Every combination, seeds innermost. Raises WorkflowError for one that cannot be set."""
    from .overrides import with_seed, with_settings

    named = axes(grid)
    count = len(seeds or [None])
    for _, values in named:
        count *= len(values)
    if count > LIMIT:
        raise WorkflowError(f"this sweep has {count} items, the limit is {LIMIT}")
    items: list[Item] = []
    for combination in itertools.product(*(v for _, v in named)):
        chosen = {t: v for (t, _), v in zip(named, combination, strict=True)}
        set_ = with_settings(workflow, nodes, [f"{t}={v}" for t, v in chosen.items()])
        for seed in seeds or [None]:
            one = with_seed(set_, nodes, seed)
            mine = chosen | ({} if seed is None else {"seed": seed})
            items.append(Item(len(items), mine, one.prompt))
    return items


# --------------------------------------------------------------------------------------- workers


class Worker:
    """Runs graphs in its own process and keeps what does not change between them."""

    def __init__(self, device: str, threads: int, input: str, models: str) -> None:
        import torch

        from .cli import registry, set_device

        torch.set_num_threads(threads)
        self.device = set_device(device)
        self.input, self.models = Path(input), Path(models)
        self.nodes = registry()
        self.kept: dict[str, Any] = {}

    def run(self, name: str, prompt: Prompt) -> tuple[Record, Files]:
        """(what happened, the files it made by name); NodeFailure where a node raises."""
        from .context import Context
        from .graph import execute

        with tempfile.TemporaryDirectory(prefix="sampling-kit-") as scratch:
            output, temp = Path(scratch) / "output", Path(scratch) / "temp"
            here = Context(
                output, self.input, temp, self.device, None, prompt, None, models=self.models
            )
            started = time.perf_counter()
            shown = execute(Workflow(Path(name), prompt), self.nodes, here, self.kept)
            seconds = time.perf_counter() - started
            folder = output if output.exists() else temp
            files = {
                file.relative_to(folder).as_posix(): file.read_bytes()
                for file in sorted(folder.rglob("*"))
                if file.is_file()
            }
        texts = [text for ui in shown.values() for text in ui.get("text", ())]
        record = dict(
            nfe=here.tally["evaluations"],
            network_calls=here.tally["network_calls"],
            seconds=round(seconds, 4),
            texts=list(dict.fromkeys(texts)),
            files={name: digest(name, data) for name, data in files.items()},
        )
        return record, files


def digest(name: str, data: bytes) -> str:
    """SHA-256 of a PNG's pixels (its text says when and where it was made), of another file's bytes."""
    import io

    import numpy as np
    from PIL import Image

    if name.lower().endswith(".png"):
        with Image.open(io.BytesIO(data)) as image:
            return pixel_digest(np.asarray(image))
    return hashlib.sha256(data).hexdigest()


# ---------------------------------------------------------------------------------------- folder


class Folder:
    """The results of one sweep on disk. Raises WorkflowError if it holds another sweep, or is in use."""

    def __init__(self, path: Path, sweep: Mapping[str, Any]) -> None:
        self.path, self.items = path, path / "items"
        self.items.mkdir(parents=True, exist_ok=True)
        known = path / "sweep.json"
        if not known.exists():
            write(known, json.dumps(sweep, indent=1, ensure_ascii=False).encode())
        else:
            before = json.loads(known.read_text(encoding="utf-8"))
            other = [k for k, v in json.loads(json.dumps(sweep)).items() if before.get(k) != v]
            if other:
                raise WorkflowError(
                    f"{path} holds a sweep with another {' and '.join(other)}: choose another --output"
                )
        for part in self.items.glob(".*.part"):  # what a kill left behind
            shutil.rmtree(part, ignore_errors=True)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Only one process at a time may work on a folder; the lock goes with the process."""
        with (self.path / ".lock").open("ab") as handle:
            try:
                import fcntl
            except ImportError:  # Windows
                import msvcrt

                lock: Callable[[], Any] = lambda: msvcrt.locking(  # type: ignore[attr-defined]  # noqa: E731
                    handle.fileno(),
                    msvcrt.LK_NBLCK,  # type: ignore[attr-defined]
                    1,
                )
            else:
                lock = lambda: fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # noqa: E731
            try:
                lock()
            except OSError:
                raise WorkflowError(
                    f"{self.path}: another sweep is working on this folder"
                ) from None
            yield

    def done(self) -> set[str]:
        """Names of the items that are there."""
        return {entry.name for entry in os.scandir(self.items) if not entry.name.startswith(".")}

    def add(self, item: Item, record: Record, files: Files) -> Record:
        """Put an item there, whole. Returns its full record."""
        record = dict(index=item.index, **item.values, **record)
        part = self.items / f".{item.name}.part"
        try:
            part.mkdir()
            for name, data in files.items():
                target = part / name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(data)
            text = json.dumps(record, ensure_ascii=False)
            (part / "record.json").write_text(text, encoding="utf-8")
            os.rename(part, self.items / item.name)
        finally:
            shutil.rmtree(part, ignore_errors=True)
        return record

    def records(self) -> Iterator[Record]:
        """What is there, in order."""
        for name in sorted(self.done()):
            yield json.loads((self.items / name / "record.json").read_text(encoding="utf-8"))

    def summarise(self) -> None:
        """Write manifest, table and contact sheet."""
        records = list(self.records())
        lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in records]
        write(self.path / "manifest.jsonl", "".join(lines).encode())
        write(self.path / "table.md", table(records).encode())
        pictures = [
            (caption(record), self.items / f"{record['index']:06}" / name)
            for record in records
            for name in list(record["files"])[:1]
            if name.lower().endswith((".png", ".webp", ".jpg"))
        ]
        if pictures:
            write(self.path / "sheet.png", sheet(pictures[:SHEET]))


SHOWN = "nfe", "network_calls", "seconds"
PLAIN = {"index", "texts", "files", *SHOWN}


def caption(record: Record) -> str:
    return ", ".join(f"{k.rpartition('.')[2]} {v}" for k, v in record.items() if k not in PLAIN)


def table(records: Sequence[Record]) -> str:
    """Markdown: what was set, and what it took."""
    if not records:
        return ""
    names = [name for name in records[0] if name not in PLAIN]
    head = ["item", *names, "NFE", "network calls", "seconds", "file"]
    rows = [
        [r["index"], *(r[n] for n in names), *(r[n] for n in SHOWN), next(iter(r["files"]), "")]
        for r in records
    ]
    lines = [" | ".join(head), "---|" * len(head), *(" | ".join(map(str, row)) for row in rows)]
    return "".join(f"| {line.rstrip('|')} |\n" for line in lines)


def sheet(pictures: Sequence[tuple[str, Path]], tile: int = 160) -> bytes:
    """A PNG of captioned pictures, each fitted into a square of ``tile`` pixels."""
    import io

    from PIL import Image, ImageDraw, ImageFont

    columns = min(len(pictures), max(1, round((1.6 * len(pictures)) ** 0.5)))
    rows, font, text = -(-len(pictures) // columns), ImageFont.load_default(12), 30
    page = Image.new("RGB", (columns * (tile + 8) + 8, rows * (tile + text + 8) + 8), "white")
    draw = ImageDraw.Draw(page)
    for i, (words, file) in enumerate(pictures):
        x, y = 8 + i % columns * (tile + 8), 8 + i // columns * (tile + text + 8)
        with Image.open(file) as found:
            image = found.convert("RGB")
        scale = tile / max(image.size)
        size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
        how = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS
        page.paste(image.resize(size, how), (x, y))
        for line, part in enumerate(wrapped(words, font, draw, tile)[:2]):
            draw.text((x, y + tile + 2 + 14 * line), part, "black", font)
    out = io.BytesIO()
    page.save(out, "PNG")
    return out.getvalue()


def wrapped(words: str, font: Any, draw: Any, width: int) -> list[str]:
    """``words`` in lines of at most ``width`` pixels."""
    lines = [""]
    for word in words.split(" "):
        longer = f"{lines[-1]} {word}".strip()
        if draw.textlength(longer, font) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def write(file: Path, data: bytes) -> None:
    with whole(file) as part:
        part.write_bytes(data)


# ------------------------------------------------------------------------------------------- run


@dataclass
class Crew:
    """Ray actors that work a list off. ``workers`` None: one per GPU, else one per core."""

    workers: int | None = None
    address: str | None = None
    device: str = "auto"
    threads: int = 1
    input: Path = Path("input")
    models: Path = Path("models")

    @contextmanager
    def ray(self) -> Iterator[Any]:
        """A cluster of its own on this machine, or the one at ``address``."""
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        try:
            import ray
        except ImportError:
            raise WorkflowError(
                "a sweep needs Ray: pip install 'comfyui-sampling-kit[scale]'"
            ) from None
        quiet: dict[str, Any] = dict(log_to_driver=False, logging_level="error")
        if self.address is None:
            cores = max(self.workers or 0, os.cpu_count() or 1)
            quiet |= dict(num_cpus=cores, include_dashboard=False)
        before = signal.getsignal(signal.SIGTERM)
        ray.init(self.address, **quiet)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)  # Ray's own prints a trace and ends the process
        try:
            yield ray
        finally:
            ray.shutdown()

    def hire(self, ray: Any) -> Callable[[], Any]:
        """How to make one more worker; sets ``workers`` if it is None."""
        found = ray.cluster_resources()
        gpus = int(found.get("GPU", 0)) if self.device in ("auto", "cuda") else 0
        self.workers = self.workers or gpus or max(1, int(found.get("CPU", 1)))
        share = dict(num_cpus=min(1.0, found.get("CPU", 1) / self.workers))
        if gpus:
            share["num_gpus"] = min(1.0, gpus / self.workers)
        actor = ray.remote(**share)(Worker)
        folders = str(self.input.resolve()), str(self.models.resolve())
        return lambda: actor.remote(self.device, self.threads, *folders)

    def work(
        self, items: Sequence[Item], finished: Callable[[Item, Record, Files], None]
    ) -> dict[str, str]:
        """Run all; ``finished`` in this process once per item. Returns {item: why it failed}."""
        failed: dict[str, str] = {}
        deaths: Counter[str] = Counter()
        left = deque(items)
        with self.ray() as ray:
            hire = self.hire(ray)
            team = [hire() for _ in range(min(self.workers or 1, len(items)))]
            busy: dict[Any, tuple[int, Item]] = {}
            while left or busy:
                load = Counter(place for place, _ in busy.values())
                for place in range(len(team)):
                    while left and load[place] < AHEAD:
                        item = left.popleft()
                        busy[team[place].run.remote(item.name, item.prompt)] = place, item
                        load[place] += 1
                for ref in ray.wait(list(busy))[0]:
                    if ref not in busy:  # went with its worker
                        continue
                    place, item = busy.pop(ref)
                    try:
                        finished(item, *ray.get(ref))
                    except ray.exceptions.RayActorError as error:
                        lost = [r for r, (p, _) in busy.items() if p == place]
                        left.extendleft(reversed([busy.pop(r)[1] for r in lost]))
                        deaths[item.name] += 1
                        if deaths[item.name] < TRIES:
                            left.appendleft(item)
                        else:
                            failed[item.name] = f"{TRIES} workers died: {first_line(error)}"
                        team[place] = hire()
                    except ray.exceptions.RayTaskError as error:
                        failed[item.name] = first_line(error.cause or error)
        return failed


def first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def sweep(
    workflow: Workflow,
    items: Sequence[Item],
    grid: Sequence[str],
    seeds: range | None,
    output: Path,
    crew: Crew,
    bar: Callable[[int, int], Any] = lambda done, total: None,
) -> tuple[int, int]:
    """Do what is missing of a sweep's ``items``; returns (items there already, items done now).

    Raises NodeFailure naming items that failed, after all others are done.
    """
    spec = dict(
        workflow=workflow.prompt,
        grid=list(grid),
        seeds=None if seeds is None else [seeds[0], seeds[-1]],
    )
    folder = Folder(output, spec)
    with folder.alone():
        there = folder.done()
        todo = [item for item in items if item.name not in there]
        done = len(items) - len(todo)
        bar(done, len(items))

        def finished(item: Item, record: Record, files: Files) -> None:
            nonlocal done
            folder.add(item, record, files)
            done += 1
            bar(done, len(items))

        try:
            failed = crew.work(todo, finished) if todo else {}
        finally:
            folder.summarise()
    if failed:
        shown = [f"item {name}: {why}" for name, why in list(failed.items())[:20]]
        more = f"and {len(failed) - 20} more" if len(failed) > 20 else ""
        raise NodeFailure("\n       ".join([f"{len(failed)} items failed", *shown, more]).rstrip())
    return len(items) - len(todo), len(todo)
