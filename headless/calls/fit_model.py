"""Fit a solver to a model."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ...schedulers.whole_file import whole
from ..context import use
from ..workflow import Workflow
from .fit_processes import Job, in_processes
from .preparation import Settings, Source, context_of, opened, set_device, setting_texts
from .results import ArgumentError, FitResult

Tell = Callable[[str], Callable[[int, str], None]]


def silent(text: str) -> None:
    """A note that nobody reads."""


def unseen(title: str) -> Callable[[int, str], None]:
    """A stage whose progress nobody sees."""

    def report(step: int, text: str = "") -> None: ...

    return report


def fit(
    workflow: Source | None = None,
    *,
    output: Path | str,
    embedded: str | None = None,
    cfg: float = 1.0,
    node: str | None = None,
    nfes: Sequence[int] = range(4, 11),
    seeds: range = range(1000, 1064),
    held: int = 16,
    method: str = "forward",
    settings: Settings = (),
    starts: int = 1,
    levels: int = 24,
    substeps: int = 2,
    batch: int = 8,
    against: str = "usual",
    workers: int = 1,
    trajectories: Path | str | None = None,
    input: Path | str = "input",
    models: Path | str = "models",
    device: str = "auto",
    note: Callable[[str], None] = silent,
    stage: Tell = unseen,
) -> FitResult:
    """Fit solvers of ``nfes`` evaluations to the model, guidance and size of ``workflow``, or to an ``embedded`` model.

    Writes the fits to ``output`` and a plot beside it; records trajectories of ``seeds`` in ``trajectories`` (default:
    beside ``output``), of which the last ``held`` judge. ``settings``: of the method, NAME=VALUE; ``starts``: pairs of
    solver and spacing to fit from; ``levels``, ``substeps``, ``batch``: of the recording; ``against``: usual or all, what
    it is compared with; ``workers``: processes that fit at once, which changes no number. Interrupted, the same call goes on. ``note``, ``stage(title)(step, text)``: told what happens.
    """
    if (workflow is None) == (embedded is None):
        raise ArgumentError("give either a WORKFLOW or --embedded KIND")
    import torch

    from ...nodes.denoiser.embedded import KINDS
    from ...nodes.fit.fit_solver import METHODS
    from .. import fit_workflow as fitting
    from ..editor_graph import converter
    from ..registry import registry

    way = settings_of(METHODS, method, settings)
    if embedded is not None and embedded not in KINDS:
        raise ArgumentError(f"--embedded {embedded}: choose one of {', '.join(KINDS)}")
    nodes, device, output = registry(), set_device(device), Path(output)
    source = Workflow(Path(f"--embedded {embedded}"), {}) if workflow is None else workflow
    read = opened(source, converter(nodes))
    here = context_of(read, output.parent, Path(input), Path(models), device)
    folder = Path(trajectories or output.parent / "trajectories")
    plan = fitting.Plan(folder, tuple(nfes), way, seeds, held, levels, substeps, batch, starts)
    where = output.parent, Path(input), Path(models), device
    job = Job(read, embedded, cfg, node, plan, *where, torch.get_num_threads())
    with use(here), torch.inference_mode():
        made = fitting.source_of(read, nodes, here, embedded, cfg, node)
        started = time.perf_counter()
        apart = apart_of(job, workers)
        fits, comparison = fitting.fit_source(made, plan, against=against, apart=apart, say=note, tell=stage)  # fmt: skip
    files = tuple(_write_fits(output, fits, comparison))
    return FitResult(files, tuple(fits), comparison, round(time.perf_counter() - started, 1))


def apart_of(job: Job, workers: int) -> Callable[[Callable[[int, str], None]], None] | None:
    """What makes the fits in other processes, where there are several of both."""
    if workers < 2 or len(job.plan.nfes) < 2:
        return None
    return partial(in_processes, job.for_each(), workers)


def settings_of(methods: Mapping[str, Any], name: str, settings: Settings) -> Any:
    """The method's settings with ``settings`` applied; ArgumentError naming what is wrong."""
    if name not in methods:
        raise ArgumentError(f"--method {name}: choose one of {', '.join(methods)}")
    kind, values = methods[name], {}
    fields = {f.name: f for f in dataclasses.fields(kind)}
    for text in setting_texts(settings):
        key, sign, value = text.partition("=")
        if not sign or key not in fields:
            raise ArgumentError(f"--set {text}: give NAME=VALUE with one of {', '.join(fields)}")
        values[key] = value
    try:
        typed = {k: _typed(v, fields[k].default) for k, v in values.items()}
        return kind(**typed)
    except ValueError as error:
        raise ArgumentError(f"--set: {error}") from None


def _typed(text: str, like: Any) -> Any:
    """The text as a value of the kind of ``like``."""
    if isinstance(like, bool):
        if text.lower() not in ("true", "false"):
            raise ValueError(f"{text!r} is neither true nor false")
        return text.lower() == "true"
    return type(like)(text) if isinstance(like, int | float) else text


def _write_fits(output: Path, fits: Sequence[Any], comparison: Any) -> list[Path]:
    """The fits, and the plot; the files' paths."""
    from PIL import Image

    from ...nodes.fit.fitted_solver import SUFFIX, saved
    from ...schedulers.show import fit_plot

    file = output if output.suffix == SUFFIX else output.with_name(output.name + SUFFIX)
    for one in fits:
        saved(one, file)
    picture = fit_plot.plot(comparison)
    plot = file.with_suffix(".png")
    with whole(plot) as part:
        Image.fromarray((picture[0] * 255).round().byte().cpu().numpy()).save(part, "PNG")
    return [file.resolve(), plot.resolve()]
