"""SOLVER_FIT: what the wire carries, and whether a fit was made for a GUIDER."""

from __future__ import annotations

import math
from typing import Any

from ...schedulers.fit import fit_files
from ...schedulers.noise_schedule import NoiseSchedule
from ...schedulers.solver.fitted import FittedSolver
from .guider_field import Facts


def checked_fit(fit: Any) -> FittedSolver:
    if not isinstance(fit, FittedSolver):
        raise TypeError(f"fit: expected a SOLVER_FIT, got {type(fit).__name__}")
    return fit


def misfits(fit: FittedSolver, facts: Facts, schedule: NoiseSchedule) -> list[str]:
    """What the fit was made for and this run is not."""
    found = fit_files.differences(fit.card, model=facts.model, guidance=facts.guidance)
    top, own = fit.table.start, schedule.kappa_max
    if not (math.isinf(top) and own > 1000) and not math.isclose(top, own, rel_tol=1e-3):
        found.append(
            f"this fit starts at σ/α = {top:.4g}, the MODEL's noisiest level is {own:.4g}: pictures may come out "
            "dull or noisy"
        )
    return found
