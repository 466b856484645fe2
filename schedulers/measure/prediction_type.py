r"""Which prediction a network makes, found by noising latents whose x0 is known.

A prediction kind is a way to read x0 off the output. The right reading is at worst as wrong as not
looking at x at all; a wrong one multiplies an error of the size of the output by κ = σ/α, or adds a
multiple of x. So each kind's score is its relative error ‖D − x0‖/‖x0‖, in geometric mean over
noise levels on both sides of κ = 1, and the smallest wins. Readings that coincide somewhere
(v and eps at small κ, v and −x0 at large κ) part elsewhere. A network that has learned anything
beats the best multiple of x, c·x, whose error is the baseline.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..noise import PerImageNoise
from ..noise_schedule import NoiseSchedule
from ..prediction import KINDS, Prediction
from ..text_table import text_table
from . import Evaluate, plain, spread

#: Names of what is tried: prediction and sign of the output.
READINGS: dict[str, tuple[Prediction, float]] = {
    "eps": (Prediction("eps"), 1.0),
    "v": (Prediction("v"), 1.0),
    "x0": (Prediction("x0"), 1.0),
    "flow": (Prediction("flow"), 1.0),
    "flow, sign flipped": (Prediction("flow"), -1.0),
    "edm": (Prediction("edm"), 1.0),
    "score": (Prediction("score"), 1.0),
}
#: The second best must be this many times worse for the answer to be called clear.
CLEAR = 1.1
BASELINE = "no network, c·x"


@dataclass(frozen=True)
class Verdict:
    """Relative error of x0 per reading and noise level, and what follows."""

    sigmas: tuple[float, ...]
    errors: dict[str, tuple[float, ...]]
    claimed: str | None
    baseline: tuple[float, ...]
    notes: tuple[str, ...] = ()

    @property
    def scores(self) -> dict[str, float]:
        """Geometric mean over the noise levels, best first; infinity where an error is not finite."""
        means = {name: _geometric_mean(row) for name, row in self.errors.items()}
        return dict(sorted(means.items(), key=lambda item: item[1]))

    @property
    def best(self) -> str:
        return next(iter(self.scores))

    @property
    def clear(self) -> bool:
        """Whether the best reading is much better than the next, and than no network at all."""
        first, second, *_ = self.scores.values()
        return first < _geometric_mean(self.baseline) and second > CLEAR * first

    @property
    def agrees(self) -> bool | None:
        """Whether the MODEL claims the best reading; None where that is not known or not clear."""
        return None if self.claimed is None or not self.clear else self.best == self.claimed

    def text(self) -> str:
        rows = [(name, self.scores[name], *self.errors[name]) for name in self.scores]
        rows.append((BASELINE, _geometric_mean(self.baseline), *self.baseline))
        header = ("prediction", "mean", *(f"σ={s:.3g}" for s in self.sigmas))
        return "\n".join(
            (
                self.sentence(),
                *self.notes,
                "",
                "relative error of x0, ‖D − x0‖/‖x0‖:",
                text_table(header, rows),
            )
        )

    def sentence(self) -> str:
        claim = "claims an unknown prediction" if self.claimed is None else f"claims {self.claimed}"
        if not math.isfinite(self.scores[self.best]):
            return f"the network's output is not finite; the MODEL {claim}"
        if not self.clear:
            return (
                f"not clear: {self.best} explains the output best, but not much better than other readings or than no "
                f"network (the MODEL {claim}). Give real latents of this model, and its conditioning; else its path or "
                "noise schedule is wrong"
            )
        if self.agrees:
            return f"{self.best} explains the output best, as the MODEL claims"
        fix = (
            f"set prediction to {self.best} in Denoiser Settings"
            if self.best in KINDS
            else "its loader must flip the sign of the output"
        )
        return f"{self.best} explains the output best, but the MODEL {claim}: {fix}"

    def payload(self) -> dict[str, Any]:
        """As finite JSON."""
        return plain(
            {
                "best": self.best, "claimed": self.claimed, "clear": self.clear, "agrees": self.agrees,
                "scores": self.scores, "sigmas": self.sigmas, "errors": self.errors, "baseline": self.baseline, "notes": self.notes,
            }
        )  # fmt: skip


def check(
    output: Evaluate,
    x0: Tensor,
    schedule: NoiseSchedule,
    claimed: Prediction | None,
    *,
    levels: int = 6,
    seed: int = 0,
    noise_scale: float = 1.0,
    notes: Sequence[str] = (),
) -> Verdict:
    """Noise x0 [B, …] at ``levels`` values of κ from 0.1 to 10, and read output(x, σ) in every way.

    output gives the raw network output at a state in the host's coordinates. Raises ValueError for
    latents that are all zero.
    """
    size = x0.norm()
    if not float(size) > 0:
        raise ValueError(
            "latent: all zero. The check needs known pictures: encode one (VAE Encode, Image to Latent), or draw one"
        )
    host, sigmas = schedule.path.host, spread(schedule, levels, 0.1, 10.0)
    readings = _readings(claimed)
    errors: dict[str, list[float]] = {name: [] for name in readings}
    baseline = []
    draw = PerImageNoise(seed)
    for i, sigma in enumerate(sigmas):
        point = host.on(sigma)
        x = point.alpha * x0 + point.sigma * noise_scale * draw(i, x0)
        cosine = float((x * x0).sum() / (x.norm() * size))
        baseline.append(max(1 - cosine * cosine, 0.0) ** 0.5)
        out = output(x, sigma).to(x0.dtype)
        for name, (prediction, sign) in readings.items():
            d = prediction.read(sign * out, x, host, sigma)
            errors[name].append(float((d - x0).norm() / size))
    kind = None if claimed is None else claimed.kind
    rows = {name: tuple(row) for name, row in errors.items()}
    return Verdict(tuple(sigmas), rows, kind, tuple(baseline), tuple(notes))


def _readings(claimed: Prediction | None) -> dict[str, tuple[Prediction, float]]:
    """All readings, with the σ_data that the MODEL states for EDM."""
    if claimed is None or claimed.kind != "edm":
        return READINGS
    return READINGS | {"edm": (claimed, 1.0)}


def _geometric_mean(row: Sequence[float]) -> float:
    if not all(math.isfinite(e) for e in row):
        return math.inf
    return math.exp(sum(math.log(max(e, 1e-12)) for e in row) / len(row))
