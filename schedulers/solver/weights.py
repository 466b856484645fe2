r"""Weights of polynomial extrapolation: the one piece of algebra behind all multistep families.

Data prediction. In λ = log(α/σ) the exact ODE step over h = λ' − λ is

    x' = (σ'/σ)·x + α'·∫₀ʰ e^{u−h}·D(λ + u) du .

Replace D by the polynomial through its known values D_j at τ_j = (λ_j − λ)/h. With the moments
E_k = ∫₀ʰ e^{u−h}(u/h)^k du the weights solve Σ_j c_j τ_j^k = E_k: one small linear system gives DDIM
(one node), DPM-Solver++(2M), UniP, RES and SA-Solver's predictor, and with the node τ = 1 added their
correctors. The SDE with noise strength η has the same form with H = (1 + η)h in place of h.

Noise prediction and velocity. dy/dκ = ε (y = x/α) and dx/dσ = (x − D)/σ are plain integrals of a
polynomial through known values: weights ∫ L_j.

The polynomial may be in another coordinate than λ (σ, −log σ, κ, the step's index); then the integrals
are Gauss–Legendre sums. Everything is float64 on the CPU, once per run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from ..noise_schedule import Array, ContinuousVP
from ..path import VE, Path
from ..points import Points

NODES, WEIGHTS = np.polynomial.legendre.leggauss(64)


def moments(h: float, count: int) -> Array:
    """E_0 … E_{count−1} with E_k = ∫₀ʰ e^{u−h}(u/h)^k du; h may be ∞ (then every E_k is 1).

    E_0 = 1 − e^{−h} and E_k = 1 − (k/h)·E_{k−1}. For small h that cancels on the way up: there the last
    is the series E_k = Σ_m (−1)^m h^{m+1}·k!/(k + m + 1)! and the way goes down, E_{k−1} = (1 − E_k)·h/k.
    """
    if math.isinf(h):
        return np.ones(count)
    out = [0.0] * count
    if h < 2.0:
        k = count - 1
        term, m = h / (k + 1), 0
        while abs(term) > 1e-18 * abs(out[k]):
            out[k] += term
            term *= -h / (k + m + 2)
            m += 1
        for k in range(count - 1, 0, -1):
            out[k - 1] = (1 - out[k]) * h / k
        return np.array(out)
    out[0] = -math.expm1(-h)
    for k in range(1, count):
        out[k] = 1 - k / h * out[k - 1]
    return np.array(out)


def interpolation_weights(tau: Sequence[float], rhs: Sequence[float] | Array) -> Array:
    """c with Σ_j c_j τ_j^k = rhs_k for k < len(tau): a dual Vandermonde system (Björck & Pereyra 1970)."""
    n, c = len(tau), [float(r) for r in rhs[: len(tau)]]
    for k in range(n - 1):  # moments about the nodes, one after the other
        for i in range(n - 1, k, -1):
            c[i] -= tau[k] * c[i - 1]
    for k in range(n - 2, -1, -1):
        for i in range(k + 1, n):
            c[i] /= tau[i] - tau[i - k - 1]
        for i in range(k, n - 1):
            c[i] -= c[i + 1]
    return np.array(c)


#: Coordinates to extrapolate in, as functions of κ on a path. "index" counts steps instead.
COORDINATES: dict[str, Callable[[Path, Array], Array]] = {
    "lambda": lambda path, kappa: -np.log(kappa),
    "sigma": lambda path, kappa: _sigma(path, kappa),
    "log_sigma": lambda path, kappa: -np.log(_sigma(path, kappa)),
    "kappa": lambda path, kappa: kappa,
    "time": lambda path, kappa: ContinuousVP().unbounded_time(kappa),
}


def _sigma(path: Path, kappa: Array) -> Array:
    """σ as SIGMAS shows it, of finite κ or, on flow, any."""
    return kappa if path.host == VE() else 1 / (1 + 1 / kappa)


def coordinate(name: str, path: Path, kappas: Sequence[float]) -> list[float]:
    """The coordinate of each κ; ±∞ where the coordinate has no finite value at pure noise."""
    at_noise = name == "time" or (name in ("sigma", "log_sigma") and path.host != VE())
    return [
        float(COORDINATES[name](path, np.array(k))) if at_noise or math.isfinite(k) else math.inf
        for k in kappas
    ]


def lagrange(nodes: Sequence[float], at: Array) -> Array:
    """[len(nodes), len(at)]: the Lagrange polynomials of ``nodes`` at ``at``."""
    rows = []
    for j, node in enumerate(nodes):
        others = [other for k, other in enumerate(nodes) if k != j]
        rows.append(np.prod([(at - o) / (node - o) for o in others] or [np.ones_like(at)], axis=0))
    return np.array(rows)


def data_weights(
    points: Points, i: int, support: Sequence[int], name: str = "lambda", eta: float = 0.0
) -> Array:
    """Weights c_j of D at levels ``support`` (newest first) in x' = … + α'·Σ c_j·D_j for step i → i + 1.

    ``support`` may hold i + 1 (a corrector). Nodes at an infinite coordinate get weight 0, the limit.
    """
    p, q = points[i], points[i + 1]
    h = q.lam - p.lam
    if (
        q.sigma == 0
    ):  # every E_k is 1, the polynomial's value at the end; we take the newest D itself
        return np.array([1.0] + [0.0] * (len(support) - 1))
    if name not in ("lambda", "index"):
        return _data_weights_by_quadrature(points, i, support, name, eta)
    tau = positions(points, i, support, name)
    used = [t for t in tau if math.isfinite(t)]
    solved = iter(interpolation_weights(used, moments((1 + eta) * h, len(used))))
    return np.array([next(solved) if math.isfinite(t) else 0.0 for t in tau])


def positions(points: Points, i: int, support: Sequence[int], name: str = "lambda") -> list[float]:
    """τ_k: where the coordinate of each level lies between i (0) and i + 1 (1); ±∞ if infinitely far back."""
    if name == "index":
        return [float(k - i) for k in support]

    def at(k: int) -> float:
        return (
            points[k].lam
            if name == "lambda"
            else coordinate(name, points.path, [points.kappas[k]])[0]
        )

    start, h = at(i), at(i + 1) - at(i)
    back = [(at(k) - start) / h if math.isfinite(h) else -math.inf for k in support]
    return [float(k - i) if k in (i, i + 1) else tau for k, tau in zip(support, back, strict=True)]


def _data_weights_by_quadrature(
    points: Points, i: int, support: Sequence[int], name: str, eta: float
) -> Array:
    """∫ e^{−(1+η)v} L_j dv with e^{−v} = r = κ'/κ ∈ [e^{−h}, 1], by Gauss–Legendre in r^{1+η}."""
    p, q = points[i], points[i + 1]
    low = 0.0 if p.alpha == 0 else (q.kappa / p.kappa) ** (1 + eta)
    s = low + (NODES + 1) / 2 * (1 - low)
    at = COORDINATES[name](points.path, q.kappa / s ** (1 / (1 + eta)))
    return quadrature(points, i, support, name, at, (1 - low) / 2)


def integral_weights(
    points: Points, i: int, support: Sequence[int], name: str, over: str = "sigma"
) -> Array:
    """∫ L_j du over step i → i + 1 for u = κ ("kappa") or the host's σ ("sigma"), newest node first."""
    kappas = points.kappas
    host = points.path.host
    level = (lambda k: k) if over == "kappa" else (lambda k: host.at(k).sigma)
    start, end = level(kappas[i]), level(kappas[i + 1])
    u = start + (NODES + 1) / 2 * (end - start)
    if name == "index":  # the polynomial in steps, u linear within the step
        return (
            lagrange([float(k - i) for k in support], (NODES + 1) / 2) @ WEIGHTS * (end - start) / 2
        )
    inside = u if over == "kappa" or host == VE() else u / (1 - u)
    at = COORDINATES[name](points.path, inside)
    return quadrature(points, i, support, name, at, (end - start) / 2)


def quadrature(
    points: Points, i: int, support: Sequence[int], name: str, at: Array, scale: float | Array
) -> Array:
    """Σ weight·scale·L_j(at). Nodes infinitely far back drop out; if the step starts at one, its value is held."""
    nodes = coordinate(name, points.path, [points.kappas[k] for k in support])
    held = i in support and math.isinf(nodes[list(support).index(i)])
    keep = [k == i if held else math.isfinite(c) for k, c in zip(support, nodes, strict=True)]
    used = [0.0 if held else c for c, use in zip(nodes, keep, strict=True) if use]
    integrals = iter(lagrange(used, at) @ (WEIGHTS * scale))
    return np.array([next(integrals) if use else 0.0 for use in keep])


def exponential_row(points: Points, i: int, eta: float) -> tuple[float, float]:
    """(weight of x, size of the noise) of step i → i + 1 with noise strength η."""
    p, q = points[i], points[i + 1]
    if q.sigma == 0:
        return 0.0, 0.0
    h = q.lam - p.lam
    if math.isinf(h):
        return (0.0, q.sigma) if eta else (q.sigma / p.sigma, 0.0)
    kept = math.exp(-eta * h)
    return q.sigma / p.sigma * kept, q.sigma * math.sqrt(-math.expm1(-2 * eta * h)) if eta else 0.0
