"""What a scheduler_config.json says about a network: noise schedule, prediction, and its clock.

Only what training fixed. Which levels a run visits (``use_karras_sigmas``, ``timestep_spacing``,
``shift_terminal``), clipping and solver orders are steps and solvers, and are not read here.

Every scheduler class of diffusers is of one of four kinds, a row each in ``SCHEDULERS``:

======  ==============================  =================================  ======================
kind    noise schedule                  prediction                         the network's time
======  ==============================  =================================  ======================
table   VP, β table (+ SNR shift,       eps, v, x0 by prediction_type      index, 0 … T−1
        + zero terminal SNR)
flow    rectified flow, shift s         flow                               σ·T
edm     VE on [σ_min, σ_max]            edm: D = c_skip·x + c_out·F        log(σ)/4
score   VE on [σ_min, σ_max]            score                              σ
======  ==============================  =================================  ======================

``use_flow_sigmas`` makes a table scheduler one of the flow kind. Flow networks are told σ, which the
shift has already moved: the shift is a matter of the steps, never of the clock.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ...noise_schedule import (
    EDM,
    Array,
    CosineVP,
    LinearVP,
    Measured,
    NoiseSchedule,
    RectifiedFlowSchedule,
    ScaledLinearVP,
    SigmoidVP,
    zero_terminal_snr,
)
from ...path import Point
from ...points import LARGEST_KAPPA
from ...prediction import Prediction
from ...size_shift import SizedFlow, SizeShift
from .folder import Component, Config

PREDICTIONS = {"epsilon": "eps", "v_prediction": "v", "sample": "x0", "flow_prediction": "flow"}
BETAS: dict[str, Callable[..., NoiseSchedule]] = {
    "linear": LinearVP,
    "scaled_linear": ScaledLinearVP,
    "squaredcos_cap_v2": CosineVP,
    "sigmoid": SigmoidVP,
}


def _index(schedule: NoiseSchedule, kappa: float, T: int) -> float:
    """Place in the table; from ComfyUI's finite stand-in for pure noise on, that of pure noise."""
    pure = kappa > LARGEST_KAPPA * (1 - 1e-5) and kappa > schedule.kappa(schedule.t_max - 1)
    return float(schedule.time(math.inf if pure else kappa))


#: Keys that each ask for a spacing of their own.
CURVES = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")

#: What a network is told at (α, σ) with κ = σ/α, on a schedule with T training timesteps.
CLOCKS: dict[str, Callable[[NoiseSchedule, float, int], float]] = {
    "index": _index,
    "flow": lambda schedule, kappa, T: T * schedule.path.at(kappa).sigma,
    "log": lambda schedule, kappa, T: 0.25 * math.log(float(schedule.time(kappa))),
    "atan": lambda schedule, kappa, T: math.atan(kappa) * 2 / math.pi,
    "sigma": lambda schedule, kappa, T: float(schedule.time(kappa)),
}


@dataclass(frozen=True)
class Training:
    """How a network was trained. ``sign`` multiplies its output before ``prediction`` is applied.

    Where the shift depends on the size, ``noise_schedule`` is a :class:`SizedFlow`; see :meth:`at`.
    """

    noise_schedule: NoiseSchedule
    prediction: Prediction
    clock: str
    timesteps: int = 1000
    sign: float = 1.0

    def __post_init__(self) -> None:
        self.prediction.check(self.noise_schedule.path)

    def time(self, kappa: float) -> float:
        """What the network is told at κ ∈ [0, ∞], in diffusers' timesteps (float64)."""
        return CLOCKS[self.clock](self.noise_schedule, kappa, self.timesteps)

    def input_scale(self, point: Point) -> float:
        """The factor on x before the network: EDM's c_in = 1/√(σ² + σ_data²), else 1."""
        if self.prediction.kind != "edm":
            return 1.0
        return 1 / math.hypot(point.sigma, self.prediction.sigma_data)

    def at(self, tokens: int) -> Training:
        """The same with the shift for ``tokens`` image tokens, where the shift depends on them."""
        schedule = self.noise_schedule
        if not isinstance(schedule, SizedFlow):
            return self
        return replace(self, noise_schedule=schedule.for_tokens(tokens))

    def seen_in(self, patch: tuple[int, ...]) -> Training:
        """The same for a network one of whose tokens covers ``patch`` latents."""
        if not isinstance(self.noise_schedule, SizedFlow):
            return self
        return replace(self, noise_schedule=replace(self.noise_schedule, patch=patch))


@dataclass(frozen=True)
class SchedulerKind:
    """How to read a scheduler's config, and the defaults that a class's constructor gives to keys its config may lack."""

    read: Callable[[dict[str, Any], str], Training]
    defaults: dict[str, Any] = field(default_factory=dict)


def table(c: dict[str, Any], where: str) -> Training:
    if c.get("use_flow_sigmas"):
        return flow({**c, "shift": c.get("flow_shift", 1.0)}, where)
    kind = _prediction(c, where)
    if kind == "flow":
        raise ValueError(f"{where}: flow_prediction without use_flow_sigmas contradicts itself")
    if c.get("timestep_type") == "continuous":
        return _continuous(c, kind, where)
    return Training(_table_schedule(c, where), Prediction(kind), "index", c["num_train_timesteps"])


def _table_schedule(c: dict[str, Any], where: str) -> NoiseSchedule:
    zero, shift = bool(c.get("rescale_betas_zero_snr")), float(c.get("snr_shift_scale") or 1.0)
    if c.get("trained_betas") is not None:
        betas = np.asarray(c["trained_betas"], np.float64)
        if betas.ndim != 1 or len(betas) < 2 or not np.all((betas > 0) & (betas < 1)):
            raise ValueError(f"{where}: trained_betas must be 2 or more numbers between 0 and 1")
        alpha_bar: Array = np.cumprod(1 - betas, dtype=np.float64)
        alpha_bar = np.asarray(alpha_bar / (shift + (1 - shift) * alpha_bar), np.float64)
        alpha_bar = zero_terminal_snr(alpha_bar) if zero else alpha_bar
        with np.errstate(divide="ignore"):
            return Measured(tuple(np.sqrt((1 - alpha_bar) / alpha_bar).tolist()))
    make = BETAS.get(c["beta_schedule"])
    if make is None:
        raise ValueError(
            f"{where}: beta_schedule = {c['beta_schedule']!r} is not known; known: {', '.join(BETAS)}"
        )
    knobs: dict[str, Any] = dict(timesteps=c["num_train_timesteps"], zero_snr=zero)
    if make is not CosineVP:
        knobs |= dict(beta_start=c["beta_start"], beta_end=c["beta_end"])
    if shift != 1.0:
        knobs |= dict(snr_shift=shift)
    return make(**knobs)


def _continuous(c: dict[str, Any], kind: str, where: str) -> Training:
    """Euler with ``timestep_type: continuous`` (Stable Video Diffusion): v prediction as EDM with σ_data = 1."""
    if kind != "v" or not (c.get("sigma_min") and c.get("sigma_max")):
        raise ValueError(
            f"{where}: timestep_type = 'continuous' is known with v_prediction, sigma_min and sigma_max only"
        )
    schedule = EDM(float(c["sigma_min"]), float(c["sigma_max"]))
    return Training(schedule, Prediction("edm", 1.0), "log", c["num_train_timesteps"], sign=-1.0)


def flow(c: dict[str, Any], where: str) -> Training:
    kind = _prediction(c, where) if c.get("prediction_type") else "flow"
    if c.get("invert_sigmas"):
        raise ValueError(f"{where}: invert_sigmas (Mochi) is not supported")
    curves = [key for key in CURVES if c.get(key)]
    if len(curves) > 1:
        raise ValueError(f"{where}: {' and '.join(curves)} contradict each other: keep one")
    T = c["num_train_timesteps"]
    if not c.get("use_dynamic_shifting"):
        schedule = RectifiedFlowSchedule(shift=float(c.get("shift") or 1.0))
        return Training(schedule, Prediction(kind), "flow", T)
    keys = dict(
        base="base_shift", most="max_shift", n0="base_image_seq_len", n1="max_image_seq_len"
    )
    numbers: dict[str, Any] = {k: c[v] for k, v in keys.items() if c.get(v) is not None}
    growth = c.get("time_shift_type") or "exponential"
    if growth not in ("exponential", "linear"):
        raise ValueError(f"{where}: time_shift_type = {growth!r} is neither exponential nor linear")
    rule = SizeShift(**numbers, linear=growth == "linear")
    schedule = SizedFlow(shift=rule.at(rule.n1), rule=rule)
    return Training(schedule, Prediction(kind), "flow", T)


def edm(c: dict[str, Any], where: str) -> Training:
    kind = _prediction(c, where)
    if kind not in ("eps", "v"):
        raise ValueError(f"{where}: an EDM scheduler takes epsilon or v_prediction, not {kind}")
    schedule = EDM(float(c["sigma_min"]), float(c["sigma_max"]))
    prediction = Prediction("edm", float(c["sigma_data"]))
    # v_prediction differs from EDM's F by the sign of c_out.
    return Training(
        schedule, prediction, c["clock"], c["num_train_timesteps"], 1.0 if kind == "eps" else -1.0
    )


def score(c: dict[str, Any], where: str) -> Training:
    schedule = EDM(float(c["sigma_min"]), float(c["sigma_max"]))
    return Training(schedule, Prediction("score"), "sigma", c["num_train_timesteps"])


def _prediction(c: dict[str, Any], where: str) -> str:
    old = "sample" if c.get("predict_epsilon") is False else "epsilon"  # before diffusers 0.10
    name = c.get("prediction_type") or old
    if name not in PREDICTIONS:
        raise ValueError(
            f"{where}: prediction_type = {name!r} is not known; known: {', '.join(PREDICTIONS)}"
        )
    return PREDICTIONS[name]


_T = dict(num_train_timesteps=1000)
_DDPM = SchedulerKind(table, _T | dict(beta_start=1e-4, beta_end=0.02, beta_schedule="linear"))
_KDIFFUSION = SchedulerKind(
    table, _T | dict(beta_start=0.00085, beta_end=0.012, beta_schedule="linear")
)
_LCM = SchedulerKind(
    table, _T | dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
)
_COGVIDEOX = SchedulerKind(table, _LCM.defaults | dict(snr_shift_scale=3.0))
_UNCLIP = SchedulerKind(table, _T | dict(beta_schedule="squaredcos_cap_v2"))
_FLOW = SchedulerKind(flow, _T)
_EDM = SchedulerKind(edm, _T | dict(sigma_min=0.002, sigma_max=80.0, sigma_data=0.5, clock="log"))
_COSINE = SchedulerKind(
    edm,
    _T
    | dict(sigma_min=0.3, sigma_max=500.0, sigma_data=1.0, prediction_type="v_prediction")
    | dict(clock="atan"),
)
_SCORE = SchedulerKind(score, dict(num_train_timesteps=2000, sigma_min=0.01, sigma_max=1348.0))

#: Scheduler class → kind.
SCHEDULERS: dict[str, SchedulerKind] = {
    "DDPMScheduler": _DDPM,
    "DDPMParallelScheduler": _DDPM,
    "DDIMScheduler": _DDPM,
    "DDIMParallelScheduler": _DDPM,
    "DDIMInverseScheduler": _DDPM,
    "PNDMScheduler": _DDPM,
    "RePaintScheduler": _DDPM,
    "DEISMultistepScheduler": _DDPM,
    "DPMSolverMultistepScheduler": _DDPM,
    "DPMSolverMultistepInverseScheduler": _DDPM,
    "DPMSolverSinglestepScheduler": _DDPM,
    "SASolverScheduler": _DDPM,
    "UniPCMultistepScheduler": _DDPM,
    "EulerDiscreteScheduler": _DDPM,
    "EulerAncestralDiscreteScheduler": _DDPM,
    "LMSDiscreteScheduler": _DDPM,
    "DPMSolverSDEScheduler": _KDIFFUSION,
    "HeunDiscreteScheduler": _KDIFFUSION,
    "KDPM2DiscreteScheduler": _KDIFFUSION,
    "KDPM2AncestralDiscreteScheduler": _KDIFFUSION,
    "LCMScheduler": _LCM,
    "TCDScheduler": _LCM,
    "CogVideoXDDIMScheduler": _COGVIDEOX,
    "CogVideoXDPMScheduler": _COGVIDEOX,
    "UnCLIPScheduler": _UNCLIP,
    "FlowMatchEulerDiscreteScheduler": _FLOW,
    "FlowMatchHeunDiscreteScheduler": _FLOW,
    "FlowMatchLCMScheduler": _FLOW,
    "LTXEulerAncestralRFScheduler": _FLOW,
    "EDMEulerScheduler": _EDM,
    "EDMDPMSolverMultistepScheduler": _EDM,
    "CosineDPMSolverMultistepScheduler": _COSINE,
    "ScoreSdeVeScheduler": _SCORE,
}


#: Keys of configs that change a run, though not the network: (the value that changes nothing, where the
#: same is set here).
UNREAD: dict[str, tuple[Any, str]] = {
    "clip_sample": (False, "clip_x0 of DDPM"),
    "thresholding": (False, "Dynamic Thresholding"),
    "timestep_spacing": (None, "spacing of Steps"),
    "steps_offset": (0, "offset of the leading spacing"),
    "use_karras_sigmas": (False, "spacing of Steps"),
    "use_exponential_sigmas": (False, "spacing of Steps"),
    "use_beta_sigmas": (False, "spacing of Steps"),
    "shift_terminal": (None, "nothing here stretches steps to a last level above 0"),
    "set_alpha_to_one": (True, "final of Steps"),
    "final_sigmas_type": ("zero", "final of Steps"),
    "lambda_min_clipped": (-math.inf, "spacing of Steps"),
    "stochastic_sampling": (False, "an ancestral solver"),
    "interpolation_type": ("linear", "spacing of Steps"),
    "sigma_schedule": (None, "spacing of Steps"),
}
#: Classes that clip where their config does not say so.
CLIPPING = (
    "DDPMScheduler", "DDPMParallelScheduler", "DDIMScheduler", "DDIMParallelScheduler", "DDIMInverseScheduler",
    "RePaintScheduler", "CogVideoXDDIMScheduler", "CogVideoXDPMScheduler", "UnCLIPScheduler",
)  # fmt: skip


def unread(kind: str, config: Config) -> tuple[str, ...]:
    """What a scheduler's config asks of a run, which steps and solver decide here: for people."""
    config = {"clip_sample": kind in CLIPPING, **config}
    asked = ((key, config.get(key, usual), usual, way) for key, (usual, way) in UNREAD.items())
    return tuple(f"{k} = {v!r} ({way})" for k, v, usual, way in asked if v not in (usual, None))


def read_training(scheduler: Component) -> Training:
    """What the scheduler's config says about the network. ValueError for what is unknown or contradictory."""
    return training_of(scheduler.kind, scheduler.config, f"{scheduler.path}/scheduler_config.json")


def training_of(kind: str, config: Config, where: str = "scheduler config") -> Training:
    """:func:`read_training` from a class name and a config."""
    reading = SCHEDULERS.get(kind)
    if reading is None:
        raise ValueError(
            f"{where}: the scheduler {kind} is not known; put the config of one of these there: {', '.join(SCHEDULERS)}"
        )
    try:
        return reading.read({**reading.defaults, **config}, where)
    except ValueError as error:
        raise error if str(error).startswith(where) else ValueError(f"{where}: {error}") from None
    except (KeyError, TypeError) as error:
        raise ValueError(f"{where}: cannot be read ({error!r})") from None
