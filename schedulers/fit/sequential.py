r"""Frequency bands in closed form, row after row, towards the teacher's states.

The table runs on many trajectories. Where row i has formed y_{i+1}, what is missing to the teacher's state at
that level (after the last row: to its end) is fitted by the row's terms, with one C×C matrix per term and
band: ridge least squares on the products of the terms' spectra. The corrected state goes on, so every row
also makes up for what the rows before it left. One run in all, no gradient; it needs a table that is told
the level it is at, as training-free solvers are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..solver.fitted import Table
from ..solver.mix import Mix, Spectra, band_weights
from .gradient import KNOTS, spectrum
from .problem import Problem


@torch.no_grad()
def sequential(
    problem: Problem,
    table: Table,
    rows: Tensor | None = None,
    knots: Sequence[float] = KNOTS,
    ridge: float = 1e-3,
    window: int = 8,
) -> Table:
    """``table`` with bands in every row. ``ridge`` is relative to each term's own square, ``window`` limits the
    predictions that a row uses. Raises ValueError where the teacher's states are not known."""
    if problem.states is None:
        raise ValueError("the teacher's states on the way are not known: record them")
    if any(table.mix):
        raise ValueError("the table has bands already")
    rows = problem.train if rows is None else rows
    y = problem.begin(rows) * table.x[0]
    history: list[Tensor] = []
    mixes: list[Mix | None] = []
    for i, level in enumerate(table.levels):
        history.insert(0, problem.denoise(y, level, rows))
        formed = table.x[i + 1] * y
        for w, d in zip(table.d[i], history, strict=False):
            formed = formed + w * d
        wanted = (
            problem.states(table.levels[i + 1], rows) if i + 1 < table.nfe else problem.target(rows)
        )
        terms = [y, *history[:window]]
        found = matrices(terms, wanted.to(y) - formed, knots, ridge).numpy()
        mix = Mix(tuple(knots), found[:1], found[1:])
        mixes.append(mix)
        y = formed + mix.apply([y], history, Spectra())
    return replace(table, mix=tuple(mixes))


def matrices(
    terms: Sequence[Tensor], missing: Tensor, knots: Sequence[float], ridge: float
) -> Tensor:
    """[T, bands, C, C] with Σ bands(terms) ≈ missing in least squares; float64 on the CPU.

    With φ_b the bands' weights, G(ω) the terms' products summed over images and P(ω) those with what
    is missing, the unknowns of all bands solve Σ_ω φ_b φ_c G·M_c = Σ_ω φ_b P.
    """
    f = torch.cat([spectrum(t) for t in terms]).double()  # [T·C, B, frames, H, W/2 + 1, 2]
    r = spectrum(missing).double()
    height, width = missing.shape[-2:]
    share = band_weights(tuple(knots), height, width).to(f.device)
    twice = torch.full((width // 2 + 1,), 2.0, dtype=torch.float64, device=f.device)
    twice[0] = 1.0  # rfft2 holds the other columns' mirror images too, but for Nyquist's
    if width % 2 == 0:
        twice[-1] = 1.0
    products = torch.einsum("w,ibthwz,jbthwz->hwij", twice, f, f)
    aims = torch.einsum("w,ibthwz,jbthwz->hwij", twice, f, r)
    n, bands = len(f), len(share)
    square = torch.einsum("bhw,chw,hwij->bicj", share, share, products).reshape(bands * n, -1)
    aim = torch.einsum("bhw,hwij->bij", share, aims).reshape(bands * n, -1)
    own = square.diagonal()
    square = square + torch.diag(ridge * own + 1e-9 * own.max())
    found = torch.linalg.solve(square, aim).reshape(bands, len(terms), -1, aim.shape[1])
    return found.permute(1, 0, 3, 2).cpu()
