"""What ``benchmarks.fuzz`` feeds: readers of what a stranger wrote, the errors they promise, and good inputs."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from sampling_kit.benchmarks import fuzz_folders
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


@dataclass(frozen=True)
class Target:
    """``run`` takes an input and raises only what is a finding. ``good``: inputs to begin with."""

    run: Callable[[bytes], None]
    good: Callable[[], list[bytes]]
    change: Callable[[], Change]
    tried: int = 300  # changed inputs in the tests


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
    _folders.append(folder)
    return Path(folder.name)


_folders: list[Any] = []  # until the process ends


def as_file(name: str, data: bytes) -> Path:
    file = scratch() / name
    file.write_bytes(data)
    return file


def clear_scratch() -> None:
    """For a process that ends by os._exit, which cleans up nothing."""
    for folder in _folders:
        folder.cleanup()


@cache
def nodes() -> Any:
    from sampling_kit.headless.registry import registry

    return registry()


def words() -> list[str]:
    """Names of nodes, of their inputs and choices."""
    names = set(nodes())
    for node in nodes().values():
        for item in node.define_schema().inputs:
            names.add(item.id)
            for option in item.extra.get("options") or ():
                names |= {f"{item.id}.{i.id}" for i in getattr(option, "inputs", ())}
                names.add(str(getattr(option, "key", option)))
    return sorted(names)


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
    from sampling_kit.nodes.fit.kept import card_text
    from sampling_kit.schedulers import split
    from sampling_kit.schedulers.denoiser import network
    from sampling_kit.schedulers.fit import fit_files, forward, predictor
    from sampling_kit.schedulers.path import VE, VP, Flow
    from sampling_kit.schedulers.points import Points

    file = as_file("file.safetensors", data)
    with promised(ValueError):
        for fit in fit_files.load(file).fits:
            for path in (VE(), VP(), Flow()):
                points = fit.points(path)
            assert card_text(fit) and fit.plan(points).stages
            fit_files.differences(fit.card, model="a", guidance="CFG 2")
    with promised(ValueError):
        assert forward.load(file).after
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
    from sampling_kit.schedulers.fit import fit_files, predictor
    from sampling_kit.schedulers.fit.amed_predictors import FeaturePredictor
    from sampling_kit.schedulers.fit.forward import Forward, ForwardState, MoveRecord
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
    bands = Mix((0.0, 0.5), np.zeros((1, 2, 2, 2)), np.ones((1, 2, 2, 2)))
    mixed = replace(table, mix=(bands, *[None] * (table.nfe - 1)))
    card = {"model": "a", "guidance": "CFG 2", "seeds": [[0, 3], [4, 5]], "before": {"rmse": 0.1}}
    fit_files.save(folder / "fit", [FittedSolver(mixed, card)])
    predictor.save(folder / "predictor", FeaturePredictor(), {"text": "a"})
    numbers = np.linspace(0.1, 0.2, 3)
    records = (MoveRecord("a", 3, 0.1, 0.1, 1e-3, True),)
    state = ForwardState(
        table, table, numbers, numbers, numbers, np.eye(3), numbers, records=records
    )
    Forward().save(folder / "state", state)
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

    status, payload = answer(data)
    assert status in (200, 400)
    assert len(json.dumps(payload, allow_nan=False)) < 2**18


def requests() -> list[bytes]:
    """What the page sends for the nodes of the examples that show something, and for every solver."""
    from sampling_kit.nodes.ui.live_route import VALUES

    made = []
    for text in examples():
        graph = json.loads(text)
        shown = [key for key, node in graph.items() if node["class_type"] in VALUES]
        made += [json.dumps({"node": key, "graph": graph}).encode() for key in shown[:3]]
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
        made.append(json.dumps({"node": "4", "graph": graph}).encode())
    return made


def run_solver_text(data: bytes) -> None:
    """Read as the node reads it; what is read makes a plan or says that its levels are others."""
    from sampling_kit.schedulers.path import VE
    from sampling_kit.schedulers.points import Points
    from sampling_kit.schedulers.solver.solver_text import read

    with promised(ValueError):
        solver = read(data.decode("utf-8", "replace"))
        if solver.planned:
            solver.plan(Points(VE(), (5.0, 1.0, 0.0)))


def solver_texts() -> list[bytes]:
    from sampling_kit.schedulers.fit import fit_files
    from sampling_kit.schedulers.path import VE
    from sampling_kit.schedulers.points import Points
    from sampling_kit.schedulers.solver import HeunEDM, RungeKutta
    from sampling_kit.schedulers.solver.runge_kutta import TABLEAUX
    from sampling_kit.schedulers.solver.solver_text import fit_text, plan_text, tableau_text
    from sampling_kit.schedulers.solver.tableau_solver import AdaptiveTableau, TableauSolver

    points, rk4 = Points(VE(), (5.0, 1.0, 0.0)), TABLEAUX["rk4"]
    shipped = PACK / "embedded" / "solvers" / "network-cfg2-forward.safetensors"
    low = (0.5, 0.0, 0.0, 0.5)
    texts = [tableau_text(TableauSolver(rk4)), tableau_text(AdaptiveTableau(tableau=rk4, low=low))]
    texts += [plan_text(s.plan(points), points) for s in (HeunEDM(), HeunEDM(20.0), RungeKutta())]
    texts += [fit_text(fit) for fit in fit_files.load(shipped).fits[:3]]  # the third with bands
    return [text.encode() for text in texts]


def run_folder(data: bytes) -> None:
    fuzz_folders.run(data, scratch(), promised)


def graphs() -> Change:
    return json_change(words(), graph_change(nodes()))


TARGETS = {
    "workflow": Target(run_workflow, examples, graphs),
    "png": Target(run_png, pictures, lambda: png_change(graphs())),
    "fit": Target(run_fit, tensor_files, lambda: tensors_change(json_change(()))),
    "route": Target(run_route, requests, graphs),
    "solver_text": Target(run_solver_text, solver_texts, lambda: json_change(())),
    "folder": Target(run_folder, fuzz_folders.texts, fuzz_folders.change, 40),
}


def import_all() -> None:
    """What the targets use, so that it is instrumented: modules imported later would not be."""
    import sampling_kit.headless.cli
    import sampling_kit.headless.load_image
    import sampling_kit.headless.registry
    import sampling_kit.headless.save
    import sampling_kit.headless.settings_flags
    import sampling_kit.nodes
    import sampling_kit.nodes.ui.live_route
    import sampling_kit.schedulers.fit.fit_files
    import sampling_kit.schedulers.solver.solver_text
    import sampling_kit.schedulers.split  # noqa: F401
