"""What a compute dtype costs: D against D in float32 level by level, and at the end of a run.

Three errors are kept apart. The network's: D computed in bf16 or fp16, the state in float32. The
run's: where those D take a whole run. The state's: the network in float32 and the state x rounded to
the dtype, which is what samplers do that let x follow the network. Runs use Euler from the same noise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from ..noise import PerImageNoise
from ..noise_schedule import NoiseSchedule
from ..sample import noised, sample
from ..solver import Euler, Run
from . import DTYPES, Evaluate, plain, table
from .figure import new_figure, pixels

REFERENCE = "fp32"


@dataclass(frozen=True)
class Gap:
    """How far a tensor is from the float32 one; errors over its finite entries, None if there are none."""

    max: float | None
    rmse: float | None
    relative: float | None
    nonfinite: int

    @classmethod
    def between(cls, found: Tensor, truth: Tensor) -> Gap:
        ok = torch.isfinite(found)
        missing = int((~ok).sum())
        if missing == found.numel():
            return cls(None, None, None, missing)
        error, true = (found.double() - truth.double())[ok], truth.double()[ok]
        rmse = float(error.square().mean().sqrt())
        size = float(true.square().mean().sqrt())
        return cls(float(error.abs().max()), rmse, rmse / size if size > 0 else None, missing)


@dataclass(frozen=True)
class Row:
    """One comparison with float32. what: ``network`` (D at ``sigma``), ``run`` or ``state`` (results)."""

    what: str
    dtype: str
    sigma: float | None
    kappa: float | None
    gap: Gap


@dataclass(frozen=True)
class Audit:
    """All comparisons, the number of steps of the runs, and notes on what could not be done."""

    rows: tuple[Row, ...]
    steps: int
    notes: tuple[str, ...] = ()

    def of(self, what: str, dtype: str) -> list[Row]:
        return [row for row in self.rows if (row.what, row.dtype) == (what, dtype)]

    @property
    def dtypes(self) -> list[str]:
        return list(dict.fromkeys(row.dtype for row in self.rows))

    def verdict(self) -> list[str]:
        """One sentence per dtype."""
        return [self._sentence(name) for name in self.dtypes]

    def _sentence(self, name: str) -> str:
        broken = [row for row in self.rows if row.dtype == name and row.gap.nonfinite]
        if networks := [row for row in broken if row.what == "network"]:
            worst = max(networks, key=lambda row: row.gap.nonfinite)
            return (
                f"{name}: {worst.gap.nonfinite} values of D at σ = {worst.sigma:.3g} are NaN or infinite: "
                f"do not use {name} with this model"
            )
        if broken:
            return f"{name}: a run ended in NaN or infinity: do not use {name} with this model"
        run = next(row.gap for row in self.of("run", name))
        state = next(row.gap for row in self.of("state", name))
        return (
            f"{name}: {self.steps} steps end {_percent(run.relative)} from fp32; "
            f"a {name} state would add {_percent(state.relative)}"
        )

    def text(self) -> str:
        header = ("compared with fp32", "dtype", "σ", "max", "RMSE", "relative", "non-finite")
        rows = [
            (
                _LABEL[r.what],
                r.dtype,
                r.sigma,
                r.gap.max,
                r.gap.rmse,
                r.gap.relative,
                r.gap.nonfinite,
            )
            for r in self.rows
        ]
        return "\n".join((*self.verdict(), *self.notes, "", table(header, rows)))

    def payload(self) -> dict[str, Any]:
        """As finite JSON."""
        rows = [
            {"what": r.what, "dtype": r.dtype, "sigma": r.sigma, **asdict(r.gap)} for r in self.rows
        ]
        return plain(
            {"steps": self.steps, "rows": rows, "verdict": self.verdict(), "notes": self.notes}
        )


_LABEL = {"network": "D", "run": "result, network in dtype", "state": "result, state in dtype"}


def _percent(value: float | None) -> str:
    return "an unknown amount" if value is None else f"{100 * value:.2g} %"


@dataclass(frozen=True)
class Measured:
    """What one compute dtype gives: D at every level, the end of a run, and ends with a rounded state."""

    levels: tuple[tuple[float, float], ...]
    d: tuple[Tensor, ...]
    end: Tensor
    rounded: dict[str, Tensor]


def measure(
    denoise: Evaluate,
    x0: Tensor,
    schedule: NoiseSchedule,
    levels: Sequence[float],
    steps: Sequence[float],
    *,
    seed: int = 0,
    noise_scale: float = 1.0,
    rounded: Sequence[str] = (),
) -> Measured:
    """D at noised x0 [B, …] for every σ in ``levels``, and a run over SIGMAS ``steps`` from noise.

    rounded: dtypes in which the run is repeated with the state kept in them.
    """
    host, draw = schedule.path.host, PerImageNoise(seed)
    points = [host.on(sigma) for sigma in levels]
    states = (p.alpha * x0 + p.sigma * noise_scale * draw(i + 1, x0) for i, p in enumerate(points))
    start = noised(schedule.path, steps[0], torch.zeros_like(x0), noise_scale * draw(0, x0), True)

    def run(evaluate: Evaluate, x: Tensor) -> Tensor:
        try:
            return sample(Euler(), schedule.path, Run(evaluate), x, steps).float().cpu()
        except FloatingPointError:
            return torch.full(x0.shape, math.nan)

    return Measured(
        tuple((p.sigma, p.kappa) for p in points),
        tuple(denoise(x, p.sigma).cpu() for x, p in zip(states, points, strict=True)),
        run(denoise, start),
        {name: run(_rounded(denoise), start.to(DTYPES[name])) for name in rounded},
    )


def compare(found: Mapping[str, Measured], steps: int, notes: Sequence[str] = ()) -> Audit:
    """Every dtype in ``found`` beside float32, which must be there with ``rounded`` for them all."""
    truth, rows = found[REFERENCE], []
    for name, here in found.items():
        if name == REFERENCE:
            continue
        for (sigma, kappa), d, true in zip(here.levels, here.d, truth.d, strict=True):
            rows.append(Row("network", name, sigma, kappa, Gap.between(d, true)))
        rows.append(Row("run", name, None, None, Gap.between(here.end, truth.end)))
        rows.append(Row("state", name, None, None, Gap.between(truth.rounded[name], truth.end)))
    return Audit(tuple(rows), steps, tuple(notes))


def _rounded(denoise: Evaluate) -> Evaluate:
    """``denoise`` in float32 for a state of another dtype; the solver keeps that dtype."""
    return lambda x, sigma: denoise(x.float(), sigma).to(x.dtype)


# Okabe & Ito's colours, told apart by colour-blind readers too; marker and hatch say the same again.
_STYLE = {"bf16": ("#0072B2", "o", ""), "fp16": ("#D55E00", "s", "///")}


def plot(result: Audit, width: int = 960, height: int = 480) -> Tensor:
    """IMAGE [1, height, width, 3] in [0, 1]. Raises ImportError without matplotlib."""
    figure = new_figure(width, height)
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    _plot_levels(left, result)
    _plot_runs(right, result)
    return pixels(figure)


def _plot_levels(axes: Any, result: Audit) -> None:
    """Relative error of D over κ; a cross at the top where values are not finite."""
    broken: list[tuple[str, float]] = []
    for name in result.dtypes:
        colour, marker, _ = _STYLE[name]
        rows = [(_place(r.kappa), r.gap) for r in result.of("network", name)]
        good = [(k, gap.relative) for k, gap in rows if gap.relative and not gap.nonfinite]
        broken += [(name, k) for k, gap in rows if gap.nonfinite]
        if good:
            axes.plot(
                *zip(*good, strict=True),
                color=colour,
                marker=marker,
                linewidth=2,
                markersize=8,
                label=name,
            )
    axes.set_xscale("log")
    axes.set_yscale("log")
    top = axes.get_ylim()[1] if any(line.get_xdata().size for line in axes.lines) else 1.0
    for name in dict.fromkeys(n for n, _ in broken):
        at = [s for n, s in broken if n == name]
        axes.plot(
            at,
            [top] * len(at),
            color=_STYLE[name][0],
            marker="X",
            linestyle="",
            markersize=13,
            label=f"{name}: NaN or ∞",
        )
    axes.set_xlabel("noise to data, κ = σ/α", fontsize=13)
    axes.set_ylabel("relative error of D", fontsize=13)
    axes.set_title("D against fp32", fontsize=14)
    axes.tick_params(labelsize=12)
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend(fontsize=12)


def _place(kappa: float | None) -> float:
    """κ on a logarithmic axis; pure noise at 1e4."""
    return min(max(kappa or 0.0, 1e-6), 1e4)


def _plot_runs(axes: Any, result: Audit) -> None:
    """Bars: where a run ends, with the network or the state in each dtype."""
    kinds = ("run", "state")
    for i, name in enumerate(result.dtypes):
        colour, _, hatch = _STYLE[name]
        for j, kind in enumerate(kinds):
            (row,) = result.of(kind, name)
            at = j + (i - (len(result.dtypes) - 1) / 2) * 0.38
            value = row.gap.relative
            if row.gap.nonfinite or not value:
                text = "NaN" if row.gap.nonfinite else "0"
                axes.text(
                    at,
                    0.02,
                    text,
                    transform=axes.get_xaxis_transform(),
                    ha="center",
                    fontsize=13,
                    color=colour,
                    weight="bold",
                )
                continue
            axes.bar(
                at,
                value,
                0.34,
                color=colour,
                hatch=hatch,
                edgecolor="white",
                label=name if j == 0 else None,
            )
            axes.text(
                at,
                value * 1.05,
                f"{100 * value:.2g} %",
                ha="center",
                va="bottom",
                fontsize=11,
                bbox=dict(facecolor="white", edgecolor="none", pad=1),
            )
    axes.set_yscale("log")
    axes.set_xlim(-0.6, 1.6)
    low, high = axes.get_ylim()
    axes.set_ylim(low / 1.5, high * 1.6)
    axes.set_xticks(range(len(kinds)), ["network\nin dtype", "state\nin dtype"])
    axes.set_title(f"Result of {result.steps} steps", fontsize=14)
    axes.tick_params(labelsize=12)
    axes.tick_params(axis="x", labelsize=13)
    axes.grid(axis="y", alpha=0.3)
