"""ER-SDE against the paper's algorithm 3, with its integrals by SciPy's adaptive quadrature."""

import itertools
import math
from itertools import pairwise

import torch
from product import each
from scipy.integrate import quad

from sampling_kit.schedulers.path import VE, Flow
from sampling_kit.schedulers.points import Points
from sampling_kit.schedulers.solver import ERSDE
from sampling_kit.schedulers.solver.run import Run

KAPPAS = (5.0, 3.0, 2.0, 1.1, 0.7, 0.3)
#: φ(κ) of the paper, table 1 and eq. 17.
SCALES = {
    "er_sde": lambda k: k * (math.exp(k**0.3) + 10),
    "reverse_sde": lambda k: k * k,
    "ode": lambda k: k,
}


def prediction(y, kappa):
    """Curved in κ and in y, so that every term counts."""
    return torch.cos(2 * torch.tensor(kappa).double()) + 0.3 * torch.tanh(y) - 0.1 * kappa**2


def algorithm_3(phi, order, y):
    """Cui et al. 2023, alg. 1 to 3 without noise, in y = x/α and κ: orders grow over the first steps."""
    seen = []
    for here, there in pairwise(KAPPAS):
        seen.insert(0, (here, prediction(y, here)))
        d, r, width = seen[0][1], phi(there) / phi(here), there - here
        y = r * y + (1 - r) * d
        slopes = [(a[1] - b[1]) / (a[0] - b[0]) for a, b in pairwise(seen)]
        if order >= 2 and slopes:
            s = quad(lambda u: 1 / phi(u), there, here)[0]
            y = y + (width + s * phi(there)) * slopes[0]
        if order >= 3 and len(slopes) > 1:
            curve = (slopes[0] - slopes[1]) / ((here - seen[2][0]) / 2)
            s = quad(lambda u, at=here: (u - at) / phi(u), there, here)[0]
            y = y + (width**2 / 2 + s * phi(there)) * curve
    return y


@each(case=itertools.product([1, 2, 3], SCALES), path=[VE(), Flow()])
def test_every_order_is_the_paper_s(case, path):
    order, scale = case
    y = torch.linspace(-3, 3, 7).double()
    points = Points(path, KAPPAS)
    first, last = points[0], points[-1]

    def denoise(x, sigma):
        p = path.on(sigma)
        return prediction(x / p.alpha, p.kappa)

    ours = (
        ERSDE(order, scale, noise=0.0).plan(points).solve(Run(denoise), first.alpha * y)
        / last.alpha
    )
    assert torch.allclose(ours, algorithm_3(SCALES[scale], order, y), rtol=0, atol=1e-9)
