"""Fits that are there: which, what they are of, and how they do on a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .fit_model import Tell, silent, unseen
from .preparation import Source, context_of, opened, set_device
from .results import ArgumentError

if TYPE_CHECKING:
    from ...schedulers.fit.compare import Comparison
    from ...schedulers.fit.fit_files import Family
    from ...schedulers.solver.fitted import FittedSolver

SUFFIX = ".safetensors"
SHIPPED = Path(__file__).resolve().parents[2] / "embedded" / "solvers"


@dataclass(frozen=True)
class StoredFits:
    """One file: the numbers of evaluations that it has fits for, and the card of each; or why it cannot be read."""

    file: Path
    cards: Mapping[int, Mapping[str, Any]]
    error: str = ""


def fits_in(folders: Sequence[Path]) -> list[StoredFits]:
    """The files of fits in the folders and below them; other files that end alike are passed over."""
    from ...schedulers.store import BadFile

    found = []
    for file in sorted({f for folder in folders for f in folder.rglob(f"*{SUFFIX}")}):
        try:
            family = opened_fits(file)
        except BadFile as error:
            if "fit" in file.name or "solver" in file.parent.name:
                found.append(StoredFits(file, {}, str(error)))
            continue
        found.append(StoredFits(file, {fit.table.nfe: fit.card for fit in family.fits}))
    return found


def opened_fits(file: Path) -> Family:
    """Raises BadFile."""
    from ...schedulers.fit import fit_files

    return fit_files.load(file)


def chosen_fits(files: Sequence[Path], nfe: int | None) -> list[FittedSolver]:
    """The fits of the files, or those for ``nfe`` evaluations. Raises ArgumentError where a file has none."""
    fits: list[FittedSolver] = []
    for file in files:
        family = opened_fits(file)
        try:
            fits += family.fits if nfe is None else [family.at(nfe)]
        except ValueError as error:
            raise ArgumentError(f"{file}: {error}") from None
    return fits


def compare_fits(
    files: Sequence[Path],
    workflow: Source | None = None,
    *,
    embedded: str | None = None,
    cfg: float = 1.0,
    node: str | None = None,
    nfe: int | None = None,
    seeds: range = range(900_000, 900_016),
    levels: int = 24,
    substeps: int = 2,
    batch: int = 8,
    against: str = "usual",
    trajectories: Path | str,
    input: Path | str = "input",
    models: Path | str = "models",
    device: str = "auto",
    note: Callable[[str], None] = silent,
    stage: Tell = unseen,
) -> Comparison:
    """Each fit beside the best training-free pair on a model, which need not be the one it was fitted to.

    Records trajectories of ``seeds`` in ``trajectories``; ``about["warnings"]`` of the result says what a fit was made
    for and this model is not.
    """
    if (workflow is None) == (embedded is None):
        raise ArgumentError("give either a WORKFLOW or --embedded KIND to compare on")
    if seeds.start < 1:
        raise ArgumentError("--seeds: begin at 1 or later")
    import torch

    from ...nodes.denoiser.embedded import KINDS
    from .. import fit_workflow as fitting
    from ..context import use
    from ..editor_graph import converter
    from ..registry import registry
    from ..workflow import Workflow

    if embedded is not None and embedded not in KINDS:
        raise ArgumentError(f"--embedded {embedded}: choose one of {', '.join(KINDS)}")
    fits, nodes, device = chosen_fits(files, nfe), registry(), set_device(device)
    folder = Path(trajectories)
    source = Workflow(Path(f"--embedded {embedded}"), {}) if workflow is None else workflow
    read = opened(source, converter(nodes))
    here = context_of(read, folder, Path(input), Path(models), device)
    with use(here), torch.inference_mode():
        fitted = fitting.source_of(read, nodes, here, embedded, cfg, node)
        return fitting.compare_source(
            fitted, folder, fits, seeds=seeds, levels=levels, substeps=substeps, batch=batch, against=against,
            say=note, tell=stage,
        )  # fmt: skip
