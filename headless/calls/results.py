"""What the five functions return and tell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..job_results import Done as Done
from ..job_results import Watcher as Watcher
from ..workflow import NodeFailure, WorkflowError

if TYPE_CHECKING:
    from ...schedulers.fit.compare import Comparison
    from ...schedulers.measure.run_error import Facts as RunErrorFacts
    from ...schedulers.solver.fitted import FittedSolver
    from ..reproduce import Verdict


class ArgumentError(ValueError):
    """An argument has a value that means nothing, or two contradict each other."""


@dataclass(frozen=True)
class NodeProgress:
    """A node, called ``title``, has done ``step`` of ``total`` steps."""

    node: str
    title: str
    step: int
    total: int


@dataclass(frozen=True)
class RunResult:
    """One run of a workflow. ``seed``: that was set, None for those of the workflow.

    ``files``: absolute paths of what it wrote; ``texts``: (title of a node, text that it shows);
    ``outputs``: {node: what it shows}, as ComfyUI's history has it, plain JSON values (none of a run in a
    ComfyUI); ``errors``: what each sampling run here estimates of its own; ``chosen``: {"node.input": the text that came of choices in a prompt}.
    """

    seed: int | None
    files: tuple[Path, ...]
    texts: tuple[tuple[str, str], ...]
    outputs: Mapping[str, Any]
    seconds: float
    chosen: Mapping[str, str] = field(default_factory=dict)
    errors: tuple[RunErrorFacts, ...] = ()


@dataclass(frozen=True)
class SweepResult:
    """``items`` of a sweep lie in ``folder``; ``there`` of them were there before."""

    folder: Path
    items: int
    there: int


@dataclass(frozen=True)
class FitResult:
    """``files``: the fits and the plot; ``fits``: a solver for each number of evaluations; ``comparison``: with
    what needs no training; ``seconds`` that it took."""

    files: tuple[Path, ...]
    fits: tuple[FittedSolver, ...]
    comparison: Comparison
    seconds: float


@dataclass(frozen=True)
class VerifyResult:
    """How a picture ended: ``verdict``, or ``error`` where it could not be run or is none to verify."""

    file: Path
    verdict: Verdict | None
    error: WorkflowError | NodeFailure | None = None

    @property
    def reproduces(self) -> bool:
        """Bit for bit, or between hosts within 2/255."""
        return self.verdict is not None and self.verdict.reproduces
