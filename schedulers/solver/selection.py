"""Settings of every solver that are worth comparing: rivals of a fit, rows of docs/solvers.md, cases of tests.

A solver needs an entry only where its choices one at a time are not what is interesting about it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from itertools import product
from typing import Any

from .adams import DEIS, AdamsBashforth, GradientEstimation
from .base import Solver
from .ddim import DDIM, EulerAncestral, RectifiedFlow
from .ddpm import DDPM
from .euler import Euler
from .gaussian import GaussianAdams
from .heun import HeunEDM
from .idempotent import Idempotent
from .langevin import Langevin
from .multistep import COORDINATES, DPMSolverMultistep, SASolver, UniPC
from .restart import Restart
from .runge_kutta import EXPONENTIAL, TABLEAUX, DPMSolver, ExponentialRungeKutta, RungeKutta
from .stochastic import ERSDE, NOISE_SCALES
from .tcd import TCD


def variants(kind: type[Solver]) -> tuple[Solver, ...]:
    """The settings of a solver, its default among them."""
    chosen: Callable[[Any], Iterator[Solver]] = CHOSEN.get(kind, each_choice)
    return tuple(dict.fromkeys(chosen(kind)))


def each_choice(kind: type[Solver]) -> Iterator[Solver]:
    """The default, then every option of every choice that is not an advanced one."""
    yield kind()
    for knob in fields(kind):
        if not knob.metadata.get("advanced"):
            for option in knob.metadata.get("options") or ():
                yield replace(kind(), **{knob.name: option})


def ddpm(kind: type[DDPM]) -> Iterator[Solver]:
    yield from (kind(), kind("large"), kind("interpolated", mix=0.3))
    yield from (kind("analytic", data_std=0.6), kind(clip_x0=50.0))


def dpm_solver(kind: type[DPMSolver]) -> Iterator[Solver]:
    yield from (kind(n, form) for form in ("++", "original") for n in (2, 1, 3))
    yield from (*(kind(n, eta=1.0) for n in (1, 2, 3)), kind(2, eta=0.5))


def dpm_solver_multistep(kind: type[DPMSolverMultistep]) -> Iterator[Solver]:
    yield from (kind(n) for n in (2, 1, 3))
    yield kind(3, coordinate="log_sigma", lower_order_final=True)
    yield from (kind(n, "exact", coordinate=c) for c in COORDINATES for n in (2, 3))
    yield from (kind(n, "exact", start="single_step") for n in (2, 3))
    yield from (kind(n, w, 1.0) for n in (1, 2, 3) for w in ("published", "exact"))
    yield kind(2, eta=0.5)


def unipc(kind: type[UniPC]) -> Iterator[Solver]:
    yield from (kind(), kind(2, "bh1"), kind(3, "bh2"), kind(3, "bh1"), kind(2, "bh2", False))
    yield from (*(kind(n, "exact") for n in (1, 2, 3, 4)), kind(2, "exact", False))
    yield from (kind(2, "bh1", coordinate="sigma"), kind(2, "exact", coordinate="log_sigma"))
    yield kind(3, "exact", coordinate="index")
    yield from (kind(3, start="single_step"), kind(4, "exact", False, start="single_step"))
    yield kind(3, lower_order_final=True)
    yield from (kind(n, "exact", n < 6, start="single_step") for n in (5, 6))
    yield from (kind(3, eta=1.0), kind(6, "exact", eta=0.5))


def adams_bashforth(kind: type[AdamsBashforth]) -> Iterator[Solver]:
    yield from (kind(n) for n in (3, 1, 2, 4))
    for coordinate, n in product(("sigma", "log_sigma", "lambda", "index"), (2, 3)):
        yield kind(n, "variable", coordinate)
    yield kind(4, "variable")
    for coordinate, n in product(("sigma", "lambda"), (2, 3, 4)):
        yield kind(n, "variable", coordinate, "single_step")
    yield kind(6, "variable", "sigma", "single_step")


def deis(kind: type[DEIS]) -> Iterator[Solver]:
    yield from (kind(n, v) for v in ("time", "kappa", "lambda", "steps") for n in (3, 1, 2))
    yield from (kind(4, "steps"), kind(3, start="single_step"))
    yield from (kind(4, "lambda", start="single_step"), kind(3, lower_order_final=True))


def gaussian_adams(kind: type[GaussianAdams]) -> Iterator[Solver]:
    yield from (kind(prior) for prior in (1.0, 0.5, 2.0, 4.0))
    yield from (kind(prior, 2, 3, coordinate="sigma") for prior in (1.0, 4.0))
    for prior, n in ((2.0, 3), (8.0, 3), (8.0, 4)):  # for few steps
        yield kind(prior, n, 0, coordinate="index")
    yield from (kind(prior, 1, 0, "network") for prior in (4.0, 8.0))
    yield kind(1.0, 2, 0, "network", "sigma")
    yield kind(lower_order_early=True)


def sa_solver(kind: type[SASolver]) -> Iterator[Solver]:
    yield from (kind(), kind(2, 2), kind(1, 0), kind(2, 2, pece=True))
    yield kind(coordinate="sigma", lower_order_final=True)
    yield from (kind(p, c, 0.0) for p, c in ((2, 0), (2, 2), (3, 4), (1, 4)))
    yield kind(2, 3, 0.0, pece=True)
    yield kind(2, 3, 0.0, pece=True, coordinate="log_sigma", start="single_step")
    yield kind(3, 4, 0.0, start="single_step")
    yield kind(3, 4, 0.0, lower_order_early=True)
    yield kind(6, 6)


CHOSEN: dict[type[Solver], Callable[[Any], Iterator[Solver]]] = {
    DDPM: ddpm,
    DDIM: lambda kind: map(kind, (0.0, 1.0, 0.4)),
    Euler: lambda kind: map(kind, (0.0, 20.0)),
    EulerAncestral: lambda kind: map(kind, (1.0, 0.5)),
    HeunEDM: lambda kind: iter((kind(), kind(20.0, noise=1.003))),
    RectifiedFlow: lambda kind: map(kind, (0.0, 1.0)),
    DPMSolver: dpm_solver,
    DPMSolverMultistep: dpm_solver_multistep,
    UniPC: unipc,
    AdamsBashforth: adams_bashforth,
    DEIS: deis,
    GaussianAdams: gaussian_adams,
    ExponentialRungeKutta: lambda kind: map(kind, EXPONENTIAL),
    RungeKutta: lambda kind: (kind(m, v) for v in ("sigma", "lambda") for m in TABLEAUX),
    SASolver: sa_solver,
    ERSDE: lambda kind: (kind(n, scale) for scale in NOISE_SCALES for n in (3, 2, 1)),
    GradientEstimation: lambda kind: map(kind, (2.0, 1.0)),
    Restart: lambda kind: iter((kind(), kind(3, 0.1, 0.8), kind(0))),
    TCD: lambda kind: iter((kind(), kind(0.5, "sigma"), kind(0.0))),
    Langevin: lambda kind: iter((*each_choice(kind), kind("ancestral", 2, 0.1))),
    Idempotent: lambda kind: iter((kind(), kind(5, 1e-3))),
}
