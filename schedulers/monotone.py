"""Smooth curves through points that keep their order."""

from __future__ import annotations

import numpy as np

from .noise_schedule import Array


def monotone_cubic(x: Array, y: Array, at: Array) -> Array:
    """Piecewise cubic through (x, y), x rising, with no extremum that the points do not have.

    Slopes are the weighted harmonic mean of the two secants, 0 where those differ in sign (Fritsch &
    Butland 1984), and at the ends a parabola's through three points, cut back where it would overshoot.
    """
    h = np.diff(x)
    secant = np.diff(y) / h
    slope = np.full_like(x, secant[0])
    if len(x) > 2:
        left, right = 2 * h[1:] + h[:-1], h[1:] + 2 * h[:-1]
        with np.errstate(divide="ignore", invalid="ignore"):
            mean = (left + right) / (left / secant[:-1] + right / secant[1:])
        slope[1:-1] = np.where(secant[:-1] * secant[1:] > 0, mean, 0)
        slope[0] = _end_slope(h[0], h[1], secant[0], secant[1])
        slope[-1] = _end_slope(h[-1], h[-2], secant[-1], secant[-2])
    i = np.clip(np.searchsorted(x, at, side="right") - 1, 0, len(h) - 1)
    t = (at - x[i]) / h[i]
    rise = secant[i] * t * t * (3 - 2 * t)
    return y[i] + h[i] * (rise + slope[i] * t * (1 - t) ** 2 - slope[i + 1] * t * t * (1 - t))


def _end_slope(h: float, next_h: float, secant: float, next_secant: float) -> float:
    slope = ((2 * h + next_h) * secant - h * next_secant) / (h + next_h)
    if slope * secant <= 0:
        return 0.0
    turns = secant * next_secant < 0
    return 3 * secant if turns and abs(slope) > 3 * abs(secant) else slope
