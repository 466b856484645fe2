"""What happened in a run, step by step: states, predictions, times, and measures of both.

A run that is watched by a ``recorder.Recorder`` ends in a :class:`Trace`, a frozen value on the CPU.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ..counts import counted
from ..path import Path
from ..split import Stopped, mapped
from . import plain

MEBI = 2**20


@dataclass(frozen=True)
class Measure:
    """A column of a trace. ``log``: its axis spans decades."""

    name: str
    help: str
    unit: str = ""
    log: bool = False


MEASURES: dict[str, Measure] = {
    "sigma": Measure("σ", "Noise level, as SIGMAS shows it.", log=True),
    "snr": Measure("log₁₀ SNR", "Signal-to-noise ratio (α/σ)², as a power of ten."),
    "x": Measure("‖x‖", "Root mean square of the state, in units of √(α² + σ²)."),
    "x0": Measure("‖D‖", "Root mean square of the prediction of x0."),
    "turn": Measure(
        "curvature", "Angle by which the direction dx/dσ = (x − D)/σ turned since the step before.", "°",
    ),
    "error": Measure(
        "local error",
        "Distance of the step's result from where the exact ODE leads, by the run's own predictions (embedded pair), "
        "in units of √(α² + σ²). Holds the noise that a stochastic solver draws.",
        log=True,
    ),
    "doubling": Measure(
        "local error, doubling", "The same measured by step doubling.", log=True
    ),
    "uncertainty": Measure("its uncertainty", "Of the local error by step doubling.", log=True),
    "to_end": Measure(
        "distance to the end", "Root mean square distance of the prediction D from the result of the run.",
        log=True,
    ),
    "delta": Measure("‖Δ‖", "‖D_c − D_u‖, the length of what guidance multiplies.", log=True),
    "cosine": Measure("cos(D_c, D_u)", "Cosine of the conditional and the unconditional prediction."),
    "weight": Measure("guidance weight", "⟨D − D_u, Δ⟩/‖Δ‖²: CFG's scale for CFG."),
    "seconds": Measure("time", "Wall-clock time of the step.", "s"),
    "nfe": Measure("NFE", "Denoiser evaluations of the step."),
}  # fmt: skip

Values = tuple[float | None, ...]


@dataclass(frozen=True)
class Step:
    """One step as the denoiser saw it first. ``values``: measure → one number per image, None where there is none."""

    sigma: float
    seconds: float
    nfe: int
    values: Mapping[str, Values]


@dataclass(frozen=True)
class Snapshot:
    """The state x and the prediction D of a step, in the host's coordinates; ``stopped``: all it takes to go on."""

    x: Tensor
    d: Tensor
    stopped: Stopped | None = None

    def tensors(self) -> Iterator[Tensor]:
        yield from (self.x, self.d)
        if self.stopped is not None:
            inside: list[Tensor] = []

            def note(t: Tensor) -> Tensor:
                inside.append(t)
                return t

            mapped(self.stopped, note)
            yield from inside


@dataclass(frozen=True)
class View:
    """How the latents of a run are looked at. ``to_latent``: the denoiser's units → the LATENT wire's.

    ``rgb`` [C, 3] and ``bias`` [3] make a picture in [−1, 1] of them without a VAE; ``shapes``: of the parts of packed
    latents, by image.
    """

    to_latent: Callable[[Tensor], Tensor] = lambda x: x
    rgb: Tensor | None = None
    bias: Tensor | None = None
    shapes: tuple[tuple[int, ...], ...] = ()
    reshape: Callable[[Tensor], Tensor] | None = None


@dataclass(frozen=True)
class Trace:
    """A run. ``sigmas``: its SIGMAS; ``end``: x at the last of them; ``kept``: step → its state, of every
    ``every``-th (0: none was within the budget). ``together``: in every step all images are at its level. Tensors
    are on the CPU."""

    solver: str
    path: Path
    sigmas: tuple[float, ...]
    seed: int
    steps: tuple[Step, ...]
    end: Tensor
    kept: Mapping[int, Snapshot]
    every: int
    stochastic: bool | None = None
    view: View = field(default_factory=View)
    together: bool = True
    notes: tuple[str, ...] = ()

    @property
    def nfe(self) -> int:
        return sum(step.nfe for step in self.steps)

    @property
    def seconds(self) -> float:
        return sum(step.seconds for step in self.steps)

    def __len__(self) -> int:
        return len(self.steps)

    def per_image(self, key: str, step: int) -> Values:
        """A measure at a step, per image; one number for what all images share."""
        at = self.steps[step]
        if key == "snr":
            p = self.path.on(at.sigma)
            finite = p.alpha > 0 and p.sigma > 0
            return (2 * math.log10(p.alpha / p.sigma) if finite else None,)
        if key in ("sigma", "seconds", "nfe"):
            return (getattr(at, key),)
        return at.values.get(key, ())

    def curve(self, key: str) -> list[float | None]:
        """A measure over the steps, mean over the images."""
        return [_mean(self.per_image(key, i)) for i in range(len(self))]

    @property
    def measured(self) -> list[str]:
        """The measures that have a number somewhere."""
        return [k for k in MEASURES if any(v is not None for v in self.curve(k))]

    def summary(self) -> str:
        """One or more sentences: what ran, how long, what was kept."""
        per_step = f", {1000 * self.seconds / len(self):.0f} ms each" if len(self) else ""
        kept = {
            0: "no state kept: one alone is above the memory given",
            1: "every state kept",
        }.get(self.every, f"every {self.every}th state kept, which is what the memory given holds")
        parts = [
            f"{self.solver}: {counted(len(self), 'step')}{per_step}, {counted(self.nfe, 'evaluation')}, {self.seconds:.2f} s",
            f"{len(self.end)} image{'s' if len(self.end) > 1 else ''}, {kept}",
            *self.notes,
        ]
        if not self.together:
            parts.append(
                "each image has steps of its own, and a step's numbers hold for the image that made it"
            )
        return "; ".join(parts)

    def rows(self) -> list[dict[str, Any]]:
        """One record per step, means over the images; finite numbers or None."""
        keys = self.measured
        curves = {key: self.curve(key) for key in keys}
        return [plain({"step": i} | {k: curves[k][i] for k in keys}) for i in range(len(self))]

    def csv(self) -> str:
        """The rows with a header line; empty where there is no number."""
        out = io.StringIO()
        writer = csv.DictWriter(out, ["step", *self.measured], lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows())
        return out.getvalue()

    def facts(self) -> dict[str, Any]:
        """Everything but tensors, image by image, for JSON."""
        shared = ("sigma", "snr", "seconds", "nfe")
        curves = {key: self.curve(key) for key in shared}
        steps = [
            {"step": i, "kept": i in self.kept, **{key: curves[key][i] for key in shared}}
            | {key: list(self.per_image(key, i)) for key in self.measured if key not in shared}
            for i in range(len(self))
        ]
        facts = dict(
            solver=self.solver, path=self.path.name, stochastic=self.stochastic, seed=self.seed, images=len(self.end),
            evaluations=self.nfe, seconds=self.seconds, kept_every=self.every, sigmas=list(self.sigmas), steps=steps,
            notes=list(self.notes),
        )  # fmt: skip
        clean: dict[str, Any] = plain(facts)
        return clean


def _mean(values: Sequence[float | None]) -> float | None:
    there = [v for v in values if v is not None]
    return sum(there) / len(there) if there else None


def numbers(values: Tensor | None) -> Values:
    """A tensor with one value per image as floats; None for what is not finite."""
    if values is None:
        return ()
    return tuple(v if math.isfinite(v) else None for v in values.flatten().tolist())
