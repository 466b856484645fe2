"""Fitted solvers as files: safetensors with a JSON header; one file holds a family, one fit per NFE.

Tensors of the fit with N evaluations: ``N.levels`` [N], ``N.x`` [N + 1], ``N.d`` [N, N] (newest first,
zeros beyond a row's length), ``N.steps`` [N], ``N.ends`` [2], and for rows with bands ``N.mix.i.knots``,
``N.mix.i.x``, ``N.mix.i.d``; float64. The header has the format's version and each fit's card.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path as File
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..denoiser.network import write
from ..files import LARGEST_TABLES, read_tensors
from ..measure import plain
from ..solver.band_mix import Mix
from ..solver.fitted import FittedSolver, Table
from .forward import Record, State
from .problem import error_from

HEADER, STATE_HEADER = "sampling_kit_fit", "sampling_kit_fit_state"
VERSION = 1

ARRAYS = ("errors", "first", "change", "matrix", "vector")

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
    """Write a family; the file appears whole or not at all."""
    group = family(fits)
    tensors: dict[str, Tensor] = {}
    for fit in group.fits:
        tensors |= _tensors(str(fit.table.nfe), fit.table)
    cards = {
        str(f.table.nfe): {k: v for k, v in f.card.items() if k != "family"} for f in group.fits
    }
    write(file, tensors, {"version": VERSION, "fits": cards}, HEADER)


def load(file: File) -> Family:
    """Read a family. Raises ValueError saying what is wrong with the file."""
    arrays, facts = _read(file, HEADER, "fitted solver; Save Fitted Solver writes such files")
    with _complaint(file, "fit"):
        return family(
            FittedSolver(_table(nfe, arrays), dict(card)) for nfe, card in facts["fits"].items()
        )


def save_state(file: File, state: State) -> None:
    """Write a fit that is not finished. The error of a run that failed, ∞, is null in the header."""
    tensors = _tensors("start", state.start) | _tensors("table", state.table)
    tensors |= {name: torch.from_numpy(np.array(getattr(state, name))) for name in ARRAYS}
    records = [plain(record._asdict()) for record in state.records]
    facts = dict(damping=state.damping, evaluations=state.evaluations, records=records)
    write(file, tensors, {"version": VERSION, **facts}, STATE_HEADER)


def load_state(file: File) -> State:
    """Read a fit that is not finished. Raises ValueError saying what is wrong with the file."""
    arrays, facts = _read(file, STATE_HEADER, "unfinished fit")
    with _complaint(file, "unfinished fit"):
        return State(
            _table("start", arrays),
            _table("table", arrays),
            **{name: arrays[name] for name in ARRAYS},
            damping=float(facts["damping"]),
            evaluations=int(facts["evaluations"]),
            records=tuple(
                Record(**{k: error_from(v) for k, v in record.items()})
                for record in facts["records"]
            ),
        )


def _read(file: File, header: str, what: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """(arrays, header) of a file of ours; ValueError for any other, and for a newer version."""
    facts, tensors = read_tensors(file, header, what, LARGEST_TABLES)
    with _complaint(file, what.split(";")[0]):
        if int(facts["version"]) > VERSION:
            raise ValueError(
                f"format version {facts['version']}, but this Sampling Kit reads up to {VERSION}: update it"
            )
        for name, t in tensors.items():
            if t.dtype != torch.float64:
                raise ValueError(f"{name} holds {t.dtype}, expected float64")
    return {name: t.numpy() for name, t in tensors.items()}, facts


@contextmanager
def _complaint(file: File, what: str) -> Iterator[None]:
    """What is wrong inside becomes a ValueError that names the file."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        detail = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"{file.name}: not a usable {what}: {detail}") from None


def differences(card: Mapping[str, Any], **now: Any) -> list[str]:
    """What the fit was made for and the run is not, one sentence each (e.g. model=…, guidance=…)."""
    return [
        f"this fit was made for {name} {card[name]}, but this run has {name} {value}"
        for name, value in now.items()
        if value is not None and card.get(name) is not None and card[name] != value
    ]


def _tensors(prefix: str, table: Table) -> dict[str, Tensor]:
    """A table's numbers by their names in a file; ``_table`` is the inverse."""
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


def _table(prefix: str, arrays: Mapping[str, Any]) -> Table:
    """Raises ValueError or KeyError for tensors that make no table."""

    def of(name: str, *shape: int) -> Any:
        found = arrays[f"{prefix}.{name}"]
        if shape and found.shape != shape:
            raise ValueError(f"{prefix}.{name} has shape {found.shape}, expected {shape}")
        if np.isnan(found).any():
            raise ValueError(f"{prefix}.{name} holds NaN")
        return found

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
