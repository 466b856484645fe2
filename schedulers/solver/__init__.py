"""Solvers. Adding one: a class in a file here and its name in ``ALL`` (docs/extending.md)."""

from .adams import DEIS, AdamsBashforth, GradientEstimation
from .adaptive import Adaptive
from .amed import AMED
from .base import Solver
from .ddim import DDIM, EulerAncestral, RectifiedFlow
from .ddpm import DDPM
from .euler import Euler
from .gaussian import GaussianAdams
from .heun import HeunEDM
from .idempotent import Idempotent
from .invertible import Invertible
from .langevin import Langevin
from .multistep import DPMSolverMultistep, SASolver, UniPC
from .parallel import Parallel, PicardSweeps
from .plan import Plan, Stage
from .restart import Restart
from .run import Ask, Progress, Run, drive, drive_async, drive_together
from .runge_kutta import DPMSolver, ExponentialRungeKutta, RungeKutta
from .speculative import Speculation, Speculative
from .state import State
from .stochastic import ERSDE, LCM, EulerMaruyama
from .tcd import TCD

ALL: tuple[type[Solver], ...] = (
    DDPM,
    DDIM,
    Euler,
    EulerAncestral,
    HeunEDM,
    RectifiedFlow,
    DPMSolver,
    DPMSolverMultistep,
    UniPC,
    AdamsBashforth,
    DEIS,
    GaussianAdams,
    ExponentialRungeKutta,
    RungeKutta,
    SASolver,
    ERSDE,
    GradientEstimation,
    Restart,
    EulerMaruyama,
    LCM,
    TCD,
    Invertible,
    AMED,
    Adaptive,
    Langevin,
)
