"""Noise of one Brownian motion: a run with more steps meets the same path, only more often.

The reverse SDE (η = 1) has a form without a drift of its own. With τ = 1/κ² = α²/σ² and y = τ·x/α,

    dy = D dτ + dB(τ),    B a Brownian motion

(the observation process of stochastic localisation, El Alaoui & Montanari 2022; Montanari 2023, sec. 2). Over a step with
constant D its solution is DDIM's step with η = 1 (Euler's ancestral step): x'/α' = D + (κ'/κ)²(x/α − D) + κ'²(B(τ') − B(τ)),
and (B(τ') − B(τ))/√(τ' − τ) is the step's standard normal. So for constant D the result is the same for any number of steps,
and else it converges to the SDE's own. Other solvers' draws are standard normal all the same.

B is a virtual tree (as in Li, Wong, Chen & Duvenaud 2020, sec. 4), keyed by the seed: the octaves [2ᵏ, 2ᵏ⁺¹] of τ have
independent increments, and inside an octave midpoints are drawn by the Brownian bridge, down to DEPTH halvings. Nothing is
stored, and the value at τ depends on seed and τ alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from .streams import mix

#: Levels between which a draw is made, as (κ, κ') with κ' < κ; None: a draw that is on no stretch of the path.
Span = tuple[float, float] | None
Place = tuple[int, int]  # (octave, leaf)
Node = tuple[int, int]  # (octave, number in its tree; 0: the octave's increment)

DEPTH = 16  # halvings of an octave: τ is known to 1 part in 65536
LOWEST = -40  # octave: B below τ = 2⁻⁴⁰ (κ above 10⁶) is one draw
TREE = -(1 << 40)  # the position of the tree's key among the draws of a seed


@dataclass(frozen=True)
class Path:
    """B of one image: increments of ``shape``, as float64."""

    seed: int
    shape: tuple[int, ...]

    @cached_property
    def _key(self) -> int:
        return mix(self.seed, TREE)

    def normal(self, kappa: float, end: float) -> Tensor | None:
        """Standard normal: the increment of B on the way from κ down to κ' = ``end``, by its deviation.

        None where the step is none, ends at 0, or is too short for the tree.
        """
        if not 0 < end < kappa:
            return None
        first, last = (_place(0.0 if math.isinf(k) else k**-2) for k in (kappa, end))
        if first == last:
            return None
        size = math.sqrt(_time(last) - _time(first))
        return self._sum(increment(first, last)) / size

    def _sum(self, weights: Mapping[Node, float]) -> Tensor:
        total, z = torch.zeros(self.shape, dtype=torch.float64), torch.empty(self.shape)
        generator = torch.Generator("cpu")
        for (octave, node), weight in weights.items():
            if weight:
                key = mix(mix(self._key, octave - LOWEST + 2), node + 1)
                total.add_(z.normal_(generator=generator.manual_seed(key)), alpha=weight)
        return total


def increment(first: Place, last: Place) -> dict[Node, float]:
    """The weights of the tree's normals in B at ``last`` minus B at ``first``."""
    weights = {node: -weight for node, weight in bridge(*first).items()}
    for octave in range(first[0], last[0]):
        weights[octave, 0] = weights.get((octave, 0), 0.0) + _width(octave)
    for node, weight in bridge(*last).items():
        weights[node] = weights.get(node, 0.0) + weight
    return weights


def bridge(octave: int, leaf: int) -> dict[Node, float]:
    """The weights in B at a leaf ∈ [0, 2^DEPTH) of an octave, minus B at its start (Lévy's construction).

    The octave's increment (node 0) grows evenly; each halving adds a triangle over its interval, as high in the middle
    as the bridge there deviates, √(b − a)/2.
    """
    share, width = leaf / (1 << DEPTH), _width(octave)
    weights, node, spread = {(octave, 0): share * width}, 1, width / 2
    for _ in range(DEPTH):
        weights[octave, node] = spread * (1 - abs(2 * share - 1))
        right = share >= 0.5
        node, share, spread = 2 * node + right, 2 * share - right, spread / math.sqrt(2)
    return weights


def _place(time: float) -> Place:
    """(octave, leaf) of τ. Octave LOWEST − 1 holds all that lies below, and has one leaf."""
    if time < 2.0**LOWEST:
        return LOWEST - 1, 0
    mantissa, exponent = math.frexp(time)
    octave, leaf = exponent - 1, round((2 * mantissa - 1) * (1 << DEPTH))
    return (octave + 1, 0) if leaf == 1 << DEPTH else (octave, leaf)


def _time(place: Place) -> float:
    octave, leaf = place
    return 0.0 if octave < LOWEST else 2.0**octave * (1 + leaf / (1 << DEPTH))


def _width(octave: int) -> float:
    """The deviation of an octave's increment; that below LOWEST is [0, 2^LOWEST]."""
    return math.sqrt(2.0 ** max(octave, LOWEST))


def along(paths: Sequence[Path], span: Span) -> Tensor | None:
    """Standard normals [B, …] of images over one stretch of their paths; None where the path has none there."""
    if span is None:
        return None
    parts = [path.normal(*span) for path in paths]
    drawn = [part for part in parts if part is not None]
    return torch.stack(drawn).float() if drawn else None
