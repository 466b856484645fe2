r"""What a Butcher tableau is worth, from its numbers alone: order conditions and the stability function.

Order p: for every rooted tree t with at most p nodes Σ_i b_i·Φ_i(t) = 1/γ(t), where Φ of a node is the product, over
the branches at it, of A·Φ(branch), and γ(t) is |t| times the γ of its branches (Butcher 1963; Hairer, Nørsett & Wanner,
Solving ODEs I, II.2). A branch of one node gives A·1 = c, so the conditions read b·1 = 1, b·c = 1/2, b·c² = 1/3,
b·A(c) = 1/6 and so on.

Stability: on y' = λy one step multiplies y by R(z), z = λ·(step), a polynomial of the number of stages. A change of the
state that the ODE damps is damped by the method as long as |R(z)| ≤ 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from ..noise_schedule import Array

#: A rooted tree: its branches.
Tree = tuple["Tree", ...]
#: Trees of up to so many nodes are tried (200 conditions), and how far a condition may miss, in Σ|b·Φ|.
HIGHEST, ROUNDING = 8, 1e-10
#: Points of −z at which the size of R is looked at.
SCAN = 20_001


@lru_cache(maxsize=HIGHEST)
def trees(nodes: int) -> tuple[Tree, ...]:
    """All rooted trees of so many nodes."""
    if nodes == 1:
        return ((),)
    grown = {tuple(sorted(branches)) for branches in _forests(nodes - 1, nodes - 1)}
    return tuple(sorted(grown))


def _forests(nodes: int, largest: int) -> list[Tree]:
    """Lists of trees, none with more than ``largest`` nodes, of ``nodes`` nodes together."""
    if nodes == 0:
        return [()]
    return [
        (tree, *rest)
        for size in range(min(nodes, largest), 0, -1)
        for tree in trees(size)
        for rest in _forests(nodes - size, size)
    ]


def size(tree: Tree) -> int:
    """Its nodes."""
    return 1 + sum(map(size, tree))


def density(tree: Tree) -> int:
    """γ."""
    product = size(tree)
    for branch in tree:
        product *= density(branch)
    return product


def formula(tree: Tree) -> str:
    """Φ for people, such as c·A(c²)."""
    leaves = sum(not branch for branch in tree)
    words = [f"c{'²³⁴⁵⁶⁷'[leaves - 2] if leaves > 1 else ''}"] if leaves else []
    words += [f"A({formula(branch)})" for branch in tree if branch]
    return "·".join(words) or "1"


def weights_of(tree: Tree, a: Array) -> Array:
    """Φ [stages]."""
    product = np.ones(len(a))
    for branch in tree:
        product = product * (a @ weights_of(branch, a))
    return product


def square(a: Sequence[Sequence[float]]) -> Array:
    """[stages, stages]: rows below the diagonal, filled with zeros."""
    out = np.zeros((len(a), len(a)))
    for row, values in zip(out, a, strict=True):
        row[: len(values)] = values
    return out


def broken_condition(a: Sequence[Sequence[float]], b: Sequence[float], order: int) -> str:
    """The first condition up to ``order`` that does not hold, with what it is and must be; "" if all hold."""
    matrix, last = square(a), np.array(b, float)
    for tree in (tree for nodes in range(1, order + 1) for tree in trees(nodes)):
        terms = last * weights_of(tree, matrix)
        got, must = float(terms.sum()), 1 / density(tree)
        if abs(got - must) > ROUNDING * max(1.0, float(np.abs(terms).sum())):
            return f"Σ b·{formula(tree)} is {got:.6g} and must be 1/{density(tree)} for order {size(tree)}"
    return ""


def order_of(a: Sequence[Sequence[float]], b: Sequence[float]) -> int:
    """The largest order, up to HIGHEST, whose conditions all hold; 0 where Σ b is not 1."""
    return next(
        (order - 1 for order in range(1, HIGHEST + 1) if broken_condition(a, b, order)), HIGHEST
    )


def growth(a: Sequence[Sequence[float]], b: Sequence[float], z: Array) -> Array:
    """R(z), stage by stage, which loses less than powers of z do."""
    stages: list[Array] = []
    for row in a:
        slope = sum((w * y for w, y in zip(row, stages, strict=False)), np.zeros_like(z))
        stages.append(1 + z * slope)
    return np.asarray(
        1 + z * sum((w * y for w, y in zip(b, stages, strict=True)), np.zeros_like(z))
    )


def stable_to(a: Sequence[Sequence[float]], b: Sequence[float]) -> float:
    """x of the interval [−x, 0] of the real axis on which |R| ≤ 1, to four digits.

    No explicit method of s stages reaches beyond 2s² (Hairer & Wanner, Solving ODEs II, IV.2). 0: it is stable nowhere.
    """
    reach = 2.0 * len(b) ** 2 + 0.01
    x = np.linspace(0, reach, SCAN)
    with np.errstate(over="ignore", invalid="ignore"):  # of what is not stable there
        size = np.abs(growth(a, b, -x))
    outside = np.flatnonzero(~(size <= 1 + 1e-9))
    if not len(outside):
        return reach
    first = int(outside[0])
    low, high = x[max(first - 1, 0)], x[first]
    for _ in range(40):
        middle = (low + high) / 2
        stable = abs(float(growth(a, b, np.array([-middle]))[0])) <= 1 + 1e-12
        low, high = (middle, high) if stable else (low, middle)
    return float(low)
