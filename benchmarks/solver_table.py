"""docs/solvers.md: what every solver in ``ALL`` claims, and what was measured.

    python -m benchmarks.solver_table [--write]

Order is measured as in ``tests/test_solvers.py``: the error on a curved field at two numbers of steps,
on each path; for solvers that draw noise, the error of the variance of Gaussian data. The error of few
evaluations is that of ``problems.py``. Nothing here names a solver.
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
from pathlib import Path as File
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sampling_kit.benchmarks.problems import (
    Denoise,
    Problem,
    answer,
    gaussian_noise,
    mixture,
    problem,
    rmse,
    two_products,
)
from sampling_kit.schedulers.denoiser import Gaussian, Mixture
from sampling_kit.schedulers.path import VE, VP, Flow, Path
from sampling_kit.schedulers.points import Points
from sampling_kit.schedulers.solver import ALL, Solver
from sampling_kit.schedulers.solver.run import Run
from sampling_kit.schedulers.solver.selection import variants

PAGE = File(__file__).resolve().parent.parent / "docs" / "solvers.md"
PATHS: tuple[Path, ...] = (VP(), VE(), Flow())
#: The columns of errors: what is run, and with how many evaluations.
COLUMNS = (
    *(("VE", n) for n in (5, 8, 10, 20)),
    *((task, n) for task in ("flow", "flow λ", "guided") for n in (10, 20)),
    ("return", 20),
)
ERRORS = [f"{task} {budget}" for task, budget in COLUMNS]
GUIDANCE = 7.5
NONE = "–"

Measured = Mapping[str, Sequence[str]]
"""call → the measured cells of its row."""


# ---- order, on a curved field (the same as in tests/test_solvers.py)

MEANS = np.array([[1.0, 0.5], [-1.5, 1.0], [0.2, -1.2]])
DEVIATIONS = np.array([0.5, 0.7, 0.6])
FROM = 3 * gaussian_noise(16, 2, seed=1)
#: Numbers of steps at which each order is past its start and above round-off.
PAIRS = {1: (96, 192), 2: (192, 384), 3: (384, 768), 4: (64, 128), 5: (48, 96), 6: (96, 192)}


def curved(x: Any, sigma: float, alpha: float = 1.0) -> Any:
    """D of three Gaussians on arrays [B, 2]: ``denoiser.Mixture`` with a tenth of its overhead."""
    a2 = alpha * DEVIATIONS**2
    s2 = alpha * a2 + sigma**2
    far = (x * x).sum(1, keepdims=True) - 2 * alpha * x @ MEANS.T + alpha**2 * (MEANS**2).sum(1)
    logits = -far / (2 * s2) - np.log(s2)
    gamma = np.exp(logits - logits.max(1, keepdims=True))
    gamma /= gamma.sum(1, keepdims=True)
    gain = a2 / s2
    return gamma @ ((1 - alpha * gain)[:, None] * MEANS) + (gamma @ gain)[:, None] * x


def uneven(path: Path, n: int) -> Points:
    """κ from 3 to 0.1 in uneven steps."""
    u = np.linspace(0, 1, n + 1)
    u = u + 0.15 * np.sin(np.pi * u) ** 2 * u
    return Points(path, tuple(3 * (0.1 / 3) ** u))


@lru_cache
def curved_end() -> Tensor:
    """y at κ = 0.1 of the trajectories from FROM, by an adaptive method of order 8."""
    from scipy.integrate import solve_ivp

    def slope(lam: float, y: Any) -> Any:
        state = y.reshape(-1, 2)
        return (curved(state, math.exp(-lam)) - state).ravel()

    ends = (-math.log(3), -math.log(0.1))
    end = solve_ivp(slope, ends, FROM.numpy().ravel(), method="DOP853", rtol=1e-13, atol=1e-13)
    return torch.from_numpy(end.y[:, -1].reshape(-1, 2))


def curved_error(solver: Solver, path: Path, n: int) -> float:
    points, host = uneven(path, n), path.host
    start, end = (host.at(points.kappas[i]).alpha for i in (0, -1))

    def denoise(x: Tensor, sigma: float) -> Tensor:
        return torch.from_numpy(curved(x.numpy(), sigma, host.on(sigma).alpha))

    x = solver.solve(points, Run(denoise), start * FROM)
    return (x / end - curved_end()).square().mean().sqrt().item()


def order(solver: Solver, path: Path) -> str:
    """log₂ of what twice the steps gain; nothing for a solver that chooses its steps or has no order."""
    if solver.order not in PAIRS or not solver.planned:
        return NONE
    coarse, fine = (curved_error(solver, path, n) for n in PAIRS[solver.order])
    return f"{math.log2(coarse / fine):.1f}"


# ---- solvers that draw noise: the variance of one-dimensional Gaussian data, without Monte Carlo


def spread(solver: Solver, points: Points, deviation: float) -> list[tuple[float, float]]:
    """(σ, variance of the state) at each step and at the end, for x0 ~ N(0, deviation²).

    The run is linear in x_T and in each draw, so it is run once on the vector of their coefficients.
    """
    p, plan = points[0], solver.plan(points)
    oracle = Gaussian(points.path, torch.zeros(1, dtype=torch.float64), deviation)
    unit = torch.eye(sum(stage.noise != 0 for stage in plan.stages) + 1, dtype=torch.float64)
    x = unit[:, :1] * math.sqrt(p.alpha**2 * deviation**2 + p.sigma**2)
    seen: list[tuple[float, float]] = []
    end = plan.solve(
        Run(
            oracle,
            lambda position, like: unit[:, position : position + 1],
            lambda s: seen.append((s.sigma, s.x.square().sum().item())),
        ),
        x,
    )
    return [*seen, (points[-1].sigma, end.square().sum().item())]


def geometric(path: Path, top: float, bottom: float, n: int) -> Points:
    return Points(path, tuple(np.geomspace(top, bottom, n + 1)))


def weak_order(solver: Solver, path: Path) -> str:
    """log₂ of what 200 steps instead of 100 gain in the variance of data with deviation 0.6."""
    if not solver.planned:
        return NONE
    errors = []
    for n in (100, 200):
        points = geometric(path, 80.0, 0.05, n)
        q = points[-1]
        exact = q.alpha**2 * 0.6**2 + q.sigma**2
        errors.append(abs(spread(solver, points, 0.6)[-1][1] / exact - 1))
    return f"{math.log2(errors[0] / errors[1]) + 0.0:.1f}" if errors[1] > 1e-12 else "exact"


def exact_for_a_point(solver: Solver) -> str:
    """Whether, for data at one point, the state's deviation is exactly σ' after every step."""
    if not solver.planned:
        return NONE
    runs = [spread(solver, geometric(p, 50.0, 0.02, n), 0.0) for p in PATHS for n in (1, 3, 10)]
    exact = all(abs(variance / s**2 - 1) < 1e-9 for run in runs for s, variance in run)
    return "yes" if exact else "no"


# ---- error of few evaluations


def error(solver: Solver, task: str, budget: int) -> str:
    """Median RMSE to the exact end of as many steps as ``budget`` evaluations pay for."""
    extra = task == "return"  # it makes no step to 0, which costs one evaluation
    steps = [n for n in range(1, budget + 1) if solver.nfe(n + extra) - extra <= budget]
    if not steps:
        return NONE
    it, spacing, exact = setting(task)
    points, calls = it.points(spacing, steps[-1] + extra), 0

    def denoise(x: Tensor, sigma: float) -> Tensor:
        nonlocal calls
        calls += 1
        return it.denoise(x, sigma)

    x = it.start
    if task == "return":
        down = points.kappas[:-1]
        x = solver.solve(Points(it.path, down[::-1]), Run(denoise), exact)
        points = Points(it.path, down)
    end = solver.solve(points, Run(denoise), x)
    allowed = budget * (1 + extra)
    return f"{rmse(end, exact).median().item():.2g}" if calls <= allowed else NONE


@lru_cache
def setting(task: str) -> tuple[Problem, str, Tensor]:
    """(problem, spacing, exact answer) of a column."""
    if task in ("flow", "flow λ"):
        spacing = "trailing" if task == "flow" else "uniform λ"
        return problem("mixture-flow"), spacing, answer("mixture-flow").end
    it = problem("mixture")
    if task == "guided":
        it = dataclasses.replace(it, denoise=guided())
        return it, "karras 7", it.finer_run(it.fine)
    end = answer("mixture").end
    if task == "return":  # the answer is where it started: data with noise of the lowest level
        noise = gaussian_noise(*end.shape, seed=3)
        return it, "karras 7", end + it.schedule.kappa_min * noise
    return it, "karras 7", end


def guided() -> Denoise:
    """Guidance towards a quarter of the mixture, D = D_all + w·(D_quarter − D_all)."""
    every = mixture(VE())
    parts = (every.means, every.floor, every.basis, every.variances)
    part = two_products(Mixture(VE(), *(p[: len(every.means) // 4] for p in parts)))
    whole = two_products(every)
    return lambda x, sigma: whole(x, sigma).lerp(part(x, sigma), GUIDANCE)


def measure(solver: Solver) -> list[str]:
    """The measured cells of a row."""
    if solver.stochastic:
        return [*(weak_order(solver, path) for path in PATHS), exact_for_a_point(solver)]
    orders = [order(solver, path) for path in PATHS]
    return orders + [error(solver, task, budget) for task, budget in COLUMNS]


def measure_all(solvers: Sequence[Solver]) -> dict[str, list[str]]:
    """On as many cores as there are."""
    if not solvers:
        return {}
    with ProcessPoolExecutor(initializer=torch.set_num_threads, initargs=(1,)) as pool:
        cells = pool.map(measure, solvers)
        return dict(zip((solver.call for solver in solvers), cells, strict=True))


# ---- the page

INTRO = f"""\
# Solvers

Written by `python -m benchmarks.solver_table --write` (with `--missing` only new rows are measured). Which one to take: [choosing.md](choosing.md).

**Claimed** is the order the solver states, and what the tests hold it to within 0.25. **VP, VE, flow** are
the orders measured on a curved field (three Gaussians, uneven steps from σ/α = 3 to 0.1).
**NFE** is the number of evaluations of the denoiser in n steps that end at 0; "or more" where it depends on
the levels, "at most" where on the data: such a run logs what it took.
The other columns are errors with that many evaluations, or as many below as fit whole steps: the median
over 32 seeds of the RMSE to the exact end point, on a mixture of 12 Gaussians in 192 dimensions whose
deviation is 0.8. A toy tells the orders of magnitude; a network's own errors come on top.

- **VE**: Karras steps from 14.6 to 0.03, then 0. VP models run in the same coordinates, so this is theirs too.
- **flow**: rectified flow with shift 3, steps uniform in time. **flow λ**: steps uniform in λ = log(α/σ).
- **guided**: VE with guidance of scale {GUIDANCE} towards a quarter of the mixture.
- **return**: VE from data with noise 0.03 up to 14.6 and back, {COLUMNS[-1][1]} evaluations each way; the distance
  from where it started (inversion).

Variants that draw noise have a weak order instead: **VP, VE, flow** show how fast the variance of
Gaussian data (deviation 0.6, σ/α from 80 to 0.05) tends to the exact one from 100 to 200 steps. It
tends elsewhere where the noise has another size than 1, and not at all where the claim is 0.
**Point** says whether the noise is exactly right at every step when the data are one point.

A {NONE} means: not applicable."""


def variants_of_all() -> list[Solver]:
    return [variant for solver in ALL for variant in variants(solver)]


def missing(measured: Measured) -> list[Solver]:
    """The variants that have no row yet."""
    return [variant for variant in variants_of_all() if variant.call not in measured]


def updated(text: str) -> str:
    """The page with rows for the variants that ``text`` lacks; what ``text`` has is not measured again."""
    measured = read(text)
    return page(measured | measure_all(missing(measured)))


def page(measured: Measured) -> str:
    parts = [INTRO, nearest(measured), *(family(solver, measured) for solver in ALL)]
    return "\n\n".join(parts) + "\n"


def nearest(measured: Measured, count: int = 4) -> str:
    """The best rows of each column of errors."""
    still = [v.call for f in ALL for v in variants(f) if not v.stochastic]
    rows = []
    for k, heading in enumerate(ERRORS):
        column = {name: measured[name][len(PATHS) + k] for name in still}
        known = [name for name in still if column[name] != NONE]
        best = sorted(known, key=lambda name: float(column[name]))[:count]
        rows.append([heading, *(f"`{name}` {column[name]}" for name in best)])
    return "## Nearest\n\n" + table(["error", "nearest", *[""] * (count - 1)], rows)


def family(solver: type[Solver], measured: Measured) -> str:
    doc = " ".join((inspect.getdoc(solver) or "").split())
    facts = [f"Paper: {solver.paper}.", f"Elsewhere: {solver.equals}."]
    parts = [f"## {solver.title}", doc, "  \n".join(facts), knobs(solver)]
    noisy = [v for v in variants(solver) if v.stochastic]
    still = [v for v in variants(solver) if not v.stochastic]
    for heading, rows in ((ERRORS, still), (["point"], noisy)):
        claim = "claimed" if rows is still else "weak, claimed"
        columns = ["with noise" if rows is noisy else "deterministic", claim, "NFE"]
        cells = [[f"`{v.call}`", str(v.order), nfe(v), *measured[v.call]] for v in rows]
        parts.append(table([*columns, *(p.name for p in PATHS), *heading], cells) if rows else "")
    return "\n\n".join(part for part in parts if part)


STEPS_50 = Points(VE(), (*np.geomspace(14.6, 0.03, 50), 0.0))


def nfe(solver: Solver) -> str:
    """``solver.nfe`` as a formula, read off runs longer than any history takes to start."""
    per = solver.nfe(51) - solver.nfe(50)
    rest = solver.nfe(50) - 50 * per
    sign = "+" if rest > 0 else "−"
    formula = ("" if per == 1 else str(per)) + "n" + (f" {sign} {abs(rest)}" if rest else "")
    if not per:
        return f"at most {rest}"
    more = solver.planned and solver.plan(STEPS_50).nfe > solver.nfe(50)
    return f"{formula} or more" if more else formula


def knobs(solver: type[Solver]) -> str:
    rows = [
        [f.name, str(f.default), limits(f), f.metadata["help"]] for f in dataclasses.fields(solver)
    ]
    return table(["knob", "default", "range", "what it does"], rows) if rows else ""


def limits(field: dataclasses.Field[Any]) -> str:
    meta = field.metadata
    if meta["options"]:
        return ", ".join(meta["options"])
    if isinstance(field.default, bool):
        return "true, false"
    if meta["low"] is None and meta["high"] is None:
        return "text" if isinstance(field.default, str) else "any"
    return f"{meta['low']:g} … {meta['high']:g}"


def table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heading, ["---"] * len(heading), *rows]
    return "\n".join("| " + " | ".join(c.replace("|", "\\|") for c in row) + " |" for row in lines)


def rows(text: str) -> Iterator[tuple[str, list[str]]]:
    """(call, the other cells) of every row of a page that is about one variant."""
    for line in text.splitlines():
        if found := re.match(r"\| `(\w+\(.*?\))` \|(.*)\|$", line):
            yield found[1], [cell.strip() for cell in found[2].split("|")]


def read(text: str) -> dict[str, list[str]]:
    """The measured cells of a written page: what :func:`page` takes."""
    return {name: cells[2:] for name, cells in rows(text)}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.name} instead")
    parser.add_argument("--missing", action="store_true", help="measure only rows it lacks")
    options = parser.parse_args()
    if options.missing:
        text = updated(PAGE.read_text(encoding="utf-8"))
    else:
        text = page(measure_all(variants_of_all()))
    if options.write:
        PAGE.write_text(text, encoding="utf-8")
    else:
        print(text, end="")


if __name__ == "__main__":
    main()
