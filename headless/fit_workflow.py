"""`sampling-kit fit`: record, fit for several numbers of evaluations, compare, write. No page, no graph of its own.

What is fitted is the GUIDER of a workflow, or an embedded model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..nodes.denoiser.embedded import KINDS
from ..nodes.fit.fit_solver import fitted
from ..nodes.fit.fitted_solver import reported
from ..nodes.fit.kept import in_short
from ..nodes.fit.record_trajectories import TEACHER, recorded
from ..nodes.fit.recording import Recording
from ..nodes.host.alone import io
from ..schedulers.fit.compare import Comparison
from ..schedulers.fit.run_fit import Fit
from ..schedulers.solver.fitted import FittedSolver
from .context import Context, use
from .graph import check, execute
from .prompt import Registry, upstream
from .workflow import Workflow, WorkflowError

#: Nodes that sample, and which of their inputs the GUIDER and the LATENT come from.
SAMPLERS = {
    "SamplerCustomAdvanced": ("guider", "latent_image"),
    "SamplerCustom": (None, "latent_image"),
    "KSampler": (None, "latent_image"),
}
Source = tuple[Any, dict[str, Any]]


def from_workflow(
    workflow: Workflow, registry: Registry, context: Context, node: str | None
) -> Source:
    """(GUIDER, LATENT) that the workflow's sampling node gets. Raises WorkflowError if there is not one such node."""
    prompt = workflow.prompt
    samplers = [k for k, n in prompt.items() if n["class_type"] in SAMPLERS and node in (None, k)]
    if len(samplers) != 1:
        listed = ", ".join(f"{k} ({prompt[k]['class_type']})" for k in samplers) or "none"
        which = "that samples" if node is None else f"{node} that samples"
        raise WorkflowError(
            f"a workflow with one node {which} is needed, found {listed}: say which with --node"
        )
    inputs = prompt[samplers[0]]["inputs"]
    guider, latent = SAMPLERS[prompt[samplers[0]]["class_type"]]
    graph = dict(prompt)
    if guider is None:
        graph["fit guider"] = {
            "class_type": "CFGGuider",
            "inputs": {
                k: inputs[k] for k in ("model", "positive", "negative", "cfg") if k in inputs
            },
        }
    link = ["fit guider", 0] if guider is None else inputs.get(guider)
    graph["fit source"] = {
        "class_type": SourceNode.ID,
        "inputs": {"guider": link, "latent": inputs.get(latent)},
    }
    needed = upstream(graph, ["fit source"])
    cut = replace(workflow, prompt={k: graph[k] for k in graph if k in needed})
    nodes_here = {**registry, SourceNode.ID: SourceNode}
    with use(context):
        if errors := check(cut, nodes_here):
            raise WorkflowError("\n       ".join(map(str, errors)))
    SourceNode.sources.clear()
    execute(cut, nodes_here, context)
    return SourceNode.sources.pop()


class SourceNode(io.ComfyNode):
    """An output node that keeps its inputs."""

    ID = "sampling-kit fit"
    sources: list[Source] = []  # noqa: RUF012

    @classmethod
    def define_schema(cls) -> Any:
        inputs = [io.Guider.Input("guider"), io.Latent.Input("latent")]
        return io.Schema(node_id=cls.ID, inputs=inputs, is_output_node=True)

    @classmethod
    def execute(cls, guider: Any, latent: dict[str, Any]) -> Any:
        cls.sources.append((guider, latent))
        return io.NodeOutput()


def from_embedded(kind: str, cfg: float, registry: Registry) -> Source:
    """(GUIDER, LATENT) of an embedded model, image i with class i % 10, at a CFG scale (1: without)."""

    def made(node: str, /, **inputs: Any) -> Any:
        return registry[node].execute(**inputs).args[0]

    model = made("SamplingKitEmbeddedDenoiser", kind={"kind": kind})
    positive, negative = (
        made("SamplingKitClassCondition", name=name) for name in ("one of each", "unconditional")
    )
    conds = dict(model=model, positive=positive, negative=negative)
    size = getattr(KINDS[kind](), "size", 32)
    latent = made("SamplingKitEmptyPixelLatent", width=size, height=size, batch_size=1)
    return made("CFGGuider", **conds, cfg=cfg), latent


def source_of(
    workflow: Workflow,
    registry: Registry,
    context: Context,
    embedded: str | None,
    cfg: float,
    node: str | None,
) -> Source:
    """(GUIDER, LATENT) of an embedded model, or for None of the workflow."""
    if embedded is not None:
        return from_embedded(embedded, cfg, registry)
    return from_workflow(workflow, registry, context, node)


@dataclass(frozen=True)
class Plan:
    """What to record in ``folder`` and what to fit: ``held`` trajectories of the ``seeds`` judge, each fit begins at ``starts`` pairs."""

    folder: Path
    nfes: tuple[int, ...]
    settings: Fit[Any]
    seeds: range
    held: int
    levels: int
    substeps: int
    batch: int
    starts: int


def recording_of(source: Source, plan: Plan, tell: Callable[[int, str], None]) -> Recording:
    """Record, or go on, or open."""
    guider, latent = source
    return recorded(
        (guider,), latent, plan.folder, TEACHER,
        seed=plan.seeds.start, count=len(plan.seeds), levels=plan.levels, substeps=plan.substeps, batch=plan.batch,
        tell=tell,
    )  # fmt: skip


def fits_of(
    recording: Recording, plan: Plan, tell: Callable[[str], Callable[[int, str], None]]
) -> Iterator[tuple[int, FittedSolver]]:
    """(evaluations, fit): read, gone on with, or made."""
    for nfe in plan.nfes:
        report = tell(f"NFE {nfe}")
        yield nfe, fitted(recording, plan.settings, nfe, plan.held, starts=plan.starts, tell=report)


def told(nfe: int, fit: FittedSolver) -> str:
    """A finished fit in one line."""
    before, after = fit.card["before"], fit.card["after"]
    return (
        f"NFE {nfe}: held-out RMSE {before['rmse']:.4g} ({fit.card['start']}) → {after['rmse']:.4g}, "
        f"median {before['median']:.4g} → {after['median']:.4g}, {fit.card['evaluations']} evaluations"
    )


def fit_source(
    source: Source,
    plan: Plan,
    *,
    against: str,
    apart: Callable[[Callable[[int, str], None]], None] | None,
    say: Callable[[str], None],
    tell: Callable[[str], Callable[[int, str], None]],
) -> tuple[list[FittedSolver], Comparison]:
    """Record, fit every NFE, compare. ``say`` gets finished lines, tell(what) a bar's report; ``apart`` makes the fits
    in other processes, and here they are only read."""
    recording = recording_of(source, plan, tell(f"recording {len(plan.seeds)} trajectories"))
    say(recording.describe())
    if apart is not None:
        apart(tell("fitting"))
    fits = []
    for nfe, fit in fits_of(recording, plan, tell):
        say(told(nfe, fit))
        say(f"NFE {nfe}: {in_short(fit)}")
        fits.append(fit)
    comparison = reported(recording, fits, plan.held, against, tell=tell("comparing"))
    return fits, comparison


def compare_source(
    source: Source,
    folder: Path,
    fits: Sequence[FittedSolver],
    *,
    seeds: range,
    levels: int,
    substeps: int,
    batch: int,
    against: str,
    say: Callable[[str], None],
    tell: Callable[[str], Callable[[int, str], None]],
) -> Comparison:
    """Record in ``folder``; the trajectories of ``seeds`` judge the fits and their rivals, and one before them is made
    as a recording needs one that does not judge."""
    guider, latent = source
    recording = recorded(
        (guider,), latent, folder, TEACHER,
        seed=seeds.start - 1, count=len(seeds) + 1, levels=levels, substeps=substeps, batch=batch,
        tell=tell(f"recording {len(seeds)} trajectories"),
    )  # fmt: skip
    say(recording.describe())
    return reported(recording, fits, len(seeds), against, tell=tell("comparing"))
