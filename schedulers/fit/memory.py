"""How much memory a forward fit takes beside the model, from sizes alone.

V values of a latent, c trajectories of which h judge, b images in one call, n trajectories per Jacobian, P numbers that
are fitted, N evaluations per run; float32:

    where the model runs   4V·max(b, h)·(2N + 4)    the states and predictions of runs, and a call's input and answer
    where Python runs      4V·(2c + n·(P + 4))      starts and ends; the Jacobian, and what is off before and after a step
                           + 12V·P                  one trajectory's part of the equations, in float64 too

On the CPU both are the same memory. What the model itself needs for b images comes on top: a usual run with a batch of b
shows it.
"""

from __future__ import annotations

from typing import NamedTuple

from ..solver.fitted import Table
from .table_numbers import names


class Memory(NamedTuple):
    """Bytes beside the model's own."""

    device: int
    host: int


def fit_memory(
    values: int, trajectories: int, held: int, images: int, numbers: int, nfe: int, batch: int
) -> Memory:
    """Of a fit with V = ``values`` of one latent, c = ``trajectories``, of which h = ``held`` judge, n = ``images`` per Jacobian,
    P = ``numbers`` as :func:`fitted_numbers` counts them, N = ``nfe`` and b = ``batch``."""
    device = 4 * values * max(batch, held) * (2 * nfe + 4)
    host = 4 * values * (2 * trajectories + images * (numbers + 4)) + 12 * values * numbers
    return Memory(device, host)


def fitted_numbers(nfe: int, window: int = 4) -> int:
    """Levels and weights of a table with ``nfe`` evaluations in which every row uses ``window`` predictions."""
    rows = tuple((1.0,) * min(i + 1, window) for i in range(nfe))
    levels = tuple(float(nfe - i) for i in range(nfe))
    return len(names(Table(nfe + 1.0, levels, (1.0,) * (nfe + 1), rows), window))
