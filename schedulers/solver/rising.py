r"""Order on rising levels: a run combines only as much as errs about as much as Euler's run at most.

On the way up, from data to noise, a step multiplies what it starts from by κ'/κ = e^{|h|}, and with it every
error of an extrapolated D. At small noise D moves as κ² (Tweedie: D = y + κ²·∇log p), but a polynomial in λ sees
a straight line in log κ. Where data are much wider than κ (D = s − κ²/2s, y = s + κ²/2s), the corrector that
interpolates D in λ adds, with a = |h|, E₁·(e^{2a} − 1) in place of −(e^a − 1)², and as D is asked at the predicted
state it adds 2e^a/(e^a + 1) times that:

    R = 2·((e^a − 1)/a − 1)·e^a/(e^a − 1) times too much        (bh2: R = e^a)

At κ'/κ = 1000 R is 290 (bh2: 1000). The weights alone do not tell whether a step may be taken: a large error where
Euler's is small does no harm, and a corrector mends what its predictor does. So while a plan is written it is run
on data whose trajectories are known, Gaussians of many deviations s from far below to far above the levels:

    y = N = √(s² + κ²),    D = s²/N²·y,    Euler: y' = y·(s² + κκ')/N² < N'/N·y

An error of y keeps its share of N on the way up (dy/dκ = κ/N²·y grows as N does), so the shares that steps lose
add; Euler only loses. A step takes the most values for which the share lost so far, at the worst s, is at most

    max_s |y'/N' − 1| ≤ 1.4·max_s |y'_Euler/N' − 1|        (Euler's run from the same start)

A predictor may lose more if its corrector brings the state back. Where nothing holds, Euler's step stands. 1.4 and not
2, as data of like deviations may all lie where a run errs most and Euler's does not: in the root mean square over
two decades of s the runs of every solver stay below twice Euler's (tests/test_rising.py; 1.9 at most). A method
of order 1 gains nothing as steps shrink and is held to 1.

The rule depends on the levels alone. As steps shrink every consistent order passes, so the order of convergence
stays. On falling levels errors shrink by κ'/κ, and nothing is lowered.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from copy import copy
from itertools import pairwise

import numpy as np

from ..noise_schedule import Array
from ..path import Point
from ..points import Points

#: Deviations s, from far below to far above the levels, this many for a factor of 10.
DENSITY, BEYOND = 8, 30.0
#: The share allowed, in largest shares of Euler's run, and what rounding may add.
ALLOWED, ROUNDING = 1.4, 1e-12

Terms = Mapping[tuple[str, int], float]


class Trial:
    """A run on rising levels, on Gaussian data of many deviations: its states and predictions by symbol."""

    def __init__(self, points: Points) -> None:
        self.points = points
        levels = [k for k in points.kappas if 0 < k < math.inf]
        lowest, highest = levels[0] / BEYOND, levels[-1] * BEYOND
        count = 2 + int(DENSITY * math.log10(highest / lowest))
        self.widths = np.geomspace(lowest, highest, count)
        start = points[0].alpha * self.deviation(points.kappas[0])
        self.values: dict[tuple[str, int], Array] = {("x", 0): start}
        self.euler = self._euler()

    def fork(self) -> Trial:
        """A copy that may go on in another way."""
        other = copy(self)
        other.values = dict(self.values)
        return other

    def value(self, terms: Terms) -> Array:
        """[deviations]: the sum of weighted quantities."""
        out = np.zeros(len(self.widths))
        for symbol, weight in terms.items():
            out += weight * self.values[symbol]
        return out

    def denoise(self, x: Array, at: Point, label: Point) -> Array:
        """D at state x of level ``at``, with the network told ``label``; 0 at pure noise."""
        if not at.alpha:
            return np.zeros_like(x)
        return np.asarray(self.widths**2 / self.deviation(label.kappa) ** 2 * x / at.alpha)

    def deviation(self, kappa: float) -> Array:
        """N, which is also the y of the trajectory that is followed."""
        return np.sqrt(self.widths**2 + kappa**2)

    def holds(self, terms: Terms, level: int, times: float) -> bool:
        """Whether the state ``terms`` at a level errs at most ``times`` as much as Euler's; not at pure noise."""
        at = self.points[level]
        if not at.alpha:
            return False
        share = np.abs(self.value(terms) / at.alpha / self.deviation(at.kappa) - 1)
        return bool(share.max() <= times * self.euler[level] * (1 + 1e-9) + ROUNDING)

    def _euler(self) -> list[float]:
        """The largest share that Euler's run has lost at each level."""
        kappas = [k for k in self.points.kappas if k < math.inf]
        y, largest = self.deviation(kappas[0]), [0.0]
        for a, b in pairwise(kappas):
            y = y * (self.widths**2 + a * b) / self.deviation(a) ** 2
            largest.append(float(np.abs(y / self.deviation(b) - 1).max()))
        return largest
