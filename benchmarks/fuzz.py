"""Fuzzing of everything that reads what a stranger wrote.

    python -m benchmarks.fuzz workflow|png|fit|route [--minutes 10] [--keep DIR] [--blind]

workflow   a workflow file: read, seeded, checked against every node; nothing is run
png        a picture: its texts, its workflow, its facts, its pixels
fit        a fitted solver, a fit that is not finished, AMED's predictor, a stopped run, network weights
route      a request of the page

An input must give a result, or the one error that its reader promises, within a second and 512 MB. What does
neither is a finding: it is kept in ``--keep`` (tests/fuzz_seeds/TARGET, where tests/test_fuzz_seeds.py runs it
again for ever) and the fuzzing goes on. Inputs are guided by coverage where atheris is installed, and made at
random with ``--blind``; both change JSON values, PNG chunks and tensors (``benchmarks.mutate``), not only bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from sampling_kit.benchmarks.mutate import (
    Change,
    graph_change,
    json_change,
    png,
    png_change,
    tensors_change,
    text_chunk,
)

PACK = Path(__file__).resolve().parents[1]
SEEDS = PACK / "tests" / "fuzz_seeds"
SECONDS, MEGABYTES = 1.0, 512
LARGEST = 2**17  # bytes of an input


@dataclass(frozen=True)
class Target:
    """``run`` takes an input and raises only what is a finding. ``good``: inputs to begin with."""

    run: Callable[[bytes], None]
    good: Callable[[], list[bytes]]
    change: Callable[[], Change]


@dataclass(frozen=True)
class Finding:
    """``what`` is the same for the same mistake."""

    what: str
    detail: str


def examine(target: Target, data: bytes) -> Finding | None:
    """What is wrong with how the target takes ``data``."""
    before, start = peak(), time.process_time()
    try:
        target.run(data)
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        ours = [f for f in frames if PACK in Path(f.filename).resolve().parents][-1]
        place = f"{Path(ours.filename).name}:{ours.lineno}"
        return Finding(f"{type(error).__name__} at {place}", traceback.format_exc()[-2000:])
    seconds, more = time.process_time() - start, peak() - before
    if seconds > SECONDS:
        return Finding("slow", f"{seconds:.1f} s")
    return Finding("large", f"{more:.0f} MB more") if more > MEGABYTES else None


def peak() -> float:
    """MB of memory that this process has had at most; 0 where the system does not tell."""
    try:
        import resource
    except ImportError:
        return 0.0
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (2**20 if sys.platform == "darwin" else 2**10)


@contextmanager
def promised(*errors: type[Exception]) -> Iterator[None]:
    """The errors that a reader may raise, with words in them."""
    try:
        yield
    except errors as error:
        if not str(error).strip():
            raise AssertionError(f"an empty {type(error).__name__}") from error


@cache
def scratch() -> Path:
    """A folder for inputs that readers want as a file; in memory where there is such a place."""
    memory = Path("/dev/shm")
    folder = tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None)
    _kept.append(folder)
    return Path(folder.name)


_kept: list[Any] = []  # until the process ends


def as_file(name: str, data: bytes) -> Path:
    file = scratch() / name
    file.write_bytes(data)
    return file


# ----------------------------------------------------------------------------------------- targets


@cache
def nodes() -> Any:
    from sampling_kit.headless.registry import registry

    return registry()


def words() -> list[str]:
    """Names of nodes, of their inputs and choices."""
    found = set(nodes())
    for node in nodes().values():
        for item in node.define_schema().inputs:
            found.add(item.id)
            for option in item.extra.get("options") or ():
                found |= {f"{item.id}.{i.id}" for i in getattr(option, "inputs", ())}
                found.add(str(getattr(option, "key", option)))
    return sorted(found)


def examples() -> list[bytes]:
    files = sorted((PACK / "example_workflows" / "api").glob("*.json"))
    return [json.dumps(json.loads(file.read_text(encoding="utf-8"))).encode() for file in files]


def run_workflow(data: bytes) -> None:
    from sampling_kit.headless.workflow import WorkflowError, load

    with promised(WorkflowError):
        look_at(load(as_file("workflow.json", data)))


def look_at(workflow: Any) -> None:
    """All that happens to a workflow before its first node runs, and to its JSON after the last."""
    from sampling_kit.headless.context import Context, use
    from sampling_kit.headless.graph import check
    from sampling_kit.headless.provenance import seeds
    from sampling_kit.headless.settings_flags import with_seed

    here = scratch()
    context = Context(here / "out", here, here / "temp", "cpu", None, workflow.prompt, workflow.ui)
    with use(context):
        for error in check(workflow, nodes()):
            assert str(error).isprintable()
    json.dumps([workflow.prompt, workflow.ui, dict(seeds(workflow.prompt))], allow_nan=False)
    with_seed(workflow, nodes(), 7)


def run_png(data: bytes) -> None:
    from sampling_kit.headless.load_image import load_image
    from sampling_kit.headless.png_text import PngError, read_text_chunks
    from sampling_kit.headless.provenance import read_facts
    from sampling_kit.headless.workflow import WorkflowError, load

    file = as_file("picture.png", data)
    with promised(PngError):
        read_facts(read_text_chunks(file))
    with promised(WorkflowError):
        look_at(load(file))
    width, height = (int.from_bytes(data[at : at + 4], "big") for at in (16, 20))
    if not 2**20 < width * height < 2**27:  # neither soon read nor refused
        with promised(ValueError):
            image, mask = load_image(file.name, file.parent)
            assert image.ndim == 4 and mask.ndim == 3


def pictures() -> list[bytes]:
    """Two pictures as this tool saves them, and one with every kind of text chunk."""
    import io

    import numpy as np
    import torch
    from PIL import Image

    from sampling_kit.headless.save import save_images

    prompt = json.loads(examples()[5])
    metadata = {"prompt": prompt, "sampling_kit": dict(threads=1), "workflow": {"nodes": []}}
    with tempfile.TemporaryDirectory() as folder:
        for channels in (1, 3):
            save_images(torch.rand(1, 6, 5, channels), "a", Path(folder), metadata)
        saved = [file.read_bytes() for file in sorted(Path(folder).glob("*.png"))]
    kinds = (b"tEXt", b"zTXt", b"iTXt")
    texts = [text_chunk(kind, b"prompt", json.dumps(prompt).encode()) for kind in kinds]
    moving = io.BytesIO()
    first, *others = [Image.fromarray(np.full((4, 4, 4), v, np.uint8)) for v in (0, 90, 200)]
    first.save(moving, "PNG", save_all=True, append_images=others)
    return [*saved, png([*texts, (b"IEND", b"")]), moving.getvalue()]


def run_fit(data: bytes) -> None:
    from sampling_kit.nodes.fit.fit_solver import card_text
    from sampling_kit.schedulers import split
    from sampling_kit.schedulers.denoiser import network
    from sampling_kit.schedulers.fit import predictor, store
    from sampling_kit.schedulers.path import VE, VP, Flow
    from sampling_kit.schedulers.points import Points

    file = as_file("file.safetensors", data)
    with promised(ValueError):
        for fit in store.load(file).fits:
            for path in (VE(), VP(), Flow()):
                points = fit.points(path)
            assert card_text(fit) and fit.plan(points).stages
            store.differences(fit.card, model="a", guidance="CFG 2")
    with promised(ValueError):
        assert store.load_state(file).after
    with promised(ValueError):
        predictor.load(file)
    with promised(ValueError):
        stopped, _ = split.load(file)
        assert stopped.describe() and Points.from_sigmas(VE(), stopped.sigmas)
    kinds: tuple[Any, ...] = (network.Network, network.Classifier)
    for kind in kinds:
        with promised(ValueError):
            network.load(file, VE(), kind)
    with promised(ValueError):
        network.card(file)


def tensor_files() -> list[bytes]:
    """A fit that ships, a small one with bands, a state of a fit, a stopped run and a tiny network."""
    import numpy as np
    import torch

    from sampling_kit.schedulers import split
    from sampling_kit.schedulers.denoiser import network
    from sampling_kit.schedulers.fit import amed, predictor, store
    from sampling_kit.schedulers.fit.forward import Record, State
    from sampling_kit.schedulers.path import VE
    from sampling_kit.schedulers.points import Points
    from sampling_kit.schedulers.solver import DPMSolverMultistep, HeunEDM
    from sampling_kit.schedulers.solver.band_mix import Mix
    from sampling_kit.schedulers.solver.fitted import FittedSolver, table_of
    from sampling_kit.schedulers.solver.state import State as RunState

    folder = scratch() / "good"
    folder.mkdir(exist_ok=True)
    points = Points(VE(), (80.0, 20.0, 5.0, 1.0, 0.1, 0.0))
    table = table_of(HeunEDM().plan(points))
    from dataclasses import replace

    bands = Mix((0.0, 0.5), np.zeros((1, 2, 2, 2)), np.ones((1, 2, 2, 2)))
    mixed = replace(table, mix=(bands, *[None] * (table.nfe - 1)))
    card = {"model": "a", "guidance": "CFG 2", "seeds": [[0, 3], [4, 5]], "before": {"rmse": 0.1}}
    store.save(folder / "fit", [FittedSolver(mixed, card)])
    predictor.save(folder / "predictor", amed.FeaturePredictor(), {"text": "a"})
    numbers = np.linspace(0.1, 0.2, 3)
    records = (Record("a", 3, 0.1, 0.1, 1e-3, True),)
    state = State(table, table, numbers, numbers, numbers, np.eye(3), numbers, records=records)
    store.save_state(folder / "state", state)
    x = torch.ones(1, 2, 3, 3)
    run = RunState((x,), (x, x), 2, 1, y=x)
    solver = DPMSolverMultistep()
    stopped = split.Stopped(repr(solver), repr(VE()), (3.0, 1.0, 0.0), 1, 5, run, {"mask": x})
    split.save(stopped, folder / "stopped", {"samples": x})
    config = network.Config(channels=16, blocks=1, patch=1, size=4, multiples=(1,))
    network.save(network.Network(VE(), config), folder / "network", {"steps": 1})
    shipped = (PACK / "embedded" / "solvers" / "network-cond-forward.safetensors").read_bytes()
    return [shipped, *(file.read_bytes() for file in sorted(folder.iterdir()))]


def run_route(data: bytes) -> None:
    from sampling_kit.nodes.ui.live_route import answer

    status, told = answer(data)
    assert status in (200, 400)
    assert len(json.dumps(told, allow_nan=False)) < 2**18


def requests() -> list[bytes]:
    """What the page sends for the nodes of the examples that show something, and for every solver."""
    from sampling_kit.nodes.ui.live_route import VALUES

    found = []
    for text in examples():
        graph = json.loads(text)
        shown = [key for key, node in graph.items() if node["class_type"] in VALUES]
        found += [json.dumps({"node": key, "graph": graph}).encode() for key in shown[:3]]
    schedule = {"class_type": "SamplingKitNoiseSchedule", "inputs": {"kind": "ve_edm"}}
    steps = {"noise_schedule": ["1", 0], "steps": 8, "spacing": "karras", "spacing.rho": 7}
    table = {"sampler": ["3", 0], "sigmas": ["2", 0], "noise_schedule": ["1", 0]}
    for kind in sorted(VALUES):
        graph = {
            "1": schedule,
            "2": {"class_type": "SamplingKitSteps", "inputs": steps},
            "3": {"class_type": kind, "inputs": {}},
            "4": {"class_type": "SamplingKitSolverTable", "inputs": table},
        }
        found.append(json.dumps({"node": "4", "graph": graph}).encode())
    return found


def graphs() -> Change:
    return json_change(words(), graph_change(nodes()))


TARGETS = {
    "workflow": Target(run_workflow, examples, graphs),
    "png": Target(run_png, pictures, lambda: png_change(graphs())),
    "fit": Target(run_fit, tensor_files, lambda: tensors_change(json_change(()))),
    "route": Target(run_route, requests, graphs),
}


def seeds_of(name: str) -> dict[str, bytes]:
    """{file name: input} of what was found before."""
    folder = SEEDS / name
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    return {file.name: file.read_bytes() for file in files}


# ------------------------------------------------------------------------------------------ engine


class Campaign:
    """One target for some time: counts, keeps findings, says how it stands."""

    def __init__(self, name: str, seconds: float, keep: Path) -> None:
        self.name, self.target, self.keep = name, TARGETS[name], keep
        self.began, self.seconds = time.monotonic(), seconds
        self.runs = 0
        self.found: dict[str, int] = {}
        self.base = peak()

    def one(self, data: bytes) -> None:
        self.runs += 1
        finding = examine(self.target, data)
        if finding is not None:
            if finding.what not in self.found:
                self.keep.mkdir(parents=True, exist_ok=True)
                file = self.keep / hashlib.sha256(data).hexdigest()[:12]
                file.write_bytes(data)
                print(f"{finding.what}: {file}\n{finding.detail}", flush=True)
            self.found[finding.what] = self.found.get(finding.what, 0) + 1
        if time.monotonic() > self.began + self.seconds:
            self.end()

    def end(self) -> None:
        """The summary; the process ends here, since atheris knows no other way back."""
        facts = dict(
            target=self.name,
            executions=self.runs,
            seconds=round(time.monotonic() - self.began),
            findings=self.found,
            peak_mb=round(peak()),
            growth_mb=round(peak() - self.base),
        )
        print(json.dumps(facts), flush=True)
        for folder in _kept:
            folder.cleanup()
        os._exit(1 if self.found else 0)


def blind(campaign: Campaign, inputs: list[bytes], change: Change, seed: int) -> None:
    chance = Random(seed)
    while True:
        data = chance.choice(inputs)
        for _ in range(chance.choice((1, 1, 2, 3))):
            data = change(data, chance)
        campaign.one(data[:LARGEST])


def guided(campaign: Campaign, inputs: list[bytes], change: Change, seed: int) -> None:
    import atheris

    folder = scratch() / "corpus"
    folder.mkdir()
    for i, data in enumerate(inputs):
        (folder / f"{i:04}").write_bytes(data)

    def mutate(data: bytes, largest: int, seed: int) -> bytes:
        chance = Random(seed)
        if chance.random() < 0.15:
            return bytes(atheris.Mutate(data, largest))
        return change(data, chance)[:largest]

    options = [
        f"-max_len={LARGEST}",
        f"-seed={seed}",
        "-timeout=30",  # of one input: nothing else stops a loop that never ends
        "-rss_limit_mb=6144",
        f"-artifact_prefix={campaign.keep}/",
        "-reload=0",
    ]
    campaign.keep.mkdir(parents=True, exist_ok=True)
    atheris.Setup([sys.argv[0], *options, str(folder)], campaign.one, custom_mutator=mutate)
    atheris.Fuzz()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("target", choices=list(TARGETS))
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--keep", type=Path, help="folder of findings")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--blind", action="store_true", help="without atheris and coverage")
    options = parser.parse_args()
    if not options.blind:
        try:
            import atheris
        except ImportError:
            parser.error("no atheris: pip install atheris, or fuzz with --blind")
        with atheris.instrument_imports(include=["sampling_kit"]):
            import_all()
    target = TARGETS[options.target]
    inputs = [*target.good(), *seeds_of(options.target).values()]
    for data in inputs:  # what is imported or made once is not the reader's time
        target.run(data)
    engine = blind if options.blind else guided
    keep = options.keep or SEEDS / options.target
    engine(
        Campaign(options.target, 60 * options.minutes, keep), inputs, target.change(), options.seed
    )


def import_all() -> None:
    """What the targets use, so that it is instrumented: modules imported later would not be."""
    import sampling_kit.headless.cli
    import sampling_kit.headless.save
    import sampling_kit.headless.settings_flags
    import sampling_kit.nodes
    import sampling_kit.nodes.ui.live_route
    import sampling_kit.schedulers.fit.store
    import sampling_kit.schedulers.split  # noqa: F401


if __name__ == "__main__":
    main()
