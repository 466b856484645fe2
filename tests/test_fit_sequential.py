"""Bands in closed form."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from sampling_kit.schedulers.fit.gradient import KNOTS
from sampling_kit.schedulers.fit.problem import Problem
from sampling_kit.schedulers.fit.sequential import matrices, sequential
from sampling_kit.schedulers.path import VE, VP
from sampling_kit.schedulers.points import Points
from sampling_kit.schedulers.solver import DDIM, DPMSolver
from sampling_kit.schedulers.solver.fitted import table_of
from sampling_kit.schedulers.solver.mix import Mix, Spectra
from sampling_kit.schedulers.solver.plan import run


@pytest.mark.parametrize("shape", [(6, 3, 16, 16), (6, 3, 15, 16), (4, 2, 3, 8, 9)])
def test_bands_that_made_the_difference_are_found(shape):
    """Exactly, where there are more equations than unknowns."""
    generator = torch.Generator().manual_seed(0)
    terms = [torch.randn(shape, generator=generator).double() for _ in range(3)]
    knots, c = (0.0, 0.3, 1.0), shape[1]
    made = np.random.default_rng(0).normal(size=(3, 3, c, c))
    mix = Mix(knots, made[:1], made[1:])
    missing = mix.apply(terms[:1], terms[1:], Spectra())
    torch.testing.assert_close(
        matrices(terms, missing, knots, 0.0), torch.tensor(made), rtol=1e-5, atol=1e-6
    )


def rough(x: Tensor, sigma: float) -> Tensor:
    """Posterior mean on VE for data whose spectrum falls: every frequency settles at its own level."""
    f = torch.fft.fftfreq(16).double()
    variance = 0.02 / (0.02 + f[:, None] ** 2 + f[None, :9] ** 2)
    gain = variance / (variance + sigma**2)
    return torch.fft.irfft2(torch.fft.rfft2(x) * gain, s=(16, 16))


def test_they_help_where_frequencies_differ():
    x = torch.randn(24, 3, 16, 16, generator=torch.Generator().manual_seed(1)).double() * 20
    levels = (20.0, 3.0, 0.5, 0.0)

    def fine(kappa: float) -> Tensor:
        low = kappa or 1e-3
        between = torch.linspace(math.log(20), math.log(low), 101).double().exp().tolist()[1:-1]
        plan = DPMSolver(2).plan(Points(VE(), (20.0, *between, low)))
        return x if kappa == 20 else run(plan, rough, x)

    def states(kappa: float, rows: Tensor) -> Tensor:
        return fine(kappa)[rows] * VP().at(kappa).alpha

    rows = torch.arange(24)
    problem = Problem(
        VE(), lambda y, s, r: rough(y, s), 20.0, x, fine(0.0), rows[:16], rows[16:], states
    )
    table = table_of(DDIM().plan(Points(VE(), levels)))
    found = sequential(problem, table, knots=KNOTS)
    assert (
        problem.errors(found, problem.held).mean()
        < 0.1 * problem.errors(table, problem.held).mean()
    )
    with pytest.raises(ValueError, match="already"):
        sequential(problem, found)
    with pytest.raises(ValueError, match="record them"):
        sequential(replace(problem, states=None), table)
