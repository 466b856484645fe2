"""What the tests of solvers run: every variant, on paths and points of their own."""

import numpy as np
import torch

from sampling_kit.schedulers.path import VE, VP, Flow, SubVP
from sampling_kit.schedulers.points import Points
from sampling_kit.schedulers.solver import (
    ALL,
    Adaptive,
)
from sampling_kit.schedulers.solver.selection import variants

MEAN = torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64)
STD = torch.tensor([0.5, 1.5, 0.8], dtype=torch.float64)
PATHS = [VP(), VE(), Flow(), SubVP()]
EVERY_VARIANT = [variant for solver in ALL for variant in variants(solver)]
#: Those that are tables; what the others do depends on the data.
PLANNED = [s for s in EVERY_VARIANT if s.planned]
STILL = [s for s in EVERY_VARIANT if not s.stochastic]
NOISY = [s for s in PLANNED if s.stochastic]
#: Whose steps are those of the points.
STEPPING = [s for s in EVERY_VARIANT if not isinstance(s, Adaptive)]
ids = dict(ids=repr)


def geometric(path, top, bottom, n):
    return Points(path, tuple(np.geomspace(top, bottom, n + 1)))


def start(points, batch=64, seed=0):
    """Exact samples of the oracle's marginal at the first level."""
    p = points[0]
    z = torch.randn(batch, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return p.alpha * MEAN + (p.alpha**2 * STD**2 + p.sigma**2).sqrt() * z
