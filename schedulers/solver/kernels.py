"""A plan made ready to run: the same linear combinations, ordered so that each costs the fewest kernels.

Two rewritings, both exact algebra:

* Weights that add up to 1 (every ODE step on VE and flow, since constant data must stay) are a chain of
  interpolations: k tensors cost k − 1 kernels instead of k.
* A step in the noise ε or the velocity uses old states only beside the D found there, w·(x_j − β_j·D_j).
  Then that difference is kept in place of D_j, and two tensors become one.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from .run import Ask

if TYPE_CHECKING:
    from .band_mix import Mix
    from .plan import Stage

ANCHOR, DATA = 0, 1


class Move(NamedTuple):
    """One stage, ready to run.

    ``terms`` name tensors by (ANCHOR | DATA, how far back). The first ``blended`` of them are a chain
    of interpolations (the first weight is not used), the others are added. ``retire``: the newest D is kept as
    anchor − retire·D from here on. ``ask``: the question for D at this state, if there is one.
    """

    terms: tuple[tuple[int, int], ...]
    weights: tuple[float, ...]
    blended: int
    noise: float
    retire: float | None
    commit: bool
    ask: Ask | None
    mix: Mix | None = None

    @property
    def names(self) -> list[tuple[int, int]]:
        """The tensors this move reads, as in ``terms``."""
        more = [] if self.mix is None else [(ANCHOR, j) for j in range(len(self.mix.x))]
        more += [] if self.mix is None else [(DATA, j) for j in range(len(self.mix.d))]
        return [*self.terms, *more]

    def form(self, anchors: Sequence[Tensor], data: Sequence[Tensor]) -> Tensor:
        """Σ weight·tensor without its noise; a single tensor of weight 1 is returned itself."""
        terms, weights, n = self.terms, self.weights, self.blended
        if not terms:
            return torch.zeros_like(anchors[0])
        held = (anchors, data)
        kind, back = terms[0]
        y, done = held[kind][back], 1
        if n == 0:
            y = y * weights[0]
        elif len(terms) > 1:
            kind, back = terms[1]
            second, done = held[kind][back], 2
            if n > 1:
                y = torch.lerp(y, second, weights[1])
            else:
                y = torch.add(y, second, alpha=weights[1])
        for j in range(done, len(terms)):
            kind, back = terms[j]
            if j < n:
                y.lerp_(held[kind][back], weights[j])
            else:
                y.add_(held[kind][back], alpha=weights[j])
        return y

    @property
    def borrows(self) -> bool:
        """Whether ``form`` returns one of the tensors it is given."""
        return self.blended == 1 == len(self.terms)


def moves(stages: Sequence[Stage], clip_x0: float = 0.0) -> tuple[Move, ...]:
    """The moves of a plan's stages."""
    scales = paired_scales(stages)
    made, evaluated = [], 0
    for stage, ask in zip(stages, questions(stages, clip_x0), strict=True):
        x, d, retire = stage.x, stage.d, None
        if scales is not None and evaluated:
            # old states leave, and their weight goes to the difference kept for them
            old = [-w / (scales[evaluated - 1 - j] or 1.0) for j, w in enumerate(d) if j]
            x, d, retire = x[:1], (*d[:1], *old), scales[evaluated - 1]
        evaluated += stage.evaluate
        kept = [((DATA, j), w) for j, w in enumerate(d) if w and j and scales is not None]
        terms = [((DATA, j), w) for j, w in enumerate(d) if w and not (j and scales is not None)]
        terms += [((ANCHOR, j), w) for j, w in enumerate(x) if w]
        made.append(
            Move(*ordered(terms, kept), stage.noise, retire, stage.commit, ask, mix=stage.mix)
        )
    return tuple(made)


def questions(stages: Sequence[Stage], limit: float) -> list[Ask | None]:
    """What each stage asks; a step begins where the run first comes to it."""
    steps = max((stage.step + 1 for stage in stages if stage.evaluate), default=0)
    asked: list[Ask | None] = []
    begun = -1
    for stage in stages:
        if not stage.evaluate:
            asked.append(None)
            continue
        noise_label = None if stage.sigma == stage.at.sigma else stage.sigma
        asked.append(Ask(stage.at.sigma, stage.step, steps, stage.step > begun, noise_label, limit))
        begun = max(begun, stage.step)
    return asked


Terms = list[tuple[tuple[int, int], float]]


def ordered(
    terms: Terms, more: Terms
) -> tuple[tuple[tuple[int, int], ...], tuple[float, ...], int]:
    """(names, weights, how many are blended): ``terms`` as interpolations if they add up to 1, else
    all as a sum.

    With partial sums s_i = Σ_{j ≤ i} w_j the i-th interpolation has weight w_i/s_i, so an order in which
    some s_i vanishes is not taken.
    """
    size = sum(abs(w) for _, w in terms)
    if terms and abs(sum(w for _, w in terms) - 1) <= 2e-15 * max(1.0, size):
        for order in (terms[::-1], terms):
            sums = list(accumulate(w for _, w in order))
            if all(abs(s) > size / 100 for s in sums):
                blend = [(name, w / s) for (name, w), s in zip(order, sums, strict=True)]
                names, weights = zip(*blend, *more, strict=True)
                return names, weights, len(blend)
    terms = sorted([*terms, *more], key=lambda term: term[1] != 1)  # a weight of 1 saves a product
    first = int(bool(terms) and terms[0][1] == 1)
    return tuple(name for name, _ in terms), tuple(w for _, w in terms), first


def paired_scales(stages: Sequence[Stage]) -> list[float | None] | None:
    """β of every evaluation if older states are used as w·(x_j − β_j·D_j) only, else None.

    An evaluation that is not used once it is old has β None. Every stage but the last must keep its
    state and evaluate there, so that state j is where D_j was found.
    """
    if not all(stage.commit and stage.evaluate for stage in stages[:-1]):
        return None
    if any(stage.mix for stage in stages):  # their bands need D itself
        return None
    scales: list[float | None] = [None] * len(stages)
    paired = False
    for i, stage in enumerate(stages):  # stage i starts from state i − 1, the newest
        x = dict(enumerate(stage.x))
        for j, w in enumerate(stage.d):
            if j == 0 or w == 0:
                continue
            if not x.get(j):
                return None
            beta, scale = -w / x.pop(j), scales[i - 1 - j]
            if scale is not None and abs(beta - scale) > 1e-9 * abs(scale):
                return None
            scales[i - 1 - j], paired = scale or beta, True
        if any(w for j, w in x.items() if j):
            return None
    return scales if paired else None
