"""Solvers. Adding one: a class in a file here and its name in ``ALL``."""

from .base import Solver
from .ddim import DDIM
from .ddpm import DDPM
from .euler import Euler, EulerAncestral
from .heun import HeunEDM
from .plan import Plan, Progress, Stage, State, advance, run
from .rectified_flow import RectifiedFlow

ALL: tuple[type[Solver], ...] = (DDPM, DDIM, Euler, EulerAncestral, HeunEDM, RectifiedFlow)

__all__ = [
    "ALL",
    "DDIM",
    "DDPM",
    "Euler",
    "EulerAncestral",
    "HeunEDM",
    "Plan",
    "Progress",
    "RectifiedFlow",
    "Solver",
    "Stage",
    "State",
    "advance",
    "run",
]
