"""What the traced SAMPLERs of both hosts share: where a trace goes, and how a run is told to a recorder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from ...schedulers.measure.recorder import Recorder
from ...schedulers.measure.trace import Trace
from ...schedulers.path import Path
from ...schedulers.solver import Adaptive, Solver
from ...schedulers.split import Part, Stepped


class Watch:
    """What a Trace node asks for, and the trace of its sampler's last run: like SAMPLER_STATE a thing on a wire
    that changes. ``budget``: bytes for states; ``sampler``: the SAMPLER that is traced."""

    def __init__(self, sampler: Any = None, budget: int = 0, doubling: bool = False) -> None:
        self.sampler, self.budget, self.doubling = sampler, budget, doubling
        self.trace: Trace | None = None

    def begin(
        self,
        path: Path,
        sigmas: Sequence[float],
        guidance: Callable[[float], tuple[Tensor | None, ...] | None],
    ) -> Recorder:
        """The recorder of a new run; an interrupted run leaves no trace, not an earlier run's."""
        self.trace = None
        return Recorder(path, sigmas, self.budget, doubling=self.doubling, guidance=guidance)

    def get(self, who: str) -> Trace:
        """Raises ValueError if the traced sampler has not run."""
        if self.trace is None:
            raise ValueError(
                f"{who}: there is no trace yet. A sampler node must have run with the sampler of Trace, in this "
                "session and before this node: connect its LATENT here. If ComfyUI took that LATENT from its "
                "cache and the trace is gone, change the seed"
            )
        return self.trace


class StandIn:
    """Stands for an object: every attribute is that one's."""

    def __init__(self, real: Any) -> None:
        object.__setattr__(self, "_real", real)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._real, name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self._real, name)


def label(solver: Solver | Part | Stepped | None, other: str) -> str:
    """A solver's title and the settings that are not its defaults; for what is no solver of ours ``other``."""
    if isinstance(solver, Part | Stepped):
        solver = solver.solver
    if not isinstance(solver, Solver):
        return other
    return solver.words


def stochastic(solver: Solver | Part | Stepped | None) -> bool | None:
    """Whether it draws noise; None if that is not known."""
    if isinstance(solver, Part | Stepped):
        solver = solver.solver
    return solver.stochastic if isinstance(solver, Solver) else None


def together(solver: Solver | Part | Stepped | None, images: int) -> bool:
    """Whether all images of a batch take the same steps."""
    return images < 2 or not isinstance(solver, Adaptive) or solver.together
