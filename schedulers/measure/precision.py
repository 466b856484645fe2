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
from ..text_table import text_table
from . import DTYPES, Evaluate, plain

REFERENCE = "fp32"


@dataclass(frozen=True)
class Gap:
    """How far a tensor is from the float32 one; errors over its finite entries, None if there are none."""

    max: float | None
    rmse: float | None
    relative: float | None
    nonfinite: int

    @classmethod
    def between(cls, values: Tensor, truth: Tensor) -> Gap:
        ok = torch.isfinite(values)
        missing = int((~ok).sum())
        if missing == values.numel():
            return cls(None, None, None, missing)
        error, true = (values.double() - truth.double())[ok], truth.double()[ok]
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
        return "\n".join((*self.verdict(), *self.notes, "", text_table(header, rows)))

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


def compare(measured: Mapping[str, Measured], steps: int, notes: Sequence[str] = ()) -> Audit:
    """Every dtype in ``measured`` beside float32, which must be there with ``rounded`` for them all."""
    truth, rows = measured[REFERENCE], []
    for name, here in measured.items():
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
