r"""Runs of a table with corrections, with gradients through the whole run, and what those need of a model.

Every evaluation is checkpointed (Chen et al. 2016): what is kept of a run is one state per evaluation, and the
activations of one evaluation at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..path import VP, Path, rescale
from ..solver.band_mix import band_weights
from ..solver.fitted import Table
from ..solver.run import Ask, Program, Run, drive
from .corrections import Corrections, blank, double
from .problem import Problem

#: Added to the products before they are factored, in units of their mean.
RIDGE = 1e-4

Keep = Callable[[int, list[Tensor]], None]


def run_through(
    problem: Problem, numbers: Corrections, rows: Tensor, keep: Keep | None = None
) -> Tensor:
    """Where the rows end [B, …], differentiable in the numbers; equals ``problem.run`` of their table.

    ``keep(i, [y_i, D_i, …])`` sees the terms of each row. A run that diverges ends in NaN.
    """

    def denoise(y: Tensor, kappa: Any) -> Tensor:
        return kept_small(partial(evaluate, problem, rows), y, kappa)

    return drive(program(problem, numbers, rows, keep), Run(denoise, finite=False))


def program(
    problem: Problem, numbers: Corrections, rows: Tensor, keep: Keep | None = None
) -> Program[Tensor]:
    """The questions of :func:`run_through`, whose levels are κ as tensors [] that may need gradients."""
    levels = numbers.levels()
    y = problem.begin(rows) * cast(numbers.opening(levels), problem.start)
    history: list[Tensor] = []
    for i, kappa in enumerate(levels.unbind()):
        level: Any = kappa
        history.insert(0, (yield y, Ask(level, i, len(levels))))
        terms = [y, *history]
        if keep is not None:
            keep(i, terms)
        weights, matrices = numbers.row(i, levels), numbers.matrices(i)
        y = kept_small(partial(combined, numbers.knots), weights, matrices, *terms)
    return y


def kept_small(function: Callable[..., Tensor], *inputs: Any) -> Tensor:
    """function(*inputs), of which only the inputs are kept for the gradient: the rest is computed again."""
    if not torch.is_grad_enabled():
        return function(*inputs)
    value: Tensor = checkpoint(function, *inputs, use_reentrant=False)
    return value


def combined(
    knots: Sequence[float], weights: Tensor, matrices: Tensor | None, *terms: Tensor
) -> Tensor:
    """Σ weight·term and the terms' bands."""
    y = torch.zeros_like(terms[0])
    for w, term in zip(weights.unbind(), terms, strict=True):
        y = y + cast(w, term) * term
    if matrices is not None:
        y = y + mixed(matrices, knots, [spectrum(term) for term in terms], y)
    return y


def cast(number: Tensor, like: Tensor) -> Tensor:
    """A number of the table beside a state."""
    return number.to(like.dtype).to(like.device)


def spectrum(term: Tensor) -> Tensor:
    """The real and the imaginary parts of a state's 2-D spectrum [C, B, frames, H, W/2 + 1, 2]; pictures have one frame."""
    five = term if term.ndim == 5 else term[:, :, None]
    return torch.view_as_real(torch.fft.rfft2(five)).transpose(0, 1)


def mixed(
    matrices: Tensor, knots: Sequence[float], spectra: Sequence[Tensor], like: Tensor
) -> Tensor:
    """``Mix.apply`` with matrices [T, bands, C, C] that may need gradients."""
    shape = like.shape[-2], like.shape[-1]
    bands = cast(band_weights(tuple(knots), *shape), like)
    gain = torch.einsum("nkij,khw->nijhw", cast(matrices, like), bands)
    total = sum(
        torch.einsum("ijhw,jbthwz->bithwz", g, s)
        for g, s in zip(gain.unbind(), spectra, strict=True)
    )
    assert isinstance(total, Tensor)
    y = torch.fft.irfft2(torch.view_as_complex(total.contiguous()), s=shape)
    return y.reshape(like.shape)


def evaluate(problem: Problem, rows: Tensor, y: Tensor, kappa: Tensor) -> Tensor:
    """D of y on VP at κ (0-dim)."""
    if problem.check is not None:
        problem.check()
    problem.evaluations += len(y)
    sigma, scale = on_path(kappa, problem.path)
    level: Any = cast(sigma, y).reshape(1) if torch.is_grad_enabled() else float(sigma)
    return problem.field(y * cast(scale, y), level, rows).to(y.dtype)


def on_path(kappa: Tensor, path: Path) -> tuple[Tensor, Tensor]:
    """(σ on the path, x there / x on VP) at κ > 0, differentiable: values and slopes from ``rescale``."""

    def at(k: float) -> tuple[float, float]:
        point, scale = rescale(VP().at(k), path)
        return point.sigma, scale

    k = float(kappa.detach())
    step = 1e-4 * k
    values, up, down = at(k), at(k + step), at(k - step)
    move = kappa - kappa.detach()
    pair = [v + move * ((a - b) / (2 * step)) for v, a, b in zip(values, up, down, strict=True)]
    return pair[0], pair[1]


def gradient_ready(problem: Problem) -> Problem:
    """The same problem with its tensors made outside inference mode."""
    return replace(problem, start=problem.start.clone(), end=problem.end.clone())


def follows_level(problem: Problem, table: Table) -> bool:
    """Whether the field's D has a slope in σ; levels stay where it has none (a table of time steps, say).

    Raises ValueError if it has none in x either.
    """
    rows = problem.train[:1]
    x = problem.start[rows].requires_grad_()
    sigma = x.detach().new_full((1,), problem.path.at(table.levels[0]).sigma).requires_grad_()
    wrong = "this model cannot be differentiated ({}); fit it forward only, which needs evaluations alone"
    try:
        d = problem.field(x, sigma, rows)  # type: ignore[arg-type]
        if not d.requires_grad:
            raise ValueError(wrong.format("its prediction is cut off from its input"))
        by_x, by_level = torch.autograd.grad(d.sum(), [x, sigma], allow_unused=True)
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        text = str(error).splitlines()[0]
        raise ValueError(wrong.format(text)) from error
    if by_x is None:
        raise ValueError(wrong.format("its prediction does not depend on its input"))
    return by_level is not None


def row_factors(
    problem: Problem, table: Table, rows: Tensor, knots: Sequence[float]
) -> dict[str, Tensor]:
    """The L of every row: one run of the table, without gradients."""
    factors: dict[str, Tensor] = {"knots": double(knots)} if knots else {}

    def keep(i: int, terms: list[Tensor]) -> None:
        flat = torch.stack([t.double().flatten() for t in terms])
        factors[f"weights.{i}"] = factor(flat @ flat.T)
        if not knots:
            return
        f = torch.cat([spectrum(t.double()) for t in terms])  # [T·C, B, frames, H, W/2 + 1, 2]
        share = band_weights(tuple(knots), *problem.start.shape[-2:]).to(f)
        products = torch.einsum("khw,ibthwz,jbthwz->kij", share, f, f)
        factors[f"bands.{i}"] = factor(products)

    run_through(problem, Corrections(table, blank(table, {}, 0), {}), rows, keep)
    return {name: t.cpu() for name, t in factors.items()}


def factor(products: Tensor) -> Tensor:
    """L of products [..., n, n], which are first divided by their mean diagonal."""
    n = products.shape[-1]
    mean = products.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None].clamp(min=1e-30)
    eye = torch.eye(n, dtype=products.dtype, device=products.device)
    return torch.linalg.cholesky((products / mean).cpu() + RIDGE * eye.cpu()).contiguous()
