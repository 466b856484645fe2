"""The way back of an exactly invertible run: its last two states become the first two of the run over the same levels,
the other way round."""

from __future__ import annotations

from dataclasses import replace

import torch

from .solver.invertible import Invertible
from .solver.state import State
from .split import Handover, Stopped


class TurnedBack(Handover):
    """The state of the way back, made when it is asked for: by then the run up has ended."""

    brings_x = True  # the latent on the wire is where the run up ended, one level before

    def __init__(self, up: Handover, solver: Invertible) -> None:
        super().__init__()
        self.up, self.solver = up, solver

    def get(self, who: str) -> Stopped:
        return turned_back(self.up.get(who), self.solver)


def turned_back(stopped: Stopped, solver: Invertible) -> Stopped:
    """The state of the run back at its level 1, from that of a whole run at its end.

    Level 0 of the way back is where the run ended, and its prediction there is not needed: the step from it is known, it
    leads to the state before. Raises ValueError for a state that ``solver`` did not leave at the end of a run of two
    steps or more.
    """
    if stopped.solver != repr(solver):
        raise ValueError(
            f"Turn Back: the state is one of {stopped.solver}, not of {solver!r}: only Invertible's runs can be turned back, "
            "with the same settings"
        )
    levels = len(stopped.sigmas) - 1
    if stopped.level < levels or levels < 2:
        raise ValueError(
            f"Turn Back: the state stopped at level {stopped.level} of {levels}: keep the state of a whole run of at least 2 "
            "steps"
        )
    if stopped.sigmas[-1] == 0:
        raise ValueError(
            "Turn Back: the run ended at σ = 0, where its last step was the prediction, which forgets x; end it above 0 "
            "(final = sigma_min)"
        )
    last, before = stopped.state.anchors[:2]
    state = State(
        (last, last),
        (torch.zeros_like(last),),
        stage=1,
        y=before,
        arrived=before.to(stopped.state.x.dtype),
    )
    return replace(stopped, sigmas=stopped.sigmas[::-1], level=1, state=state, memory={})
