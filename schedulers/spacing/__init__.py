"""Spacings: which noise levels a run visits. A schedule and a number of steps go in, Points come out.

Each spacing is a frozen value with one method, ``levels(schedule, n)``, that returns n values of κ,
largest first; :func:`space` adds the end point (exactly 0, or the schedule's smallest level), applies
``denoise`` and checks the result. "σ" below is the σ of ComfyUI's SIGMAS: κ for VP, sub-VP and VE,
t for rectified flow. Adding a spacing: one class in one of these files and its name in ``ALL``.
"""

from .host_table import HostTable
from .in_noise import Exponential, Karras, KLOptimal, NoiseShare, Polyexponential, UniformLambda
from .in_time import Beta, FlowShift, Leading, Linspace, Quadratic, Trailing
from .levels import FINAL, Spacing, space
from .named import Named
from .run_ends import ENDS, ByRule, Ends, SkipLast, Typed, WholeRange, side_of
from .written import Drawn, Explicit

ALL: dict[str, type[Spacing]] = {
    "trailing": Trailing,
    "leading": Leading,
    "linspace": Linspace,
    "karras": Karras,
    "uniform_lambda": UniformLambda,
    "exponential": Exponential,
    "polyexponential": Polyexponential,
    "quadratic": Quadratic,
    "beta": Beta,
    "kl_optimal": KLOptimal,
    "flow_shift": FlowShift,
    "explicit": Explicit,
    "drawn": Drawn,
    "named": Named,
    "host_table": HostTable,
    "noise_share": NoiseShare,
}

__all__ = [
    "ALL",
    "ENDS",
    "FINAL",
    "ByRule",
    "Ends",
    "SkipLast",
    "Spacing",
    "Typed",
    "WholeRange",
    "side_of",
    "space",
    *(kind.__name__ for kind in ALL.values()),
]
