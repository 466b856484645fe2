r"""How far the steps of a run err, estimated from what the run evaluated anyway or from a few more evaluations.

The exact ODE leads from state x_i to φ(x_i) at the next noise level. The local error of a step is
‖x_{i+1} − φ(x_i)‖ as root mean square per image, in units of √(α² + σ²), the size of a state of unit
variance. A stochastic solver's step also holds the noise it drew, which counts in full.

*Embedded pair.* The predictions D_{i−1} … D_{i+2} of the run lie on both sides of the step, so the exponential
integral of the cubic through them (``solver/weights.py``) is φ(x_i) to order 4. Paired with the
result of the solver itself it costs no evaluation. It is as good as the run is fine: D_{i+1} was
found at x_{i+1}, which differs from φ(x_i) by the error itself.

*Step doubling.* One step of a second-order method and two of half its length, starting at x_i, give φ(x_i) by
Richardson extrapolation, and how far to trust it, for six evaluations per step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from torch import Tensor

from ..path import Path
from ..points import Points
from ..solver import ExponentialRungeKutta, Run
from ..solver.run import Denoise
from ..solver.weights import data_weights


def rms(a: Tensor) -> Tensor:
    """Root mean square of each image of a [B, …]: [B], float32."""
    return a.float().flatten(1).square().mean(1).sqrt()


def size(path: Path, sigma: float) -> float:
    """√(α² + σ²), the deviation of a state of unit-variance data."""
    point = path.on(sigma)
    return math.hypot(point.alpha, point.sigma)


def embedded(
    path: Path, sigmas: Sequence[float], i: int, x: Tensor, arrived: Tensor, ds: Mapping[int, Tensor]
) -> Tensor | None:  # fmt: skip
    """Local error [B] of step i → i + 1 from x to ``arrived``, by the predictions ``ds`` around it.

    ``sigmas`` are the levels of the predictions by number, in the coordinates of ``path``, a host's. None
    where D is not known at both ends of the step, or the levels turn.
    """
    if not (i in ds and i + 1 in ds):
        return None
    around = run_around(sigmas, i, sorted(ds))
    if around is None or 0 in (sigmas[i], sigmas[i + 1]):
        return None
    points = Points.from_sigmas(path, [sigmas[k] for k in around])
    at, order = around.index(i), range(len(around) - 1, -1, -1)
    p, q = points[at], points[at + 1]
    weights: Sequence[float] = data_weights(points, at, list(order)).tolist()
    if p.alpha == 0:  # x/σ is ∫D d(α/σ) from 0 on: the trapezoid
        weights = [0.5 if k in (at, at + 1) else 0.0 for k in order]
    guess = x * (q.sigma / p.sigma)
    for k, weight in zip(order, weights, strict=True):
        guess = guess.add(ds[around[k]], alpha=q.alpha * weight)
    return rms(arrived - guess) / math.hypot(q.alpha, q.sigma)


def run_around(sigmas: Sequence[float], i: int, there: Sequence[int]) -> list[int] | None:
    """Up to four consecutive numbers of ``there`` around step i → i + 1 whose levels go one way."""
    falling = sigmas[i + 1] < sigmas[i]
    if sigmas[i + 1] == sigmas[i]:
        return None

    def goes(k: int) -> bool:
        return sigmas[k + 1] != sigmas[k] and (sigmas[k + 1] < sigmas[k]) == falling

    around = [i, i + 1]
    if i - 1 in there and goes(i - 1):
        around.insert(0, i - 1)
    if i + 2 in there and sigmas[i + 2] != 0 and goes(i + 1):
        around.append(i + 2)
    return around


METHOD = ExponentialRungeKutta("res_2s")


def doubled(
    path: Path, denoise: Denoise, x: Tensor, start: float, end: float, arrived: Tensor
) -> tuple[Tensor, Tensor]:
    """(local error, uncertainty of it), each [B], of the step from x at level ``start`` to ``arrived``.

    The uncertainty is the distance of the two half steps from the extrapolated value.
    """
    middle = halfway(path, start, end)
    run = Run(denoise)
    coarse = METHOD.solve(Points.from_sigmas(path, (start, end)), run, x)
    fine = METHOD.solve(Points.from_sigmas(path, (start, middle, end)), run, x)
    correction = (fine - coarse) / (2**METHOD.order - 1)
    unit = size(path, end)
    return rms(arrived - fine - correction) / unit, rms(correction) / unit


def halfway(path: Path, start: float, end: float) -> float:
    """The level in the middle of a step: in log κ, or in σ where one end has no finite log κ."""
    kappas = [path.on(s).kappa for s in (start, end)]
    if all(0 < k < math.inf for k in kappas):
        return path.at(math.sqrt(kappas[0] * kappas[1])).sigma
    return (start + end) / 2
