"""What the tests of forward fits share: problems on fields with known answers."""

import numpy as np
import torch

from sampling_kit.schedulers.denoiser.analytic import Gaussian
from sampling_kit.schedulers.fit.forward import Forward
from sampling_kit.schedulers.fit.problem import Problem
from sampling_kit.schedulers.path import VE
from sampling_kit.schedulers.points import Points
from sampling_kit.schedulers.solver import DPMSolverMultistep
from sampling_kit.schedulers.solver.fitted import table_of

QUICK = Forward(numbers=3, bands=0, images=12, budget=10**6)


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def start(n=5, solver=None, top=80.0):
    return table_of((solver or DPMSolverMultistep()).plan(levels(VE(), n, top)))


def levels(path, n=5, top=80.0):
    return Points(path, (*np.geomspace(top, 0.05, n), 0.0))


def with_teacher(path, field, x, teacher, **more):
    """A problem whose ends are those of the table ``teacher``."""
    problem = Problem(path, field, 80.0, x, torch.zeros_like(x), *halves(len(x)), **more)
    problem.end = problem.run(teacher, torch.arange(len(x)))
    problem.evaluations = 0
    return problem


def halves(n):
    return torch.arange(2 * n // 3), torch.arange(2 * n // 3, n)


def vectors(path=None, teacher=None, n=24):
    """Independent Gaussians of many sizes: nonlinear in nothing but the noise level."""
    path = path or VE()
    std = torch.logspace(-1.5, 0.5, 12).double()
    oracle = Gaussian(path, normal(12, seed=3), std)
    x = normal(n, 12) * path.at(80.0).sigma
    return with_teacher(path, lambda x, s, rows: oracle(x, s), x, teacher or start(60))


def pictures(teacher, n=12):
    """Stationary Gaussian pictures of three channels that go together, filtered exactly per frequency."""
    power = 1 / (0.05 + 4 * torch.fft.fftfreq(8)[:, None] ** 2 + 4 * torch.fft.rfftfreq(8) ** 2)
    turn = torch.linalg.qr(normal(3, 3, seed=5))[0]
    sizes = torch.tensor([0.02, 0.1, 0.5]).double()[:, None, None] * power

    def field(x, sigma, rows):
        seen = torch.fft.rfft2(torch.einsum("ij,bjhw->bihw", turn.T, x))
        out = torch.fft.irfft2(seen * sizes / (sizes + sigma**2), s=(8, 8))
        return torch.einsum("ij,bjhw->bihw", turn, out)

    return with_teacher(VE(), field, normal(n, 3, 8, 8) * 80, teacher)
