"""Tables that agree so far share their evaluations, and end where each would by itself."""

import torch

from sampling_kit.schedulers import spacing
from sampling_kit.schedulers.denoiser.analytic import Gaussian
from sampling_kit.schedulers.fit.problem import Problem
from sampling_kit.schedulers.fit.shared_runs import errors_of
from sampling_kit.schedulers.noise_schedule import EDM
from sampling_kit.schedulers.path import VE, Flow
from sampling_kit.schedulers.points import Points
from sampling_kit.schedulers.solver import DDIM, AdamsBashforth, GaussianAdams, HeunEDM
from sampling_kit.schedulers.solver.fitted import table_of


def problem(path):
    oracle = Gaussian(path, torch.zeros(6).double(), torch.logspace(-1, 0, 6).double())
    x = torch.randn(8, 6, generator=torch.Generator().manual_seed(0)).double()
    x, rows = x * path.at(80.0).sigma, torch.arange(8)
    return Problem(path, lambda y, s, r: oracle(y, s), 80.0, x, 0 * x, rows[:4], rows[4:], batch=6)


def test_shared_runs_end_where_each_run_ends_and_cost_less():
    for path in (VE(), Flow()):
        task, rows = problem(path), torch.arange(4)
        solvers = DDIM(), AdamsBashforth(2), AdamsBashforth(3), GaussianAdams(), HeunEDM()
        grids = [spacing.space(EDM(), 4, kind()) for kind in (spacing.Karras, spacing.Exponential)]
        tables = [table_of(s.plan(Points(path, grid.kappas))) for grid in grids for s in solvers]
        apart = [task.errors(table, rows) for table in tables]
        spent, task.evaluations = task.evaluations, 0
        together = errors_of(task, tables, rows)
        for one, other in zip(apart, together, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)
        # DDIM and the two Adams methods see the same first D, these two the same second one
        assert task.evaluations <= spent - 2 * 4 * (2 + 1)


def test_a_run_that_fails_has_no_error():
    task = problem(VE())
    task.field = lambda y, s, r: y * float("nan")
    table = table_of(DDIM().plan(spacing.space(EDM(), 3, spacing.Karras())))
    assert errors_of(task, [table], torch.arange(2)).pop().isinf().all()
