"""The numbers that diffusers' own scheduler tests print, as data, and the loops that they are of.

Facts read from tests/schedulers of diffusers (August 2026); the loops are written anew on our solvers. All start from
one fixed state and ask one "network", out = x·t/(t + 1). ``sum`` and ``mean`` are those of |x| at the end.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from sampling_kit.doors.stepwise import Stepwise
from sampling_kit.schedulers.denoiser.diffusers.training import training_of
from sampling_kit.schedulers.path import VE, VP
from sampling_kit.schedulers.points import Points
from sampling_kit.schedulers.solver import (
    AMED,
    DDIM,
    DDPM,
    DEIS,
    LCM,
    AdamsBashforth,
    DPMSolver,
    DPMSolverMultistep,
    Euler,
    EulerAncestral,
    HeunEDM,
    UniPC,
)

LINEAR = dict(beta_start=1e-4, beta_end=0.02, beta_schedule="linear")
V = dict(prediction_type="v_prediction")
TABLE = ("DDPMScheduler", LINEAR)
TABLE_V = ("DDPMScheduler", LINEAR | V)
LONG = ("DDPMScheduler", LINEAR | dict(num_train_timesteps=1100))
LONG_V = ("DDPMScheduler", LINEAR | V | dict(num_train_timesteps=1100))
BETA_01 = ("DDPMScheduler", LINEAR | dict(beta_start=0.01))
LATENT = ("LCMScheduler", {})
EDM = ("EDMEulerScheduler", dict(num_train_timesteps=256))
EDM_V = ("EDMEulerScheduler", V)
UNCLIP = ("UnCLIPScheduler", {})


def state(shape=(3, 8, 8), batch=4, down=False):
    """0, 1/n, 2/n … or, with ``down``, the same backwards: the batch is the fastest axis."""
    count = batch * math.prod(shape)
    values = torch.arange(count, dtype=torch.float64)
    values = values.flip(0) if down else values
    return (values.reshape(*shape, batch) / count).movedim(-1, 0)


def draws():
    generator = torch.Generator().manual_seed(0)
    return lambda position, like: torch.randn(like.shape, generator=generator).to(like.dtype)


@dataclass(frozen=True)
class Loop:
    """One test: its numbers, and the run that has them.

    ``levels(schedule)`` → (κ, times told or None). ``start``: begin there, with noise added. ``loop``: what the network
    and the step see: "plain" (x, on VP), "scaled" (the test puts c_in·x in place of x, on VE), "edm" (c_in·x, on VE)
    or "unscaled" (x, on VE). ``change``: of D. ``reason``: why ours differs.
    """

    trained: tuple[str, dict[str, Any]]
    solver: Any
    levels: Any
    sum: float | None
    mean: float
    start: int = 0
    loop: str = "plain"
    change: Any = None
    reason: str = ""
    tolerance: float = 1e-3
    size: float = 1.0
    shape: tuple[int, ...] = (3, 8, 8)
    also: tuple[str, ...] = field(default=())  # tests that print the same numbers of the same run


def run(one):
    """The state at the end of our run."""
    training = training_of(*one.trained)
    kappas, told = one.levels(training.noise_schedule)
    kappas, path = kappas[one.start :], VP() if one.loop == "plain" else VE()
    times = None if told is None else iter(told[one.start :])
    size = float(training.noise_schedule.kappa_max) if one.loop == "scaled" else one.size
    x, noise = size * state(one.shape), state(one.shape, down=True)
    if one.start:
        at = path.at(kappas[0])
        x = at.alpha * x + at.sigma * noise
    going = Stepwise(one.solver, Points(path, tuple(kappas)), x, draws())
    while going.open:
        at = path.on(going.exchange.ask.sigma)
        t = training.time(at.kappa) if times is None else next(times)
        x, d = answer(one.loop, training, at, t, x)
        going.hear(x)
        x = going.answer(d if one.change is None else one.change(d), torch.float64)
    return x


def answer(loop, training, at, t, x):
    """(the state that the step is told, D)."""
    size = training.input_scale(at)
    if loop == "scaled":
        x = x / math.hypot(1, at.sigma)
    seen = x * size if loop == "edm" else x
    out = training.sign * seen * t / (t + 1)
    if loop == "scaled" and training.prediction.kind == "v":  # read at the same κ on VP
        norm = math.hypot(1, at.sigma)
        return x, x / norm**2 - out * at.sigma / norm
    return x, training.prediction.to_x0(out, x, at.alpha, at.sigma)


# ------------------------------------------------------------------------------------------ levels


def times(*values, end=0.0):
    """Whole timesteps, then ``end``: κ = 0, the level of a timestep ("t", n), or nothing."""

    def levels(schedule):
        last = [] if end is None else [end if end == 0.0 else float(schedule.kappa(end[1]))]
        return [*schedule.kappa(np.array(values, float)).tolist(), *last], None

    return levels


def even(n, T, end):
    """n timesteps down from T − 1, as diffusers' multistep classes have linspace."""
    return times(*np.linspace(0, T - 1, n + 1).round()[::-1][:-1], end=end)


def straight(n, T, repeat=False):
    """n times from T − 1 to 0; σ between timesteps interpolated linearly, as diffusers' k-diffusion classes have it."""

    def levels(schedule):
        t = np.linspace(0, T - 1, n)[::-1]
        sigmas = np.interp(t, np.arange(T), schedule.kappa(np.arange(T)))
        return [*sigmas.tolist(), 0.0], _twice(t.tolist(), repeat)

    return levels


def karras(n, end=None, whole=False, rising=False):
    """Karras' levels, and their times rounded with ``whole``. ``end``: a last level, as a factor on the one before."""

    def levels(schedule):
        top, low = (float(schedule.kappa(t)) ** (1 / 7) for t in (schedule.t_max, schedule.t_min))
        sigmas = [(top + i / (n - 1) * (low - top)) ** 7 for i in range(n)]
        sigmas = sigmas[::-1] if rising else sigmas
        t = [float(schedule.time(s)) for s in sigmas]
        last = [] if end is None else [end * sigmas[-1]]
        return [*sigmas, *last], [round(v) for v in t] if whole else None

    return levels


def log_even(n):
    """log σ falls evenly; times rounded."""

    def levels(schedule):
        sigmas = np.geomspace(schedule.kappa_max, schedule.kappa_min, n).tolist()
        return sigmas, [round(float(schedule.time(s))) for s in sigmas]

    return levels


def _twice(t, repeat):
    return [t[0], *(v for v in t[1:] for _ in (0, 1))] if repeat else t


def distilled(n, end=0.0):
    """n of the 50 timesteps 19, 39, … 999 of consistency distillation."""
    grid = np.arange(50, 0, -1) * 20 - 1
    return times(*grid[np.floor(np.linspace(0, 50, n, endpoint=False)).astype(int)], end=end)


LEADING, ALL_TIMES = [900 - 100 * i for i in range(10)], list(range(999, -1, -1))
SMALLEST = ("t", 0)
EVEN, EVEN_UP = even(10, 1000, SMALLEST), times(*np.linspace(0, 999, 11).round()[:-1], end=("t", 999))  # fmt: skip
STRAIGHT = straight(10, 1100)
BOX = lambda d: d.clamp(-0.5, 0.5) / 0.5  # noqa: E731  thresholding with sample_max_value = 0.5
CLIPPED, DEIS2, UNI, MULTI = (
    DDPM(clip_x0=1.0), DEIS(2, "lambda", lower_order_final=True), UniPC(2, "bh2", lower_order_final=True), DPMSolverMultistep(2),
)  # fmt: skip
FLOAT32 = "its table of ᾱ is float32; with our table in double theirs gives our numbers"
OVERWRITTEN = "the test puts the network's scaled input in place of the state between the two evaluations of a step"
QUADRATURE = "its coefficients are a numerical quadrature, 1e-4 off"
MIDDLE = "its middle state lies on the next timestep of the grid, ours in the middle of λ"
INVERSE = "it asks the network at the time of the level that it goes to (docs/elsewhere.md)"
GUARD = "on rising levels ours combines as many values as stay stable (docs/plans.md)"


def long(solver, e, v, noise, levels=STRAIGHT, **more):
    """The three loops that the tests of k-diffusion's classes have in common."""
    rows = {"no_noise": (LONG, *e), "v_prediction": (LONG_V, *v), "noise": (LONG, *noise)}
    return {
        name: Loop(
            trained, solver, levels, total, mean, loop="scaled",
            **{"start": 8 if name == "noise" else 0, "also": ("device",) if name == "no_noise" else ()} | more,
        )
        for name, (trained, total, mean) in rows.items()
    }  # fmt: skip


LOOPS = {
    "ddim": {
        "no_noise": Loop(TABLE, DDIM(), times(*LEADING), 172.0067, 0.223967, also=("parallel no_noise",)),
        "v_prediction": Loop(TABLE_V, DDIM(), times(*LEADING), 52.5302, 0.0684, also=("parallel v_prediction",)),
        "set_alpha_to_one": Loop(BETA_01, DDIM(), times(*LEADING), 149.8295, 0.1951, also=("parallel set_alpha_to_one",)),
        # its last step goes from t = 0 to the level of t = 0
        "no_set_alpha_to_one": Loop(BETA_01, DDIM(), times(*LEADING, end=None), 149.0784, 0.1941, also=("parallel no_set_alpha_to_one",)),
        "noise": Loop(TABLE, DDIM(), times(*LEADING), 354.5418, 0.4616, start=8, also=("parallel noise",)),
    },
    "ddpm": {
        "no_noise": Loop(TABLE, CLIPPED, times(*ALL_TIMES), 258.9606, 0.3372, also=("parallel no_noise",)),
        "v_prediction": Loop(TABLE_V, CLIPPED, times(*ALL_TIMES), 202.0296, 0.2631, also=("parallel v_prediction",)),
        "noise": Loop(TABLE, CLIPPED, times(*ALL_TIMES), 387.9466, 0.5051, start=998, also=("parallel noise",)),
    },
    "unclip": {
        "all": Loop(UNCLIP, CLIPPED, times(*ALL_TIMES), 252.2682495, 0.3284743, reason=FLOAT32),
        "skip": Loop(UNCLIP, CLIPPED, times(*(np.arange(25) * (999 / 24)).round()[::-1]), 258.2044983, 0.3362038, reason=FLOAT32),
    },
    "ddim_inverse": {
        "no_noise": Loop(TABLE, DDIM(), times(*LEADING[::-1], end=None), 671.6816, 0.8746, reason=INVERSE, also=("set_alpha_to_one", "no_set_alpha_to_one")),
        "v_prediction": Loop(TABLE_V, DDIM(), times(*LEADING[::-1], end=None), 1394.2185, 1.8154, reason=INVERSE),
    },
    "deis": {
        "no_noise": Loop(TABLE, DEIS2, EVEN, None, 0.23916, also=("switch",)),
        "v_prediction": Loop(TABLE_V, DEIS2, EVEN, None, 0.091),
        "noise": Loop(TABLE, DEIS2, EVEN, 315.3016, 0.41054, start=8),
    },
    "dpm_multi": {
        "no_noise": Loop(TABLE, MULTI, EVEN, None, 0.3301, also=("switch",)),
        "noise": Loop(TABLE, MULTI, EVEN, 318.4111, 0.4146, start=5),
        "thresholding": Loop(TABLE, MULTI, EVEN, None, 1.1364, change=BOX),
        "v_prediction": Loop(TABLE_V, MULTI, EVEN, None, 0.2251),
        "karras, v_prediction": Loop(TABLE_V, MULTI, karras(10, whole=True), None, 0.2096),
        "lu, v_prediction": Loop(TABLE_V, MULTI, log_even(10), None, 0.1554),
    },
    "dpm_multi_inverse": {
        "no_noise": Loop(TABLE, MULTI, EVEN_UP, None, 0.7047, also=("switch",)),
        "thresholding": Loop(TABLE, MULTI, EVEN_UP, None, 19.8933, change=BOX),
        "v_prediction": Loop(TABLE_V, MULTI, EVEN_UP, None, 1.5194),
        "karras, v_prediction": Loop(TABLE_V, MULTI, karras(10, whole=True, rising=True), None, 1.7833, reason=GUARD),
    },
    "dpm_single": {
        "no_noise": Loop(TABLE, DPMSolver(2), EVEN, None, 0.2791, reason=MIDDLE, also=("switch", "uneven", "noise")),
        "v_prediction": Loop(TABLE_V, DPMSolver(2), EVEN, None, 0.1453, reason=MIDDLE, also=("karras", "karras, v_prediction")),
    },
    "unipc": {
        "no_noise": Loop(TABLE, UNI, EVEN, None, 0.2464, also=("switch",)),
        "v_prediction": Loop(TABLE_V, UNI, EVEN, None, 0.1014),
        # its last step has no length, and corrects
        "karras": Loop(TABLE, UNI, karras(10, end=1 - 1e-7, whole=True), None, 0.2925),
        "karras, v_prediction": Loop(TABLE_V, UNI, karras(10, end=1 - 1e-7, whole=True), None, 0.1966),
        "noise": Loop(TABLE, UNI, EVEN, 315.5757, 0.4109, start=8),
        "1D": Loop(TABLE, UNI, EVEN, None, 0.2441, shape=(3, 8), also=("1D switch",)),
        "1D v_prediction": Loop(TABLE_V, UNI, EVEN, None, 0.1014, shape=(3, 8)),
        "1D karras": Loop(TABLE, UNI, karras(10, end=1 - 1e-7, whole=True), None, 0.2898, shape=(3, 8)),
        "1D karras, v_prediction": Loop(TABLE_V, UNI, karras(10, end=1 - 1e-7, whole=True), None, 0.1944, shape=(3, 8)),
        "1D noise": Loop(TABLE, UNI, EVEN, 39.0870, 0.4072, start=8, shape=(3, 8)),
    },
    "euler": long(Euler(), (10.0807, 0.0131), (0.0002, 2.2676e-06), (57062.9297, 74.3007)) | {
        "karras": Loop(LONG, Euler(), karras(10, end=0.0), 124.52299, 0.16213932, loop="scaled"),
    },
    "euler_ancestral": long(EulerAncestral(), (152.3192, 0.1983), (108.4439, 0.1412), (56163.0508, 73.1290)),
    "heun": long(HeunEDM(), (0.1233, 0.0002), (4.6934e-07, 6.1112e-10), (75074.8906, 97.7538), straight(10, 1100, True), reason=OVERWRITTEN),
    "kdpm2": long(AMED(), (20.4125, 0.0266), (4.6934e-07, 6.1112e-10), (70408.4062, 91.6776), lambda s: (STRAIGHT(s)[0], None), reason=OVERWRITTEN),
    "lms": long(AdamsBashforth(4, "variable", "sigma"), (1006.388, 1.31), (0.0017, 2.2676e-06), (27663.6895, 36.0204), reason=QUADRATURE) | {
        "karras": Loop(LONG, AdamsBashforth(4, "variable", "sigma"), karras(10, end=0.0), 3812.9927, 4.9648, loop="scaled", reason=QUADRATURE),
    },
    "edm_euler": {"no_noise": Loop(EDM, Euler(), karras(10, end=0.0), 34.1855, 0.044, loop="edm", size=math.hypot(80, 1), also=("device",))},
    "edm_dpm": {
        "no_noise": Loop(EDM, MULTI, karras(10), None, 0.0001, loop="unscaled"),
        "thresholding": Loop(EDM, MULTI, karras(10), None, 0.0080, loop="unscaled", change=BOX),
        "v_prediction": Loop(EDM_V, MULTI, karras(10), None, 0.0092, loop="unscaled"),
        "noise": Loop(EDM, MULTI, karras(10), 8.1661, 0.0106, start=5, loop="unscaled"),
    },
    "lcm": {
        "one step": Loop(LATENT, LCM(), distilled(1), 18.7097, 0.0244),
        "ten steps": Loop(LATENT, LCM(), distilled(10), 197.7616, 0.2575),
    },
    "tcd": {  # gamma = 0 ends at t = 0
        "one step": Loop(LATENT, DDIM(), distilled(1, end=SMALLEST), 29.8715, 0.0389),
        "ten steps": Loop(LATENT, DDIM(), distilled(10, end=SMALLEST), 181.204, 0.2359),
    },
}  # fmt: skip
#: What is not run here, and why.
NOT_RUN = {
    "pndm (4)": "its start is Runge–Kutta on half timesteps, and with v it combines v (docs/elsewhere.md)",
    "ipndm (1)": "its loop runs twice over one history, and it discards its first output (docs/elsewhere.md)",
    "kdpm2_ancestral (4)": "the test scales the state between the two evaluations of a step, and noise is drawn there",
    "sasolver (4)": "it draws noise where τ is 0 too, and its corrector takes the draw of the predictor",
    "dpm_sde (4)": "its noise is a Brownian tree of torchsde",
    "score_sde_ve (1)": "the size of a corrector's move is averaged over the batch; ours is each image's own",
    "consistency_model (3)": "a consistency network's own scaling, whose D at σ_min is x; not among the predictions here",
    "heun karras (1)": "see heun",
    "unclip learned_range (1)": "the network's variance; a table of DDPM takes one mix for all pixels",
    "betas (4), custom timesteps and sigmas (7)": "they compare diffusers with itself",
}
