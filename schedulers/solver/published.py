"""Solvers by the names that people know them by: one row for each published variant.

A row says which settings of ours a name stands for, and what ComfyUI, A1111/Forge and diffusers call it.
The name and our settings are one method, tested in tests/host/test_core_samplers.py or in
tests/test_elsewhere*.py; ``NEAR`` has the others, each with the row that comes next and what differs.
"""

from __future__ import annotations

from dataclasses import dataclass

from .adams import DEIS, AdamsBashforth, GradientEstimation
from .adaptive import Adaptive
from .base import Solver
from .ddim import DDIM, EulerAncestral, RectifiedFlow
from .ddpm import DDPM
from .euler import Euler
from .gaussian import GaussianAdams
from .heun import HeunEDM
from .invertible import Invertible
from .langevin import Langevin
from .multistep import DPMSolverMultistep, SASolver, UniPC
from .restart import Restart
from .runge_kutta import DPMSolver, ExponentialRungeKutta, RungeKutta
from .stochastic import ERSDE, LCM, EulerMaruyama
from .tcd import TCD


@dataclass(frozen=True)
class Published:
    """A name, its solver, and its names elsewhere: ComfyUI's samplers, A1111's labels, diffusers' classes."""

    name: str
    solver: Solver
    comfy: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    diffusers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Near:
    """A sampler elsewhere that no settings of ours are: the row whose solver comes next, and what differs."""

    name: str
    row: str
    differs: str


ROWS: tuple[Published, ...] = (
    Published("Euler", Euler(), ("euler",), ("Euler",), ("EulerDiscreteScheduler",)),
    Published("Euler a", EulerAncestral(), ("euler_ancestral",), ("Euler a",), ("EulerAncestralDiscreteScheduler",)),
    Published("Heun", HeunEDM(), ("heun",), ("Heun",), ("HeunDiscreteScheduler",)),
    Published("DDIM", DDIM(), ("ddim",), ("DDIM",), ("DDIMScheduler",)),
    Published("DDPM", DDPM(), ("ddpm",), ("DDPM",), ("DDPMScheduler",)),
    Published("Rectified Flow", RectifiedFlow(), (), (), ("FlowMatchEulerDiscreteScheduler",)),
    Published("DPM++ 2M", DPMSolverMultistep(2), ("dpmpp_2m",), ("DPM++ 2M",), ("DPMSolverMultistepScheduler",)),
    Published("DPM++ 3M", DPMSolverMultistep(3)),
    Published("DPM++ 2M SDE", DPMSolverMultistep(2, eta=1.0), ("dpmpp_2m_sde", "dpmpp_2m_sde_gpu"), ("DPM++ 2M SDE",)),
    Published(
        "DPM++ 2M SDE Heun", DPMSolverMultistep(2, "exact", eta=1.0), ("dpmpp_2m_sde_heun", "dpmpp_2m_sde_heun_gpu"),
        ("DPM++ 2M SDE Heun",),
    ),
    Published("DPM++ 3M SDE", DPMSolverMultistep(3, eta=1.0), ("dpmpp_3m_sde", "dpmpp_3m_sde_gpu"), ("DPM++ 3M SDE",)),
    Published("DPM2", DPMSolver(2, "original"), ("dpm_2",), ("DPM2",), ("KDPM2DiscreteScheduler",)),
    Published("DPM++ 2S", DPMSolver(2), (), (), ("DPMSolverSinglestepScheduler",)),
    Published("DPM++ 3S", DPMSolver(3)),
    Published("DPM adaptive", Adaptive(), ("dpm_adaptive",), ("DPM adaptive",)),
    Published("UniPC", UniPC(), (), ("UniPC",), ("UniPCMultistepScheduler",)),
    Published("UniPC bh1 (order 3)", UniPC(3, "bh1", lower_order_final=True), ("uni_pc",)),
    Published("UniPC bh2 (order 3)", UniPC(3, "bh2", lower_order_final=True), ("uni_pc_bh2",)),
    Published(
        "LMS", AdamsBashforth(4, "variable", "sigma"), ("lms", "ipndm_v"), ("LMS", "IPNDM_V"), ("LMSDiscreteScheduler",)
    ),
    Published("iPNDM", AdamsBashforth(4), ("ipndm",), ("IPNDM",), ("IPNDMScheduler",)),
    Published("Adams-Bashforth 3", AdamsBashforth(3)),
    Published("DEIS", DEIS(), ("deis",), ("DEIS",), ("DEISMultistepScheduler",)),
    Published("PNDM", DEIS(4, "steps"), (), ("PLMS",), ("PNDMScheduler",)),
    Published("RES multistep", DPMSolverMultistep(2, "exact", coordinate="log_sigma"), ("res_multistep",), ("Res Multistep",)),
    Published("Gradient Estimation", GradientEstimation(), ("gradient_estimation",), ("Gradient Estimation",)),
    Published("ER-SDE", ERSDE(), ("er_sde",), ("ER SDE",)),
    Published("SEEDS-2", DPMSolver(2, eta=1.0), ("seeds_2",), ("Seeds 2",)),
    Published("SEEDS-3", DPMSolver(3, eta=1.0), ("seeds_3",), ("Seeds 3",)),
    Published("SA-Solver", SASolver(), ("sa_solver",), ("SA Solver",), ("SASolverScheduler",)),
    Published("SA-Solver PECE", SASolver(pece=True), ("sa_solver_pece",), ("SA Solver PECE",)),
    Published("exponential Heun", ExponentialRungeKutta("exp_heun"), ("exp_heun_2_x0",)),
    Published("RES 2S", ExponentialRungeKutta()),
    Published("Gaussian Adams", GaussianAdams()),
    Published("Runge-Kutta 4", RungeKutta("rk4")),
    Published("Restart", Restart(), (), ("Restart",)),
    Published("LCM", LCM(), ("lcm",), ("LCM",), ("LCMScheduler",)),
    Published("TCD", TCD(), (), ("TCD",), ("TCDScheduler",)),
    Published("Hyper-SD (TCD)", TCD(1.0)),
    Published("Euler-Maruyama", EulerMaruyama(), (), (), ("ScoreSdeVeScheduler",)),
    Published("Langevin", Langevin()),
    Published("BDIA (invertible)", Invertible("bdia")),
    Published("O-BELM (invertible)", Invertible()),
)  # fmt: skip
BY_NAME = {row.name: row for row in ROWS}

_CFGPP = "CFG++ is guidance here: connect a CFG++ Guidance node"
_NOISE = "it draws its noise by another rule"
NEAR: tuple[Near, ...] = (
    Near("euler_cfg_pp", "Euler", _CFGPP),
    Near("euler_ancestral_cfg_pp", "Euler a", _CFGPP),
    Near("dpmpp_2m_cfg_pp", "DPM++ 2M", _CFGPP),
    Near("dpmpp_2s_ancestral_cfg_pp", "SEEDS-2", _CFGPP),
    Near("res_multistep_cfg_pp", "RES multistep", _CFGPP),
    Near("res_multistep_ancestral_cfg_pp", "DPM++ 2M SDE Heun", _CFGPP),
    Near("gradient_estimation_cfg_pp", "Gradient Estimation", _CFGPP),
    Near("heunpp2", "Heun", "its third evaluation does not raise the order (docs/elsewhere.md)"),
    Near("exp_heun_2_x0_sde", "SEEDS-2", _NOISE),
    Near("dpm_2_ancestral", "SEEDS-2", _NOISE),
    Near("dpmpp_2s_ancestral", "SEEDS-2", _NOISE),
    Near("dpmpp_sde", "SEEDS-2", _NOISE),
    Near("dpmpp_sde_gpu", "SEEDS-2", _NOISE),
    Near("res_multistep_ancestral", "DPM++ 2M SDE Heun", _NOISE),
    Near("dpm_fast", "DPM++ 2S", "it mixes orders 1 to 3"),
    Near("DPM++ SDE", "SEEDS-2", _NOISE),
    Near("DPM++ 2S a", "SEEDS-2", _NOISE),
    Near("DPM2 a", "SEEDS-2", _NOISE),
    Near("DPM fast", "DPM++ 2S", "it mixes orders 1 to 3"),
)

#: Every name of every row, for searches.
WORDS: tuple[str, ...] = tuple(
    dict.fromkeys(
        word for row in ROWS for word in (row.name, *row.comfy, *row.labels, *row.diffusers)
    )
) + tuple(near.name for near in NEAR)


def name_of(solver: Solver) -> str:
    """What a solver with these settings is called; without a name of its own, its title and what is set."""
    return next((row.name for row in ROWS if row.solver == solver), solver.words)


def by_foreign_name(name: str) -> tuple[Published, str]:
    """The row of a sampler elsewhere, and what differs ("": nothing). Raises ValueError for a name that nobody has."""
    for row in ROWS:
        if name in (row.name, *row.comfy, *row.labels, *row.diffusers):
            return row, ""
    for near in NEAR:
        if name == near.name:
            return BY_NAME[near.row], near.differs
    raise ValueError(
        f"sampler = {name!r}: no solver has this name; choose one of {', '.join(BY_NAME)}"
    )
