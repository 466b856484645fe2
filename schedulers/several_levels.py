"""States of several noise levels that are asked about at once, and how to ask about one level at a time instead."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence

import torch
from torch import Tensor

#: Asks for the answers of some rows, which stand at one level; ends in the answers of all.
ByLevel = Generator[tuple[slice, float], Tensor, Tensor]


def by_level(count: int, levels: Sequence[float], batch: int = 0) -> ByLevel:
    """A program that asks for the answers of ``count`` rows, one state [B, …] at one level at a time, as (rows, level).

    ``levels`` are those of the states, one after the other. Or those of the rows, where images of a state stand at levels of
    their own: then each of them is asked for all ``batch`` images of the state, since conditions belong to images by
    their number, and each image takes its own.
    """
    size = count // len(levels)
    if batch in (0, size):
        answers = []
        for i, level in enumerate(levels):
            answers.append((yield slice(i * size, (i + 1) * size), level))
        return torch.cat(answers)
    taken = []
    for first in range(0, count, batch):
        own, at = levels[first : first + batch], dict[float, Tensor]()
        for level in dict.fromkeys(own):
            at[level] = yield slice(first, first + batch), level
        taken += [at[level][i : i + 1] for i, level in enumerate(own)]
    return torch.cat(taken)


def answered(program: ByLevel, answer: Callable[[slice, float], Tensor]) -> Tensor:
    """What the program ends in, with answer(rows, level) for its questions."""
    question = next(program)
    while True:
        try:
            question = program.send(answer(*question))
        except StopIteration as end:
            return end.value


def level_by_level(
    of: Callable[[Tensor, float], Tensor], y: Tensor, levels: Sequence[float], batch: int = 0
) -> Tensor:
    """of(state, level) of the states y, one after the other; see :func:`by_level`."""
    return answered(by_level(len(y), levels, batch), lambda rows, level: of(y[rows], level))
