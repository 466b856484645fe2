"""Fitted solvers as files: safetensors with a JSON header; one file holds a family, one fit per NFE.

Tensors of the fit with N evaluations: ``N.levels`` [N], ``N.x`` [N + 1], ``N.d`` [N, N] (newest first,
zeros beyond a row's length), ``N.steps`` [N], ``N.ends`` [2], and for rows with bands ``N.mix.i.knots``,
``N.mix.i.x``, ``N.mix.i.d``; float64. The header has the format's version and each fit's card.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path as File
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..solver.band_mix import Mix
from ..solver.fitted import FittedSolver, Table
from ..store import LARGEST_TABLES, Format, OpenFile

FORMAT = Format(
    "sampling_kit_fit",
    "fitted solver",
    advice="Save Fitted Solver writes such files",
    infinity=True,
    largest=LARGEST_TABLES,
)
#: What a card says; a fit may add more. ``None`` where it is not known.
CARD: dict[str, str] = {
    "model": "fingerprint of the model that was fitted",
    "path": "name of the model's path",
    "prediction": "what the model outputs",
    "guidance": "the guidance in words, e.g. CFG 2",
    "shape": "of one latent",
    "dtype": "the model's",
    "method": "forward, gradient, amed, epd …",
    "start": "the training-free solver and spacing it started from",
    "teacher": "solver, spacing and NFE of the reference",
    "seeds": "[first, last] of the fitted trajectories and of the held-out ones",
    "evaluations": "one-image evaluations spent, teacher included",
    "before": "error of the start on the held-out trajectories: rmse, median",
    "after": "error of the fit on them: rmse, median",
}


@dataclass(frozen=True)
class Family:
    """The fits of one file, fewest evaluations first."""

    fits: tuple[FittedSolver, ...]

    @property
    def nfes(self) -> tuple[int, ...]:
        return tuple(fit.table.nfe for fit in self.fits)

    def at(self, nfe: int) -> FittedSolver:
        """Raises ValueError naming those there are."""
        for fit in self.fits:
            if fit.table.nfe == nfe:
                return fit
        raise ValueError(
            f"there is no fit for {nfe} evaluations; the file holds {', '.join(map(str, self.nfes))}. "
            "A fit serves its own number only: choose one of them or fit another"
        )


def family(fits: Iterable[FittedSolver]) -> Family:
    """The fits in order, each knowing the others. Raises ValueError for two of one NFE."""
    ordered = sorted(fits, key=lambda fit: fit.table.nfe)
    nfes = [fit.table.nfe for fit in ordered]
    if not nfes or len(set(nfes)) < len(nfes):
        raise ValueError(f"a file holds one fit per number of evaluations, got {nfes}")
    return Family(tuple(replace(f, card={**f.card, "family": nfes}) for f in ordered))


def save(file: File, fits: Iterable[FittedSolver]) -> None:
    """Write a family."""
    group = family(fits)
    tensors: dict[str, Tensor] = {}
    for fit in group.fits:
        tensors |= tensors_of(str(fit.table.nfe), fit.table)
    cards = {
        str(f.table.nfe): {k: v for k, v in f.card.items() if k != "family"} for f in group.fits
    }
    FORMAT.write(file, tensors, {"fits": cards})


def load(file: File) -> Family:
    """Read a family. Raises BadFile saying what is wrong with the file."""
    with FORMAT.opened(file) as stored:
        arrays = arrays_of(stored)
        cards = stored.facts["fits"].items()
        return family(FittedSolver(table_in(nfe, arrays), dict(card)) for nfe, card in cards)


def arrays_of(stored: OpenFile) -> dict[str, Any]:
    """The tensors of a file as arrays. Raises ValueError for other numbers than float64."""
    tensors = stored.tensors()
    for name, t in tensors.items():
        if t.dtype != torch.float64:
            raise ValueError(f"{name} holds {t.dtype}, expected float64")
    return {name: t.numpy() for name, t in tensors.items()}


def differences(card: Mapping[str, Any], **now: Any) -> list[str]:
    """What the fit was made for and the run is not, one sentence each (e.g. model=…, guidance=…)."""
    return [
        f"this fit was made for {name} {card[name]}, but this run has {name} {value}"
        for name, value in now.items()
        if value is not None and card.get(name) is not None and card[name] != value
    ]


def tensors_of(prefix: str, table: Table) -> dict[str, Tensor]:
    """A table's numbers by their names in a file; ``table_in`` is the inverse."""
    n = table.nfe
    named: dict[str, Any] = dict(
        levels=table.levels,
        x=table.x,
        d=[[*row, *[0.0] * (n - len(row))] for row in table.d],
        steps=table.steps,
        ends=(table.start, table.end),
    )
    for i, mix in enumerate(table.mix):
        if mix:
            named |= {f"mix.{i}.{name}": getattr(mix, name) for name in ("knots", "x", "d")}
    tensor = lambda value: torch.from_numpy(np.array(value, np.float64))  # noqa: E731
    return {f"{prefix}.{name}": tensor(value) for name, value in named.items()}


def table_in(prefix: str, arrays: Mapping[str, Any]) -> Table:
    """Raises ValueError or KeyError for tensors that make no table."""

    def of(name: str, *shape: int) -> Any:
        array = arrays[f"{prefix}.{name}"]
        if shape and array.shape != shape:
            raise ValueError(f"{prefix}.{name} has shape {array.shape}, expected {shape}")
        return array

    def mix(i: int) -> Mix | None:
        if f"{prefix}.mix.{i}.d" not in arrays:
            return None
        return Mix(tuple(of(f"mix.{i}.knots")), of(f"mix.{i}.x"), of(f"mix.{i}.d"))

    nfe = len(of("levels"))
    d = of("d", nfe, nfe)
    if np.triu(d, 1).any():
        raise ValueError(f"{prefix}.d weighs predictions that are not there yet")
    start, end = of("ends", 2)
    return Table(
        start=start,
        levels=tuple(of("levels", nfe)),
        x=tuple(of("x", nfe + 1)),
        d=tuple(tuple(row[: i + 1]) for i, row in enumerate(d)),
        steps=tuple(int(s) for s in of("steps", nfe)),
        end=end,
        mix=tuple(mix(i) for i in range(nfe)),
    )
